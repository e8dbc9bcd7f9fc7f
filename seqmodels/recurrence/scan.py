"""The loop as `jax.lax.scan` over all of T, with JAX's own derivative: simple and slow.

It is a baseline for comparisons.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base
from seqmodels.recurrence import step
from seqmodels.recurrence.entry import Entry
from seqmodels.recurrence.sequences import (
    Encoded,
    initial_carry,
    last_output,
    without_gradient_of_nothing,
)


def run(
    cell: base.Cell,
    x_TxDxB: jax.Array,
    lengths_B: jax.Array,
    *,
    reverse: bool = False,
    start: base.Carry = None,
) -> Encoded:
    """Computes the same as `loop.run`.

    Args:
        cell: any cell.
        x_TxDxB: the inputs; sequences start at time 0.
        lengths_B: valid steps of each sequence, 0 to T; all T are computed.
        reverse: run from the last valid step to the first.
        start: the carry of every sequence before its first step; None: the cell's own.
    """
    cell = without_gradient_of_nothing(cell, lengths_B)
    graphdef, params = nnx.split(cell, nnx.Param)
    setup = step.Setup(graphdef, reverse)
    weights = step.weights_of(setup, params)
    carry = initial_carry(cell, len(lengths_B), x_TxDxB.dtype, start)
    parts = (jax.lax.stop_gradient(x_TxDxB),)
    real = step.real_columns(setup, weights, carry, parts, lengths_B, seeds_Bx2=None)
    real = jax.lax.stop_gradient(real)

    def take(carry, inputs):
        time, x_DxB = inputs
        read_FxB = step.read(setup, weights, (x_DxB,), carry, time, None)
        return step.take(setup, weights, read_FxB, carry, time, [lengths_B], None, real)

    times_T = jnp.arange(len(x_TxDxB))
    _, sequence_TxHxB = jax.lax.scan(take, carry, (times_T, x_TxDxB), reverse=reverse)
    return Encoded(sequence_TxHxB, last_output(sequence_TxHxB, lengths_B, reverse))


ENTRY = Entry("scan", run, why_not=lambda cell: None, is_best=lambda cell: False)
