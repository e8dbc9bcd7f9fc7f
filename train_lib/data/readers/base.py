"""What all readers share: finding files of splits, reading text, and checking memory."""

import codecs
import hashlib
import inspect
import io
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TextIO

from train_lib import files
from train_lib.data.examples import SPLITS, UNLABELLED, Examples
from train_lib.encoding import decode
from train_lib.errors import UserError

SPLIT_NAMES = {
    "train": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "unlabelled": UNLABELLED, "unsup": UNLABELLED,
}  # fmt: skip
"""Names of files and folders of splits, in lower case, and the split of each."""

_BLOCK_BYTES = 1 << 20
_SAMPLE_BYTES = 1 << 16


class Files:
    """A source that is one file, or one file for each split.

    A subclass reads one of them in `read_file`. Its constructor takes the path by position, and
    everything else by name.

    Attributes:
        suffixes: of the files that it reads.
        bytes_a_byte: peak memory for reading and encoding, per byte of content. Measured with
            200 MB: 4 for ASCII text, 6.5 if a tenth of the texts have an emoji.
    """

    suffixes: ClassVar[tuple[str, ...]]
    bytes_a_byte: ClassVar[float] = 7.0

    def __init__(self, path: str, options: Mapping[str, Any]):
        self.path = files.local(path)
        self.paths = paths_of_splits(self.path, self.suffixes)
        self.name = re.sub(
            r"_TRAIN$", "", self.path.stem if self.path.is_file() else self.path.name
        )
        self._options = dict(options)

    def identity(self) -> str:
        digest = hashlib.sha256(repr(sorted(self._options.items())).encode())
        for split, path in self.paths.items():
            digest.update(f"{split} {path}\n".encode("utf-8", "surrogateescape"))
            try:
                with path.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
            except OSError as error:
                raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
        return digest.hexdigest()

    def splits(self) -> tuple[str, ...]:
        return tuple(self.paths)

    def read(self, split: str) -> Examples:
        path = self.paths[split]
        try:
            total = sum(map(self.content_bytes, set(self.paths.values())))
            if not path.stat().st_size:
                raise UserError(f"{path} is empty.")
            check_memory(str(self.path), total, self.bytes_a_byte)
            return self.read_file(path, split)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error

    def read_file(self, path: pathlib.Path, split: str) -> Examples:
        """The examples of one file; raises UserError with the line of an error."""
        raise NotImplementedError

    def content_bytes(self, path: pathlib.Path) -> int:
        """The uncompressed size of a file's contents."""
        return path.stat().st_size

    def columns(self, split: str) -> dict[str, list[Any]]:
        """All columns of a split's file, to write answers beside them; {}: it has none."""
        return {}


def paths_of_splits(path: pathlib.Path, suffixes: Sequence[str]) -> dict[str, pathlib.Path]:
    """The file of each split; a single file is for training, unless it is called NAME_TRAIN.

    Raises:
        UserError: there is no such file, or a folder has several for a split.
    """
    if path.is_dir():
        found: dict[str, list[pathlib.Path]] = {}
        for one in sorted(path.iterdir()):
            split = split_of(one, suffixes)
            if split is not None:
                found.setdefault(split, []).append(one)
        for split, paths in found.items():
            # The archive's folders also have the same series in other forms, under longer names.
            found[split] = [one for one in paths if _archived(path, one)] or paths
            if len(found[split]) > 1:
                names = " and ".join(one.name for one in paths)
                raise UserError(f"{path} has {names} for the {split} split; keep only one.")
        order = (*SPLITS, UNLABELLED)
        return {split: found[split][0] for split in order if split in found}
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    other = path.with_name(path.name.replace("_TRAIN.", "_TEST."))
    if other != path and other.is_file():
        return {"train": path, "test": other}
    return {"train": path}


def split_of(path: pathlib.Path, suffixes: Sequence[str]) -> str | None:
    """The split that a file's name stands for; None: none."""
    if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.is_file():
        return None
    stem = path.stem
    if path.suffix == ".ts" and stem.endswith(("_TRAIN", "_TEST")):
        stem = stem.rpartition("_")[2]
    return SPLIT_NAMES.get(stem.lower())


def _archived(folder: pathlib.Path, path: pathlib.Path) -> bool:
    """Whether a file is called NAME_TRAIN or NAME_TEST in a folder called NAME."""
    return path.stem.rpartition("_")[0] == folder.name


def open_text(path: pathlib.Path) -> TextIO:
    """Opens a UTF-8 file, keeping line ends and skipping a byte-order mark.

    The file is read twice, in pieces, since it may be too large for memory.

    Raises:
        UserError: as `decode` does, with the line of the first byte that is not UTF-8.
        OSError: from the file system.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    errors = "strict"
    with path.open("rb") as file:
        sample = file.read(_SAMPLE_BYTES)
        file.seek(0)
        position = 0
        while True:
            block = file.read(_BLOCK_BYTES)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                wrong = position - pending + error.start
                errors = "replace"
                break
            if not block:
                break
            position += len(block)
    if errors == "strict":
        decode({str(path): sample.decode("utf-8", "ignore").encode()})
    else:
        content = path.read_bytes()
        line = content.count(b"\n", 0, wrong) + 1
        decode({f"{path}, line {line}": content})
    return io.TextIOWrapper(path.open("rb"), "utf-8-sig", errors, newline="")


def available_bytes() -> int | None:
    """The memory still available to this process; None: the system does not say."""
    found = []
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    found.append(int(line.split()[1]) * 1024)
        group = pathlib.Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    if not found and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def check_memory(name: str, size: int, bytes_a_byte: float) -> None:
    """Raises UserError if reading and encoding this many bytes would not fit into memory."""
    needed, available = size * bytes_a_byte, available_bytes()
    if available is not None and needed > available:
        raise UserError(
            f"{name} has {size / 1e9:.1f} GB, which take about {needed / 1e9:.1f} GB of memory to "
            f"read, but {available / 1e9:.1f} GB are free. Use a part of it, or another machine."
        )


def options_of(function: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments that affect what is read, by name."""
    skipped = ("self", "path")
    return {
        name: values[name] for name in inspect.signature(function).parameters if name not in skipped
    }


def numbered_lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file without line ends, numbered from 1."""
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            yield number, line.rstrip("\r\n")
