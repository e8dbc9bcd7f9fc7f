"""What can be said from so many seeds and so many reviews."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit  # `scipy.stats` would take half a second to import.


class Interval(NamedTuple):
    """An estimate and where, with 95 % confidence, the true value lies."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean over seeds, with Student's interval: infinitely wide where there is one seed alone.

    It says where the mean over all seeds there are lies, on these reviews.
    """
    mean, half = float(np.mean(values)), math.inf
    if len(values) > 1:
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        half = float(stdtrit(len(values) - 1, 0.975)) * error
    return Interval(mean, mean - half, mean + half)


def one_more_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Where the value of one more seed lies: the prediction interval of normal values."""
    mean, low, high = mean_interval(values)
    scale = math.sqrt(len(values) + 1)
    return Interval(mean, mean - (mean - low) * scale, mean + (high - mean) * scale)


def wilson_interval(proportion: float, count: int) -> Interval:
    """The interval of a proportion of so many (Wilson, JASA 22, 1927)."""
    z = 1.959964
    centre = proportion + z * z / (2 * count)
    half = z * math.sqrt(proportion * (1 - proportion) / count + (z / (2 * count)) ** 2)
    scale = 1 + z * z / count
    return Interval(proportion, (centre - half) / scale, (centre + half) / scale)


def expected_best(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """What the best of 1, 2, ... and of all N trials is expected to be, drawn from these values.

    Without replacement, and so without bias: Tang et al., "Showing Your Work Doesn't Always Work",
    ACL 2020, on Dodge et al., "Show Your Work", EMNLP 2019.
    """
    ascending = np.sort(np.asarray(values))
    count = len(ascending)
    ranks = np.arange(1, count + 1)
    best = np.empty(count)
    weights = np.full(count, 1 / count)
    for n in range(1, count + 1):
        best[n - 1] = weights @ ascending
        # That the best of n has rank r has the probability C(r - 1, n - 1) / C(N, n).
        weights = weights * (ranks - n) * (n + 1) / (n * max(count - n, 1))
    return best
