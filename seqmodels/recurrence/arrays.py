"""Arrays over time that loops write and read one step at a time."""

from typing import Any

import jax
import jax.numpy as jnp


def room(arrays: Any, width: int, first: int) -> Any:
    """Allocates room for `arrays` at every time; whatever is in it must not be read.

    GPUs and TPUs need not fill it. On a CPU, `jax.lax.empty` gives zeros, and XLA merges equal
    arrays into one and copies it; `first` and the numbers after it take half as long.
    """
    leaves, structure = jax.tree.flatten(arrays)
    if jax.default_backend() != "cpu" and isinstance(width, int):
        rooms = [jax.lax.empty((width, *leaf.shape), leaf.dtype) for leaf in leaves]
        return jax.tree.unflatten(structure, rooms)
    rooms = [
        jnp.full((width, *leaf.shape), number, leaf.dtype)
        for number, leaf in enumerate(leaves, first)
    ]
    return jax.tree.unflatten(structure, rooms)


# `all[time]` and `all.at[time].set(one)` without their handling of out-of-range indices, which
# these loops never have, and which would cost a pass over the data.


def at(arrays_T: Any, time: jax.Array) -> Any:
    """The elements of each array at one time."""
    return jax.tree.map(
        lambda all_T: jax.lax.dynamic_index_in_dim(all_T, time, keepdims=False), arrays_T
    )


def put(arrays_T: Any, arrays: Any, time: jax.Array) -> Any:
    """Writes `arrays` into `arrays_T` at one time."""
    return jax.tree.map(
        lambda all_T, one: jax.lax.dynamic_update_index_in_dim(all_T, one, time, 0),
        arrays_T,
        arrays,
    )


def column(array_B: jax.Array, row: jax.Array) -> jax.Array:
    """One sequence of a batch, which is the last axis: `[..., 1]`."""
    return jax.lax.dynamic_slice_in_dim(array_B, row, 1, axis=-1)
