"""A loop over time for a `GatedCell` in which a step has one product, that with h.

What depends on the inputs alone takes many steps at once. The results of all products are kept for
the backward pass.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base
from seqmodels.recurrence import arrays, derivative, step
from seqmodels.recurrence.sequences import Encoded, longest, output_at

COLUMNS = 128
"""Inputs of one product: those of all sequences at several times.

More would leave a core's cache; fewer would leave its vector units idle.
"""


class Kept(NamedTuple):
    """What a forward pass keeps for the backward pass, besides the outputs.

    Attributes:
        carries_T: the carry before each step, without h.
        reads_T: what each step read.
    """

    carries_T: Any
    reads_T: Any


class Span(NamedTuple):
    """Steps whose inputs are taken together, in S places in a row.

    Attributes:
        first: the number of the first step.
        length: the number of steps, up to S.
        lowest: the first place.
        places_S: all of them.
        is_taken_S: whether one of the steps is in that place.
    """

    first: jax.Array
    length: jax.Array
    lowest: jax.Array
    places_S: jax.Array
    is_taken_S: jax.Array

    def of(self, array_T: jax.Array) -> jax.Array:
        """The elements of an array over time that are in these places."""
        return arrays.span(array_T, self.lowest, len(self.places_S))


class _Steps(NamedTuple):
    """The steps of one cell over a batch, and the products that they need.

    Attributes:
        width: T, the steps that arrays have room for.
        num_steps: the steps that are taken.
        products: R; for an `AffineCell` also W and b.
        recurrent_HxG: R, in the precision of products.
    """

    setup: step.Setup
    params: nnx.State
    lengths_B: jax.Array
    seeds_Bx2: jax.Array | None
    width: int
    num_steps: jax.Array
    products: tuple[jax.Array, ...]
    recurrent_HxG: jax.Array

    @classmethod
    def of(cls, setup, params, lengths_B, seeds_Bx2, width):
        products = _of_products(setup, params)
        fixed = longest(lengths_B), products, setup.of_product(products[0])
        return cls(setup, params, lengths_B, seeds_Bx2, width, *fixed)

    @property
    def size(self):
        """S, the places of a span."""
        return max(1, min(self.width, -(-COLUMNS // len(self.lengths_B))))

    @property
    def num_spans(self):
        return -(-self.num_steps // self.size)

    def place(self, number):
        return self.setup.place(number, self.num_steps)

    def span(self, index) -> Span:
        first = index * self.size
        length = jnp.minimum(self.size, self.num_steps - first)
        ends = self.place(first), self.place(first + length - 1)
        lowest = jnp.clip(jnp.minimum(*ends), 0, self.width - self.size)
        places_S = lowest + jnp.arange(self.size)
        is_taken_S = (jnp.minimum(*ends) <= places_S) & (places_S <= jnp.maximum(*ends))
        return Span(first, length, lowest, places_S, is_taken_S)

    def times(self, span):
        """The time of the step in each place of a span."""
        return self.setup.place_at(span.places_S, self.num_steps)

    def inputs(self, span, *parts_S):
        """The inputs in a span, from their parts: `[D, N]`, for N = S times B."""
        drop = jax.vmap(functools.partial(step.inputs, self.setup, seeds_Bx2=self.seeds_Bx2))
        return _columns(drop(parts_S, time=self.times(span)))

    def is_valid(self, span):
        """Which inputs of a span belong to its steps, not to padding: `[N]`."""
        is_valid_SxB = self.times(span)[:, None] < self.lengths_B
        return (is_valid_SxB & span.is_taken_S[:, None]).reshape(-1)

    def project(self, params, x_DxN):
        """The part of a step that needs only its input, for N of them."""
        leaves, structure = jax.tree.flatten(params)
        axes = [None if leaf.ndim > 1 else -1 for leaf in leaves]
        leaves = [
            self.setup.of_product(leaf)
            if axis is None
            else jnp.broadcast_to(leaf[..., None], (*leaf.shape, x_DxN.shape[1]))
            for leaf, axis in zip(leaves, axes, strict=True)
        ]

        def one(leaves, x_D):
            cell = nnx.merge(self.setup.graphdef, jax.tree.unflatten(structure, leaves))
            return cell.project(x_D)

        return jax.vmap(one, (axes, -1), -1)(leaves, x_DxN)

    # Factors of the matrices' gradients are gathered as `[..., N]`. Those of a single sequence are
    # `[S, ..., 1]`: a column of `[..., S]` would be written with a stride.

    @property
    def _is_one(self):
        return len(self.lengths_B) == 1

    def gather_none(self, shapes):
        """Zeros in the place of all factors of a span, given the shapes of those of a step."""
        if self._is_one:
            return jax.tree.map(lambda one: jnp.zeros((self.size, *one.shape), one.dtype), shapes)
        columns = self.size * len(self.lengths_B)
        return jax.tree.map(lambda one: jnp.zeros((*one.shape[:-1], columns), one.dtype), shapes)

    def gather(self, factors, of_step, number):
        """Writes the factors of a step into a place of the span."""
        if self._is_one:
            return arrays.put(factors, of_step, number)
        return arrays.put_columns(factors, of_step, number * len(self.lengths_B))

    def gathered(self, factors):
        """All factors of a span, `[..., N]`."""
        return jax.tree.map(_columns, factors) if self._is_one else factors

    def read(self, z, seen_HxB):
        """What a step reads: x @ W + b + h @ R for an `AffineCell`, else `(project(x), h @ R)`."""
        u_GxB = base.product(seen_HxB, self.recurrent_HxG)
        return z + u_GxB if self.setup.is_affine else (z, u_GxB)


def _of_products(setup, params):
    cell = nnx.merge(setup.graphdef, params)
    of_inputs = (cell.kernel[...], cell.bias[...]) if setup.is_affine else ()
    return cell.recurrent_kernel[...], *of_inputs


def _gradients_in(setup, read):
    """Of what a step reads, h @ R and the `_numbers` of a projection.

    For an `AffineCell`, which reads their sum, the list is empty.
    """
    if setup.is_affine:
        return read, []
    z, u_GxB = read
    return u_GxB, _numbers(z)


def _numbers(z):
    """The parts of a projection that have gradients."""
    return [leaf for leaf in jax.tree.leaves(z) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def _columns(array_SxDxB):
    """The same as `[D, N]`; one without D as `[N]`."""
    array_DxSxB = jnp.moveaxis(array_SxDxB, 0, -2)
    return array_DxSxB.reshape(*array_DxSxB.shape[:-2], -1)


def _over_time(columns, size):
    """Arrays `[..., N]` as `[S, ..., B]`."""
    return jax.tree.map(
        lambda leaf: jnp.moveaxis(leaf.reshape(*leaf.shape[:-1], size, -1), -2, 0), columns
    )


def forward(setup, params, start, parts, lengths_B, seeds_Bx2):
    """One cell's `Encoded`, its last carry, and what is kept for the backward pass."""
    steps = _Steps.of(setup, params, lengths_B, seeds_Bx2, len(parts[0]))
    weights = step.weights_of(setup, params)
    lengths = arrays.for_units(lengths_B, step.units_of(start))
    num_steps = steps.num_steps

    def take(time, carry, z):
        read = steps.read(z, step.seen(setup, carry[-1], seeds_Bx2))
        carry, y_HxB = step.take(setup, weights, read, carry, time, lengths, seeds_Bx2)
        return carry, read, y_HxB

    def project(span):
        x_DxN = steps.inputs(span, *map(span.of, parts))
        return _over_time(steps.project(params, x_DxN), steps.size)

    def take_span(index, loop):
        span = steps.span(index)
        z_S = project(span)

        def one(number, loop):
            carry, carries_T, outputs_T = loop
            place = steps.place(number)
            carries_T = arrays.put(carries_T, carry[:-1], place)
            z = arrays.at(z_S, place - span.lowest)
            carry, *outputs = take(setup.time(number, num_steps), carry, z)
            return carry, carries_T, arrays.put(outputs_T, outputs, place)

        return jax.lax.fori_loop(span.first, span.first + span.length, one, loop)

    first = 10 * (setup.reverse is True)
    carries_T = arrays.room(start[:-1], steps.width, first)
    z = jax.eval_shape(lambda index: arrays.at(project(steps.span(index)), index), num_steps)
    _, *outputs = jax.eval_shape(take, num_steps, start, z)
    outputs_T = arrays.room(outputs, steps.width, first + len(start))
    carry, carries_T, (reads_T, sequence_TxHxB) = jax.lax.fori_loop(
        0, steps.num_spans, take_span, (start, carries_T, outputs_T)
    )
    last_HxB = output_at(setup.last_place(lengths_B, num_steps), sequence_TxHxB, lengths_B)
    return Encoded(sequence_TxHxB, last_HxB), carry, Kept(carries_T, reads_T)


