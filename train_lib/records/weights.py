"""A run's parameters as plain arrays, in safetensors files."""

import contextlib
from collections.abc import Mapping

import jax
import numpy as np
import safetensors.numpy
from flax import nnx

from train_lib import files
from train_lib.errors import UserError
from train_lib.records import legacy
from train_lib.records.folder import ANSWERS, RunFolder
from train_lib.training import processes
from train_lib.training.state import path_of

WEIGHTS, BEST_WEIGHTS = "model.safetensors", "best_model.safetensors"
"""The tested parameters, and those after each seed's best epoch by validation."""

NAMES = WEIGHTS, BEST_WEIGHTS


def named(params: nnx.State) -> list[tuple[str, jax.Array]]:
    """Every parameter with its path, as in `encoder.layers.0.forward.kernel`."""
    return [(path_of(keys), value) for keys, value in jax.tree_util.tree_leaves_with_path(params)]


def count(params: nnx.State) -> int:
    """How many numbers the parameters have."""
    return sum(value.size for value in jax.tree.leaves(params))


def write(folder: RunFolder, name: str, params_K: nnx.State) -> None:
    """Writes the parameters of K seeds as plain arrays, each under its path."""
    arrays = {path: np.ascontiguousarray(value) for path, value in named(params_K)}
    folder.write(name, safetensors.numpy.save(arrays))
    older = folder.path / legacy.WEIGHTS[name]
    if processes.is_first() and older.is_file():  # From a run that an older version ended.
        with contextlib.suppress(OSError):  # It is not read any more.
            files.remove(older)


def file_of(folder: RunFolder, name: str) -> str:
    """The file that has the weights of this name, in a folder of any version; empty: none."""
    names = name, legacy.WEIGHTS[name]
    return next((one for one in names if (folder.path / one).is_file()), "")


def open_finished(workdir: str, name: str) -> RunFolder:
    """The folder of a finished run, to answer with these weights; it may lack other files.

    Raises:
        UserError: it is not one, or the files that a run answers with are not as it wrote them.
    """
    return RunFolder.open_finished(workdir, [*ANSWERS, name, legacy.WEIGHTS[name]])


def read_all(folder: RunFolder, name: str) -> dict[str, np.ndarray]:
    """Reads all parameters of K seeds, each under its path."""
    path = folder.path / (file_of(folder, name) or name)
    try:
        if path.suffix != ".npz":
            return safetensors.numpy.load_file(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {legacy.parameter_path(one): arrays[one] for one in arrays.files}
    except Exception as error:  # NumPy may raise anything for a damaged file.
        raise UserError(f"{path} cannot be read: {error}") from error


def read(folder: RunFolder, name: str, params_K: nnx.State) -> nnx.State:
    """Reads parameters of the structure and shapes of `params_K`."""
    arrays, file = read_all(folder, name), folder.path / (file_of(folder, name) or name)
    for path, expected in named(params_K):
        value = arrays.get(path)
        if value is None or (value.shape, value.dtype) != (expected.shape, expected.dtype):
            raise UserError(f"{file}: {path} is not {expected.dtype}{list(expected.shape)}.")
    return replaced(params_K, arrays)


def replaced(params: nnx.State, arrays: Mapping[str, np.ndarray]) -> nnx.State:
    """Parameters of the same structure, each replaced by the array under its path."""
    values = [jax.numpy.asarray(arrays[path]) for path, _ in named(params)]
    return jax.tree.unflatten(jax.tree.structure(params), values)
