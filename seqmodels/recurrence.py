"""Runs any cell over time: lengths, direction, loop and gradients."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class Encoded(NamedTuple):
    """What a recurrent layer makes of its sequences.

    Attributes:
        sequence_TxHxB: the output of every step, at the time of its input; zero in the padding.
        last_HxB: the output of the last step the layer took: of time `length - 1` forwards, of
            time 0 in reverse. Zero for a sequence of length 0, which has no step.
    """

    sequence_TxHxB: jax.Array
    last_HxB: jax.Array


def valid_steps(lengths_B: jax.Array, width: int) -> jax.Array:
    """True where a step belongs to its sequence and not to the padding after it: `[T, B]`."""
    return jnp.arange(width)[:, None] < lengths_B


def run(
    cell: base.Cell, x_TxDxB: jax.Array, lengths_B: jax.Array, *, reverse: bool = False
) -> Encoded:
    """Runs `cell` over the first `lengths_B` steps of every sequence.

    A padding step passes the carry through untouched and outputs zero, so nothing that stands in
    the padding, nor how much of it there is, reaches a value or a gradient. The loop ends with
    the longest sequence, whatever T is.

    The backward pass keeps the carry of every step and nothing else, and computes each step again:
    for the small layers that recurrent models are made of, that costs less than writing its
    intermediate results to memory and reading them back.

    Args:
        cell: any cell.
        x_TxDxB: the inputs; sequences start at time 0.
        lengths_B: valid steps of each sequence, 0 to T.
        reverse: run from the last valid step to the first. The outputs stay at the time of their
            inputs.
    """
    graphdef, params = nnx.split(cell, nnx.Param)
    return _run(graphdef, reverse, params, x_TxDxB, lengths_B)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(graphdef, reverse, params, x_TxDxB, lengths_B) -> Encoded:
    return _run_forward(graphdef, reverse, params, x_TxDxB, lengths_B)[0]


def _run_forward(graphdef, reverse, params, x_TxDxB, lengths_B):
    width = len(x_TxDxB)
    cell = nnx.merge(graphdef, params)
    start = _initial_carry(cell, x_TxDxB)
    last_HxB = jnp.zeros((cell.hidden_size, x_TxDxB.shape[-1]), x_TxDxB.dtype)
    num_steps = lengths_B.max()

    def body(number, loop):
        carry, last_HxB, sequence_TxHxB, carries_T = loop
        time = num_steps - 1 - number if reverse else number
        carries_T = jax.tree.map(lambda all, one: _put(all, one, time), carries_T, carry)
        carry, last_HxB, y_HxB = _step(cell, carry, last_HxB, _at(x_TxDxB, time), time < lengths_B)
        return carry, last_HxB, _put(sequence_TxHxB, y_HxB, time), carries_T

    _, last_HxB, sequence_TxHxB, carries_T = jax.lax.fori_loop(
        0, num_steps, body, (start, last_HxB, _stack(last_HxB, width), _stack(start, width))
    )
    return Encoded(sequence_TxHxB, last_HxB), (params, x_TxDxB, lengths_B, carries_T)


def _run_backward(graphdef, reverse, residuals, cotangents: Encoded):
    params, x_TxDxB, lengths_B, carries_T = residuals
    num_steps = lengths_B.max()

    def body(number, loop):
        d_params, d_x_TxDxB, d_carry, d_last_HxB = loop
        time = number if reverse else num_steps - 1 - number

        def step(params, x_DxB, carry, last_HxB):
            cell = nnx.merge(graphdef, params)
            return _step(cell, carry, last_HxB, x_DxB, time < lengths_B)

        carry = jax.tree.map(lambda all: _at(all, time), carries_T)
        _, pull_back = jax.vjp(step, params, _at(x_TxDxB, time), carry, d_last_HxB)
        d_step, d_x_DxB, d_carry, d_last_HxB = pull_back(
            (d_carry, d_last_HxB, _at(cotangents.sequence_TxHxB, time))
        )
        d_params = jax.tree.map(jnp.add, d_params, d_step)
        return d_params, _put(d_x_TxDxB, d_x_DxB, time), d_carry, d_last_HxB

    d_params = jax.tree.map(jnp.zeros_like, params)
    d_carry = jax.tree.map(lambda all: jnp.zeros_like(all[0]), carries_T)
    d_params, d_x_TxDxB, d_carry, _ = jax.lax.fori_loop(
        0, num_steps, body, (d_params, jnp.zeros_like(x_TxDxB), d_carry, cotangents.last_HxB)
    )
    _, pull_back = jax.vjp(lambda p: _initial_carry(nnx.merge(graphdef, p), x_TxDxB), params)
    d_params = jax.tree.map(jnp.add, d_params, *pull_back(d_carry))
    return d_params, d_x_TxDxB, None


_run.defvjp(_run_forward, _run_backward)


def _initial_carry(cell: base.Cell, x_TxDxB: jax.Array) -> base.Carry:
    """The initial carry of every sequence of the batch."""

    def for_all(array):
        array = array.astype(x_TxDxB.dtype)[..., None]
        return jnp.broadcast_to(array, (*array.shape[:-1], x_TxDxB.shape[-1]))

    return jax.tree.map(for_all, cell.initial_carry())


def _step(cell: base.Cell, carry: base.Carry, last_HxB, x_DxB, valid_B) -> tuple[Any, Any, Any]:
    """One step of all: the carry and the last output, held where a sequence is over, and y."""

    def one(carry, x_D):
        return cell.step(carry, cell.project(x_D))

    new_carry, y_HxB = jax.vmap(one, in_axes=-1, out_axes=-1)(carry, x_DxB)
    carry = jax.tree.map(lambda new, old: jnp.where(valid_B, new, old), new_carry, carry)
    return carry, jnp.where(valid_B, y_HxB, last_HxB), jnp.where(valid_B, y_HxB, 0)


def _stack(arrays, width: int):
    """Room for one of `arrays` at every time, zero to begin with."""
    return jax.tree.map(lambda array: jnp.zeros((width, *array.shape), array.dtype), arrays)


# `all[time]` and `all.at[time].set(one)` without their care for negative and too large indices,
# which this loop never has and which would cost it a pass over the data.


def _at(all_T: jax.Array, time: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(all_T, time, keepdims=False)


def _put(all_T: jax.Array, one: jax.Array, time: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(all_T, one, time, 0)
