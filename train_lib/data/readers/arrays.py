"""Arrays in `.npz` files, as written by `np.savez`.

| key | |
|---|---|
| `values` | all steps, end to end: integers `[S]` (tokens), else `[S]` or `[S, D]` (vectors) |
| `lengths` | steps of each sequence, `[N]`; without it `values` is `[N, T]` or `[N, T, D]` |
| `targets` | `[N]` or `[N, ...]`, or one per step, `[S]` |
| `groups` | of each sequence, `[N]`; optional |

A file may have several splits, as `train_values`, `train_lengths`, ..., `test_values`, ...
"""

import pathlib
import zipfile
from typing import Any

import numpy as np

from train_lib.data.examples import SPLITS, UNLABELLED, Examples
from train_lib.data.readers.base import SPLIT_NAMES, Files, options_of
from train_lib.errors import UserError

_KEYS = ("values", "lengths", "targets", "groups")


class Arrays(Files):
    """Token numbers or vectors, and targets of sequences or of steps.

    Args:
        path: of a file, or of a folder with one for each split.
        labelled: False: there are no targets, or they should not be read.
    """

    suffixes = (".npz",)
    bytes_a_byte = 3.0

    def __init__(self, path: str, /, labelled: bool = True):
        super().__init__(path, options_of(Arrays.__init__, locals()))
        self._labelled = labelled
        self._prefixes = dict.fromkeys(self.paths, "")
        if self.path.is_file():
            prefixes = {name.partition("_")[0] for name in self._names(self.path) if "_" in name}
            splits = {SPLIT_NAMES[name]: name for name in sorted(prefixes) if name in SPLIT_NAMES}
            if splits:
                order = (*SPLITS, UNLABELLED)
                self._prefixes = {one: f"{splits[one]}_" for one in order if one in splits}
                self.paths = dict.fromkeys(self._prefixes, self.path)

    def _names(self, path: pathlib.Path) -> list[str]:
        if not path.stat().st_size:
            raise UserError(f"{path} is empty.")
        with _open(path) as arrays:
            return list(arrays.files)

    def content_bytes(self, path: pathlib.Path) -> int:
        try:
            with zipfile.ZipFile(path) as file:
                return sum(one.file_size for one in file.infolist())
        except zipfile.BadZipFile:
            return 0  # Reading it will report the error.

    def read_file(self, path: pathlib.Path, split: str) -> Examples:
        prefix = self._prefixes[split]
        with _open(path) as arrays:
            known = {f"{one}{key}" for one in self._prefixes.values() for key in _KEYS}
            if unknown := sorted(set(arrays.files) - known):
                raise UserError(
                    f"{path} has arrays that are not read: {', '.join(unknown)}. Those that are: "
                    f"{', '.join(sorted(known))}."
                )
            found = {
                key: _array(path, arrays, f"{prefix}{key}")
                for key in _KEYS
                if f"{prefix}{key}" in arrays.files
            }
        labelled = self._labelled and split != UNLABELLED
        for key in ("values", "targets")[: 1 + labelled]:
            if key not in found:
                raise UserError(
                    f"{path} has no array {prefix}{key}; those it has: {', '.join(arrays.files)}."
                )
        origin = f"{path}, {split}" if prefix else str(path)
        inputs = _sequences(origin, found["values"], found.get("lengths"))
        count = len(inputs)
        targets = [None] * count
        if labelled:
            targets = _targets(origin, found["targets"], [len(one) for one in inputs])
        groups = found["groups"].tolist() if "groups" in found else None
        examples = Examples.numbered(inputs, targets, origin)
        return examples._replace(groups=groups)


def _open(path: pathlib.Path) -> Any:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as .npz: {error}.") from error
    if not isinstance(found, np.lib.npyio.NpzFile):
        raise UserError(f"{path} has a single array; write it with np.savez.")
    return found


def _array(path: pathlib.Path, arrays: Any, key: str) -> np.ndarray:
    try:
        return arrays[key]
    except ValueError as error:
        if "pickle" not in str(error):
            raise UserError(f"{path}: {key} cannot be read: {error}.") from error
        raise UserError(
            f"{path}: {key} is an array of Python objects. Write numbers or texts: ragged "
            "sequences end to end in `values`, with their `lengths`."
        ) from error
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise UserError(f"{path}: {key} cannot be read: {error}.") from error


def _sequences(origin: str, values: np.ndarray, lengths: np.ndarray | None) -> list[np.ndarray]:
    """Each sequence: `[T]` if values are integers, otherwise `[T, D]`."""
    is_whole = np.issubdtype(values.dtype, np.integer)
    if not is_whole and not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"{origin}: values are {values.dtype} and must be numbers.")
    if lengths is None:
        if values.ndim not in (2, 3):
            raise UserError(
                f"{origin}: without lengths, values must be [N, T] or [N, T, D], not "
                f"{list(values.shape)}."
            )
        sequences = list(values)
    else:
        if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
            raise UserError(f"{origin}: lengths must be whole numbers [N].")
        if values.ndim not in (1, 2):
            raise UserError(f"{origin}: values must be [S] or [S, D], not {list(values.shape)}.")
        if lengths.min(initial=1) < 1:
            number = int(np.argmin(lengths))
            raise UserError(f"{origin}, example {number}: the length is {lengths[number]}.")
        if lengths.sum() != len(values):
            raise UserError(
                f"{origin}: lengths add up to {lengths.sum():,} steps, and there are "
                f"{len(values):,} in values."
            )
        sequences = np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []
    if is_whole and sequences and sequences[0].ndim == 2:
        sequences = [one.astype(np.float64) for one in sequences]
    elif not is_whole and sequences and sequences[0].ndim == 1:
        sequences = [one[:, None] for one in sequences]
    return sequences


def _targets(origin: str, targets: np.ndarray, lengths: list[int]) -> list[Any]:
    """A target for each sequence, or a list of them for its steps."""
    if targets.ndim and len(targets) == len(lengths):
        return targets.tolist()
    if targets.ndim == 1 and len(targets) == sum(lengths):
        return [one.tolist() for one in np.split(targets, np.cumsum(lengths)[:-1])]
    raise UserError(
        f"{origin}: targets are {list(targets.shape)}, and there are {len(lengths):,} sequences of "
        f"{sum(lengths):,} steps."
    )
