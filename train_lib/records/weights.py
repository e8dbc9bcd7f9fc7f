"""Parameters of a run as plain arrays."""

import io

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


def read(folder: RunFolder, name: str, params_K: nnx.State) -> nnx.State:
    """Reads parameters of the structure and shapes of `params_K`."""
    path = folder.path / name
    try:
        with np.load(path, allow_pickle=False) as arrays:
            there = {legacy.parameter_path(one): one for one in arrays.files}
            values = [arrays[there[name]] for name, _ in named(params_K)]
    except Exception as error:  # Whatever a damaged file makes NumPy raise.
        raise UserError(f"{path} cannot be read: {error}") from error
    for (name, expected), value in zip(named(params_K), values, strict=True):
        if (value.shape, value.dtype) != (expected.shape, expected.dtype):
            raise UserError(f"{path}: {name} is not {expected.dtype}{list(expected.shape)}.")
    arrays_on_device = [jax.numpy.asarray(value) for value in values]
    return jax.tree.unflatten(jax.tree.structure(params_K), arrays_on_device)
