"""Data sets prepared by tensorflow-datasets, `tfds:NAME`, read without TensorFlow."""

import hashlib
import os
import pathlib
from typing import Any

import numpy as np

from train_lib import files
from train_lib.data.examples import SPLITS, UNLABELLED, Examples
from train_lib.data.readers.tables import TARGET_NAMES, TEXT_NAMES
from train_lib.encoding import decode
from train_lib.errors import UserError

PREFIX = "tfds:"
_SPLITS = {"train": "train", "validation": "validation", "test": "test", UNLABELLED: "unsupervised"}


class Prepared:
    """A prepared data set of texts, or lists of words or tokens, and a label for each or per word.

    Args:
        source: `tfds:NAME`, `tfds:NAME/CONFIG` or `tfds:NAME/CONFIG/VERSION`.
        dir: the folder of prepared data sets; empty: `$TFDS_DATA_DIR`, else the library's default.
        text_column: the feature of the inputs; empty: found by its name.
        target_column: the feature of the targets; empty: found by its name.
        labelled: False: targets are not read.
    """

    def __init__(
        self,
        source: str,
        /,
        dir: str = "",
        text_column: str = "",
        target_column: str = "",
        labelled: bool = True,
    ):
        name = source.removeprefix(PREFIX)
        root = files.local(dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
        self.folder = _folder(root, name)
        self.name = name.partition("/")[0]
        self._text, self._target, self._labelled = text_column, target_column, labelled

    def identity(self) -> str:
        digest = hashlib.sha256(repr((self._text, self._target, self._labelled)).encode())
        for path in sorted(self.folder.iterdir()):
            if path.is_file():
                digest.update(path.name.encode("utf-8", "replace"))
                with path.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()

    def _builder(self) -> Any:
        import tensorflow_datasets as tfds  # Slow to import, and not needed with a warm cache.

        try:
            return tfds.builder_from_directory(self.folder)
        except Exception as error:  # A damaged folder may make the library raise anything.
            raise UserError(f"{self.folder} cannot be read: {error}.") from error

    def splits(self) -> tuple[str, ...]:
        there = self._builder().info.splits
        return tuple(ours for ours in (*SPLITS, UNLABELLED) if _SPLITS[ours] in there)

    def read(self, split: str) -> Examples:
        builder = self._builder()
        features = builder.info.features
        text = self._feature(features, "text_column", self._text, TEXT_NAMES)
        labelled = self._labelled and split != UNLABELLED
        target = (
            self._feature(features, "target_column", self._target, TARGET_NAMES) if labelled else ""
        )
        origin = f"{self.folder}, {split}"
        try:
            rows = list(builder.as_data_source(split=_SPLITS[split]))
        except Exception as error:
            raise UserError(
                f"the {split} split in {self.folder} cannot be read ({error}); it must be prepared "
                "in the array_record format."
            ) from error
        inputs = [row[text] for row in rows]
        if inputs and isinstance(inputs[0], bytes):
            inputs = decode({f"{origin}, example {n}": one for n, one in enumerate(inputs)})
        else:
            inputs = [_sequence(one) for one in inputs]
        targets = [_named(features[target], row[target]) for row in rows] if labelled else None
        return Examples.numbered(inputs, targets, origin)

    def _feature(self, features: Any, field: str, name: str, names: tuple[str, ...]) -> str:
        found = name or next((one for one in names if one in features), "")
        if found not in features:
            wrong = f"there is no feature {name!r}; " if name else ""
            raise UserError(
                f"{self.folder}: {wrong}name one with config.data.{field}, of "
                f"{', '.join(sorted(features))}."
            )
        return found


def _sequence(value: Any) -> Any:
    """Words as a list of texts, numbers as an array."""
    array = np.asarray(value)
    if array.dtype.kind in "OS":
        return [one.decode("utf-8", "replace") for one in array.tolist()]
    return array[:, None] if array.ndim == 1 and array.dtype.kind == "f" else array


def _named(feature: Any, value: Any) -> Any:
    """A target with class names in place of numbers, if there are any; None: no label."""
    inner = getattr(feature, "feature", feature)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if np.ndim(value):
        return [_named(inner, one) for one in np.asarray(value).tolist()]
    if hasattr(inner, "int2str"):
        return inner.int2str(int(value)) if value >= 0 else None
    return np.asarray(value).item()


def _folder(root: pathlib.Path, name: str) -> pathlib.Path:
    """The folder of the newest version of a prepared data set."""
    parts = pathlib.PurePosixPath(name).parts
    if not parts or ".." in parts or parts[0] == "/":
        raise UserError(f"tfds:{name} must be a name, as in tfds:imdb_reviews.")
    start = root.joinpath(*parts)
    found = (
        sorted(path.parent for path in start.glob("**/dataset_info.json")) if start.is_dir() else []
    )
    if not found:
        there = (
            sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        )
        shown = ", ".join(one for one in there if not one.startswith(".")) or "nothing"
        raise UserError(
            f"tfds:{name} is not prepared in {root} (config.data.dir or $TFDS_DATA_DIR); there is "
            f"{shown}."
        )
    if len({path.parent for path in found}) > 1:
        names = ", ".join(f"tfds:{path.parent.relative_to(root).as_posix()}" for path in found)
        raise UserError(f"tfds:{name} has several configurations; choose one: {names}.")
    return max(found, key=_version)


def _version(folder: pathlib.Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else -1 for part in folder.name.split("."))
