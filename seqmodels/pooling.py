"""Sequence to vector, exact about lengths; a sequence of length 0 pools to zeros."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seqmodels.recurrence import Encoded, valid_steps

Pooling = Callable[[Encoded, jax.Array], jax.Array]


def last(encoded: Encoded, lengths_B: jax.Array) -> jax.Array:
    """The output of the last step of each direction: `[H, B]`."""
    del lengths_B
    return encoded.last_HxB


def mean(encoded: Encoded, lengths_B: jax.Array) -> jax.Array:
    """The mean of the outputs over the valid steps: `[H, B]`."""
    # The padding's outputs are zero already.
    return encoded.sequence_TxHxB.sum(0) / jnp.maximum(lengths_B, 1)


def max(encoded: Encoded, lengths_B: jax.Array) -> jax.Array:
    """The largest output over the valid steps, feature by feature: `[H, B]`."""
    valid_Tx1xB = valid_steps(lengths_B, len(encoded.sequence_TxHxB))[:, None]
    largest_HxB = jnp.where(valid_Tx1xB, encoded.sequence_TxHxB, -jnp.inf).max(0)
    return jnp.where(lengths_B > 0, largest_HxB, 0.0)


POOLINGS: dict[str, Pooling] = {"last": last, "mean": mean, "max": max}
