"""The recurrence as an unrolled loop over one sequence: the reference for every faster path."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.recurrence.sequences import Encoded, own_or


def run(cell, x_TxDxB, lengths_B, *, reverse=False, start=None):
    """Steps through each sequence separately, in Python; `lengths_B` is a list of integers.

    One step is compiled and called repeatedly; within `jax.jit`, every step would be compiled.
    """
    graphdef, params = nnx.split(cell, nnx.Param)
    width, _, batch_size = x_TxDxB.shape
    sequences, lasts = [], []
    for number in range(batch_size):
        times = range(lengths_B[number])
        outputs = [jnp.zeros(cell.hidden_size)] * width
        carry, last = own_or(start, cell), jnp.zeros(cell.hidden_size)
        for time in reversed(times) if reverse else times:
            carry, last = _step(graphdef, params, carry, x_TxDxB[time, :, number])
            outputs[time] = last
        sequences.append(jnp.stack(outputs))
        lasts.append(last)
    return Encoded(jnp.stack(sequences, axis=-1), jnp.stack(lasts, axis=-1))


@functools.partial(jax.jit, static_argnums=0)
def _step(graphdef, params, carry, x_D):
    cell = nnx.merge(graphdef, params)
    return cell.step(carry, cell.project(x_D))
