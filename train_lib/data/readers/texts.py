"""A folder of texts by class: `pos/1.txt`, or `train/pos/1.txt` and `test/pos/1.txt`."""

import hashlib
import pathlib

import numpy as np

from train_lib import files
from train_lib.data.examples import SPLITS, UNLABELLED, Examples
from train_lib.data.readers.base import SPLIT_NAMES, check_memory, options_of
from train_lib.encoding import decode
from train_lib.errors import UserError


class Texts:
    """Texts, one per file, in folders named after their classes.

    In the folder of training texts, one called `unlabelled` or `unsup` has texts without a class.

    Args:
        path: of the folder.
        labelled: False: classes are not read.
    """

    def __init__(self, path: str, /, labelled: bool = True):
        self.path = files.local(path)
        self.name = self.path.name
        self._options = options_of(Texts.__init__, locals())
        self._labelled = labelled
        splits: dict[str, pathlib.Path] = {}
        for one in folders(self.path):
            split = SPLIT_NAMES.get(one.name.lower())
            if split in splits:
                raise UserError(
                    f"{self.path} has {splits[split].name} and {one.name} for the {split} split; "
                    "keep only one."
                )
            if split is not None and split != UNLABELLED:
                splits[split] = one
        self.paths = {split: splits[split] for split in SPLITS if split in splits}
        self.paths = self.paths or {"train": self.path}
        unlabelled = [
            one for one in folders(self.paths.get("train", self.path)) if _is_unlabelled(one)
        ]
        if unlabelled:
            self.paths[UNLABELLED] = unlabelled[0]

    def _files(self, split: str) -> list[tuple[str, pathlib.Path]]:
        """The class and path of every text; raises UserError if anything else is found there."""
        path, found = self.paths[split], []
        classes = [path] if split == UNLABELLED else folders(path)
        for folder in classes:
            if split != UNLABELLED and _is_unlabelled(folder):
                continue
            texts = [one for one in sorted(folder.iterdir()) if not one.name.startswith(".")]
            for one in texts:
                if one.suffix.lower() != ".txt" or not one.is_file():
                    raise UserError(f"{one} is not a .txt file, as all in {folder} must be.")
            if not texts:
                raise UserError(f"{folder} has no texts.")
            found += [(folder.name, one) for one in texts]
        if not found:
            raise UserError(f"{path} has no folders of texts.")
        return found

    def identity(self) -> str:
        digest = hashlib.sha256(repr(sorted(self._options.items())).encode())
        for split in self.paths:
            for name, path in self._files(split):
                content = _content(path)
                digest.update(
                    f"{split} {name} {path.name} {len(content)}\n".encode("utf-8", "replace")
                )
                digest.update(content)
        return digest.hexdigest()

    def splits(self) -> tuple[str, ...]:
        return tuple(self.paths)

    def read(self, split: str) -> Examples:
        named = self._files(split)
        check_memory(str(self.path), sum(path.stat().st_size for _, path in named), 7.0)
        contents = {str(path): _content(path) for _, path in named}
        for path, content in contents.items():
            if not content.strip():
                raise UserError(f"{path} is empty.")
        labelled = self._labelled and split != UNLABELLED
        root = self.paths[split]
        return Examples(
            decode(contents), [name if labelled else None for name, _ in named],
            np.array([path.relative_to(root).as_posix() for _, path in named]), str(root),
        )  # fmt: skip


def folders(path: pathlib.Path) -> list[pathlib.Path]:
    """The folders in a folder, except hidden ones."""
    return [one for one in sorted(path.iterdir()) if one.is_dir() and not one.name.startswith(".")]


def is_by_class(path: pathlib.Path) -> bool:
    """Whether a folder holds folders of texts, or folders of splits that do."""
    for one in folders(path):
        inner = folders(one) if one.name.lower() in SPLIT_NAMES else []
        if any(next(folder.glob("*.txt"), None) for folder in (one, *inner)):
            return True
    return False


def _is_unlabelled(path: pathlib.Path) -> bool:
    return SPLIT_NAMES.get(path.name.lower()) == UNLABELLED


def _content(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
