"""The loop over time, for any cell; its derivative is in `derivative`.

It takes as many steps as the longest sequence of a batch has. `docs/engine.md` says what was
measured for and against it.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import arguments, dropout
from seqmodels.cells import base
from seqmodels.recurrence import arrays, derivative, step
from seqmodels.recurrence.entry import Entry
from seqmodels.recurrence.sequences import (
    Encoded,
    initial_carry,
    last_output,
    longest,
    valid_steps,
)

KEEP_FROM = 256
"""D + H from which on the products of an `AffineCell` are kept for the backward pass."""


def run(
    cell: base.Cell,
    x_TxDxB: jax.Array,
    lengths_B: jax.Array,
    *,
    reverse: bool = False,
    start: base.Carry = None,
) -> Encoded:
    """Runs one cell; as `run_all`, but zero in all of the padding, and so are its gradients.

    Args:
        cell: any cell.
        x_TxDxB: the inputs; sequences start at time 0.
        lengths_B: valid steps of each sequence, 0 to T.
        reverse: run from the last valid step to the first. The outputs stay at the time of their
            inputs.
        start: the carry of every sequence before its first step; None: the cell's own.

    Raises:
        ValueError: inputs or start are not the cell's, there is not a length for each sequence, or
            one is out of range. Under `jax.jit`, where a length cannot be checked, results are
            NaN if it is out of range.
    """
    x_TxDxB = arguments.vectors_over_time(x_TxDxB)
    arguments.check_reads(cell, x_TxDxB.shape[1], "the cell")
    if start is not None:
        arguments.check_carry(start, cell)
    lengths_B = arguments.lengths(lengths_B, x_TxDxB.shape[-1], x_TxDxB.shape[0])
    valid_Tx1xB = valid_steps(lengths_B, x_TxDxB.shape[0])[:, None]
    x_TxDxB = jnp.where(valid_Tx1xB, x_TxDxB, 0)
    (encoded,) = run_all([cell], [reverse], [x_TxDxB], lengths_B, starts=[start])
    masked = Encoded(jnp.where(valid_Tx1xB, encoded.sequence_TxHxB, 0), encoded.last_HxB)
    return jax.tree.map(
        lambda result: arguments.nan_where_impossible(result, lengths_B, x_TxDxB.shape[0]), masked
    )


def run_all(
    cells: Sequence[base.Cell],
    reverse: Sequence[bool],
    parts: Sequence[jax.Array],
    lengths_B: jax.Array,
    dropped: dropout.Dropout = dropout.NOTHING,
    matrix_dtype: str = "float32",
    segment_steps: int = 1,
    starts: Sequence[base.Carry] | None = None,
) -> tuple[Encoded, ...]:
    """`run_from` one carry for all sequences, without the last ones.

    Args:
        starts: for each cell, the carry of every sequence before its first step; None, or None for
            a cell: the cell's own.
    """
    carries = [
        initial_carry(cell, lengths_B.shape[0], parts[0].dtype, start)
        for cell, start in zip(cells, starts or [None] * len(cells), strict=True)
    ]
    encoded, _ = run_from(
        carries, cells, reverse, parts, lengths_B, dropped, matrix_dtype, segment_steps
    )
    return encoded


def run_from(
    starts: Sequence[base.Carry],
    cells: Sequence[base.Cell],
    reverse: Sequence[bool],
    parts: Sequence[jax.Array],
    lengths_B: jax.Array,
    dropped: dropout.Dropout = dropout.NOTHING,
    matrix_dtype: str = "float32",
    segment_steps: int = 1,
) -> tuple[tuple[Encoded, ...], tuple[base.Carry, ...]]:
    """Runs cells, each in its direction, over the first `lengths_B` steps of the same sequences.

    A padding step passes the carry through untouched and outputs zero, so nothing that stands in
    the padding, nor how much of it there is, reaches a value or a gradient.

    The backward pass keeps the carry of every step and nothing else, and computes each step again:
    for the small layers that recurrent models are made of, that costs less than writing its
    intermediate results to memory and reading them back. Of an `AffineCell` with `KEEP_FROM` rows
    in its matrices or more it keeps the result of the product too. In segments it keeps one carry a
    segment and computes the rest again, which takes one more forward pass (Chen et al., "Training
    Deep Nets with Sublinear Memory Cost", 2016).

    Args:
        starts: for each cell, the carry before its first step; the batch is the last axis.
        cells: any cells.
        reverse: for each cell, whether it runs from the last valid step to the first.
        parts: arrays `[T, Di, B]` that side by side are the inputs `[T, D, B]`.
        lengths_B: valid steps of each sequence, 0 to T.
        dropped: what is dropped of inputs and carries. To hide units of h from recurrent matrices
            costs `GatedCell`s little; other cells then have matrices for each sequence.
        matrix_dtype: that matrices take part in products in; parameters, carries, outputs and
            gradients stay as they are.
        segment_steps: S, steps between two carries that are kept: T / S + S carries are in memory,
            and S products where they are kept.

    Returns:
        For each cell, what it makes of the sequences and the carry after its last step.
    """
    graphdefs, params = zip(*(nnx.split(cell, nnx.Param) for cell in cells), strict=True)
    rates = dropped.applied()

    def hidden_from(cell):
        if rates.recurrent == 0 or isinstance(cell, base.GatedCell):
            return ()
        return tuple(dropout.recurrent_matrices(cell))

    setups = tuple(
        step.Setup(
            graphdef,
            backwards,
            rates,
            matrix_dtype,
            segment_steps,
            is_gated=isinstance(cell, base.GatedCell),
            is_affine=isinstance(cell, base.AffineCell),
            is_pointwise=isinstance(cell, base.AffineCell)
            and sum(leaf.ndim > 1 for leaf in jax.tree.leaves(of_cell)) == 2,
            keeps_reads=isinstance(cell, base.AffineCell)
            and len(cell.kernel) + len(cell.recurrent_kernel) >= KEEP_FROM,
            hidden_from=hidden_from(cell),
        )
        for cell, graphdef, of_cell, backwards in zip(
            cells, graphdefs, params, reverse, strict=True
        )
    )
    seeds_Bx2 = None if dropped.keys_B is None else jax.random.key_data(dropped.keys_B)
    return _run(setups, params, tuple(starts), tuple(parts), lengths_B, seeds_Bx2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(setups, params, starts, parts, lengths_B, seeds_Bx2):
    return _run_forward(setups, params, starts, parts, lengths_B, seeds_Bx2)[0]


def _run_forward(setups, params, starts, parts, lengths_B, seeds_Bx2):
    inputs = parts, lengths_B, seeds_Bx2
    encoded, carries, kept = zip(
        *(_forward(*of_cell, *inputs) for of_cell in zip(setups, params, starts, strict=True)),
        strict=True,
    )
    sequences = tuple(one.sequence_TxHxB for one in encoded)
    return (encoded, carries), (params, starts, *inputs, kept, sequences)


def _run_backward(setups, residuals, cotangents):
    params, starts, parts, lengths_B, seeds_Bx2, kept, sequences = residuals
    inputs = parts, lengths_B, seeds_Bx2
    of_cells = zip(params, starts, kept, sequences, strict=True)
    of_cotangents = zip(*cotangents, strict=True)
    # With one cell no other is to read the inputs after it. An `AffineCell` reads them in its
    # product alone, before they are written over; where pointwise work reads them, XLA may do that
    # afterwards, from a copy of all of them that it makes at every step.
    in_place = len(setups) == 1 and setups[0].is_affine and not setups[0].keeps_reads
    d_parts = parts if in_place else None
    all_d_params, d_starts = [], []
    for setup, of_cell, of_cotangent in zip(setups, of_cells, of_cotangents, strict=True):
        d_params, d_start, d_parts = derivative.backward(
            setup, of_cell, of_cotangent, inputs, d_parts
        )
        all_d_params.append(d_params)
        d_starts.append(d_start)
    return tuple(all_d_params), tuple(d_starts), d_parts, None, None


_run.defvjp(_run_forward, _run_backward)


def _forward(setup, params, start, parts, lengths_B, seeds_Bx2):
    """One cell's `Encoded`, its last carry, and what is kept for the backward pass."""
    weights = step.weights_of(setup, params)
    width, num_steps = parts[0].shape[0], longest(lengths_B)
    keeps_reads = setup.keeps_reads and setup.segment_steps == 1

    def take(number, carry):
        time = setup.time(number, num_steps)
        read_FxB = step.read(setup, weights, arrays.at(parts, time), carry, time, seeds_Bx2)
        carry, y_HxB = step.take(setup, weights, read_FxB, carry, time, lengths_B, seeds_Bx2)
        return carry, read_FxB if keeps_reads else None, y_HxB

    def body(number, loop):
        carry, carries_N, outputs_T = loop
        # Written over until the first step of that segment is reached.
        carries_N = arrays.put(carries_N, setup.kept(carry), -(-number // setup.segment_steps))
        carry, *outputs = take(number, carry)
        return carry, carries_N, arrays.put(outputs_T, outputs, setup.time(number, num_steps))

    first = 10 * setup.reverse
    carries_N = arrays.room(setup.kept(start), -(-width // setup.segment_steps) + 1, first)
    _, *outputs = jax.eval_shape(take, num_steps, start)
    outputs_T = arrays.room(outputs, width, first + len(jax.tree.leaves(carries_N)))
    carry, carries_N, outputs_T = jax.lax.fori_loop(
        0, num_steps, body, (start, carries_N, outputs_T)
    )
    reads_TxFxB, sequence_TxHxB = outputs_T
    last_HxB = last_output(sequence_TxHxB, lengths_B, setup.reverse)
    return Encoded(sequence_TxHxB, last_HxB), carry, derivative.Kept(carries_N, reads_TxFxB)


def _run_alone(cell, x_TxDxB, lengths_B, *, reverse=False, start=None):
    return run_all([cell], [reverse], [x_TxDxB], lengths_B, starts=[start])[0]


ENTRY = Entry("loop", _run_alone, why_not=lambda cell: None, is_best=lambda cell: True)
