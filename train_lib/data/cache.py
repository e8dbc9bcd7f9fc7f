"""Caches data sets on disk, so that a second start need not build them again.

A file is the SHA-256 of the rest in hexadecimal, a newline, and an .npz. It is in the cache folder:
nothing is lost if it cannot be written or read.
"""

import hashlib
import io
import json
import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from train_lib import files
from train_lib.data import inputs
from train_lib.data.dataset import Dataset, Split
from train_lib.data.examples import SPLITS
from train_lib.data.vocabulary import Vocabulary

# Of how data sets are built and stored. Raise it when either changes: old files are then ignored.
VERSION = 4

_ARRAYS = ("values", "offsets", "rows")


def path(name: str, shaped_by: Mapping[str, Any]) -> pathlib.Path:
    """The file of a data set.

    Args:
        name: the name of its source, for people.
        shaped_by: everything that determines its contents, as JSON values.
    """
    content = json.dumps({"version": VERSION, **shaped_by}, sort_keys=True)
    key = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()
    plain = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)[:60]
    return files.cache_dir() / "tokens" / f"{plain}-{key[:20]}.npz"


def write(path: pathlib.Path, dataset: Dataset) -> None:
    """Stores a data set whose targets are not encoded; prints a note if that fails."""
    kind = dataset.inputs
    header: dict[str, Any] = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "inputs": kind.to_json(),
        "words": kind.vocabulary.words if isinstance(kind, inputs.Text) else None,
        "repeated": dataset.repeated,
        "target_names": dataset.target_names,
    }
    arrays: dict[str, np.ndarray] = {}
    for name in SPLITS:
        split = getattr(dataset, name)
        header[name] = {"targets": split.targets, "origin": split.origin, "unit": split.unit}
        arrays |= {f"{name}.{field}": getattr(split, field) for field in _ARRAYS}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    buffer = io.BytesIO()
    buffer.write(bytes(hashlib.sha256().digest_size * 2) + b"\n")
    start = buffer.tell()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    with buffer.getbuffer() as content:  # In place: there may be gigabytes.
        content[: start - 1] = hashlib.sha256(content[start:]).hexdigest().encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, buffer.getvalue())
    except OSError as error:
        print(f"note: the data set was not cached: {error}", file=sys.stderr)


def read(path: pathlib.Path) -> Dataset | None:
    """The data set stored in a file, or None if there is none or it is damaged."""
    try:
        with path.open("rb") as file:
            digest = file.readline(100).rstrip(b"\n")
            start = file.tell()
            if hashlib.file_digest(file, "sha256").hexdigest().encode() != digest:
                print(f"note: {path} is damaged and is rebuilt", file=sys.stderr)
                return None
            file.seek(start)
            with np.load(file, allow_pickle=False) as arrays:
                header = json.loads(arrays["header"].tobytes())
                splits = {
                    name: Split(
                        arrays[f"{name}.values"], arrays[f"{name}.offsets"],
                        header[name]["targets"], arrays[f"{name}.rows"], header[name]["origin"],
                        header[name]["unit"],
                    )
                    for name in SPLITS
                }  # fmt: skip
    except OSError:
        return None
    vocabulary = Vocabulary(header["words"]) if header["words"] is not None else None
    return Dataset(
        header["name"], header["fingerprint"], inputs.from_json(header["inputs"], vocabulary),
        **splits, repeated=header["repeated"], target_names=tuple(header["target_names"]),
    )  # fmt: skip
