"""The features that baselines read: rows `[N, F]` of sequences or of steps, dense or sparse."""

import numpy as np
import scipy.sparse
from scipy.sparse import csr_array

from train_lib.data.dataset import Split

NEIGHBOURS = (-2, -1, 0, 1, 2)
"""The places, relative to a step, that are read for its tag."""


def summary(split: Split) -> np.ndarray:
    """Each component's mean, deviation, first, last, least and largest value: `[N, 6 D]`."""
    begins, lengths = split.offsets[:-1], split.lengths[:, None]
    values_SxD = split.values.astype(np.float64)
    means_NxD = np.add.reduceat(values_SxD, begins) / lengths
    errors_SxD = values_SxD - np.repeat(means_NxD, split.lengths, axis=0)
    deviations_NxD = np.sqrt(np.add.reduceat(errors_SxD**2, begins) / lengths)
    return np.concatenate(
        [
            means_NxD,
            deviations_NxD,
            values_SxD[begins],
            values_SxD[split.offsets[1:] - 1],
            np.minimum.reduceat(values_SxD, begins),
            np.maximum.reduceat(values_SxD, begins),
        ],
        axis=1,
    )


def neighbours(split: Split, size: int) -> csr_array:
    """The token at each of `NEIGHBOURS` of every step, one-hot: float32 `[S, 5 size]`.

    Args:
        split: a split of tokens.
        size: the size of the vocabulary.
    """
    blocks = []
    for place in NEIGHBOURS:
        steps, others = _pairs(split, place)
        entries = np.ones(len(steps), np.float32), (steps, split.values[others].astype(np.int32))
        blocks.append(csr_array(entries, (len(split.values), size)))
    return scipy.sparse.hstack(blocks, format="csr")


def vector_neighbours(split: Split) -> np.ndarray:
    """The vectors at `NEIGHBOURS` of every step, zeros beyond the ends: `[S, 5 D]`."""
    blocks = []
    for place in NEIGHBOURS:
        block_SxD = np.zeros(split.values.shape)
        steps, others = _pairs(split, place)
        block_SxD[steps] = split.values[others]
        blocks.append(block_SxD)
    return np.concatenate(blocks, axis=1)


def tokens(split: Split) -> np.ndarray:
    """The token of every step: `[S]`."""
    return split.values


def _pairs(split: Split, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and for each the one `place` steps on, if that is in the same sequence."""
    sequences = np.repeat(np.arange(len(split)), split.lengths)
    steps = np.arange(len(sequences), dtype=np.int32)
    others = steps + place
    is_there = (others >= 0) & (others < len(sequences))
    steps, others = steps[is_there], others[is_there]
    is_same = sequences[steps] == sequences[others]
    return steps[is_same], others[is_same]
