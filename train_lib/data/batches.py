"""Which reviews stand together in a batch, where each of them is computed, and the batch itself."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train_lib.data.dataset import Dataset, Split
from train_lib.data.vocabulary import PADDING

NO_REVIEW = -1
"""Stands in a plan for a row that is left empty."""


Array = np.ndarray | jax.Array


class Corpus(NamedTuple):
    """A split as it lies on a device.

    Attributes:
        tokens: all reviews' tokens, end to end.
        starts_N, lengths_N: where each review starts in `tokens`, and its tokens.
        labels_N: 0 negative, 1 positive.
    """

    tokens: Array
    starts_N: Array
    lengths_N: Array
    labels_N: Array

    @classmethod
    def of(cls, split: Split) -> "Corpus":
        return cls(
            split.tokens,
            split.offsets[:-1].astype(np.int32),
            split.lengths.astype(np.int32),
            split.labels.astype(np.float32),
        )


class Batch(NamedTuple):
    """Arrays for one step. Rows without a review are empty: length 0, weight 0."""

    tokens_BxT: jax.Array
    lengths_B: jax.Array
    labels_B: jax.Array
    weights_B: jax.Array


def gather(corpus: Corpus, reviews_B: jax.Array, width: int, padding_side: str) -> Batch:
    """Lays reviews out in rows of `width` tokens; `NO_REVIEW` leaves a row empty."""
    is_review_B = reviews_B != NO_REVIEW
    lengths_B = jnp.where(is_review_B, corpus.lengths_N[reviews_B], 0)
    times_BxT = jnp.arange(width) - (width - lengths_B[:, None] if padding_side == "pre" else 0)
    valid_BxT = (times_BxT >= 0) & (times_BxT < lengths_B[:, None])
    places_BxT = corpus.starts_N[reviews_B][:, None] + times_BxT
    tokens_BxT = jnp.take(corpus.tokens, places_BxT, mode="clip")
    return Batch(
        jnp.where(valid_BxT, tokens_BxT, PADDING),
        lengths_B,
        corpus.labels_N[reviews_B],
        is_review_B.astype(jnp.float32),
    )


def plan_bucketed(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """Batches of reviews of similar length.

    Args:
        lengths: of all reviews.
        batch_size: reviews a batch; one batch has what is left over.
        rng: for training: blurs the lengths by up to a tenth before they are sorted, so that other
            reviews meet in every epoch, puts the left-over batch anywhere, and shuffles the
            batches. None: sorted by length, in order.
    """
    count = -(-len(lengths) // batch_size)
    sizes = np.full(count, batch_size)
    sizes[-1] = len(lengths) - batch_size * (count - 1)
    if rng is None:
        order = np.argsort(lengths, kind="stable")
    else:
        order = np.argsort(lengths * rng.uniform(0.9, 1.1, len(lengths)), kind="stable")
        rng.shuffle(sizes)
    groups = np.split(order, np.cumsum(sizes)[:-1])
    if rng is not None:
        groups = [groups[number] for number in rng.permutation(count)]
    return groups


def plan_uniform(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """Batches of any reviews.

    Args:
        lengths: of all reviews.
        batch_size: reviews a batch; the last has what is left over.
        rng: shuffles the reviews; None: in order.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    return np.split(order, range(batch_size, len(lengths), batch_size))


def plans(
    split: Split, data_config, batch_size: int, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """One pass over a split in the configured treatment; shuffled where there is an `rng`."""
    plan = plan_bucketed if data_config.mask_padding else plan_uniform
    return plan(split.lengths, batch_size, rng)


def row_widths(dataset: Dataset, data_config) -> tuple[int, ...]:
    """The widths that rows of tokens may have, in ascending order.

    Where padding is read, its amount is part of the input, so that there is one width for whatever
    the model ever reads: the length of the longest training review. Else it is that of the longest
    of all splits, so that one program can evaluate them all, and fractions of it: a loop ends with
    the longest review that is there, but room for its results is made for the width.
    """
    if not data_config.mask_padding:
        return (int(dataset.train.lengths.max()),)
    return fractions(max(int(split.lengths.max()) for split in dataset.splits))


def fractions(width: int) -> tuple[int, ...]:
    """A width, a third and a ninth of it, in ascending order."""
    return tuple(sorted({-(-width // part) for part in (9, 3, 1)}))


class Layout(NamedTuple):
    """How the rows of a batch are spread.

    Attributes:
        devices: P.
        blocks: N, that a device computes one after the other.
        rows: R, of a block.
    """

    devices: int
    blocks: int
    rows: int

    @classmethod
    def of(cls, batch_size: int, devices: int, max_rows: float) -> "Layout":
        """The layout with the fewest blocks of at most `max_rows` rows, as even as they can be."""
        blocks = -(-batch_size // (devices * max_rows))
        return cls(devices, int(blocks), -(-batch_size // int(devices * blocks)))

    def place(self, plan: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The reviews of a batch in their places, `[P, N, R]`.

        Longest first, dealt out to the devices in turn: devices have as much to do as each other,
        and the reviews of a block, whose loop ends with the longest of them, are of similar length.
        """
        order = plan[np.argsort(-lengths[plan], kind="stable")]
        places = np.full(self.devices * self.blocks * self.rows, NO_REVIEW, np.int32)
        places[: len(order)] = order
        return places.reshape(self.blocks, self.rows, self.devices).transpose(2, 0, 1)

    def place_all(self, plans: Sequence[np.ndarray], lengths: np.ndarray, steps: int) -> np.ndarray:
        """Several batches, `[S, P, N, R]`, with empty ones behind them to make up so many steps."""
        places = [self.place(plan, lengths) for plan in plans]
        empty = self.place(np.empty(0, np.int32), lengths)
        return np.stack(places + [empty] * (steps - len(places)))


def steps_taken(places: np.ndarray, lengths: np.ndarray, widths: Sequence[int]) -> int:
    """Steps that all rows take together, those in padding included.

    The rows of a block take as many as the longest review among them has; with one width to choose
    from, where padding is read, as many as that: what is asked for, though padding that all rows
    share may be read once.
    """
    if len(widths) == 1:
        return places.size * widths[0]
    lengths = np.where(places == NO_REVIEW, 0, lengths[places])
    return int(lengths.max(-1).sum() * places.shape[-1])
