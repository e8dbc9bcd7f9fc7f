"""The threshold between two classes, as a logit."""

import math

import numpy as np
from scipy.special import logit

from train_lib.tasks.common import confusion


def cut(threshold: float | str) -> float:
    """The logit of a probability; 0 for `validation`, until one is chosen.

    Raises:
        ValueError: the threshold is neither.
    """
    if threshold == "validation":
        return 0.0
    try:
        value = float(threshold)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value < 1:
        raise ValueError(
            f"threshold={threshold!r} must be a probability between 0 and 1, or 'validation'"
        )
    return float(logit(value))


def best_cut(logits_N: np.ndarray, is_positive_N: np.ndarray, metric: str) -> float:
    """The logit above which to answer "positive", for the best `accuracy`, `f1` or `macro_f1`."""
    order = np.argsort(logits_N, kind="stable")
    ascending_N, positives_N = logits_N[order], is_positive_N[order].astype(float)
    # With the cut after the first M of N logits, those below it are answered "negative".
    is_end_M = np.append(True, np.append(ascending_N[1:] > ascending_N[:-1], True))
    below_M = np.flatnonzero(is_end_M)
    missed_M = np.append(0, np.cumsum(positives_N))[below_M]
    right_M = positives_N.sum() - missed_M
    alarms_M = len(logits_N) - below_M - right_M
    rejected_M = below_M - missed_M
    wrong_M = missed_M + alarms_M
    if metric == "accuracy":
        values_M = right_M + rejected_M
    else:
        values_M = f1_M = confusion.share(right_M, right_M + wrong_M / 2)
        if metric == "macro_f1":
            values_M = (f1_M + confusion.share(rejected_M, rejected_M + wrong_M / 2)) / 2
        values_M = np.nan_to_num(values_M, nan=-1.0)
    lowest = np.append(-np.inf, ascending_N)[below_M]
    highest = np.append(ascending_N, np.inf)[below_M]
    cuts = [
        _between(low, high)
        for low, high, value in zip(lowest, highest, values_M, strict=True)
        if value >= values_M.max() - 1e-12
    ]
    return min(cuts, key=abs)


def _between(low: float, high: float) -> float:
    """A cut with `low` not above it and `high` above it, in float32 too; 0 if possible."""
    if low <= 0 < high:
        return 0.0
    if not np.isfinite(low):
        return float(np.nextafter(np.float32(high), np.float32(-np.inf)))
    middle = float(np.float32((low + high) / 2)) if np.isfinite(high) else low
    return middle if low <= middle < high else low
