"""Candidate tokens that stand for a whole vocabulary in a training step, and their frequencies."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqmodels.sampled import Candidates

_BITS = 32


class Sampler(NamedTuple):
    """Draws tokens as often as they are targets in training.

    A token that is k of n targets counts as k + 1 of n + V, so that every token can be drawn.

    Attributes:
        starts_V: for each token, the first of the 2^32 numbers that stand for it, uint32. So the
            frequencies drawn from and the expected counts agree to the last bit.
    """

    starts_V: np.ndarray | jax.Array

    @classmethod
    def of(cls, targets_S: np.ndarray, size: int) -> "Sampler":
        """A sampler of `size` tokens, with their frequencies in `targets_S`."""
        counts_V = np.bincount(targets_S[targets_S >= 0], minlength=size) + 1
        before_V = np.cumsum(counts_V) - counts_V
        shares_V = before_V / counts_V.sum()
        room = (1 << _BITS) - size  # What is left when each token has one number.
        return cls((np.arange(size) + np.floor(room * shares_V)).astype(np.uint32))

    def draw(self, key: jax.Array, count: int, targets_BxT: jax.Array) -> Candidates:
        """Draws `count` tokens, independently of each other.

        Args:
            key: the random key.
            count: N.
            targets_BxT: the targets, whose expected counts are returned too.
        """
        drawn_N = jax.random.bits(key, (count,), jnp.uint32)
        numbers_N = jnp.searchsorted(self.starts_V, drawn_N, side="right").astype(jnp.int32) - 1

        def log_counts(numbers):
            # The first token begins at 0, which in 32 bits is where the last one ends.
            ends = self.starts_V[(numbers + 1) % len(self.starts_V)]
            shares = (ends - self.starts_V[numbers]).astype(jnp.float32) / 2.0**_BITS
            return jnp.log(count * shares)

        return Candidates(numbers_N, log_counts(numbers_N), log_counts(targets_BxT))
