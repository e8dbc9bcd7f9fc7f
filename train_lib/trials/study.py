"""The trials of a search in Optuna's journal, a file in the folder that all workers share.

Of Optuna's storages, only a journal works on a network file system; it has no heartbeats, and with
those of the others a trial is run again under another number. So a worker holds a lease on its
trial, and a worker that finds a trial whose lease has expired resumes its run.
"""

import contextlib
import pathlib
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from train_lib.analysis.search import Goal
from train_lib.errors import UserError
from train_lib.training.hooks import Hook, Moment
from train_lib.trials.draws import Draws
from train_lib.trials.lease import BEAT_SECONDS, Lease

PRUNERS = {"none": NopPruner, "halving": lambda: SuccessiveHalvingPruner(min_resource=1)}
"""`halving` ends a trial after epoch 1, 4, 16, ... unless it is among the best quarter there."""

JOURNAL = "trials.journal"
"""The name of the journal's file."""


class Pruned(Exception):
    """A trial was ended early, and that is in the journal."""


class Lost(Exception):
    """Another worker has taken the trial, because this one did not show that it was alive."""


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other workers waiting while it is held: milliseconds.

    Raises:
        UserError: the folder cannot be written to.
    """
    path = folder / ".workers"
    lock = JournalFileOpenLock(str(path))
    with _told(path):
        lock.acquire()
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # It was held for so long that others broke it.
            lock.release()


class Study:
    """The trials of a search.

    Args:
        folder: the search's folder.
        draws: draws the trials.
        total: the number of trials of all workers together.
        goal: the search's goal.
        pruner: one of `PRUNERS`.

    Raises:
        UserError: the journal cannot be read or written; all methods raise it too.
    """

    def __init__(self, folder: pathlib.Path, draws: Draws, total: int, goal: Goal, pruner: str):
        self._folder, self._draws, self._total, self._goal = folder, draws, total, goal
        with locked(folder):
            self._study = optuna.create_study(
                study_name="sweep",
                storage=JournalStorage(_Journal.open(folder / JOURNAL)),
                direction="maximize" if goal.higher_is_better else "minimize",
                sampler=optuna.samplers.RandomSampler(),  # It draws nothing: `draws` does.
                pruner=PRUNERS[pruner](),
                load_if_exists=True,
            )

    def next(self) -> "Trial | None":
        """A trial for this worker to run, whose lease it must release; None: all have ended.

        If others run the last ones, it waits until they have ended or died.
        """
        told = ""
        while not (trial := self._take_next()):
            running = [one.number for one in self._all() if one.state == TrialState.RUNNING]
            if not running:
                return None
            numbers = ", ".join(map(str, running))
            if numbers != told:
                print(f"waits for other workers' trials: {numbers}", flush=True)
            told = numbers
            time.sleep(BEAT_SECONDS)
        return trial

    def rows(self) -> list[dict[str, Any]]:
        """The trials that have ended, in their order."""
        return [
            {"trial": one.number, "fields": self._draws.fields(one.params), **one.user_attrs["row"]}
            for one in self._all()
            if one.state.is_finished()
        ]

    def _take_next(self) -> "Trial | None":
        """A trial whose worker has died, or a new one; None: there is neither."""
        with locked(self._folder):
            before = self._all()
            for one in before:
                if one.state == TrialState.RUNNING and (lease := self._take(one.number)):
                    return self._trial(one, lease)
            if len(before) >= self._total:
                return None
            new = optuna.create_trial(
                state=TrialState.RUNNING,
                params=self._draws.params(before, self._study.direction),
                distributions=self._draws.distributions,
            )
            self._study.add_trial(new)
            new_lease = self._take(len(before))
            return self._trial(self._all()[-1], new_lease) if new_lease else None

    def _take(self, number: int) -> Lease | None:
        path = self._folder / f"trial-{number:04}.lease"
        with _told(path):
            return Lease.take(path)

    def _trial(self, frozen: FrozenTrial, lease: Lease) -> "Trial":
        trial = optuna.Trial(self._study, frozen._trial_id)
        return Trial(trial, frozen, self._draws.fields(frozen.params), lease, self._goal)

    def _all(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)


class Trial(Hook):
    """A trial that this worker runs, and the hook that watches its run.

    Attributes:
        number: Optuna's, from 0.
        fields: the fields of the config, by their paths.
        lease: while it is held, nobody else runs the trial.
    """

    def __init__(
        self,
        trial: optuna.Trial,
        frozen: FrozenTrial,
        fields: dict[str, Any],
        lease: Lease,
        goal: Goal,
    ):
        self.number, self.fields, self.lease = frozen.number, fields, lease
        self._trial, self._goal = trial, goal
        self._reported = set(frozen.intermediate_values)

    def end(self, row: dict[str, Any], state: TrialState = TrialState.COMPLETE) -> None:
        """Records its outcome.

        Raises:
            Lost: it is another worker's.
        """
        self._check()
        self._trial.set_user_attr("row", row)
        value = row[self._goal.field] if state == TrialState.COMPLETE else None
        self._trial.study.tell(self._trial, value, state)

    def before(self, moment: Moment) -> None:
        self._report(moment)

    def after_call(self, moment: Moment, examples: int) -> None:
        """Raises Lost if another worker has taken the trial."""
        self._check()

    def after_epoch(self, moment: Moment) -> None:
        """Raises Pruned if the trial is not worth continuing."""
        self._report(moment)

    def _check(self) -> None:
        if not self.lease.is_held():
            raise Lost(
                f"trial {self.number}: another worker runs it now, because this one did not show "
                "for a while that it was alive"
            )

    def _report(self, moment: Moment) -> None:
        """Reports the epochs not yet reported, and asks whether to continue after the last one."""
        rows: Sequence[dict] = moment.position.rows
        for row in rows:
            known = [value for value in row["seeds"][self._goal.field] if value is not None]
            if known and row["epoch"] not in self._reported:
                self._trial.report(float(np.mean(known)), row["epoch"])
                self._reported.add(row["epoch"])
        if rows and known and moment.step < moment.total_steps and self._trial.should_prune():
            last = rows[-1]
            row = {
                "state": "pruned",
                self._goal.field: float(np.mean(known)),
                "ci95": None,
                "seeds_diverged": len(last["seeds"][self._goal.field]) - len(known),
                "epochs": last["epoch"],
                "seconds": last["seconds"],
            }
            self.end(row, TrialState.PRUNED)
            raise Pruned(f"pruned after epoch {last['epoch']}: others did better by then")


class _Journal(JournalFileBackend):
    """Optuna's journal, with errors shown to the user."""

    _path: pathlib.Path

    @classmethod
    def open(cls, path: pathlib.Path) -> "_Journal":
        with _told(path):
            journal = cls(str(path), JournalFileOpenLock(str(path)))
        journal._path = path
        return journal

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        with _told(self._path):
            yield from super().read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with _told(self._path):
            super().append_logs(logs)


@contextlib.contextmanager
def _told(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be used: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}. Its last line may be cut short: remove it, while no "
            "worker is running."
        ) from error
