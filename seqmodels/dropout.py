"""Dropout whose mask belongs to its sequence and to nothing else."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Dropout(NamedTuple):
    """Dropout of a batch of sequences.

    Srivastava et al., "Dropout", JMLR 15, 2014. A mask is a function of the sequence's key, the
    time and the feature: it does not depend on T, on the other sequences, nor on how the
    batch is spread over devices.

    Attributes:
        rate: the probability that an element is dropped, in [0, 1).
        keys_B: a random key for each sequence.
    """

    rate: float
    keys_B: jax.Array


def drop(x_DxB: jax.Array, time: jax.Array, rate: float, seeds_Bx2: jax.Array) -> jax.Array:
    """Zeroes elements of one time step at `rate` and scales the rest by `1 / (1 - rate)`.

    Args:
        x_DxB: what to drop from.
        time: of the step.
        rate: in [0, 1).
        seeds_Bx2: `jax.random.key_data` of each sequence's key.
    """
    features = len(x_DxB)
    element_Dx1 = (time * features + jnp.arange(features)).astype(jnp.uint32)[:, None]
    # jax.random's generator would cost more than the recurrence itself. The keys come from it;
    # a hash of key and position is random enough for a mask.
    hashed_DxB = _hash(_hash(element_Dx1 ^ seeds_Bx2[:, 0]) + seeds_Bx2[:, 1])
    threshold = jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
    return jnp.where(hashed_DxB >= threshold, x_DxB / (1.0 - rate), 0.0)


def drop_all(x_TxDxB: jax.Array, dropped: Dropout) -> jax.Array:
    """`drop` at every time."""
    seeds_Bx2 = jax.random.key_data(dropped.keys_B)
    times_T = jnp.arange(len(x_TxDxB))
    return jax.vmap(lambda x, time: drop(x, time, dropped.rate, seeds_Bx2))(x_TxDxB, times_T)


def _hash(x: jax.Array) -> jax.Array:
    """A bijection of 32-bit integers in which every bit of `x` decides over every other.

    Wellons' two-round multiply-xorshift with the constants of the hash-prospector project.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0xD35A2D97)
    return x ^ (x >> 15)
