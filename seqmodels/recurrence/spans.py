"""Steps in a row whose inputs are taken together: those of all sequences at several times."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqmodels.recurrence import arrays, step
from seqmodels.recurrence.sequences import longest

COLUMNS = 128
"""Inputs that are taken together.

More would leave a core's cache; fewer would leave its vector units idle.
"""


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


class Steps(NamedTuple):
    """The steps of one cell over a batch.

    Attributes:
        setup: the cell's.
        lengths_B: valid steps of each sequence.
        seeds_Bx2: of dropout.
        width: T, the steps that arrays have room for.
        num_steps: the steps that are taken.
    """

    setup: step.Setup
    lengths_B: jax.Array
    seeds_Bx2: jax.Array | None
    width: int
    num_steps: jax.Array

    @classmethod
    def of(
        cls, setup: step.Setup, lengths_B: jax.Array, seeds_Bx2: jax.Array | None, width: int
    ) -> "Steps":
        """Those up to the end of the longest sequence."""
        return cls(setup, lengths_B, seeds_Bx2, width, longest(lengths_B))

    @property
    def size(self) -> int:
        """S, the places of a span."""
        return max(1, min(self.width, -(-COLUMNS // len(self.lengths_B))))

    @property
    def are_one_span(self) -> bool:
        """Whether a single span has room for all steps."""
        return self.size == self.width

    @property
    def num_spans(self) -> jax.Array:
        """The spans that hold all steps."""
        return -(-self.num_steps // self.size)

    def time(self, number: jax.Array) -> jax.Array:
        """The time of the step with a number."""
        return self.setup.time(number, self.num_steps)

    def place(self, number: jax.Array) -> jax.Array:
        """Where the input and the output of the step with a number are."""
        return self.setup.place(number, self.num_steps)

    def span(self, index: jax.Array) -> Span:
        """One of the spans."""
        first = index * self.size
        length = jnp.minimum(self.size, self.num_steps - first)
        ends = self.place(first), self.place(first + length - 1)
        lowest = jnp.clip(jnp.minimum(*ends), 0, self.width - self.size)
        places_S = lowest + jnp.arange(self.size)
        is_taken_S = (jnp.minimum(*ends) <= places_S) & (places_S <= jnp.maximum(*ends))
        return Span(first, length, lowest, places_S, is_taken_S)

    def through_spans(
        self, take: Callable[[Span, Any], Any], loop: Any, *, backwards: bool = False
    ) -> Any:
        """What `take(span, loop)` makes of a loop's state over all spans.

        A single one is no loop: nothing is added to zeros that were written for it. It is taken
        even if no sequence has a step.
        """
        if self.are_one_span:
            return take(self.span(jnp.array(0)), loop)
        last = self.num_spans - 1

        def take_one(index, loop):
            return take(self.span(last - index if backwards else index), loop)

        return jax.lax.fori_loop(0, self.num_spans, take_one, loop)

    def times(self, span: Span) -> jax.Array:
        """The time of the step in each place of a span."""
        return self.setup.place_at(span.places_S, self.num_steps)

    def is_valid(self, span: Span) -> jax.Array:
        """Which inputs of a span belong to its steps, not to padding: `[N]`, for N = S times B."""
        is_valid_SxB = self.times(span)[:, None] < self.lengths_B
        return (is_valid_SxB & span.is_taken_S[:, None]).reshape(-1)


def columns(array_SxDxB: jax.Array) -> jax.Array:
    """The same as `[D, N]`; one without D as `[N]`."""
    array_DxSxB = jnp.moveaxis(array_SxDxB, 0, -2)
    return array_DxSxB.reshape(*array_DxSxB.shape[:-2], -1)


def over_time(columns: Any, size: int) -> Any:
    """Arrays `[..., N]` as `[S, ..., B]`."""
    return jax.tree.map(
        lambda leaf: jnp.moveaxis(leaf.reshape(*leaf.shape[:-1], size, -1), -2, 0), columns
    )


# Factors of matrices' gradients are gathered as `[..., N]`. Those of a single sequence are
# `[S, ..., 1]`: a column of `[..., S]` would be written with a stride.


def gather_none(shapes: Any, size: int) -> Any:
    """Zeros in the place of all factors of a span of S steps, given the shapes of a step's."""

    def none(one):
        if one.shape[-1] == 1:
            return jnp.zeros((size, *one.shape), one.dtype)
        return jnp.zeros((*one.shape[:-1], size * one.shape[-1]), one.dtype)

    return jax.tree.map(none, shapes)


def gather(factors: Any, of_step: Any, number: jax.Array) -> Any:
    """Writes the factors of a step into a place of the span."""
    if (batch_size := jax.tree.leaves(of_step)[0].shape[-1]) == 1:
        return arrays.put(factors, of_step, number)
    return arrays.put_columns(factors, of_step, number * batch_size)


def gathered(factors: Any, batch_size: int) -> Any:
    """All factors of a span, `[..., N]`."""
    return jax.tree.map(columns, factors) if batch_size == 1 else factors
