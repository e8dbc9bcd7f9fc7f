"""A cell's outputs, and helpers for sequence lengths.

Arrays are as long as the longest possible sequence; loops end with the longest one in the batch. So
one compiled program serves every batch, and only real steps cost time. The contents of an array
after the longest sequence are undefined: nothing in `seqmodels` reads them, and public functions
mask them.
"""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base
from seqmodels.recurrence import arrays

_Cell = TypeVar("_Cell", bound=base.Cell)


class Encoded(NamedTuple):
    """A cell's outputs.

    Attributes:
        sequence_TxHxB: the output of every step, at the time of its input; zero in the padding,
            undefined after the longest sequence.
        last_HxB: the output of the last step the cell took: at time `length - 1` forwards, at
            time 0 in reverse. Zero for a sequence of length 0, which has no step.
    """

    sequence_TxHxB: jax.Array
    last_HxB: jax.Array


def valid_steps(lengths_B: jax.Array, width: int) -> jax.Array:
    """True where a step belongs to its sequence, not to the padding after it: `[T, B]`."""
    return jnp.arange(width)[:, None] < lengths_B


def last_time(lengths_B: jax.Array, reverse: bool | jax.Array) -> jax.Array:
    """The time of the last step that a cell takes in each sequence."""
    return arrays.either(reverse, lambda: jnp.zeros_like(lengths_B), lambda: lengths_B - 1)


def last_output(
    sequence_TxHxB: jax.Array, lengths_B: jax.Array, reverse: bool | jax.Array
) -> jax.Array:
    """The output of each sequence's last step: `[H, B]`, zero where there is none."""
    return output_at(last_time(lengths_B, reverse), sequence_TxHxB, lengths_B)


def output_at(place_B: jax.Array, sequence_TxHxB: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """An output of each sequence: `[H, B]`, zero for a sequence that has no step."""
    last_HxB = jnp.take_along_axis(sequence_TxHxB, place_B[None, None], 0, mode="clip")[0]
    return jnp.where(lengths_B > 0, last_HxB, 0)


def real_inputs(x_TxDxB: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """The inputs, with the first input of the longest sequence wherever there is padding.

    A cell may be singular at zero: it may divide by the norm of its input, say. Its derivative
    there is not finite, and zero times infinity is NaN. So an engine that computes steps in the
    padding gives them an input from a sequence.
    """
    first_Dx1 = arrays.column(x_TxDxB[0], jnp.argmax(lengths_B))
    valid_Tx1xB = valid_steps(lengths_B, len(x_TxDxB))[:, None]
    return jnp.where(valid_Tx1xB, x_TxDxB, jax.lax.stop_gradient(first_Dx1))


def without_gradient_of_nothing(cell: _Cell, lengths_B: jax.Array) -> _Cell:
    """The cell; its parameters get no gradient from a batch without any step.

    Under `vmap` such a batch takes the steps of another one, and has no `real_inputs`.
    """
    graphdef, params = nnx.split(cell, nnx.Param)
    has_steps = lengths_B.max() > 0
    params = jax.tree.map(
        lambda leaf: jnp.where(has_steps, leaf, jax.lax.stop_gradient(leaf)), params
    )
    return nnx.merge(graphdef, params)


@jax.custom_batching.custom_vmap
def largest(array: jax.Array) -> jax.Array:
    """The largest element of an array; under `vmap`, over seeds say, of all arrays together.

    Conditions are made of it (True is larger than False). With a condition for each array, a loop
    would copy all that it holds at every step, and `jax.lax.cond` would compute both branches.
    """
    return array.max()


@largest.def_vmap
def _largest_of_all(axis_size, is_batched, array_K):
    del axis_size, is_batched
    return largest(array_K.reshape(-1)), False


def longest(lengths_B: jax.Array) -> jax.Array:
    """The number of steps that a loop over all sequences takes: the most of all under `vmap`."""
    return largest(lengths_B)


def initial_carry(
    cell: base.Cell, batch_size: int, dtype: Any = jnp.float32, start: base.Carry = None
) -> base.Carry:
    """The carry of every sequence of a batch before its first step.

    Args:
        cell: the cell whose carry it is.
        batch_size: B.
        dtype: the carry's dtype.
        start: the carry of one sequence to start from; None: the cell's own.
    """

    def for_all(array):
        return jnp.broadcast_to(array.astype(dtype)[..., None], (*array.shape, batch_size))

    return jax.tree.map(for_all, own_or(start, cell))


def own_or(start: base.Carry, cell: base.Cell) -> base.Carry:
    """The carry of one sequence to start from: `start`, or the cell's own if that is None."""
    return cell.initial_carry() if start is None else start
