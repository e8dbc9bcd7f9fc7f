"""Runs cells over time: lengths, directions, loops and gradients.

Arrays are as long as the longest sequence there may be; loops end with the longest one there is. So
one compiled program serves every batch, and only real steps cost time. What stands in an array
behind its longest sequence is undefined, and nothing in `seqmodels` reads it.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import arguments, dropout
from seqmodels.cells import base

_Cell = TypeVar("_Cell", bound=base.Cell)

KEEP_FROM = 256
"""D + H from which on the products of an `AffineCell` are kept for the backward pass."""


class Encoded(NamedTuple):
    """What a cell makes of its sequences.

    Attributes:
        sequence_TxHxB: the output of every step, at the time of its input; zero in the padding,
            undefined behind the longest sequence.
        last_HxB: the output of the last step the cell took: of time `length - 1` forwards, of
            time 0 in reverse. Zero for a sequence of length 0, which has no step.
    """

    sequence_TxHxB: jax.Array
    last_HxB: jax.Array


def valid_steps(lengths_B: jax.Array, width: int) -> jax.Array:
    """True where a step belongs to its sequence and not to the padding after it: `[T, B]`."""
    return jnp.arange(width)[:, None] < lengths_B


def last_time(lengths_B: jax.Array, reverse: bool) -> jax.Array:
    """The time of the last step that a cell takes in each sequence."""
    return jnp.zeros_like(lengths_B) if reverse else lengths_B - 1


def last_output(sequence_TxHxB: jax.Array, lengths_B: jax.Array, reverse: bool) -> jax.Array:
    """The output of each sequence's last step: `[H, B]`, zero where there is none."""
    last_1x1xB = last_time(lengths_B, reverse)[None, None]
    last_HxB = jnp.take_along_axis(sequence_TxHxB, last_1x1xB, 0, mode="clip")[0]
    return jnp.where(lengths_B > 0, last_HxB, 0)


