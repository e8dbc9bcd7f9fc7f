"""What a step needs from its input alone: computed from vectors, or looked up for tokens.

Either takes the steps of a `Span` at once, forwards and backwards.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint

from seqmodels import products
from seqmodels.cells import base
from seqmodels.recurrence import arrays, derivative, spans, step
from seqmodels.recurrence.spans import Span, Steps


class LookedUp(NamedTuple):
    """Inputs of a layer that are tokens, and what its cells' `project` makes of every token.

    Attributes:
        tables: for each cell, `[V, G]`.
        tokens_TxB: integers in [0, V).
    """

    tables: tuple[jax.Array, ...]
    tokens_TxB: Any

    def for_each(self) -> list["LookedUp"]:
        """The inputs of each cell."""
        return [LookedUp((table_VxG,), self.tokens_TxB) for table_VxG in self.tables]


Inputs = Sequence[jax.Array] | LookedUp
"""The inputs of a layer: arrays `[T, Di, B]` whose concatenation they are, or tokens."""


def width_of(inputs: Inputs) -> Any:
    """T, the steps that there is room for; a number, or symbolic."""
    return (inputs.tokens_TxB if isinstance(inputs, LookedUp) else inputs[0]).shape[0]


def dtype_of(inputs: Inputs) -> Any:
    """The dtype of the inputs or, of tokens, that of their projections."""
    return (inputs.tables if isinstance(inputs, LookedUp) else inputs)[0].dtype


def of(steps: Steps, params: nnx.State, inputs: Inputs) -> "Computation | Lookup":
    """The projections of one cell."""
    if isinstance(inputs, LookedUp):
        return Lookup(steps, inputs)
    return Computation(steps, params, inputs)


class Real(NamedTuple):
    """The first step of the longest sequence, as a batch of one, to compute on in the padding.

    Attributes:
        x_Dx1: its input; None of a token.
        z: its projection.
        carry: the carry before it.
        time: its time.
        seeds_1x2: the sequence's seeds.
    """

    x_Dx1: Any
    z: Any
    carry: base.Carry
    time: jax.Array
    seeds_1x2: jax.Array | None


class Computation(NamedTuple):
    """Projections of vectors.

    Attributes:
        steps: all steps.
        params: the cell's.
        parts: arrays `[T, Di, B]` whose concatenation is the inputs.
    """

    steps: Steps
    params: nnx.State
    parts: Sequence[jax.Array]

    @property
    def is_kept(self) -> bool:
        """Whether projections are kept for the backward pass, not computed again."""
        return True

    def at(self, span: Span) -> Any:
        """The projections in the places of a span, `[S, ..., B]`."""
        x_DxN = self._inputs(span, *map(span.of, self.parts))
        return spans.over_time(self._project(self.params, x_DxN), self.steps.size)

    def real(self, start: base.Carry) -> Real:
        """A real step, from the carry of every sequence before its first."""
        setup, lengths_B, seeds_Bx2 = self.steps[:3]
        xs, carry, time, seeds_1x2 = step.real_step(setup, start, self.parts, lengths_B, seeds_Bx2)
        x_Dx1 = step.inputs(setup, xs, time, seeds_1x2)
        return Real(x_Dx1, self._project(self.params, x_Dx1), carry, time, seeds_1x2)

    def no_gradients(self, d_parts: Sequence[jax.Array] | None) -> Any:
        """Gradients before any span: those of parameters, and those of the inputs so far."""
        if d_parts is None:
            one = arrays.at(tuple(self.parts), jnp.array(0))
            d_parts = arrays.room(one, self.steps.width, first=20)
        setup = self.steps.setup
        of_params = _affine(setup, self.params) if setup.is_affine else self.params
        return jax.tree.map(jnp.zeros_like, of_params), tuple(d_parts)

    def add_gradients(self, gradients: Any, span: Span, d_z: Any, real: Real | None, adds: bool):
        """Adds what a span contributes to gradients.

        Args:
            gradients: from `no_gradients` or from the span before.
            span: the steps.
            d_z: the gradient of each array of numbers in the projections, `[..., N]`.
            real: a real step; None: the cell is finite everywhere.
            adds: whether the inputs have other gradients, to which theirs are added.
        """
        setup, (d_params, d_parts) = self.steps.setup, gradients
        x_DxN, pull_back_inputs = jax.vjp(
            functools.partial(self._inputs, span), *map(span.of, self.parts)
        )
        is_valid_N = self.steps.is_valid(span)
        x_DxN = jnp.where(is_valid_N, x_DxN, 0 if real is None else real.x_Dx1)
        if setup.is_affine:  # Written out: JAX would multiply a bfloat16 matrix by float32.
            (d_a_GxN,) = d_z
            d_of_span = derivative.matrix_gradient(setup, x_DxN, d_a_GxN), d_a_GxN.sum(1)
            kernel_DxG = setup.of_product(_affine(setup, self.params)[0])
            d_x_DxN = products.product_by_rows(kernel_DxG, d_a_GxN)
        else:
            _, pull_back = jax.vjp(self._numbers, self.params, x_DxN)
            d_of_span, d_x_DxN = pull_back(d_z)
        d_params = jax.tree.map(jnp.add, d_params, d_of_span)
        d_parts_S = pull_back_inputs(jnp.where(is_valid_N, d_x_DxN, 0))
        written = []
        for d_all_T, d_S in zip(d_parts, d_parts_S, strict=True):
            others_S = span.of(d_all_T)
            d_S = others_S + d_S if adds else d_S
            d_S = jnp.where(span.is_taken_S[:, None, None], d_S, others_S)
            written.append(arrays.write(d_all_T, d_S, span.lowest, 0))
        return d_params, tuple(written)

    def gradients(self, gradients: Any) -> tuple[nnx.State, Sequence[jax.Array]]:
        """Those of the cell's parameters, as they were given, and those of the inputs."""
        d_params, d_parts = gradients
        if self.steps.setup.is_affine:
            affine = functools.partial(_affine, self.steps.setup)
            (d_params,) = jax.vjp(affine, self.params)[1](d_params)
        return d_params, d_parts

    def _inputs(self, span, *parts_S):
        """The inputs in the places of a span, from their parts: `[D, N]`."""
        setup, _, seeds_Bx2 = self.steps[:3]
        drop = jax.vmap(functools.partial(step.inputs, setup, seeds_Bx2=seeds_Bx2))
        return spans.columns(drop(parts_S, time=self.steps.times(span)))

    def _project(self, params, x_DxN):
        """The projections of N inputs."""
        # In a loop over spans, `product` makes its copy of the matrix only once.
        if self.steps.setup.is_affine and self.steps.are_one_span:
            kernel_DxG, bias_G = _affine(self.steps.setup, params)
            a_GxN = products.product_once(x_DxN, self.steps.setup.of_product(kernel_DxG))
            return a_GxN + bias_G[:, None]
        setup, (leaves, structure) = self.steps.setup, jax.tree.flatten(params)
        axes = [None if leaf.ndim > 1 else -1 for leaf in leaves]
        leaves = [
            setup.of_product(leaf)
            if axis is None
            else jnp.broadcast_to(leaf[..., None], (*leaf.shape, x_DxN.shape[1]))
            for leaf, axis in zip(leaves, axes, strict=True)
        ]

        def one(leaves, x_D):
            cell = nnx.merge(setup.graphdef, jax.tree.unflatten(structure, leaves))
            return cell.project(x_D)

        return jax.vmap(one, (axes, -1), -1)(leaves, x_DxN)

    def _numbers(self, params, x_DxN):
        return numbers_in(self._project(params, x_DxN))


