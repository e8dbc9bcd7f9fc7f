"""A loop over time for a `GatedCell` in which a step has one product, that with h.

What depends on the inputs alone takes many steps at once: see `projections`. The results of
products are kept for the backward pass.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import products
from seqmodels.cells import base
from seqmodels.recurrence import arrays, derivative, projections, spans, step
from seqmodels.recurrence.sequences import Encoded, output_at
from seqmodels.recurrence.spans import Steps

_MANY_STEPS = 64
"""Room for steps of a single sequence, from which transposing R once takes less than it saves."""


class Kept(NamedTuple):
    """What a forward pass keeps for the backward pass, besides the outputs.

    Attributes:
        carries_T: the carry before each step, without h.
        reads_T: what each step read, without a projection that is looked up again.
    """

    carries_T: Any
    reads_T: Any


class _Reader(NamedTuple):
    """What steps read: `z + h @ R` for an `AffineCell`, else `(z, h @ R)`.

    Attributes:
        steps: all steps.
        projected: the projections z.
        recurrent_HxG: R, in the precision of products.
    """

    steps: Steps
    projected: projections.Computation | projections.Lookup
    recurrent_HxG: jax.Array

    @classmethod
    def of(cls, setup, params, inputs, lengths_B, seeds_Bx2):
        steps = Steps.of(setup, lengths_B, seeds_Bx2, projections.width_of(inputs))
        recurrent_HxG = setup.of_product(_recurrent(setup, params))
        return cls(steps, projections.of(steps, params, inputs), recurrent_HxG)

    def product_with(self, batch_size):
        """A function of h: h @ R, for one step after another."""
        if batch_size == 1 and self.steps.width >= _MANY_STEPS:
            recurrent_GxH = jax.lax.optimization_barrier(self.recurrent_HxG.T)
            return functools.partial(products.product_by_rows, recurrent_GxH)
        return functools.partial(base.product, kernel_DxG=self.recurrent_HxG)

    def read(self, z, u_GxB):
        return z + u_GxB if self._reads_sum else (z, u_GxB)

    def kept(self, read):
        """The part of what a step read that is kept."""
        return read if self._keeps_all else read[1]

    def read_again(self, span, reads_T):
        """A function of a place: what the step there read, given what was kept."""
        if self._keeps_all:
            return functools.partial(arrays.at, reads_T)
        z_S = self.projected.at(span)
        return lambda place: (arrays.at(z_S, place - span.lowest), arrays.at(reads_T, place))

    def gradients_in(self, d_read):
        """Of the gradient of what a step read, that of h @ R, and those of the numbers in z.

        Of a sum, both are the same: the latter are left out.
        """
        if self._reads_sum:
            return d_read, []
        d_z, d_u_GxB = d_read
        return d_u_GxB, projections.numbers_in(d_z)

    @property
    def _reads_sum(self):
        return self.steps.setup.is_affine

    @property
    def _keeps_all(self):
        return self._reads_sum or self.projected.is_kept


def _recurrent(setup, params):
    return nnx.merge(setup.graphdef, params).recurrent_kernel[...]


def forward(setup, params, start, inputs, lengths_B, seeds_Bx2):
    """One cell's `Encoded`, its last carry, and what is kept for the backward pass."""
    reader = _Reader.of(setup, params, inputs, lengths_B, seeds_Bx2)
    steps, weights = reader.steps, step.weights_of(setup, params)
    lengths = arrays.for_units(lengths_B, step.units_of(start))
    multiply = reader.product_with(len(lengths_B))

    def take(time, carry, z):
        read = reader.read(z, multiply(step.seen(setup, carry[-1], seeds_Bx2)))
        carry, y_HxB = step.take(setup, weights, read, carry, time, lengths, seeds_Bx2)
        return carry, reader.kept(read), y_HxB

    def take_span(span, loop):
        z_S = reader.projected.at(span)

        def one(number, loop):
            carry, carries_T, outputs_T = loop
            place = steps.place(number)
            carries_T = arrays.put(carries_T, carry[:-1], place)
            z = arrays.at(z_S, place - span.lowest)
            carry, *outputs = take(steps.time(number), carry, z)
            return carry, carries_T, arrays.put(outputs_T, outputs, place)

        return jax.lax.fori_loop(span.first, span.first + span.length, one, loop)

    first = 10 * (setup.reverse is True)
    carries_T = arrays.room(start[:-1], steps.width, first)
    z = jax.eval_shape(
        lambda index: arrays.at(reader.projected.at(steps.span(index)), index), steps.num_steps
    )
    _, *outputs = jax.eval_shape(take, steps.num_steps, start, z)
    outputs_T = arrays.room(outputs, steps.width, first + len(start))
    carry, carries_T, (reads_T, sequence_TxHxB) = steps.through_spans(
        take_span, (start, carries_T, outputs_T)
    )
    last_HxB = output_at(setup.last_place(lengths_B, steps.num_steps), sequence_TxHxB, lengths_B)
    return Encoded(sequence_TxHxB, last_HxB), carry, Kept(carries_T, reads_T)


