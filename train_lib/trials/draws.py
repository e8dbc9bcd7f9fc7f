"""Draws the next trial with one of Optuna's samplers."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from train_lib.analysis.axes import Axis

optuna.logging.set_verbosity(optuna.logging.ERROR)  # A search reports for itself.

SAMPLERS = ("random", "tpe", "grid")


@dataclasses.dataclass(frozen=True)
class Draws:
    """The values of a search's fields in its trials.

    A trial depends on the seed, on its number and, for `tpe`, on the trials before it; never on
    which worker draws it.

    Attributes:
        axes: the fields, checked.
        sampler: one of `SAMPLERS`.
        seed: the seed of `random` and `tpe`.
    """

    axes: tuple[Axis, ...]
    sampler: str
    seed: int = 0

    @property
    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """What each field is drawn from."""
        return {axis.field: axis.distribution() for axis in self.axes}

    @property
    def points(self) -> int:
        """The number of points of a grid."""
        return math.prod(len(axis.values) for axis in self.axes)

    def params(self, before: Sequence[FrozenTrial], direction: StudyDirection) -> dict[str, Any]:
        """The next trial, as Optuna stores it.

        Args:
            before: the existing trials, finished or not.
            direction: the search's direction.
        """
        # In memory, so that all or nothing of a trial reaches the storage.
        study = optuna.create_study(direction=direction, sampler=self._sampler(len(before)))
        if self.sampler != "random":  # It does not look at them.
            study.add_trials(before)
        return study.ask(self.distributions).params

    def fields(self, params: dict[str, Any]) -> dict[str, Any]:
        """The config fields and their values, from a trial as Optuna stores it."""
        return {axis.field: axis.value(params[axis.field]) for axis in self.axes}

    def foreseen(self, count: int) -> list[dict[str, Any]]:
        """The fields of `count` trials before any is run.

        For `tpe`, which nobody can foresee, every combination of the named values, with the low
        ends of ranges.
        """
        if self.sampler == "tpe":
            values = [axis.values or (axis.low,) for axis in self.axes]
            names = [axis.field for axis in self.axes]
            return [dict(zip(names, each, strict=True)) for each in itertools.product(*values)]
        study, found = optuna.create_study(), []
        for number in range(count):
            study.sampler = self._sampler(number)
            found.append(self.fields(study.ask(self.distributions).params))
        return found

    def _sampler(self, number: int) -> BaseSampler:
        """The sampler of one trial."""
        if self.sampler == "grid":
            return GridSampler({axis.field: axis.choices for axis in self.axes}, seed=0)
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        if self.sampler == "random":
            return RandomSampler(seed)
        return TPESampler(seed=seed, constant_liar=True)  # Avoids what other workers try.
