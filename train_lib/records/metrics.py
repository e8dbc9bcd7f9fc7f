"""Figures of several seeds: their mean, its interval, and how both are shown."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from train_lib.analysis import scores, statistics
from train_lib.records.folder import RunFolder
from train_lib.tasks.base import Task
from train_lib.training.hooks import Hook, Moment

ENDS = ("ci95_low", "ci95_high")
SHARES = {
    "accuracy", "subset_accuracy", "f1", "macro_f1", "micro_f1", "samples_f1", "auroc", "ece",
}  # fmt: skip
"""Figures from 0 to 1."""

_NEVER_NEGATIVE = {"loss", "mse", "mae", "brier", "perplexity", "bits_per_token", "bits_per_byte"}


def summary(
    values_K: np.ndarray, items: float | None = None, lowest: float = -math.inf
) -> dict[str, Any]:
    """The mean with an interval, and what the interval covers; no interval if nothing is known.

    Args:
        values_K: one for each seed.
        items: how many items they are shares of; see `statistics.mean_interval`.
        lowest: the lowest that the values can be, if they are not shares.
    """
    seeds = len(values_K)
    counts_items = items is not None and math.isfinite(items)
    if not counts_items and np.ptp(values_K) == 0:
        return {"mean": float(np.mean(values_K))}
    mean, low, high = statistics.mean_interval(values_K, items, lowest)
    one_more = {}
    if seeds > 1:
        _, *of_one = statistics.one_more_interval(values_K, items, lowest)
        one_more = dict(zip(("one_seed_low", "one_seed_high"), of_one, strict=True))
    ends = dict(zip(ENDS, (low, high), strict=True))
    kind = describe_interval(seeds, counts_items=counts_items)
    return {"mean": mean, **ends, "interval": kind, **one_more}


def lowest_of(name: str, values_K: np.ndarray) -> float:
    """Where an interval of a figure ends: at 0 or, for a task's own loss, nowhere."""
    return 0.0 if name in _NEVER_NEGATIVE and min(values_K) >= 0 else -math.inf


def describe_interval(seeds: int, *, counts_items: bool) -> str:
    """What an interval is over, as in `over seeds and examples, of 5 seeds`."""
    over = " and ".join(["seeds"] * (seeds > 1) + ["examples"] * counts_items)
    return f"over {over}, of {seeds} seed{'s' * (seeds > 1)}"


def summary_of_scores(
    scores_KxN: np.ndarray, weights_N: np.ndarray, *, are_shares: bool
) -> dict[str, float]:
    """The mean score of examples with its interval, as in `scores.mean_score_interval`."""
    found = scores.mean_score_interval(scores_KxN, weights_N, are_shares=are_shares)
    return dict(zip(("mean", *ENDS), found, strict=True))


def summaries(metrics: dict[str, np.ndarray], items: int, task: Task) -> dict[str, dict]:
    """The `summary` of each metric, from the values of the seeds that have one: `[K]`.

    The interval of a metric that is a share of the items is over items too, if these are
    independent; the steps of a sequence are not.
    """
    found = {}
    for name, values_K in metrics.items():
        if not len(values_K) or not np.isfinite(values_K).all():
            continue
        counted: float | None = None
        if name in SHARES or name in task.share_metrics:
            is_binomial = name in task.share_metrics and not task.per_step
            counted = items if is_binomial else math.inf
        found[name] = summary(values_K, counted, lowest_of(name, values_K))
    return found


def line(row: dict, task: Task) -> dict:
    """A line of `metrics.jsonl`: means over seeds, their intervals, and each seed's values.

    The means exclude seeds that have diverged and, in training, those that have stopped.

    Args:
        row: an epoch's row, as in `fit`.
        task: the task whose metrics they are.
    """
    if "items" not in row:  # An older version saved it in full.
        return row
    known = {
        name: np.array([value for value in values_K if value is not None])
        for name, values_K in row["seeds"].items()
    }
    found: dict[str, dict] = {}
    for split, items in row["items"].items():
        values = {
            name.removeprefix(f"{split}_"): values_K
            for name, values_K in known.items()
            if name.startswith(f"{split}_")
        }
        found |= {f"{split}_{name}": of for name, of in summaries(values, items, task).items()}
    several = len(known["validation_loss"]) > 1
    ends = {
        name: [of[end] for end in ENDS] if ENDS[0] in of and len(known[name]) > 1 else None
        for name, of in found.items()
    }
    first = {name: row[name] for name in ("epoch", "step")}
    rest = {name: row[name] for name in row if name not in (*first, "items")}
    means = {name: of["mean"] for name, of in found.items()}
    return {**first, **means, "ci95": ends if several else None, **rest}


def describe(row: dict, task: Task) -> str:
    """A line of `metrics.jsonl` as readable text: the loss, and the deciding metric."""

    def show(name):
        ends = row["ci95"] and row["ci95"][name]
        return show_interval(
            {"mean": row[name]} | (dict(zip(ENDS, ends, strict=True)) if ends else {})
        )

    names = dict.fromkeys(("loss", task.metric))
    return "; ".join(
        f"{split} "
        + ", ".join(
            f"{plain(name)} {show(f'{split}_{name}')}" for name in names if f"{split}_{name}" in row
        )
        for split in ("train", "validation")
    )


def show_interval(of: dict, scale: float = 1, form: str = ".4f") -> str:
    """A mean and its interval, if known, as in `0.8604 [0.8549, 0.8657]`."""
    mean, *ends = (format(scale * of[name], form) for name in ("mean", *ENDS) if name in of)
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def plain(name: str) -> str:
    """The name of a metric in words."""
    return name.replace("_", " ")


class MetricsFile(Hook):
    """Writes `metrics.jsonl`, one line per epoch.

    Args:
        folder: the run's folder.
        task: the task whose metrics they are.
    """

    def __init__(self, folder: RunFolder, task: Task):
        self._folder = folder
        self._task = task

    def before(self, moment: Moment) -> None:
        self._write(moment.position.rows)

    def after_epoch(self, moment: Moment) -> None:
        self._write(moment.position.rows)

    def _write(self, rows: Sequence[dict]) -> None:
        lines = [json.dumps(line(row, self._task)) + "\n" for row in rows]
        self._folder.write("metrics.jsonl", "".join(lines))
