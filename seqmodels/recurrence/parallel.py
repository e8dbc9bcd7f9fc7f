"""Takes all steps of a linear cell at once.

`h' = a h + b` composes: two steps are one step with other coefficients, so T steps can be combined
in a tree. Blelloch, "Prefix Sums and Their Applications", 1990; Martin and Cundy,
"Parallelizing Linear Recurrent Neural Nets Over Sequence Length", ICLR 2018.
"""

import jax
import jax.numpy as jnp

from seqmodels.cells import base
from seqmodels.recurrence import arrays
from seqmodels.recurrence.entry import Entry
from seqmodels.recurrence.sequences import (
    Encoded,
    last_output,
    own_or,
    real_inputs,
    valid_steps,
    without_gradient_of_nothing,
)


def why_not(cell: base.Cell) -> str | None:
    """Why the cell cannot be run this way; None if it can."""
    return None if isinstance(cell, base.LinearCell) else "it is not a LinearCell"


def run(
    cell: base.LinearCell,
    x_TxDxB: jax.Array,
    lengths_B: jax.Array,
    *,
    reverse: bool = False,
    start: base.Carry = None,
) -> Encoded:
    """Computes the same as `loop.run`, by `jax.lax.associative_scan`.

    Args:
        cell: a cell for which `why_not` returns None.
        x_TxDxB: the inputs; sequences start at time 0.
        lengths_B: valid steps of each sequence, 0 to T; all T are computed.
        reverse: run from the last valid step to the first.
        start: the carry of every sequence before its first step; None: the cell's own.
    """
    valid_Tx1xB = valid_steps(lengths_B, len(x_TxDxB))[:, None]
    cell = without_gradient_of_nothing(cell, lengths_B)
    x_TxDxB = real_inputs(x_TxDxB, lengths_B)
    a_TxHxB, b_TxHxB = jax.vmap(jax.vmap(cell.project, -1, -1))(x_TxDxB)
    # A padding step leaves h unchanged.
    steps = jnp.where(valid_Tx1xB, a_TxHxB, 1), jnp.where(valid_Tx1xB, b_TxHxB, 0)
    a_TxHxB, b_TxHxB = jax.lax.associative_scan(_then, steps, reverse=reverse)
    start_Hx1 = own_or(start, cell).astype(x_TxDxB.dtype)[:, None]
    sequence_TxHxB = jnp.where(valid_Tx1xB, a_TxHxB * start_Hx1 + b_TxHxB, 0)
    return Encoded(sequence_TxHxB, last_output(sequence_TxHxB, lengths_B, reverse))


def _then(first, second):
    """Composes two steps into one."""
    (a_first, b_first), (a_second, b_second) = first, second
    return a_second * a_first, a_second * b_first + b_second


# A CPU would gain nothing: it computes every step either way.
ENTRY = Entry(
    "parallel",
    run,
    why_not,
    is_best=lambda cell: why_not(cell) is None and not arrays.on_cpu(),
)
