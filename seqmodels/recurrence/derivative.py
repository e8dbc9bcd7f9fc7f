"""The derivative of the loop over time."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqmodels.recurrence import arrays, step
from seqmodels.recurrence.sequences import last_time, longest


class Kept(NamedTuple):
    """What the backward pass is left of a forward pass, besides the outputs.

    Attributes:
        carries_N: the carry before each segment.
        reads_TxFxB: what each step read, where that is not computed again.
    """

    carries_N: Any
    reads_TxFxB: jax.Array | None


def backward(setup, of_cell, cotangents, inputs, d_parts):
    """One cell's gradients: of its parameters, its start, and the inputs.

    That of the inputs is added to `d_parts`, if there is one already. It may be `parts` itself: the
    gradient of an input then takes its place once it was read.
    """
    params, start, kept, sequence_TxHxB = of_cell
    d_encoded, d_carry = cotangents
    parts, lengths_B, seeds_Bx2 = inputs
    num_steps, size = longest(lengths_B), setup.segment_steps
    weights, pull_back_weights = jax.vjp(functools.partial(step.weights_of, setup), params)

    def read(weights, xs, carry, time):
        return step.read(setup, weights, xs, carry, time, seeds_Bx2)

    real = None
    if not setup.is_pointwise:
        real = step.real_columns(setup, weights, start, parts, lengths_B, seeds_Bx2)

    def back_through_step(weights, read_FxB, carry, time, d_carry, d_y_HxB):
        """The gradients of the weights, what was read and the carry before a step."""
        if real is not None:

            def taken(weights, read_FxB, carry):
                return step.take(setup, weights, read_FxB, carry, time, lengths_B, seeds_Bx2, real)

            return jax.vjp(taken, weights, read_FxB, carry)[1]((d_carry, d_y_HxB))
        valid_B = time < lengths_B

        def new(weights, read_FxB, carry):
            columns = step.columns_of(setup, weights, read_FxB, carry, time, seeds_Bx2)
            return step.compute(setup, weights, columns, valid_B)

        # What comes of the padding is taken out afterwards, which costs less.
        _, pull_back = jax.vjp(new, weights, read_FxB, carry)
        d_weights, d_read_FxB, d_before = pull_back((d_carry, d_y_HxB))
        d_before = jax.tree.map(
            lambda before, after: jnp.where(valid_B, before, after), d_before, d_carry
        )
        return d_weights, jnp.where(valid_B, d_read_FxB, 0), d_before

    def first_carry(segment):
        """The carry before the first step of a segment."""
        carry, number = arrays.at(kept.carries_N, segment), segment * size
        if not setup.is_gated:
            return carry
        time = setup.time(number - 1, num_steps)
        h_HxB = arrays.at(sequence_TxHxB, jnp.clip(time, 0, num_steps - 1))
        return *carry, jnp.where((number > 0) & (time < lengths_B), h_HxB, start[-1])

    def back(number, carry, kept_FxB, loop):
        """The derivative of one step, taken at the carry before it."""
        d_weights, d_parts, d_carry = loop
        time = setup.time(number, num_steps)
        is_last_B = time == last_time(lengths_B, setup.reverse)
        d_y_HxB = arrays.at(d_encoded.sequence_TxHxB, time) + jnp.where(
            is_last_B, d_encoded.last_HxB, 0
        )
        xs = arrays.at(d_parts if in_place else parts, time)
        read_FxB, pull_back_read = jax.vjp(functools.partial(read, time=time), weights, xs, carry)
        if setup.keeps_reads:
            read_FxB = kept_FxB
        d_of_step, d_read_FxB, d_carry = back_through_step(
            weights, read_FxB, carry, time, d_carry, d_y_HxB
        )
        d_of_read, d_xs, d_carry_read = pull_back_read(d_read_FxB)
        if adds_up:
            d_xs = jax.tree.map(jnp.add, arrays.at(d_parts, time), d_xs)
        d_weights = jax.tree.map(lambda *all_d: sum(all_d), d_weights, d_of_step, d_of_read)
        d_carry = jax.tree.map(jnp.add, d_carry, d_carry_read)
        return d_weights, arrays.put(d_parts, d_xs, time), d_carry

    def back_through_segment(number, loop):
        segment = num_segments - 1 - number
        if size == 1:
            kept_FxB = arrays.at(kept.reads_TxFxB, setup.time(segment, num_steps))
            return back(segment, first_carry(segment), kept_FxB, loop)
        first = segment * size
        steps = jnp.minimum(size, num_steps - first)

        parts_to_read = loop[1] if in_place else parts

        def forward(number, loop):
            carry, kept_S = loop
            time = setup.time(first + number, num_steps)
            read_FxB = read(weights, arrays.at(parts_to_read, time), carry, time)
            kept_S = arrays.put(kept_S, (carry, read_FxB if setup.keeps_reads else None), number)
            return step.take(setup, weights, read_FxB, carry, time, lengths_B, seeds_Bx2)[0], kept_S

        def backward(number, loop):
            number = steps - 1 - number
            carry, read_FxB = arrays.at(kept_S, number)
            return back(first + number, carry, read_FxB, loop)

        read_FxB = jax.eval_shape(read, weights, arrays.at(parts, first), start, first)
        kept_S = arrays.room((start, read_FxB if setup.keeps_reads else None), size, first=40)
        _, kept_S = jax.lax.fori_loop(0, steps, forward, (first_carry(segment), kept_S))
        return jax.lax.fori_loop(0, steps, backward, loop)

    in_place = d_parts is parts
    adds_up = d_parts is not None and not in_place
    if d_parts is None:
        d_parts = arrays.room(arrays.at(parts, jnp.array(0)), len(parts[0]), first=20)
    d_weights = jax.tree.map(jnp.zeros_like, weights)
    num_segments = -(-num_steps // size)
    d_weights, d_parts, d_carry = jax.lax.fori_loop(
        0, num_segments, back_through_segment, (d_weights, d_parts, d_carry)
    )
    # Under vmap a batch without any step takes those of another one, and there is nothing real.
    d_weights = jax.tree.map(lambda leaf: jnp.where(lengths_B.max() > 0, leaf, 0), d_weights)
    return *pull_back_weights(d_weights), d_carry, d_parts