class Lookup(NamedTuple):
    """Projections of tokens, which are columns of a table.

    Attributes:
        steps: all steps.
        inputs: the table and the tokens.
    """

    steps: Steps
    inputs: LookedUp

    @property
    def is_kept(self) -> bool:
        """As for a `Computation`."""
        return False

    def at(self, span: Span) -> Any:
        """As for a `Computation`."""
        return _columns_of(self.inputs.tables[0], span.of(self.inputs.tokens_TxB))

    def real(self, start: base.Carry) -> Real:
        """As for a `Computation`."""
        setup, lengths_B, seeds_Bx2 = self.steps[:3]
        token_1, *others = step.real_step(
            setup, start, self.inputs.tokens_TxB, lengths_B, seeds_Bx2
        )
        return Real(None, _columns_of(self.inputs.tables[0], token_1), *others)

    def no_gradients(self, d_inputs: None) -> Any:
        """As for a `Computation`."""
        del d_inputs
        return jnp.zeros_like(self.inputs.tables[0])

    def add_gradients(self, gradients: Any, span: Span, d_z: Any, real: Real | None, adds: bool):
        """As for a `Computation`."""
        del real, adds
        (d_z_GxN,) = d_z
        tokens_N = span.of(self.inputs.tokens_TxB).reshape(-1)
        return gradients.at[tokens_N].add(d_z_GxN.T, mode="clip")

    def gradients(self, gradients: Any) -> tuple[nnx.State | None, LookedUp]:
        """As for a `Computation`; parameters have none but through the table."""
        return None, LookedUp((gradients,), None)


def _columns_of(table_VxG, tokens_B):
    rows = table_VxG.at[tokens_B].get(mode="clip")
    rows = with_layout_constraint(rows, Layout(tuple(range(rows.ndim))))
    return jnp.moveaxis(rows, -1, -2)


def numbers_in(z: Any) -> list[jax.Array]:
    """The parts of a projection that have gradients."""
    return [leaf for leaf in jax.tree.leaves(z) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def _affine(setup, params):
    """W and b of an `AffineCell`."""
    cell = nnx.merge(setup.graphdef, params)
    return cell.kernel[...], cell.bias[...]
