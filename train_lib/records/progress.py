"""Shows on the screen how far a run is."""

import sys
import time
from collections.abc import Sequence

from train_lib.records import metrics
from train_lib.tasks.base import Task
from train_lib.training.hooks import Hook, Moment


class Progress(Hook):
    """Counts steps: on a terminal in a line that updates itself, elsewhere in a line now and then.

    Args:
        task: the task whose metrics are shown.
        num_epochs: the run's number of epochs.
        seeds: the seeds that are trained.
        patience: epochs without a better validation after which a seed stops; 0: none does.
    """

    def __init__(self, task: Task, num_epochs: int, seeds: Sequence[int], patience: int):
        self._task = task
        self._num_epochs = num_epochs
        self._seeds = seeds
        self._patience = patience
        self._examples = 0
        self._live = sys.stdout.isatty()
        self._every = 0.2 if self._live else 20.0

    def before(self, moment: Moment) -> None:
        self._first = moment.step
        self._start = self._shown = time.perf_counter()

    def after_call(self, moment: Moment, examples: int) -> None:
        self._examples += examples
        now = time.perf_counter()
        if now - self._shown < self._every:
            return
        self._shown = now
        elapsed = now - self._start
        left = elapsed / (moment.step - self._first) * (moment.total_steps - moment.step)
        text = (
            f"epoch {moment.position.epoch}/{self._num_epochs}, "
            f"step {moment.step}/{moment.total_steps}, "
            f"{self._examples / elapsed:,.0f} examples/s, {_duration(left)} left"
        )
        print(f"\r\033[K{text}" if self._live else text, end="" if self._live else "\n", flush=True)

    def after_epoch(self, moment: Moment) -> None:
        row = metrics.line(moment.position.rows[-1], self._task)
        text = f"epoch {row['epoch']}/{self._num_epochs}: {metrics.describe(row, self._task)}"
        print(f"\r\033[K{text}" if self._live else text, flush=True)
        position = moment.position
        for seed, best_epoch in zip(self._seeds, position.best_epoch, strict=True):
            is_due = row["epoch"] - best_epoch == self._patience
            if self._patience and is_due and seed not in position.diverged:
                print(
                    f"seed {seed} stopped after epoch {row['epoch']}: no better validation "
                    f"{metrics.plain(self._task.metric)} for {self._patience} "
                    f"epoch{'s' * (self._patience > 1)}",
                    flush=True,
                )


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds, as in `1:02:03` or `0:07`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
