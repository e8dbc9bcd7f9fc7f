"""Figures of answers, computed on the host, as JSON values: the same as scikit-learn's.

scikit-learn takes .7 s to import, a tenth of a short run; only figures of numbers need it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax

from train_lib.analysis.statistics import reliability
from train_lib.tasks.common import confusion

MOST_CLASSES = 50
"""With more, the whole confusion matrix is left out of the figures."""

_MOST_CONFUSED = 30


def number(value: Any) -> float | None:
    """A float, or None if it is not finite."""
    value = float(value)
    return value if math.isfinite(value) else None


def of_answers(
    targets_N: np.ndarray, answers_N: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Precision, recall, F1 and support of classes, and which classes are confused how often.

    Means over classes leave out those that are neither right nor answered anywhere, and count an
    undefined precision or recall as 0, as scikit-learn does.

    Args:
        targets_N: class numbers; at least one item.
        answers_N: the model's class numbers.
        names: of all C classes.
    """
    counts_CxC = confusion.counted(targets_N, answers_N, len(names))
    right_C, answered_C, support_C = counts_3xC = np.array(
        [np.diagonal(counts_CxC), counts_CxC.sum(0), counts_CxC.sum(1)]
    )
    averages = _averages(counts_3xC)  # "micro" is the accuracy.
    found = {
        "accuracy": float(right_C.sum() / counts_CxC.sum()),
        "per_class": _each(counts_3xC, names),
        "macro": averages["macro"],
        "weighted": averages["weighted"],
        "classes": list(names),
        "never_answered": [
            name for name, answered, support in zip(names, answered_C, support_C, strict=True)
            if support and not answered
        ],
    }  # fmt: skip
    if len(names) <= MOST_CLASSES:
        return {**found, "confusion": counts_CxC.tolist()}
    return {**found, "most_confused": _most_confused(counts_CxC, names)}


def scores(right: int, answered: int, support: int) -> dict[str, Any]:
    """Precision, recall, F1 and support from the counts of true positives, answers and targets."""
    shares = _shares(right, answered, support)
    return {**{name: number(share) for name, share in shares.items()}, "support": int(support)}


def _shares(right: Any, answered: Any, support: Any) -> dict[str, np.ndarray]:
    return {
        "precision": confusion.share(right, answered),
        "recall": confusion.share(right, support),
        "f1": confusion.share(right, (answered + support) / 2),
    }


