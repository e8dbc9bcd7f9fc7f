"""Sums over items, divided once at the end."""

from collections.abc import Sequence

import numpy as np

from train_lib.tasks.base import Task
from train_lib.training import devices
from train_lib.training.steps import Sums


def add_up(calls: Sequence[Sums]) -> Sums:
    """Adds up the sums `[K, S, ...]` of all calls, to `[K, ...]`; waits for the device."""
    on_host = devices.fetch(list(calls))
    return {
        name: sum(np.asarray(sums[name]).sum(1, dtype=np.float64) for sums in on_host)
        for name in on_host[0]
    }


def of_seeds(task: Task, sums_K: Sums) -> dict[str, np.ndarray]:
    """Each of the task's metrics for every seed: `[K]`."""
    seeds = len(sums_K["weight"])
    of_each = [
        task.metrics({name: np.asarray(sums[k], np.float64) for name, sums in sums_K.items()})
        for k in range(seeds)
    ]
    return {name: np.array([metrics[name] for metrics in of_each]) for name in of_each[0]}
