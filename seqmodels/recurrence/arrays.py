"""Arrays over time that loops write and read one step at a time."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def on_cpu() -> bool:
    """Whether programs are made for a CPU, on which other things take time."""
    return jax.default_backend() == "cpu"


def either(
    condition: bool | jax.Array, one: Callable[[], jax.Array], other: Callable[[], jax.Array]
) -> jax.Array:
    """Computes the one or the other; both, to choose between, if the condition is an array."""
    if isinstance(condition, bool):
        return one() if condition else other()
    return jnp.where(condition, one(), other())


def room(arrays: Any, width: int, first: int) -> Any:
    """Allocates room for `arrays` at every time; whatever is in it must not be read.

    GPUs and TPUs need not fill it. On a CPU, `jax.lax.empty` gives zeros, and XLA merges equal
    arrays into one and copies it; `first` and the numbers after it take half as long.
    """
    leaves, structure = jax.tree.flatten(arrays)
    if not on_cpu() and isinstance(width, int):
        rooms = [jax.lax.empty((width, *leaf.shape), leaf.dtype) for leaf in leaves]
        return jax.tree.unflatten(structure, rooms)
    rooms = [
        jnp.full((width, *leaf.shape), number, leaf.dtype)
        for number, leaf in enumerate(leaves, first)
    ]
    return jax.tree.unflatten(structure, rooms)


# `all[time]` and `all.at[time].set(one)` without their handling of out-of-range indices, which
# these loops never have, and which would cost a pass over the data. Under `vmap` they stay slices:
# JAX's own become gathers, with an array of indices, and scatters, which read what they overwrite.


def at(arrays_T: Any, time: jax.Array) -> Any:
    """The elements of each array at one time; callers must stop the gradient."""
    return jax.tree.map(lambda all_T: _at(all_T, jnp.asarray(time, jnp.int32)), arrays_T)


def span(all_T: jax.Array, time: jax.Array, size: int) -> jax.Array:
    """The elements of an array at `size` times in a row; callers must stop the gradient."""
    zeros = [jnp.zeros((), jnp.int32)] * (all_T.ndim - 1)
    return _reader((size, *all_T.shape[1:]))(all_T, jnp.asarray(time, jnp.int32), *zeros)


@jax.jit  # A program then contains it once, however often it reads arrays of this shape.
def _at(all_T, time):
    zero = jnp.zeros((), jnp.int32)
    read = _reader((1, *all_T.shape[1:]))
    return read(all_T, time, *[zero] * (all_T.ndim - 1))[0]


@functools.cache
def _reader(shape: tuple[int, ...]) -> Callable[..., jax.Array]:
    """A function that reads a part of this shape: `(array, *starts) -> part`."""

    @jax.custom_batching.custom_vmap
    def read(array, *starts):
        return jax.lax.dynamic_slice(array, starts, shape, allow_negative_indices=False)

    @read.def_vmap
    def read_all(axis_size, is_batched, array, *starts):
        if any(is_batched[1:]):
            axes = tuple(0 if one else None for one in is_batched)
            own = functools.partial(jax.lax.dynamic_slice, slice_sizes=shape)
            return jax.vmap(own, (axes[0], axes[1:]))(array, starts), True
        return _reader((axis_size, *shape))(array, jnp.zeros((), jnp.int32), *starts), True

    return read


def put(arrays_T: Any, arrays: Any, time: jax.Array) -> Any:
    """Writes `arrays` into `arrays_T` at one time."""
    return jax.tree.map(lambda all_T, one: write(all_T, one[None], time, 0), arrays_T, arrays)


def put_columns(arrays_N: Any, arrays_B: Any, first: jax.Array) -> Any:
    """Writes `arrays_B` into `arrays_N` along their last axes, from one place on."""
    return jax.tree.map(
        lambda all_N, one_B: write(all_N, one_B, first, one_B.ndim - 1), arrays_N, arrays_B
    )


def write(array: jax.Array, part: jax.Array, start: jax.Array, axis: int) -> jax.Array:
    """Writes a part into an array, from a place along an axis on, where it must fit in."""
    starts = [jnp.zeros((), jnp.int32)] * array.ndim
    starts[axis] = jnp.asarray(start, jnp.int32)
    return _write(array, part, *starts)


@jax.custom_batching.custom_vmap
def _write(array, part, *starts):
    return jax.lax.dynamic_update_slice(array, part, starts, allow_negative_indices=False)


@_write.def_vmap
def _write_of_all(axis_size, is_batched, array, part, *starts):
    array_is, part_is, *starts_are = is_batched
    if any(starts_are):
        axes = tuple(0 if one else None for one in is_batched)
        return jax.vmap(jax.lax.dynamic_update_slice, (axes[0], axes[1], axes[2:]))(
            array, part, starts
        ), True
    if not array_is:
        array = jnp.broadcast_to(array, (axis_size, *array.shape))
    if not part_is:
        part = jnp.broadcast_to(part, (axis_size, *part.shape))
    return _write(array, part, jnp.zeros((), jnp.int32), *starts), True


def for_units(numbers_B: jax.Array, units: Iterable[int]) -> list[jax.Array]:
    """Numbers of sequences, to compare with a time: on a TPU or GPU also for each of U units.

    On a TPU, comparing `[B]` numbers is an operation of its own, which takes as long as pointwise
    work on all units; comparisons of `[U, B]` become part of that work, if they need no slice.
    """
    if on_cpu():
        return [numbers_B]
    batch_size = numbers_B.shape[0]
    repeated = [jnp.broadcast_to(numbers_B, (count, batch_size)) for count in sorted(set(units))]
    # Else the compiler would compare before it repeats.
    return [numbers_B, *jax.lax.optimization_barrier(repeated)]


def as_in(numbers: Sequence[jax.Array], array_B: jax.Array) -> jax.Array:
    """The numbers that `for_units` returned, in a shape that broadcasts to an array's."""
    return next((one for one in numbers if one.shape == array_B.shape), numbers[0])


def column(array_B: jax.Array, row: jax.Array) -> jax.Array:
    """One sequence of a batch, which is the last axis: `[..., 1]`."""
    return jax.lax.dynamic_slice_in_dim(array_B, row, 1, axis=-1)
