"""The loop over time, for any cell; its derivative is in `derivative`.

It takes as many steps as the longest sequence of a batch has. `docs/engine.md` has the
measurements behind its design.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import arguments, dropout, precision
from seqmodels.cells import base
from seqmodels.recurrence import arrays, derivative, directions, projections, separate, step
from seqmodels.recurrence.entry import Entry
from seqmodels.recurrence.sequences import (
    Encoded,
    initial_carry,
    longest,
    output_at,
    valid_steps,
)

_LARGE = 128
_LARGE_ELSEWHERE = 256  # Off the CPU, where more operations take longer than another product.
_FEW = 32
_VERY_FEW = 8


def keeps_reads(cell: base.Cell, batch_size: int) -> bool:
    """Whether the results of a cell's products are kept for the backward pass, not recomputed.

    So they are for an `AffineCell` whose D + H is large, for which products take long, and for one
    that runs few sequences on a CPU, whose results fit into a cache and whose products are
    inefficient.
    """
    if not isinstance(cell, base.AffineCell):
        return False
    is_symbolic = not isinstance(batch_size, int)
    are_few = arrays.on_cpu() and not is_symbolic and batch_size <= _FEW
    return _is_large(cell) or are_few


def _is_large(cell: base.AffineCell) -> bool:
    size = len(cell.kernel) + len(cell.recurrent_kernel)
    return size >= (_LARGE if arrays.on_cpu() else _LARGE_ELSEWHERE)


def is_separate(cell: base.Cell, batch_size: int, width: int, segment_steps: int) -> bool:
    """Whether the products of inputs and of h are separate: see `separate`.

    So they are for a `GatedCell` that runs very few sequences, for which the time of a product is
    that of reading its matrix, unless it is a small `AffineCell`; and for other large ones.
    """
    if not isinstance(cell, base.GatedCell) or segment_steps > 1 or not arrays.on_cpu():
        return False
    if not isinstance(batch_size, int) or not isinstance(width, int):  # They are symbolic.
        return False
    are_few = batch_size <= _VERY_FEW
    if isinstance(cell, base.AffineCell):
        return are_few and _is_large(cell)
    return are_few or cell.hidden_size >= _LARGE


def run(
    cell: base.Cell,
    x_TxDxB: jax.Array,
    lengths_B: jax.Array,
    *,
    reverse: bool = False,
    start: base.Carry = None,
) -> Encoded:
    """Runs one cell like `run_all`, but outputs and gradients are zero in all of the padding.

    Args:
        cell: any cell.
        x_TxDxB: the inputs; sequences start at time 0.
        lengths_B: valid steps of each sequence, 0 to T.
        reverse: run from the last valid step to the first. The outputs stay at the times of their
            inputs.
        start: the carry of every sequence before its first step; None: the cell's own.

    Raises:
        ValueError: the inputs or the start do not fit the cell, the number of lengths is wrong, or
            a length is out of range. Under `jax.jit`, where a length cannot be checked, the results
            of its sequence are NaN if it is out of range.
    """
    x_TxDxB = arguments.vectors_over_time(x_TxDxB)
    arguments.check_reads(cell, x_TxDxB.shape[1], "the cell")
    if start is not None:
        arguments.check_carry(start, cell)
    given_B, width = lengths_B, x_TxDxB.shape[0]
    lengths_B = arguments.lengths(given_B, x_TxDxB.shape[-1], width)
    valid_Tx1xB = valid_steps(lengths_B, width)[:, None]
    x_TxDxB = jnp.where(valid_Tx1xB, x_TxDxB, 0)
    (encoded,) = run_all([cell], [reverse], [x_TxDxB], lengths_B, starts=[start])
    masked = Encoded(jnp.where(valid_Tx1xB, encoded.sequence_TxHxB, 0), encoded.last_HxB)
    return jax.tree.map(
        lambda result: arguments.nan_where_impossible(result, given_B, width), masked
    )


def run_all(
    cells: Sequence[base.Cell],
    reverse: Sequence[bool],
    parts: projections.Inputs,
    lengths_B: jax.Array,
    dropped: dropout.Dropout = dropout.NOTHING,
    matrix_dtype: str = "float32",
    segment_steps: int = 1,
    starts: Sequence[base.Carry] | None = None,
) -> tuple[Encoded, ...]:
    """Like `run_from`, with one start for all sequences, and without returning the last carries.

    Args:
        reverse: for each cell, whether it runs from the last valid step to the first.
        starts: for each cell, the carry of every sequence before its first step; None, for all or
            for one cell: the cell's own.
    """
    options = matrix_dtype, segment_steps
    starts = starts or [None] * len(cells)
    if directions.are_one(cells, reverse, starts):
        return _run_both(cells, parts, lengths_B, dropped, options, starts)
    carries = [
        initial_carry(cell, lengths_B.shape[0], projections.dtype_of(parts), start)
        for cell, start in zip(cells, starts, strict=True)
    ]
    return run_from(carries, cells, reverse, parts, lengths_B, dropped, *options)[0]


def _whole(parts, dropped):
    """Inputs as one array, from which elements are dropped, and what is yet to be dropped.

    Off the CPU, the operations of a step take longer than one more pass over all inputs.
    """
    x_TxDxB, dropped = dropout.drop_inputs(jnp.concatenate(parts, axis=1), dropped)
    return (x_TxDxB,), dropped


def _run_both(cells, parts, lengths_B, dropped, options, starts):
    """Both directions of a layer as one loop."""
    (x_TxDxB,), dropped = _whole(parts, dropped)
    num_steps = longest(lengths_B)

    def run_one(cell, reverse, start, x_TxDxB):
        carry = initial_carry(cell, lengths_B.shape[0], x_TxDxB.dtype, start)
        return run_from([carry], [cell], [reverse], [x_TxDxB], lengths_B, dropped, *options)[0][0]

    inputs = [x_TxDxB, directions.in_reverse(x_TxDxB, num_steps)]
    forward, backward = directions.run(run_one, cells, starts, inputs)
    sequence_TxHxB = directions.in_reverse(backward.sequence_TxHxB, num_steps)
    return forward, Encoded(sequence_TxHxB, backward.last_HxB)


def run_from(
    starts: Sequence[base.Carry],
    cells: Sequence[base.Cell],
    reverse: Sequence[bool | jax.Array],
    parts: projections.Inputs,
    lengths_B: jax.Array,
    dropped: dropout.Dropout = dropout.NOTHING,
    matrix_dtype: str = "float32",
    segment_steps: int = 1,
) -> tuple[tuple[Encoded, ...], tuple[base.Carry, ...]]:
    """Runs cells, each in its direction, over the first `lengths_B` steps of the same sequences.

    A padding step passes the carry through unchanged and outputs zero, so neither the contents nor
    the amount of padding affects a value or a gradient.

    Only the carry of every step is kept for the backward pass, which recomputes each step: for the
    small layers of recurrent models, that costs less than writing intermediate results to memory
    and reading them back. Where `keeps_reads` or `is_separate` says so, the results of products
    are kept too. With
    segments, one carry per segment is kept and the rest is recomputed, which takes one more forward
    pass (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016).

    Args:
        starts: for each cell, the carry before its first step; the batch is the last axis.
        cells: any cells.
        reverse: for each cell, whether it runs from the last valid step to the first. If one is an
            array, so that `jax.vmap` can run two directions, inputs and outputs are in the order of
            the steps that the cell takes.
        parts: arrays `[T, Di, B]` whose concatenation is the inputs `[T, D, B]`, or tokens.
        lengths_B: valid steps of each sequence, 0 to T.
        dropped: dropout of inputs and carries. Hiding units of h from recurrent matrices costs
            `GatedCell`s little; other cells then have matrices for each sequence.
        matrix_dtype: the dtype of matrices in products; parameters, carries, outputs and gradients
            keep theirs.
        segment_steps: S, steps between two carries that are kept: T / S + S carries are in memory,
            and S products if products are kept.

    Returns:
        For each cell, its outputs and the carry after its last step.
    """
    options = lengths_B, dropped, matrix_dtype, segment_steps
    if isinstance(parts, projections.LookedUp):  # Cells have no inputs in common.
        each = zip(starts, cells, reverse, parts.for_each(), strict=True)
        found = [
            _run_from([start], [cell], [back], own, *options) for start, cell, back, own in each
        ]
        return tuple(one for (one,), _ in found), tuple(carry for _, (carry,) in found)
    return _run_from(starts, cells, reverse, tuple(parts), *options)


def _run_from(starts, cells, reverse, parts, lengths_B, dropped, matrix_dtype, segment_steps):
    if not arrays.on_cpu():
        parts, dropped = _whole(parts, dropped)
    graphdefs, params = zip(*(nnx.split(cell, nnx.Param) for cell in cells), strict=True)
    rates = dropped.applied()

    def hidden_from(cell):
        if rates.recurrent == 0 or isinstance(cell, base.GatedCell):
            return ()
        return tuple(dropout.recurrent_matrices(cell))

    setups = tuple(
        step.Setup(
            graphdef,
            backwards if isinstance(backwards, bool) else None,
            rates,
            matrix_dtype,
            segment_steps,
            is_gated=isinstance(cell, base.GatedCell),
            is_affine=isinstance(cell, base.AffineCell),
            is_pointwise=isinstance(cell, base.AffineCell)
            and sum(leaf.ndim > 1 for leaf in jax.tree.leaves(of_cell)) == 2,
            keeps_reads=keeps_reads(cell, lengths_B.shape[0]),
            is_separate=isinstance(parts, projections.LookedUp)
            or is_separate(cell, lengths_B.shape[0], parts[0].shape[0], segment_steps),
            hidden_from=hidden_from(cell),
        )
        for cell, graphdef, of_cell, backwards in zip(
            cells, graphdefs, params, reverse, strict=True
        )
    )
    seeds_Bx2 = None if dropped.keys_B is None else jax.random.key_data(dropped.keys_B)
    given = tuple(None if isinstance(backwards, bool) else backwards for backwards in reverse)
    return _run(setups, params, tuple(starts), parts, lengths_B, seeds_Bx2, given)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(setups, params, starts, parts, lengths_B, seeds_Bx2, reverse):
    return _run_forward(setups, params, starts, parts, lengths_B, seeds_Bx2, reverse)[0]


def _run_forward(setups, params, starts, parts, lengths_B, seeds_Bx2, reverse):
    inputs = parts, lengths_B, seeds_Bx2
    setups = _facing(setups, reverse)
    with precision.products_in(setups[0].matrix_dtype):
        encoded, carries, kept = zip(
            *(
                (separate.forward if setup.is_separate else _forward)(setup, own, start, *inputs)
                for setup, own, start in zip(setups, params, starts, strict=True)
            ),
            strict=True,
        )
    sequences = tuple(one.sequence_TxHxB for one in encoded)
    return (encoded, carries), (params, starts, *inputs, reverse, kept, sequences)


def _run_backward(setups, residuals, cotangents):
    params, starts, parts, lengths_B, seeds_Bx2, reverse, kept, sequences = residuals
    inputs = parts, lengths_B, seeds_Bx2
    setups = _facing(setups, reverse)
    of_cells = zip(params, starts, kept, sequences, strict=True)
    of_cotangents = zip(*cotangents, strict=True)
    # With a single cell, no other cell has yet to read the inputs. An `AffineCell` reads them only
    # in its product, before they are overwritten. XLA may delay pointwise reads until after that,
    # and would then copy all inputs at every step.
    in_place = len(setups) == 1 and setups[0].is_affine
    in_place &= not (setups[0].keeps_reads or setups[0].is_separate)
    d_parts = parts if in_place else None
    all_d_params, d_starts = [], []
    for setup, of_cell, of_cotangent in zip(setups, of_cells, of_cotangents, strict=True):
        with precision.products_in(setup.matrix_dtype):
            backward = separate.backward if setup.is_separate else derivative.backward
            d_params, d_start, d_parts = backward(setup, of_cell, of_cotangent, inputs, d_parts)
        all_d_params.append(d_params)
        d_starts.append(d_start)
    # Under vmap a batch without any step takes the steps of another, and has no real inputs.
    has_steps = lengths_B.max() > 0
    all_d_params = jax.tree.map(lambda leaf: jnp.where(has_steps, leaf, 0), tuple(all_d_params))
    return all_d_params, tuple(d_starts), d_parts, None, None, None


_run.defvjp(_run_forward, _run_backward)


def _facing(setups, reverse):
    """The setups, with the directions that are arrays."""
    return tuple(
        setup if backwards is None else setup._replace(reverse=backwards)
        for setup, backwards in zip(setups, reverse, strict=True)
    )


def _forward(setup, params, start, parts, lengths_B, seeds_Bx2):
    """One cell's `Encoded`, its last carry, and what is kept for the backward pass."""
    weights = step.weights_of(setup, params)
    lengths = arrays.for_units(lengths_B, step.units_of(start))
    width, num_steps = parts[0].shape[0], longest(lengths_B)
    keeps_reads = setup.keeps_reads and setup.segment_steps == 1

    def take(number, carry):
        time, xs = setup.time(number, num_steps), arrays.at(parts, setup.place(number, num_steps))
        read_FxB = step.read(setup, weights, xs, carry, time, seeds_Bx2)
        carry, y_HxB = step.take(setup, weights, read_FxB, carry, time, lengths, seeds_Bx2)
        return carry, read_FxB if keeps_reads else None, y_HxB

    def body(number, loop):
        carry, carries_N, outputs_T = loop
        # Overwritten until the segment's first step is reached.
        carries_N = arrays.put(carries_N, setup.kept(carry), -(-number // setup.segment_steps))
        carry, *outputs = take(number, carry)
        return carry, carries_N, arrays.put(outputs_T, outputs, setup.place(number, num_steps))

    first = 10 * (setup.reverse is True)
    carries_N = arrays.room(setup.kept(start), -(-width // setup.segment_steps) + 1, first)
    _, *outputs = jax.eval_shape(take, num_steps, start)
    outputs_T = arrays.room(outputs, width, first + len(jax.tree.leaves(carries_N)))
    carry, carries_N, outputs_T = jax.lax.fori_loop(
        0, num_steps, body, (start, carries_N, outputs_T)
    )
    reads_TxFxB, sequence_TxHxB = outputs_T
    last_HxB = output_at(setup.last_place(lengths_B, num_steps), sequence_TxHxB, lengths_B)
    return Encoded(sequence_TxHxB, last_HxB), carry, derivative.Kept(carries_N, reads_TxFxB)


def _run_alone(cell, x_TxDxB, lengths_B, *, reverse=False, start=None, **options):
    return run_all([cell], [reverse], [x_TxDxB], lengths_B, starts=[start], **options)[0]


ENTRY = Entry(
    "loop", _run_alone, why_not=lambda cell: None, is_best=lambda cell: True, takes_bfloat16=True
)