def backward(setup, of_cell, cotangents, inputs, d_parts):
    """One cell's gradients: those of its parameters, its start and the inputs.

    The inputs' gradient is added to `d_parts`, if given.
    """
    params, start, kept, sequence_TxHxB = of_cell
    d_encoded, d_carry = cotangents
    parts, lengths_B, seeds_Bx2 = inputs
    steps = _Steps.of(setup, params, lengths_B, seeds_Bx2, len(parts[0]))
    weights = step.weights_of(setup, params)
    lengths = arrays.for_units(lengths_B, step.units_of(start))
    num_steps = steps.num_steps
    _, pull_back_products = jax.vjp(functools.partial(_of_products, setup), params)
    d_output = derivative.of_output(setup, d_encoded, lengths_B, num_steps)
    h_before = derivative.h_before(setup, sequence_TxHxB, start, lengths, num_steps)

    real_x_Dx1, real = 0, None
    if not setup.is_pointwise:
        xs, carry, time, seeds_1x2 = step.real_step(setup, start, parts, lengths_B, seeds_Bx2)
        real_x_Dx1 = step.inputs(setup, xs, time, seeds_1x2)
        z = steps.project(params, real_x_Dx1)
        read = steps.read(z, step.seen(setup, carry[-1], seeds_1x2))
        real = step.columns_of(setup, weights, read, carry, time, seeds_1x2)
    back_through_step = derivative.of_step(setup, weights, lengths, seeds_Bx2, real)
    seen = functools.partial(step.seen, setup, seeds_Bx2=seeds_Bx2)

    def project(params, x_DxN):
        return _numbers(steps.project(params, x_DxN))

    def back_through_span(index, loop):
        d_params, d_products, factors, d_parts, d_carry = loop
        span = steps.span(steps.num_spans - 1 - index)

        def back(back_number, loop):
            d_params, factors, d_carry = loop
            number = 2 * span.first + span.length - 1 - back_number
            time, place = setup.time(number, num_steps), steps.place(number)
            carry = *arrays.at(kept.carries_T, place), h_before(number)
            read = arrays.at(kept.reads_T, place)
            d_of_step, d_read, d_carry = back_through_step(
                read, carry, time, d_carry, d_output(place)
            )
            d_u_GxB, d_z = _gradients_in(setup, d_read)
            seen_HxB, pull_back = jax.vjp(seen, carry[-1])
            (d_h_HxB,) = pull_back(base.product(d_u_GxB, steps.recurrent_HxG.T))
            factors = steps.gather(factors, (seen_HxB, d_u_GxB, d_z), place - span.lowest)
            d_carry = *d_carry[:-1], d_carry[-1] + d_h_HxB
            return jax.tree.map(jnp.add, d_params, d_of_step), factors, d_carry

        d_params, factors, d_carry = jax.lax.fori_loop(
            span.first, span.first + span.length, back, (d_params, factors, d_carry)
        )
        x_DxN, pull_back_inputs = jax.vjp(
            functools.partial(steps.inputs, span), *map(span.of, parts)
        )
        is_valid_N = steps.is_valid(span)
        x_DxN = jnp.where(is_valid_N, x_DxN, real_x_Dx1)
        seen_HxN, d_u_GxN, d_z = steps.gathered(factors)
        d_of_inputs: tuple = ()
        if setup.is_affine:  # Written out: JAX would multiply a bfloat16 matrix by float32.
            d_of_inputs = derivative.matrix_gradient(setup, x_DxN, d_u_GxN), d_u_GxN.sum(1)
            d_x_DxN = base.product(d_u_GxN, setup.of_product(steps.products[1]).T)
        else:
            _, pull_back = jax.vjp(project, params, x_DxN)
            d_of_projection, d_x_DxN = pull_back(d_z)
            d_params = jax.tree.map(jnp.add, d_params, d_of_projection)
        d_of_span = derivative.matrix_gradient(setup, seen_HxN, d_u_GxN), *d_of_inputs
        d_products = jax.tree.map(jnp.add, d_products, d_of_span)
        d_parts_S = pull_back_inputs(jnp.where(is_valid_N, d_x_DxN, 0))
        written = []
        for d_all_T, d_S in zip(d_parts, d_parts_S, strict=True):
            others_S = span.of(d_all_T)
            d_S = others_S + d_S if adds_up else d_S
            d_S = jnp.where(span.is_taken_S[:, None, None], d_S, others_S)
            written.append(arrays.write(d_all_T, d_S, span.lowest, 0))
        return d_params, d_products, factors, tuple(written), d_carry

    shapes = jax.eval_shape(
        lambda reads_T: (start[-1], *_gradients_in(setup, arrays.at(reads_T, num_steps))),
        kept.reads_T,
    )
    # Zeros: the span that is taken first may have places without a step; the others fill all.
    factors = steps.gather_none(shapes)
    adds_up = d_parts is not None
    if d_parts is None:
        d_parts = arrays.room(arrays.at(parts, num_steps), steps.width, first=20)
    d_params = jax.tree.map(jnp.zeros_like, params)
    d_products = jax.tree.map(jnp.zeros_like, steps.products)
    loop = d_params, d_products, factors, tuple(d_parts), d_carry
    d_params, d_products, _, d_parts, d_carry = jax.lax.fori_loop(
        0, steps.num_spans, back_through_span, loop
    )
    (d_of_products,) = pull_back_products(d_products)
    return jax.tree.map(jnp.add, d_params, d_of_products), d_carry, d_parts
