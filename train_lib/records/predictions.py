"""`predictions.csv`: what each seed answered to each test example."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from train_lib.data.dataset import Split
from train_lib.records.folder import RunFolder
from train_lib.records.result import items_of
from train_lib.tasks.base import Task

NAME = "predictions.csv"
FIRST_COLUMNS = ("seed", "example", "row", "steps", "score", "weight")
"""They precede those of the task. `example` counts from 0, `row` is its place in its file, `score`
is what runs are compared by, and `weight` is the number of items that the score averages."""


def write(
    folder: RunFolder,
    seeds: Sequence[int],
    test: Split,
    tasks_K: Sequence[Task],
    kept_K: Sequence[dict[str, np.ndarray]],
) -> None:
    """Writes a row for each seed and test example.

    Args:
        folder: the run's folder.
        seeds: those that have not diverged.
        test: the examples, whose targets the task has encoded.
        tasks_K: the task of each of these seeds, with what validation decided.
        kept_K: what the task kept of the items, for each of them.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for seed, task, kept in zip(seeds, tasks_K, kept_K, strict=True):
        columns = task.columns(kept, *items_of(test))
        scores_N, weights_N = task.example_scores(kept, *items_of(test))
        if seed == seeds[0]:
            writer.writerow([*FIRST_COLUMNS, *columns])
        rows = zip(
            range(len(test)), test.row_names, test.lengths, scores_N, weights_N, *columns.values(),
            strict=True,
        )  # fmt: skip
        for row in rows:
            writer.writerow([seed, *map(shown, row)])
    folder.write(NAME, buffer.getvalue())


def shown(value: Any) -> Any:
    """A number with up to twelve digits; a list as JSON."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    # All that float32, a mean and a deviation carry; a year or a price needs more than six.
    return f"{value:.12g}" if isinstance(value, float | np.floating) else value
