"""Which reviews stand together in a batch, how wide it is, and the batch itself."""

from typing import NamedTuple

import jax
import numpy as np

from train_lib.data.dataset import Split
from train_lib.data.vocabulary import PADDING

Array = np.ndarray | jax.Array


class Batch(NamedTuple):
    """Arrays for one step. Rows beyond the last review are empty: length 0, weight 0."""

    tokens_BxT: Array
    lengths_B: Array
    labels_B: Array
    weights_B: Array


class Plan(NamedTuple):
    """One batch to be: the reviews in it and its width in tokens."""

    reviews: np.ndarray
    width: int


def bucket_width(length: int) -> int:
    """The width that a batch whose longest review is `length` is padded to.

    Widths grow by a factor of about 1.25 from 64 up, in multiples of 16, so that a
    length of any size costs at most a quarter and 15 tokens more, and all of IMDB needs few
    compiled shapes.
    """
    width = 64
    while width < length:
        width = (width * 5 // 4 + 15) // 16 * 16
    return width


def plan_bucketed(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator | None = None
) -> list[Plan]:
    """Batches of similar length, each padded little more than its longest review asks for.

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
    return [Plan(group, bucket_width(int(lengths[group].max()))) for group in groups]


def plan_uniform(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator | None = None
) -> list[Plan]:
    """Batches of any reviews, all as wide as the longest review there is.

    Args:
        lengths: of all reviews.
        batch_size: reviews a batch; the last has what is left over.
        rng: shuffles the reviews; None: in order.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    groups = np.split(order, range(batch_size, len(lengths), batch_size))
    return [Plan(group, int(lengths.max())) for group in groups]


def batch(split: Split, plan: Plan, batch_size: int, padding_side: str) -> Batch:
    """Lays the planned reviews out in rows; rows left over are empty."""
    rows = len(plan.reviews)
    lengths_B = np.zeros(batch_size, np.int32)
    lengths_B[:rows] = split.lengths[plan.reviews]
    starts_B = np.zeros(batch_size, np.int64)
    starts_B[:rows] = split.offsets[plan.reviews]
    labels_B = np.zeros(batch_size, np.float32)
    labels_B[:rows] = split.labels[plan.reviews]
    times_T = np.arange(plan.width)
    if padding_side == "pre":
        times_BxT = times_T - (plan.width - lengths_B[:, None])
    else:
        times_BxT = np.broadcast_to(times_T, (batch_size, plan.width))
    valid_BxT = (times_BxT >= 0) & (times_BxT < lengths_B[:, None])
    tokens_BxT = np.full((batch_size, plan.width), PADDING, np.int32)
    tokens_BxT[valid_BxT] = split.tokens[(starts_B[:, None] + times_BxT)[valid_BxT]]
    weights_B = (np.arange(batch_size) < rows).astype(np.float32)
    return Batch(tokens_BxT, lengths_B, labels_B, weights_B)


def plans(
    split: Split, data_config, batch_size: int, rng: np.random.Generator | None = None
) -> list[Plan]:
    """One pass over a split in the configured treatment; shuffled where there is an `rng`."""
    plan = plan_bucketed if data_config.mask_padding else plan_uniform
    return plan(split.lengths, batch_size, rng)
