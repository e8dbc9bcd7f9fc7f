"""What a given number of seeds and of examples can show."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# `scipy.stats` takes long to import.
from scipy.special import bdtr, betaincinv, nctdtr, ndtri, stdtrit

_Z = float(ndtri(0.975))


class Interval(NamedTuple):
    """An estimate and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(
    values_K: Sequence[float] | np.ndarray, items: float | None = None, lowest: float = 0.0
) -> Interval:
    """The mean over seeds, and an interval for the true mean.

    Shares of N items, such as accuracies on N examples: seeds and items are both samples, as in
    `scores.difference`, and the interval is for newly trained models on newly drawn items. It is
    that of Clopper and Pearson (Biometrika 26, 1934), but for fewer items than N: the more the
    seeds scatter, the smaller the effective number of items (Korn and Graubard, Survey Methodology
    24, 1998). It lies in [0, 1] and always has a width. With many seeds and items it is Student's.
    A single seed is taken as fixed, and only items are a sample.

    Items are taken to add as much to the variance as N independent ones could, since shares do not
    tell whether seeds are right about the same items. If they are, the width is exact; K seeds with
    nothing in common get up to sqrt(K) times that.

    In 2,000 simulations of each case (docs/intervals.md: 2 to 10 seeds, 20 to 25,000 items,
    accuracies of .002 to .998, seeds that scatter not at all to four times as much as any on IMDB)
    it held the truth in 93 to 100 %. If nearly all seeds are alike and a rare one fails, it
    does so less often, because few seeds seldom include the rare one.

    Args:
        values_K: one for each seed.
        items: how many items the shares are of; `math.inf`: items are taken as fixed, and only
            seeds are a sample. None: the values are not shares, and the interval is Student's, over
            seeds alone.
        lowest: where an interval of values that are not shares is cut off.

    Without items to count, a single seed or seeds that agree tell nothing about others, and the
    interval is the whole range.
    """
    return _interval(np.asarray(values_K), items, 1 / len(values_K), lowest)


def one_more_interval(
    values_K: Sequence[float] | np.ndarray, items: float | None = None, lowest: float = 0.0
) -> Interval:
    """An interval for the value of one more seed; for shares, its share of all possible items.

    Like `mean_interval`, with the variance of a prediction instead of the mean's.
    """
    return _interval(np.asarray(values_K), items, 1 + 1 / len(values_K), lowest)


def _interval(values_K: np.ndarray, items: float | None, parts: float, lowest: float) -> Interval:
    """The interval of an error whose variance is `parts` times the variance over seeds."""
    mean, variance, t = float(values_K.mean()), 0.0, 0.0
    if np.ptp(values_K) > 0:
        variance = parts * float(values_K.var(ddof=1))
        t = float(stdtrit(len(values_K) - 1, 0.975))
    if items is None:
        half = t * math.sqrt(variance) or math.inf
        return Interval(mean, max(lowest, mean - half), mean + half)
    inverse = 1 / items  # Of the effective number of items.
    if 0 < mean < 1:
        inverse += (t / _Z) ** 2 * variance / (mean * (1 - mean))
    if inverse < 1e-20:  # Only by rounding.
        return Interval(mean, 0.0, 1.0)
    right, wrong = mean / inverse, (1 - mean) / inverse
    low = float(betaincinv(right, wrong + 1, 0.025)) if right else 0.0
    high = 1 - float(betaincinv(wrong, right + 1, 0.025)) if wrong else 1.0
    return Interval(mean, low, high)


