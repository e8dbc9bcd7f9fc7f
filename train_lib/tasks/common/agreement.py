"""How far the models of several seeds agree with their combined answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from train_lib.tasks.base import Kept, Task


def of_seeds(
    tasks_K: Sequence[Task],
    columns: dict[str, list],
    kept_K: Sequence[Kept],
    offsets: np.ndarray | None,
) -> dict[str, list[str]]:
    """A column for each column of answers; none for a single seed.

    Args:
        tasks_K: the task of each seed.
        columns: the result of `Task.columns` for their average.
        kept_K: what is kept of each seed.
        offsets: as in `Task.columns`.
    """
    if len(kept_K) == 1:
        return {}
    columns_K = [
        task.columns(kept, None, offsets) for task, kept in zip(tasks_K, kept_K, strict=True)
    ]
    agreement = {}
    for name, answers in columns.items():
        if name == "answer" or name.startswith("answer_"):
            given = zip(*(of_seed[name] for of_seed in columns_K), strict=True)
            agreement["seeds" + name.removeprefix("answer")] = [
                _agreeing(answer, of_answer)
                for answer, of_answer in zip(answers, given, strict=True)
            ]
    return agreement


def _agreeing(answer: Any, given: Sequence[Any]) -> str:
    """How many seeds give an answer; for numbers, the smallest and the largest."""
    if isinstance(answer, float):
        return f"{min(given):.9g} to {max(given):.9g}"
    return f"{given.count(answer)} of {len(given)} seeds"