def backward(setup, of_cell, cotangents, inputs, d_inputs):
    """One cell's gradients: those of its parameters, its start and the inputs.

    The inputs' gradient is added to `d_inputs`, if given.
    """
    params, start, kept, sequence_TxHxB = of_cell
    d_encoded, d_carry = cotangents
    _, lengths_B, seeds_Bx2 = inputs
    reader = _Reader.of(setup, params, *inputs)
    steps, weights = reader.steps, step.weights_of(setup, params)
    lengths = arrays.for_units(lengths_B, step.units_of(start))
    d_output = derivative.of_output(setup, d_encoded, lengths_B, steps.num_steps)
    h_before = derivative.h_before(setup, sequence_TxHxB, start, lengths, steps.num_steps)

    real, real_columns = None, None
    if not setup.is_pointwise:
        real = reader.projected.real(start)
        seen_Hx1 = step.seen(setup, real.carry[-1], real.seeds_1x2)
        read = reader.read(real.z, base.product(seen_Hx1, reader.recurrent_HxG))
        real_columns = step.columns_of(setup, weights, read, real.carry, real.time, real.seeds_1x2)
    back_through_step = derivative.of_step(setup, weights, lengths, seeds_Bx2, real_columns)
    seen = functools.partial(step.seen, setup, seeds_Bx2=seeds_Bx2)

    def back_through_span(span, loop):
        d_params, d_recurrent_HxG, factors, d_projected, d_carry = loop
        read_again = reader.read_again(span, kept.reads_T)

        def back(back_number, loop):
            d_params, factors, d_carry = loop
            number = 2 * span.first + span.length - 1 - back_number
            time, place = steps.time(number), steps.place(number)
            carry = *arrays.at(kept.carries_T, place), h_before(number)
            d_of_step, d_read, d_carry = back_through_step(
                read_again(place), carry, time, d_carry, d_output(place)
            )
            d_u_GxB, d_z = reader.gradients_in(d_read)
            seen_HxB, pull_back = jax.vjp(seen, carry[-1])
            (d_h_HxB,) = pull_back(products.product_by_rows(reader.recurrent_HxG, d_u_GxB))
            factors = spans.gather(factors, (seen_HxB, d_u_GxB, d_z), place - span.lowest)
            d_carry = *d_carry[:-1], d_carry[-1] + d_h_HxB
            return jax.tree.map(jnp.add, d_params, d_of_step), factors, d_carry

        d_params, factors, d_carry = jax.lax.fori_loop(
            span.first, span.first + span.length, back, (d_params, factors, d_carry)
        )
        seen_HxN, d_u_GxN, d_z = spans.gathered(factors, len(lengths_B))
        d_recurrent_HxG += derivative.matrix_gradient(setup, seen_HxN, d_u_GxN)
        d_z = [d_u_GxN] if setup.is_affine else d_z
        d_projected = reader.projected.add_gradients(
            d_projected, span, d_z, real, adds=d_inputs is not None
        )
        return d_params, d_recurrent_HxG, factors, d_projected, d_carry

    read = jax.eval_shape(
        lambda index: reader.read_again(steps.span(index), kept.reads_T)(index), steps.num_steps
    )
    # Zeros: the span that is taken first may have places without a step; the others fill all.
    factors = spans.gather_none((start[-1], *reader.gradients_in(read)), steps.size)
    loop = (
        jax.tree.map(jnp.zeros_like, params),
        jnp.zeros_like(_recurrent(setup, params)),
        factors,
        reader.projected.no_gradients(d_inputs),
        d_carry,
    )
    d_params, d_recurrent_HxG, _, d_projected, d_carry = steps.through_spans(
        back_through_span, loop, backwards=True
    )
    (d_of_recurrent,) = jax.vjp(functools.partial(_recurrent, setup), params)[1](d_recurrent_HxG)
    d_of_projected, d_inputs = reader.projected.gradients(d_projected)
    d_params = jax.tree.map(jnp.add, d_params, d_of_recurrent)
    if d_of_projected is not None:
        d_params = jax.tree.map(jnp.add, d_params, d_of_projected)
    return d_params, d_carry, d_inputs