def _each(counts_3xC: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The scores of each class, from its counts."""
    return {name: scores(*counts_3) for name, counts_3 in zip(names, counts_3xC.T, strict=True)}


def _averages(counts_3xC: np.ndarray) -> dict[str, dict[str, float | None]]:
    """Shares over all classes, under scikit-learn's names, from the counts as in `scores`."""
    together_3x1, support_C = counts_3xC.sum(1, keepdims=True), counts_3xC[-1]
    is_there_C = counts_3xC[1:].sum(0) > 0
    return {
        "micro": _mean(together_3x1, together_3x1[1:].sum(0) > 0),
        "macro": _mean(counts_3xC, is_there_C),
        "weighted": _mean(counts_3xC, support_C if support_C.any() else is_there_C),
    }


def _mean(counts_3xC: np.ndarray, weights_C: np.ndarray) -> dict[str, float | None]:
    return {
        name: number(confusion.share(np.nan_to_num(values_C) @ weights_C, weights_C.sum()))
        for name, values_C in _shares(*counts_3xC).items()
    }


def _most_confused(counts_CxC: np.ndarray, names: Sequence[str]) -> list[dict]:
    """The pairs of classes confused most often, the most frequent first."""
    wrong_CxC = counts_CxC.copy()
    np.fill_diagonal(wrong_CxC, 0)
    places = np.argsort(-wrong_CxC, axis=None, kind="stable")[:_MOST_CONFUSED]
    pairs = zip(*np.unravel_index(places, wrong_CxC.shape), strict=True)
    return [
        {"target": names[target], "answer": names[answer], "count": int(wrong_CxC[target, answer])}
        for target, answer in pairs
        if wrong_CxC[target, answer]
    ]


def of_probabilities(
    targets_N: np.ndarray, outputs_NxC: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """How well class probabilities rank items, and how well they are calibrated.

    For two classes, figures are of the second. For more, AUROC and average precision are those of
    each class against the rest and their means over classes; the calibration error is that of the
    answer; and the Brier score is summed over classes.

    Args:
        targets_N: class numbers; at least one item.
        outputs_NxC: a logit for each class or, for two, only that of the second, `[N, 1]`.
        names: of all C classes.
    """
    if outputs_NxC.shape[1] == 1:
        logits_N, is_second_N = outputs_NxC[:, 0], targets_N == 1
        probabilities_N = expit(logits_N)
        return {
            **ranking(is_second_N, logits_N),
            "log_loss": number(-log_expit(np.where(is_second_N, logits_N, -logits_N)).mean()),
            "brier": number(np.mean((probabilities_N - is_second_N) ** 2)),
            "ece": number(reliability(probabilities_N, is_second_N).ece),
        }
    probabilities_NxC = softmax(outputs_NxC, -1)
    is_target_NxC = targets_N[:, None] == np.arange(len(names))
    answers_N = outputs_NxC.argmax(1)
    rankings = [
        ranking(*columns) for columns in zip(is_target_NxC.T, probabilities_NxC.T, strict=True)
    ]
    return {
        **{
            name: mean([of_class[name] for of_class in rankings])
            for name in ("auroc", "average_precision")
        },
        "ranking_per_class": dict(zip(names, rankings, strict=True)),
        "log_loss": number(-log_softmax(outputs_NxC, -1)[is_target_NxC].mean()),
        "brier": number(((probabilities_NxC - is_target_NxC) ** 2).sum(1).mean()),
        "ece": number(reliability(probabilities_NxC.max(1), answers_N == targets_N).ece),
    }


def of_labels(is_target_NxL: np.ndarray, logits_NxL: np.ndarray, names: Sequence[str]) -> dict:
    """Figures of each label, where an item may have several at once, and over labels.

    Args:
        is_target_NxL: which labels each item has; at least one item.
        logits_NxL: a label is answered where its logit is above 0.
        names: of all L labels.
    """
    is_answer_NxL = logits_NxL > 0
    counts_3xL = np.array(
        [(is_target_NxL & is_answer_NxL).sum(0), is_answer_NxL.sum(0), is_target_NxL.sum(0)]
    )
    rankings = [ranking(*pair) for pair in zip(is_target_NxL.T, logits_NxL.T, strict=True)]
    per_label = _each(counts_3xL, names)
    for of_label, of_ranking in zip(per_label.values(), rankings, strict=True):
        of_label.update(of_ranking)
    return {
        "subset_accuracy": float((is_target_NxL == is_answer_NxL).all(1).mean()),
        "per_label": per_label,
        **_averages(counts_3xL),
        **{
            name: mean([of_label[name] for of_label in rankings])
            for name in ("auroc", "average_precision")
        },
        "labels": list(names),
    }


def ranking(is_positive_N: np.ndarray, scores_N: np.ndarray) -> dict[str, float | None]:
    """AUROC and average precision; None where either kind of item is missing."""
    if is_positive_N.all() or not is_positive_N.any() or not np.isfinite(scores_N).all():
        return {"auroc": None, "average_precision": None}
    # M distinct scores, from the highest: how many items, and positive ones, have at least that.
    _, place_N = np.unique(-scores_N, return_inverse=True)
    positives_M = np.cumsum(np.bincount(place_N, is_positive_N))
    items_M = np.cumsum(np.bincount(place_N))
    added_M, negatives_M = np.diff(positives_M, prepend=0), items_M - positives_M
    pairs_won = np.sum(added_M * (negatives_M[-1] - negatives_M))
    pairs_tied = np.sum(added_M * np.diff(negatives_M, prepend=0))
    return {
        "auroc": number((pairs_won + pairs_tied / 2) / (positives_M[-1] * negatives_M[-1])),
        "average_precision": number(np.sum(added_M * positives_M / items_M) / positives_M[-1]),
    }


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are defined."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def of_numbers(targets_N: np.ndarray, answers_N: np.ndarray) -> dict[str, float | None]:
    """Errors, R2 and correlations of numbers, in their unit; at least one item."""
    import scipy.stats
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    if not np.isfinite(answers_N).all():
        return dict.fromkeys(("mse", "mae", "rmse", "r2", "pearson", "spearman"))
    squared = mean_squared_error(targets_N, answers_N)
    target_varies = np.ptp(targets_N) > 0
    both_vary = target_varies and np.ptp(answers_N) > 0
    return {
        "mse": number(squared),
        "mae": number(mean_absolute_error(targets_N, answers_N)),
        "rmse": number(math.sqrt(squared)),
        "r2": number(r2_score(targets_N, answers_N)) if target_varies else None,
        "pearson": number(scipy.stats.pearsonr(targets_N, answers_N)[0]) if both_vary else None,
        "spearman": number(scipy.stats.spearmanr(targets_N, answers_N)[0]) if both_vary else None,
    }
