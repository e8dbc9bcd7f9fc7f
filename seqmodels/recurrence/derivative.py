"""The derivative of the loop over time."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqmodels import products
from seqmodels.recurrence import arrays, step
from seqmodels.recurrence.sequences import longest

GATHERED_STEPS = 16
"""Steps whose contributions to the gradient of a matrix are one product, if reads are kept.

One product per step would take longer to write than to compute.
"""


class Kept(NamedTuple):
    """What a forward pass keeps for the backward pass, besides the outputs.

    Attributes:
        carries_N: the carry before each segment.
        reads_TxFxB: what each step read, unless that is recomputed.
    """

    carries_N: Any
    reads_TxFxB: jax.Array | None


def backward(setup, of_cell, cotangents, inputs, d_parts):
    """One cell's gradients: those of its parameters, its start and the inputs.

    The inputs' gradient is added to `d_parts`, if given. `d_parts` may be `parts` itself: the
    gradient of an input then overwrites it once it has been read.
    """
    params, start, kept, sequence_TxHxB = of_cell
    d_encoded, d_carry = cotangents
    parts, lengths_B, seeds_Bx2 = inputs
    num_steps, size = longest(lengths_B), setup.segment_steps
    keeps_all, gathers = size == 1, setup.keeps_reads
    if keeps_all and gathers:
        size = min(GATHERED_STEPS, len(parts[0]))
    weights = step.weights_of(setup, params)
    if not arrays.on_cpu():  # There a sum over the batch would be an operation of every step.
        weights = weights.spread_out(len(lengths_B))
    matrix = weights.matrix_GxK
    units = step.units_of(start) + ([] if matrix is None else [len(matrix)])
    lengths = arrays.for_units(lengths_B, units)
    d_output = of_output(setup, d_encoded, lengths_B, num_steps)
    before = h_before(setup, sequence_TxHxB, start, lengths, num_steps)
    whole_KxG, pull_back_matrix = jax.vjp(functools.partial(step.matrix_of, setup), params)
    matrix_KxG = jax.tree.map(setup.of_product, whole_KxG)

    def entering(xs, carry, time):
        return step.entering(setup, xs, carry, time, seeds_Bx2)

    def read(xs, carry, time):
        return step.read(setup, weights, xs, carry, time, seeds_Bx2)

    real = None
    if not setup.is_pointwise:
        real = step.real_columns(setup, weights, start, parts, lengths_B, seeds_Bx2)

    back_through_step = of_step(setup, weights, lengths, seeds_Bx2, real)

    def kept_carry(index):
        """The carry before a segment, or before a step if no segments are kept."""
        carry = arrays.at(kept.carries_N, index)
        return (*carry, before(index * setup.segment_steps)) if setup.is_gated else carry

    def back(number, carry, kept_FxB, loop):
        """The derivative of one step, taken at the carry before it."""
        d_params, d_matrix_KxG, gathered, d_parts, d_carry = loop
        time, place = setup.time(number, num_steps), setup.place(number, num_steps)
        xs = arrays.at(d_parts if in_place else parts, place)
        x_KxB, pull_back_x = jax.vjp(functools.partial(entering, time=time), xs, carry)
        read_FxB = kept_FxB if setup.keeps_reads else step.multiply(weights, x_KxB)
        d_of_step, d_read_FxB, d_carry = back_through_step(
            read_FxB, carry, time, d_carry, d_output(place)
        )
        d_x_KxB = d_read_FxB
        if matrix_KxG is not None:
            d_x_KxB = products.product_by_rows(matrix_KxG, d_read_FxB)
            factors = x_KxB, d_read_FxB
            if gathers:
                column = number % size * len(lengths_B)
                gathered = arrays.put_columns(gathered, factors, column)
            else:
                d_matrix_KxG += matrix_gradient(setup, *factors)
        d_xs, d_carry_read = pull_back_x(d_x_KxB)
        if adds_up:
            d_xs = jax.tree.map(jnp.add, arrays.at(d_parts, place), d_xs)
        d_params = jax.tree.map(jnp.add, d_params, d_of_step)
        d_carry = jax.tree.map(jnp.add, d_carry, d_carry_read)
        d_parts = arrays.put(d_parts, d_xs, place)
        return d_params, d_matrix_KxG, gathered, d_parts, d_carry

    def back_from_kept(number, loop):
        """The derivative of one step, if the carry before each is kept."""
        kept_FxB = arrays.at(kept.reads_TxFxB, setup.place(number, num_steps))
        return back(number, kept_carry(number), kept_FxB, loop)

    def back_through(first, steps, back_one, loop):
        """The derivative of some steps in a row, each taken by `back_one`."""

        def one(number, loop):
            return back_one(first + steps - 1 - number, loop)

        d_params, d_matrix_KxG, gathered, *others = jax.lax.fori_loop(0, steps, one, loop)
        if gathers:
            d_matrix_KxG += matrix_gradient(setup, *gathered)
        return d_params, d_matrix_KxG, gathered, *others

    def back_through_segment(number, loop):
        segment = num_segments - 1 - number
        first = segment * size
        steps = jnp.minimum(size, num_steps - first)
        if keeps_all:
            return back_through(first, steps, back_from_kept, loop)

        parts_to_read = loop[3] if in_place else parts

        def forward(number, loop):
            carry, kept_S = loop
            time = setup.time(first + number, num_steps)
            xs = arrays.at(parts_to_read, setup.place(first + number, num_steps))
            read_FxB = read(xs, carry, time)
            kept_S = arrays.put(kept_S, (carry, read_FxB if setup.keeps_reads else None), number)
            return step.take(setup, weights, read_FxB, carry, time, lengths, seeds_Bx2)[0], kept_S

        def back_within(number, loop):
            carry, read_FxB = arrays.at(kept_S, number - first)
            return back(number, carry, read_FxB, loop)

        read_FxB = jax.eval_shape(read, arrays.at(parts, first), start, first)
        kept_S = arrays.room((start, read_FxB if setup.keeps_reads else None), size, first=40)
        _, kept_S = jax.lax.fori_loop(0, steps, forward, (kept_carry(segment), kept_S))
        return back_through(first, steps, back_within, loop)

    in_place = d_parts is parts
    adds_up = d_parts is not None and not in_place
    if d_parts is None:
        d_parts = arrays.room(arrays.at(parts, jnp.array(0)), len(parts[0]), first=20)
    d_params = jax.tree.map(jnp.zeros_like, weights.params)
    d_matrix_KxG = jax.tree.map(jnp.zeros_like, whole_KxG)
    gathered = None
    if gathers:
        # Zeros: the segment that is taken first may be shorter than the others, which replace all
        # columns. In float32: XLA copies whole arrays of bfloat16 on a CPU where a part of them is
        # written.
        gathered = tuple(
            jnp.zeros((count, size * len(lengths_B)), whole_KxG.dtype) for count in whole_KxG.shape
        )
    loop = d_params, d_matrix_KxG, gathered, d_parts, d_carry
    num_segments = -(-num_steps // size)
    if size == 1:
        loop = back_through(0, num_steps, back_from_kept, loop)
    else:
        loop = jax.lax.fori_loop(0, num_segments, back_through_segment, loop)
    d_params, d_matrix_KxG, _, d_parts, d_carry = loop
    d_params = jax.tree.map(_unspread, d_params, params)
    if matrix_KxG is not None:
        (d_of_matrix,) = pull_back_matrix(d_matrix_KxG)
        d_params = jax.tree.map(jnp.add, d_params, d_of_matrix)
    return d_params, d_carry, d_parts


def of_step(setup, weights, lengths, seeds_Bx2, real):
    """A function for the derivative of a step.

    Args:
        lengths: of the sequences, as `arrays.for_units` returns them.
        real: `Columns` to compute on in the padding; None if the cell `is_pointwise`.

    Returns:
        `(read, carry, time, d_carry, d_y_HxB) -> (d_params, d_read, d_carry)`: from the gradients
        of the carry after the step and of the output, those of the parameters, of what was read
        and of the carry before.
    """

    def of_real(read, carry, time, d_carry, d_y_HxB):
        def taken(params, read, carry):
            own = weights._replace(params=params)
            return step.take(setup, own, read, carry, time, lengths, seeds_Bx2, real)

        return jax.vjp(taken, weights.params, read, carry)[1]((d_carry, d_y_HxB))

    def of_pointwise(read, carry, time, d_carry, d_y_HxB):
        def new(params, read, carry):
            own = weights._replace(params=params)
            columns = step.columns_of(setup, own, read, carry, time, seeds_Bx2)
            counted = functools.partial(step.counted_where_valid, time, lengths)
            return step.compute(setup, own, columns, counted)

        # The padding's contribution is masked afterwards, which costs less.
        _, pull_back = jax.vjp(new, weights.params, read, carry)
        d_params, d_read, d_before = pull_back((d_carry, d_y_HxB))
        where = functools.partial(step.where_valid, time, lengths)
        return d_params, where(d_read, 0), jax.tree.map(where, d_before, d_carry)

    return of_real if real is not None else of_pointwise


def of_output(setup, d_encoded, lengths_B, num_steps):
    """A function for the gradient of the output in a place."""
    d_last_HxB = d_encoded.last_HxB
    last = arrays.for_units(setup.last_place(lengths_B, num_steps), [len(d_last_HxB)])

    def at(place):
        is_last = place == arrays.as_in(last, d_last_HxB)
        return arrays.at(d_encoded.sequence_TxHxB, place) + jnp.where(is_last, d_last_HxB, 0)

    return at


def h_before(setup, sequence_TxHxB, start, lengths, num_steps):
    """A function for the h before the step with a number, from all outputs of a `GatedCell`."""

    def before(number):
        time = setup.time(number - 1, num_steps)
        place = jnp.clip(setup.place(number - 1, num_steps), 0, num_steps - 1)
        h_HxB = arrays.at(sequence_TxHxB, place)
        # Before its first step a sequence has its start: in reverse, steps come after its end.
        limits = jnp.where(number > 0, arrays.as_in(lengths, h_HxB), -1)
        return jnp.where(time < limits, h_HxB, start[-1])

    return before


def matrix_gradient(setup, x_KxN, d_read_GxN):
    """The gradient of a matrix, from its inputs and from the gradient of its product."""
    factors = setup.of_product(x_KxN), setup.of_product(d_read_GxN)
    return jnp.einsum("kn,gn->kg", *factors, preferred_element_type=d_read_GxN.dtype)


def _unspread(d_leaf: jax.Array, leaf: jax.Array) -> jax.Array:
    """The gradient of a leaf, from that of the same with a batch axis."""
    return d_leaf if d_leaf.ndim == leaf.ndim else d_leaf.sum(-1)