def expected_best(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """The expected best of 1, 2, ... and of all N trials, drawn from these values.

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
        # The best of n has rank r with probability C(r - 1, n - 1) / C(N, n).
        weights = weights * (ranks - n) * (n + 1) / (n * max(count - n, 1))
    return best


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several comparisons, adjusted for their number.

    At most 5 % of families of tests with no difference anywhere then have one below 0.05 (Holm,
    Scandinavian Journal of Statistics 6(2), 1979).
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


class McNemar(NamedTuple):
    """On how many examples only one of two models is right, and the p-value of that."""

    first_alone: int
    second_alone: int
    p: float


def mcnemar(first_N: np.ndarray, second_N: np.ndarray) -> McNemar:
    """Whether two trained models are right equally often: McNemar's test, exact and two-sided.

    From Psychometrika 12(2), 1947; here its probabilities are binomial.

    Args:
        first_N: whether the first is right about each example.
        second_N: whether the second is.
    """
    first_alone = int((first_N & ~second_N).sum())
    second_alone = int((second_N & ~first_N).sum())
    fewer, together = min(first_alone, second_alone), first_alone + second_alone
    p = min(1.0, 2 * float(bdtr(fewer, together, 0.5)))
    return McNemar(first_alone, second_alone, p)


_ROUNDING = 1e-12
"""Accuracies that differ by less are equal: the examples are too few for such a difference."""


def cohens_d(first_K: np.ndarray, second_K: np.ndarray, *, paired: bool) -> float:
    """How much higher the second is, in standard deviations over seeds.

    Those of the difference if `paired` (Cohen's d_z), else those within the runs, pooled. Infinite
    if seeds do not scatter, 0 if there is no difference, nan with one seed in either.
    """
    if min(len(first_K), len(second_K)) == 1:
        return math.nan
    mean = float(second_K.mean() - first_K.mean())
    samples = [second_K - first_K] if paired else [first_K, second_K]
    squares = sum(float(values_K.var(ddof=1)) * (len(values_K) - 1) for values_K in samples)
    deviation = math.sqrt(squares / sum(len(values_K) - 1 for values_K in samples))
    if abs(mean) < _ROUNDING:
        return 0.0
    return mean / deviation if deviation > _ROUNDING else math.copysign(math.inf, mean)


def cohens_h(first: float, second: float) -> float:
    """How far the second of two proportions is above the first, on a scale where 0.2 is small."""
    return 2 * (math.asin(math.sqrt(second)) - math.asin(math.sqrt(first)))


MOST_SEEDS = 1_000
"""The limit of the search for a number of seeds."""


def seeds_needed(d: float, *, paired: bool) -> int | None:
    """How many seeds of each run show a difference of `d` (`cohens_d`) with 80 % power.

    By a t-test over seeds, two-sided at 5 %, whose t is noncentral. None: more than `MOST_SEEDS`.
    """
    seeds = np.arange(2, MOST_SEEDS + 1)
    freedom, scale = (seeds - 1, seeds) if paired else (2 * (seeds - 1), seeds / 2)
    effect = min(abs(d), 100.0)  # `nctdtr` fails at infinity, and here 2 seeds are enough.
    power = 1 - nctdtr(freedom, effect * np.sqrt(scale), stdtrit(freedom, 0.975))
    enough = seeds[power >= 0.8]
    return int(enough[0]) if len(enough) else None


def equal_count_bins(values_N: np.ndarray, bins: int) -> np.ndarray:
    """The number of each value's bin, from the lowest up, in bins of nearly equal counts.

    Equal values share a bin, so that with many of them there are fewer and less equal bins.
    """
    levels = np.arange(1, bins) / bins
    edges = np.unique(np.quantile(values_N, levels, method="inverted_cdf"))
    return np.unique(np.searchsorted(edges, values_N), return_inverse=True)[1]


class Reliability(NamedTuple):
    """For each of B bins: the mean probability, the share of positives, and its share of all."""

    predicted_B: np.ndarray
    observed_B: np.ndarray
    share_B: np.ndarray

    @property
    def ece(self) -> float:
        """The expected calibration error: how far predicted and observed are apart on average."""
        return float(self.share_B @ np.abs(self.predicted_B - self.observed_B))


RELIABILITY_BINS = 15


def reliability(probabilities_N: np.ndarray, labels_N: np.ndarray) -> Reliability:
    """Probabilities of the positive class against outcomes, in 15 bins of nearly equal counts.

    With bins of equal counts the calibration error depends less on their number than with bins of
    equal width (Nixon et al., "Measuring Calibration in Deep Learning", CVPR Workshops, 2019).
    """
    bins_N = equal_count_bins(probabilities_N, RELIABILITY_BINS)
    counts_B = np.bincount(bins_N)
    return Reliability(
        np.bincount(bins_N, probabilities_N) / counts_B,
        np.bincount(bins_N, labels_N) / counts_B,
        counts_B / len(labels_N),
    )
