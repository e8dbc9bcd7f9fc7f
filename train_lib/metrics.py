"""Sums and counts, divided once at the end."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train_lib import devices
from train_lib.data.batches import Array


class Sums(NamedTuple):
    """Sums over reviews, on the device: of a batch, or of each of several."""

    loss: jax.Array
    correct: jax.Array
    reviews: jax.Array


class Metrics(NamedTuple):
    """Means over so many reviews, of each of K seeds."""

    loss: np.ndarray
    accuracy: np.ndarray
    reviews: int


def cross_entropy(logits_B: Array, labels_B: Array, weights_B: Array) -> Sums:
    """Binary cross-entropy in nats and right answers; a logit above 0 says positive."""
    losses_B = optax.sigmoid_binary_cross_entropy(logits_B, labels_B)
    correct_B = (logits_B > 0) == (labels_B > 0.5)
    return Sums(
        loss=jnp.sum(losses_B * weights_B),
        correct=jnp.sum(correct_B * weights_B),
        reviews=jnp.sum(weights_B),
    )


def mean(batches: Iterable[Sums]) -> Metrics:
    """The means over all batches, whose sums are `[K]` or `[K, S]`; waits for the device."""
    columns = zip(*devices.fetch(list(batches)), strict=True)
    loss_K, correct_K, reviews_K = (
        sum(np.reshape(sums, (len(sums), -1)).sum(1, dtype=np.float64) for sums in column)
        for column in columns
    )
    return Metrics(loss_K / reviews_K, correct_K / reviews_K, int(reviews_K[0]))
