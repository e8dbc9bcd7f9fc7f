"""Parameters of a run as plain arrays."""

import io
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx

from train_lib.errors import UserError
from train_lib.records import legacy
from train_lib.records.folder import RunFolder
from train_lib.training.state import path_of

WEIGHTS, BEST_WEIGHTS = "weights.npz", "best_weights.npz"
"""Those that were tested, and those after each seed's best epoch by validation."""


def named(params: nnx.State) -> list[tuple[str, jax.Array]]:
    """Every parameter with its path, as in `encoder.layers.0.forward.kernel`."""
    return [(path_of(keys), value) for keys, value in jax.tree_util.tree_leaves_with_path(params)]


def count(params: nnx.State) -> int:
    """How many numbers the parameters are."""
    return sum(value.size for value in jax.tree.leaves(params))


def write(folder: RunFolder, name: str, params_K: nnx.State) -> None:
    """Writes the parameters of K seeds as plain arrays, each under its path."""
    buffer = io.BytesIO()
    np.savez(buffer, **{path: np.asarray(value) for path, value in named(params_K)})  # type: ignore[arg-type]
    folder.write(name, buffer.getvalue())


def read_all(folder: RunFolder, name: str) -> dict[str, np.ndarray]:
    """Reads all parameters of K seeds, each under its path."""
    path = folder.path / name
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {legacy.parameter_path(one): arrays[one] for one in arrays.files}
    except Exception as error:  # Whatever a damaged file makes NumPy raise.
        raise UserError(f"{path} cannot be read: {error}") from error


def read(folder: RunFolder, name: str, params_K: nnx.State) -> nnx.State:
    """Reads parameters of the structure and shapes of `params_K`."""
    arrays = read_all(folder, name)
    for path, expected in named(params_K):
        value = arrays.get(path)
        if value is None or (value.shape, value.dtype) != (expected.shape, expected.dtype):
            raise UserError(
                f"{folder.path / name}: {path} is not {expected.dtype}{list(expected.shape)}."
            )
    return replaced(params_K, arrays)


def replaced(params: nnx.State, arrays: Mapping[str, np.ndarray]) -> nnx.State:
    """Parameters of the same structure, each being the array under its path."""
    values = [jax.numpy.asarray(arrays[path]) for path, _ in named(params)]
    return jax.tree.unflatten(jax.tree.structure(params), values)