def real_inputs(x_TxDxB: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """The inputs, with the first input of the longest sequence wherever there is padding.

    A cell may be singular at zero: it divides by the norm of its input, say. Its derivative there
    is not finite, and zero times infinity is NaN. So an engine that computes steps over padding
    gives them an input that a sequence has.
    """
    first_Dx1 = _column(x_TxDxB[0], jnp.argmax(lengths_B))
    valid_Tx1xB = valid_steps(lengths_B, len(x_TxDxB))[:, None]
    return jnp.where(valid_Tx1xB, x_TxDxB, jax.lax.stop_gradient(first_Dx1))


def without_gradient_of_nothing(cell: _Cell, lengths_B: jax.Array) -> _Cell:
    """The cell, whose parameters get no gradient from a batch without any step.

    Under `vmap` such a batch takes the steps of another one, and has no `real_inputs`.
    """
    graphdef, params = nnx.split(cell, nnx.Param)
    has_steps = lengths_B.max() > 0
    params = jax.tree.map(
        lambda leaf: jnp.where(has_steps, leaf, jax.lax.stop_gradient(leaf)), params
    )
    return nnx.merge(graphdef, params)


@jax.custom_batching.custom_vmap
def longest(lengths_B: jax.Array) -> jax.Array:
    """The steps that a loop over all sequences takes.

    Under `vmap`, over seeds say, it is the longest of all of them: a trip count of its own for
    each would make JAX copy every array of the loop at every step.
    """
    return lengths_B.max()


@longest.def_vmap
def _longest_of_all(axis_size, is_batched, lengths_KxB):
    del axis_size, is_batched
    return longest(lengths_KxB.reshape(-1)), False


def run(
    cell: base.Cell, x_TxDxB: jax.Array, lengths_B: jax.Array, *, reverse: bool = False
) -> Encoded:
    """Runs one cell; as `run_all`, but zero in all of the padding, and so are its gradients.

    Args:
        cell: any cell.
        x_TxDxB: the inputs; sequences start at time 0.
        lengths_B: valid steps of each sequence, 0 to T.
        reverse: run from the last valid step to the first. The outputs stay at the time of their
            inputs.

    Raises:
        ValueError: there is not a length for each sequence, or one is out of range.
    """
    lengths_B = arguments.lengths(lengths_B, x_TxDxB.shape[-1], len(x_TxDxB))
    valid_Tx1xB = valid_steps(lengths_B, len(x_TxDxB))[:, None]
    x_TxDxB = jnp.where(valid_Tx1xB, x_TxDxB, 0)
    ((sequence_TxHxB, last_HxB),) = run_all([cell], [reverse], [x_TxDxB], lengths_B)
    return Encoded(jnp.where(valid_Tx1xB, sequence_TxHxB, 0), last_HxB)


def scan(
    cell: base.Cell, x_TxDxB: jax.Array, lengths_B: jax.Array, *, reverse: bool = False
) -> Encoded:
    """`run` as `jax.lax.scan` over all of T, with JAX's own derivative: plain, and slow."""
    cell = without_gradient_of_nothing(cell, lengths_B)
    graphdef, params = nnx.split(cell, nnx.Param)
    setup, weights = _Setup(graphdef, reverse), _weights(_Setup(graphdef, reverse), params)
    start = initial_carry(cell, len(lengths_B), x_TxDxB.dtype)
    real = jax.lax.stop_gradient(
        _real_step(setup, weights, start, (x_TxDxB,), lengths_B, seeds_Bx2=None)
    )

    def step(carry, inputs):
        time, x_DxB = inputs
        read_FxB = _read(setup, weights, (x_DxB,), carry, time, None)
        return _step(setup, weights, read_FxB, carry, time, lengths_B, None, real)

    times_T = jnp.arange(len(x_TxDxB))
    _, sequence_TxHxB = jax.lax.scan(step, start, (times_T, x_TxDxB), reverse=reverse)
    return Encoded(sequence_TxHxB, last_output(sequence_TxHxB, lengths_B, reverse))


def run_all(
    cells: Sequence[base.Cell],
    reverse: Sequence[bool],
    parts: Sequence[jax.Array],
    lengths_B: jax.Array,
    dropped: dropout.Dropout = dropout.NOTHING,
    matrix_dtype: str = "float32",
    segment_steps: int = 1,
) -> tuple[Encoded, ...]:
    """`run_from` the initial carry of each cell, without the last."""
    starts = [initial_carry(cell, len(lengths_B), parts[0].dtype) for cell in cells]
    encoded, _ = run_from(
        starts, cells, reverse, parts, lengths_B, dropped, matrix_dtype, segment_steps
    )
    return encoded


def initial_carry(cell: base.Cell, batch_size: int, dtype: Any = jnp.float32) -> base.Carry:
    """The initial carry of every sequence of a batch."""

    def for_all(array):
        return jnp.broadcast_to(array.astype(dtype)[..., None], (*array.shape, batch_size))

    return jax.tree.map(for_all, cell.initial_carry())


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
        _Setup(
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


class _Setup(NamedTuple):
    """All about running a cell that is not an array.

    Attributes:
        is_gated, is_affine: what the cell is.
        is_pointwise: an `AffineCell` that holds vectors and numbers besides its two matrices, so
            that no two sequences meet in a step after the product.
        keeps_reads: the backward pass keeps what each step read, rather than compute it again.
        rates: those that count; where there are any but zoneout's, there are seeds.
        hidden_from: the numbers of the matrices from which units of h are to be hidden, though the
            engine has no part in their products.
    """

    graphdef: nnx.GraphDef
    reverse: bool
    rates: dropout.Rates = dropout.Rates()
    matrix_dtype: str = "float32"
    segment_steps: int = 1
    is_gated: bool = False
    is_affine: bool = False
    is_pointwise: bool = False
    keeps_reads: bool = False
    hidden_from: tuple[int, ...] = ()

    def kept(self, carry):
        """What the backward pass needs of a carry besides the outputs, of which h is one."""
        return carry[:-1] if self.is_gated else carry

    def of_product(self, matrix):
        """A matrix in the precision in which it takes part in products."""
        return matrix if self.matrix_dtype == "float32" else matrix.astype(self.matrix_dtype)

    def time(self, number: jax.Array, num_steps: jax.Array) -> jax.Array:
        """The time of the step that the cell takes as its `number`-th."""
        return num_steps - 1 - number if self.reverse else number


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
        d_params, d_start, d_parts = _backward(setup, of_cell, of_cotangent, inputs, d_parts)
        all_d_params.append(d_params)
        d_starts.append(d_start)
    return tuple(all_d_params), tuple(d_starts), d_parts, None, None


_run.defvjp(_run_forward, _run_backward)


class _Kept(NamedTuple):
    """What the backward pass is left of a forward pass, besides the outputs.

    Attributes:
        carries_N: the carry before each segment.
        reads_TxFxB: what each step read, where that is not computed again.
    """

    carries_N: Any
    reads_TxFxB: jax.Array | None


def _forward(setup, params, start, parts, lengths_B, seeds_Bx2):
    """One cell's `Encoded`, its last carry, and what is kept for the backward pass."""
    weights = _weights(setup, params)
    width, num_steps = len(parts[0]), longest(lengths_B)
    keeps_reads = setup.keeps_reads and setup.segment_steps == 1

    def step(number, carry):
        time = setup.time(number, num_steps)
        read_FxB = _read(setup, weights, _at(parts, time), carry, time, seeds_Bx2)
        carry, y_HxB = _step(setup, weights, read_FxB, carry, time, lengths_B, seeds_Bx2)
        return carry, read_FxB if keeps_reads else None, y_HxB

    def body(number, loop):
        carry, carries_N, outputs_T = loop
        # Written over until the first step of that segment is reached.
        carries_N = _put(carries_N, setup.kept(carry), -(-number // setup.segment_steps))
        carry, *outputs = step(number, carry)
        return carry, carries_N, _put(outputs_T, outputs, setup.time(number, num_steps))

    first = 10 * setup.reverse
    carries_N = room(setup.kept(start), -(-width // setup.segment_steps) + 1, first)
    _, *outputs = jax.eval_shape(step, num_steps, start)
    outputs_T = room(outputs, width, first + len(jax.tree.leaves(carries_N)))
    carry, carries_N, outputs_T = jax.lax.fori_loop(
        0, num_steps, body, (start, carries_N, outputs_T)
    )
    reads_TxFxB, sequence_TxHxB = outputs_T
    last_HxB = last_output(sequence_TxHxB, lengths_B, setup.reverse)
    return Encoded(sequence_TxHxB, last_HxB), carry, _Kept(carries_N, reads_TxFxB)


def _backward(setup, of_cell, cotangents, inputs, d_parts):
    """One cell's gradients: of its parameters, its start, and the inputs.

    That of the inputs is added to `d_parts`, if there is one already. It may be `parts` itself: the
    gradient of an input then takes its place once it was read.
    """
    params, start, kept, sequence_TxHxB = of_cell
    d_encoded, d_carry = cotangents
    parts, lengths_B, seeds_Bx2 = inputs
    num_steps, size = longest(lengths_B), setup.segment_steps
    weights, pull_back_weights = jax.vjp(functools.partial(_weights, setup), params)

    def read(weights, xs, carry, time):
        return _read(setup, weights, xs, carry, time, seeds_Bx2)

    real = None
    if not setup.is_pointwise:
        real = _real_step(setup, weights, start, parts, lengths_B, seeds_Bx2)

    def back_through_step(weights, read_FxB, carry, time, d_carry, d_y_HxB):
        """The gradients of the weights, what was read and the carry before a step."""
        if real is not None:

            def step(weights, read_FxB, carry):
                return _step(setup, weights, read_FxB, carry, time, lengths_B, seeds_Bx2, real)

            return jax.vjp(step, weights, read_FxB, carry)[1]((d_carry, d_y_HxB))
        valid_B = time < lengths_B

        def new(weights, read_FxB, carry):
            columns = _columns(setup, weights, read_FxB, carry, time, seeds_Bx2)
            return _new(setup, weights, columns, valid_B)

        # What comes of the padding is taken out afterwards, which costs less.
        _, pull_back = jax.vjp(new, weights, read_FxB, carry)
        d_weights, d_read_FxB, d_before = pull_back((d_carry, d_y_HxB))
        d_before = jax.tree.map(
            lambda before, after: jnp.where(valid_B, before, after), d_before, d_carry
        )
        return d_weights, jnp.where(valid_B, d_read_FxB, 0), d_before

    def first_carry(segment):
        """The carry before the first step of a segment."""
        carry, number = _at(kept.carries_N, segment), segment * size
        if not setup.is_gated:
            return carry
        time = setup.time(number - 1, num_steps)
        h_HxB = _at(sequence_TxHxB, jnp.clip(time, 0, num_steps - 1))
        return *carry, jnp.where((number > 0) & (time < lengths_B), h_HxB, start[-1])

    def back(number, carry, kept_FxB, loop):
        """The derivative of one step, taken at the carry before it."""
        d_weights, d_parts, d_carry = loop
        time = setup.time(number, num_steps)
        is_last_B = time == last_time(lengths_B, setup.reverse)
        d_y_HxB = _at(d_encoded.sequence_TxHxB, time) + jnp.where(is_last_B, d_encoded.last_HxB, 0)
        xs = _at(d_parts if in_place else parts, time)
        read_FxB, pull_back_read = jax.vjp(functools.partial(read, time=time), weights, xs, carry)
        if setup.keeps_reads:
            read_FxB = kept_FxB
        d_of_step, d_read_FxB, d_carry = back_through_step(
            weights, read_FxB, carry, time, d_carry, d_y_HxB
        )
        d_of_read, d_xs, d_carry_read = pull_back_read(d_read_FxB)
        if adds_up:
            d_xs = jax.tree.map(jnp.add, _at(d_parts, time), d_xs)
        d_weights = jax.tree.map(lambda *all_d: sum(all_d), d_weights, d_of_step, d_of_read)
        d_carry = jax.tree.map(jnp.add, d_carry, d_carry_read)
        return d_weights, _put(d_parts, d_xs, time), d_carry

    def back_through_segment(number, loop):
        segment = num_segments - 1 - number
        if size == 1:
            kept_FxB = _at(kept.reads_TxFxB, setup.time(segment, num_steps))
            return back(segment, first_carry(segment), kept_FxB, loop)
        first = segment * size
        steps = jnp.minimum(size, num_steps - first)

        parts_to_read = loop[1] if in_place else parts

        def forward(number, loop):
            carry, kept_S = loop
            time = setup.time(first + number, num_steps)
            read_FxB = read(weights, _at(parts_to_read, time), carry, time)
            kept_S = _put(kept_S, (carry, read_FxB if setup.keeps_reads else None), number)
            return _step(setup, weights, read_FxB, carry, time, lengths_B, seeds_Bx2)[0], kept_S

        def backward(number, loop):
            number = steps - 1 - number
            carry, read_FxB = _at(kept_S, number)
            return back(first + number, carry, read_FxB, loop)

        read_FxB = jax.eval_shape(read, weights, _at(parts, first), start, first)
        kept_S = room((start, read_FxB if setup.keeps_reads else None), size, first=40)
        _, kept_S = jax.lax.fori_loop(0, steps, forward, (first_carry(segment), kept_S))
        return jax.lax.fori_loop(0, steps, backward, loop)

    in_place = d_parts is parts
    adds_up = d_parts is not None and not in_place
    if d_parts is None:
        d_parts = room(_at(parts, jnp.array(0)), len(parts[0]), first=20)
    d_weights = jax.tree.map(jnp.zeros_like, weights)
    num_segments = -(-num_steps // size)
    d_weights, d_parts, d_carry = jax.lax.fori_loop(
        0, num_segments, back_through_segment, (d_weights, d_parts, d_carry)
    )
    # Under vmap a batch without any step takes those of another one, and there is nothing real.
    d_weights = jax.tree.map(lambda leaf: jnp.where(lengths_B.max() > 0, leaf, 0), d_weights)
    return *pull_back_weights(d_weights), d_carry, d_parts


class _Weights(NamedTuple):
    """The parameters of a cell, as a step reads them.

    Attributes:
        params: all of them.
        matrix_KxG: W and R of an `AffineCell` as one, K = D + H, so that a step has one product
            of twice the size instead of two; None for any other cell.
    """

    params: nnx.State
    matrix_KxG: jax.Array | None


def _weights(setup, params):
    cell, matrix_KxG = nnx.merge(setup.graphdef, params), None
    if isinstance(cell, base.AffineCell):
        matrix_KxG = jnp.concatenate([cell.kernel[...], cell.recurrent_kernel[...]])
    return _Weights(params, matrix_KxG)


def _read(setup, weights, xs, carry, time, seeds_Bx2):
    """What a step reads: of an `AffineCell` x @ W + h @ R, of any other its input."""
    x_DxB = jnp.concatenate(xs) if len(xs) > 1 else xs[0]
    if setup.rates.inputs > 0:
        x_DxB = dropout.drop(x_DxB, time, setup.rates.inputs, seeds_Bx2)
    if weights.matrix_KxG is None:
        return x_DxB
    x_KxB = jnp.concatenate([x_DxB, _seen_of(setup, carry[-1], seeds_Bx2)])
    return base.product(x_KxB, setup.of_product(weights.matrix_KxG))


def _seen_of(setup, h_HxB, seeds_Bx2):
    """What recurrent matrices see of h: the same units of a sequence at all times."""
    if setup.rates.recurrent == 0:
        return h_HxB
    seeds_Bx2 = dropout.stream(seeds_Bx2, "recurrent", setup.reverse)
    return dropout.drop(h_HxB, 0, setup.rates.recurrent, seeds_Bx2)


class _Columns(NamedTuple):
    """What a step reads of each sequence; the batch is the last axis of every array.

    Attributes:
        carry: before the step.
        read_FxB: as `_read` makes it.
        h_HxB: what the recurrent matrix of a `GatedCell` that is no `AffineCell` sees of h.
        matrices: those with hidden units, one for each sequence.
        zoned_out: the share of the old carry in the new.
    """

    carry: base.Carry
    read_FxB: jax.Array
    h_HxB: jax.Array | None
    matrices: list[jax.Array]
    zoned_out: base.Carry | None


def _columns(setup, weights, read_FxB, carry, time, seeds_Bx2):
    h_HxB = None
    if setup.is_gated and weights.matrix_KxG is None:
        h_HxB = _seen_of(setup, carry[-1], seeds_Bx2)
    leaves, matrices = jax.tree.leaves(weights.params), []
    for number in setup.hidden_from:
        matrix_HxG = setup.of_product(leaves[number])
        all_HxB = jnp.ones((len(matrix_HxG), read_FxB.shape[-1]), matrix_HxG.dtype)
        seen_HxB = _seen_of(setup, all_HxB, seeds_Bx2)
        matrices.append(matrix_HxG[..., None] * seen_HxB[:, None])
    zoned_out = _zoned_out(setup, carry, time, seeds_Bx2)
    return _Columns(carry, read_FxB, h_HxB, matrices, zoned_out)


def _real_step(setup, weights, start, parts, lengths_B, seeds_Bx2):
    """The first step of the longest sequence, as the `_Columns` of a batch of one."""
    row = jnp.argmax(lengths_B)
    time = jnp.where(setup.reverse, jnp.maximum(lengths_B[row] - 1, 0), 0)
    xs, carry = (
        jax.tree.map(lambda leaf: _column(leaf, row), arrays)
        for arrays in (_at(parts, time), start)
    )
    seeds_1x2 = None if seeds_Bx2 is None else jax.lax.dynamic_slice_in_dim(seeds_Bx2, row, 1)
    read_Fx1 = _read(setup, weights, xs, carry, time, seeds_1x2)
    return _columns(setup, weights, read_Fx1, carry, time, seeds_1x2)


def _step(setup, weights, read_FxB, carry, time, lengths_B, seeds_Bx2, real=None):
    """One step of all: the carry, held where a sequence is over, and the output, zero there.

    Args:
        real: where the step's derivative is taken, what to compute in the padding, since a cell may
            be singular at what stands there: see `real_inputs`. Values need none, nor do cells that
            are pointwise.
    """
    valid_B = time < lengths_B
    columns = _columns(setup, weights, read_FxB, carry, time, seeds_Bx2)
    if real is not None:
        columns = jax.tree.map(lambda one, of_real: jnp.where(valid_B, one, of_real), columns, real)
    new_carry, y_HxB = _new(setup, weights, columns)
    carry = jax.tree.map(lambda new, old: jnp.where(valid_B, new, old), new_carry, carry)
    return carry, jnp.where(valid_B, y_HxB, 0)


def _new(setup, weights, columns, valid_B=None):
    """The carry and the output after a step, also of sequences that are over.

    Args:
        valid_B: the sequences that count in the gradient of vectors and numbers; None: all.
    """

    # A bias without a batch axis would make vmap move the others' from last to first.
    def of_each(leaf):
        leaf_B = jnp.broadcast_to(leaf[..., None], (*leaf.shape, columns.read_FxB.shape[-1]))
        return leaf_B if valid_B is None else _counted_where(leaf_B, valid_B)

    leaves, structure = jax.tree.flatten(weights.params)
    is_matrix = [leaf.ndim > 1 for leaf in leaves]
    leaves = [
        setup.of_product(leaf) if matrix else of_each(leaf)
        for leaf, matrix in zip(leaves, is_matrix, strict=True)
    ]
    axes = [None if matrix else -1 for matrix in is_matrix]
    for number, matrix_HxGxB in zip(setup.hidden_from, columns.matrices, strict=True):
        leaves[number], axes[number] = matrix_HxGxB, -1

    def one(leaves, carry, read_F, h_H, zoned_out):
        cell = nnx.merge(setup.graphdef, jax.tree.unflatten(structure, leaves))
        if weights.matrix_KxG is not None:
            new_carry = cell.activate(carry, read_F + cell.bias)
            y_H = new_carry[-1]
        elif setup.is_gated:
            u_G = base.product(h_H, cell.recurrent_kernel[...])
            new_carry = cell.update(carry, cell.project(read_F), u_G)
            y_H = new_carry[-1]
        else:
            new_carry, y_H = cell.step(carry, cell.project(read_F))
        if setup.rates.zoneout == 0:
            return new_carry, y_H
        blended = cell.blend(carry, new_carry, zoned_out)
        if setup.is_gated:
            return blended, blended[-1]
        # An output that is a part of the carry stays it.
        for part, old in zip(*map(jax.tree.leaves, (blended, new_carry)), strict=True):
            y_H = part if old is y_H else y_H
        return blended, y_H

    return jax.vmap(one, (axes, -1, -1, -1, -1), -1)(
        leaves, columns.carry, columns.read_FxB, columns.h_HxB, columns.zoned_out
    )


@jax.custom_vjp
def _counted_where(array_B, valid_B):
    """The array, whose gradient counts where it is valid, whatever it is elsewhere."""
    del valid_B
    return array_B


_counted_where.defvjp(
    lambda array_B, valid_B: (array_B, valid_B),
    lambda valid_B, d_array_B: (jnp.where(valid_B, d_array_B, 0), None),
)


def _zoned_out(setup, carry, time, seeds_Bx2):
    """The share of the old carry in the new: 0 or 1 in training, else what that is on average."""
    rate = setup.rates.zoneout
    if rate == 0:
        return None
    if seeds_Bx2 is None:
        return jax.tree.map(lambda leaf: jnp.full(leaf.shape, rate, leaf.dtype), carry)
    leaves, structure = jax.tree.flatten(carry)
    shares = []
    for number, leaf in enumerate(leaves):
        stream_Bx2 = dropout.stream(seeds_Bx2, "zoneout", setup.reverse, number)
        share = dropout.dropped(leaf.size // leaf.shape[-1], time, rate, stream_Bx2)
        shares.append(share.reshape(leaf.shape).astype(leaf.dtype))
    return jax.tree.unflatten(structure, shares)


def room(arrays: Any, width: int, first: int) -> Any:
    """Room for one of `arrays` at every time, filled with `first` and the numbers after it.

    What it is filled with is to be written over before it is read. `jax.lax.empty` is zeros on a
    CPU, and of equal arrays XLA makes one and copies it; other numbers take half as long.
    """
    leaves, structure = jax.tree.flatten(arrays)
    rooms = [
        jnp.full((width, *leaf.shape), number, leaf.dtype)
        for number, leaf in enumerate(leaves, first)
    ]
    return jax.tree.unflatten(structure, rooms)


# `all[time]` and `all.at[time].set(one)` without their care for negative and too large indices,
# which these loops never have and which would cost them a pass over the data.


def _at(arrays_T: Any, time: jax.Array) -> Any:
    return jax.tree.map(
        lambda all_T: jax.lax.dynamic_index_in_dim(all_T, time, keepdims=False), arrays_T
    )


def _put(arrays_T: Any, arrays: Any, time: jax.Array) -> Any:
    return jax.tree.map(
        lambda all_T, one: jax.lax.dynamic_update_index_in_dim(all_T, one, time, 0),
        arrays_T,
        arrays,
    )


def _column(array_B: jax.Array, row: jax.Array) -> jax.Array:
    """One sequence of a batch, which is the last axis: `[..., 1]`."""
    return jax.lax.dynamic_slice_in_dim(array_B, row, 1, axis=-1)
