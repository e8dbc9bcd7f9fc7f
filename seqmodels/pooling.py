"""Sequence to vector, exact about lengths; a sequence of length 0 pools to zeros.

Mean and maximum are recurrences without parameters: what is pooled so far is their carry.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from seqmodels.cells import base
from seqmodels.recurrence import Encoded, run_all

Pooling = Callable[[Sequence[Encoded], jax.Array], jax.Array]


def last(encoded: Sequence[Encoded], lengths_B: jax.Array) -> jax.Array:
    """The output of the last step of each direction, side by side: `[H, B]`."""
    del lengths_B
    return jnp.concatenate([direction.last_HxB for direction in encoded])


def mean(encoded: Sequence[Encoded], lengths_B: jax.Array) -> jax.Array:
    """The mean of the outputs over the valid steps: `[H, B]`."""
    return _fold(jnp.add, 0.0, encoded, lengths_B) / jnp.maximum(lengths_B, 1)


def max(encoded: Sequence[Encoded], lengths_B: jax.Array) -> jax.Array:
    """The largest output over the valid steps, feature by feature: `[H, B]`."""
    return _fold(jnp.maximum, -jnp.inf, encoded, lengths_B)


POOLINGS: dict[str, Pooling] = {"last": last, "mean": mean, "max": max}


class _Fold(base.Cell):
    """`carry = operation(carry, x)`."""

    def __init__(self, hidden_size, operation, start):
        self.hidden_size = hidden_size
        self.operation = operation
        self.start = start

    def initial_carry(self):
        return jnp.full(self.hidden_size, self.start)

    def project(self, x_D):
        return x_D

    def step(self, carry, z):
        carry = self.operation(carry, z)
        return carry, carry


def _fold(operation, start, encoded, lengths_B):
    """The outputs of all directions, side by side, folded over the valid steps: `[H, B]`."""
    parts = [direction.sequence_TxHxB for direction in encoded]
    cell = _Fold(sum(part.shape[1] for part in parts), operation, start)
    return run_all([cell], [False], parts, lengths_B)[0].last_HxB
