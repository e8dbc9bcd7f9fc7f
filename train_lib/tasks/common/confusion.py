"""Confusion matrices and figures that follow from them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train_lib.tasks.base import Array


def weighted(targets_N: Array, answers_N: Array, weights_N: Array, num_classes: int) -> jax.Array:
    """The confusion matrix `[C, C]`: a row for each right class. Device."""
    classes_C = jnp.arange(num_classes)
    is_target_NxC = (targets_N[:, None] == classes_C) * weights_N[:, None]
    is_answer_NxC = (answers_N[:, None] == classes_C).astype(weights_N.dtype)
    # Exact even where products are rounded to bfloat16: the factors are 0 and 1.
    return jnp.einsum("nt,na->ta", is_target_NxC, is_answer_NxC)


def sums(
    is_right_N: Array,
    targets_N: Array,
    answers_N: Array,
    weights_N: Array,
    num_classes: int,
    *,
    whole: bool,
) -> dict[str, jax.Array]:
    """The number of right answers and, if asked, the whole matrix. Device."""
    found = {"accuracy": jnp.sum(is_right_N * weights_N)}
    if whole:
        found["confusion"] = weighted(targets_N, answers_N, weights_N, num_classes)
    return found


def macro_f1(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean F1 over classes, under its name, if the whole matrix is there."""
    if "confusion" not in sums:
        return {}
    return {"macro_f1": macro(f1_of_classes(sums["confusion"]))}


def counted(targets_N: np.ndarray, answers_N: np.ndarray, num_classes: int) -> np.ndarray:
    """The same on the host, for items of weight 1: int64."""
    cells_N = targets_N.astype(np.int64) * num_classes + answers_N
    return np.bincount(cells_N, minlength=num_classes**2).reshape(num_classes, num_classes)


def f1_of_classes(confusion_CxC: Any) -> np.ndarray:
    """The F1 of each class; NaN for a class that is neither right nor answered anywhere."""
    confusion_CxC = np.asarray(confusion_CxC, np.float64)
    return share(np.diagonal(confusion_CxC), (confusion_CxC.sum(0) + confusion_CxC.sum(1)) / 2)


def share(right: Any, count: Any) -> np.ndarray:
    """True positives as a share of a count; NaN where that is 0.

    It is the precision for the count of positive answers, the recall for that of positive targets,
    and F1 for the mean of the two.
    """
    right, count = np.asarray(right, np.float64), np.asarray(count, np.float64)
    return np.divide(right, count, out=np.full(right.shape, np.nan), where=count > 0)


def macro(values_C: np.ndarray) -> float:
    """The mean over classes that have a value; NaN without any."""
    values_C = values_C[~np.isnan(values_C)]
    return float(values_C.mean()) if len(values_C) else float("nan")
