"""Dropout whose mask belongs to its sequence and to nothing else."""

import jax
import jax.numpy as jnp


def dropout(x_TxDxB: jax.Array, rate: float, keys_B: jax.Array) -> jax.Array:
    """Zeroes each element with probability `rate` and scales the rest by `1 / (1 - rate)`.

    Srivastava et al., "Dropout", JMLR 15, 2014. The mask is a function of the sequence's key, the
    time and the feature: it does not depend on T, on the other sequences, nor on how the
    batch is spread over devices.

    Args:
        x_TxDxB: what to drop from.
        rate: in [0, 1).
        keys_B: a random key for each sequence.
    """
    width, features, _ = x_TxDxB.shape
    element_TxDx1 = jnp.arange(width * features, dtype=jnp.uint32).reshape(width, features, 1)
    seeds_Bx2 = jax.random.key_data(keys_B).astype(jnp.uint32)
    # jax.random's generator would cost more than the recurrence itself. The keys come from it;
    # a hash of key and position is random enough for a mask.
    hashed_TxDxB = _hash(_hash(element_TxDx1 ^ seeds_Bx2[:, 0]) + seeds_Bx2[:, 1])
    threshold = jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
    return jnp.where(hashed_TxDxB >= threshold, x_TxDxB / (1.0 - rate), 0.0)


def _hash(x: jax.Array) -> jax.Array:
    """A bijection of 32-bit integers in which every bit of `x` decides over every other.

    Wellons' two-round multiply-xorshift with the constants of the hash-prospector project.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0xD35A2D97)
    return x ^ (x >> 15)
