"""Which trial comes next, as one of Optuna's samplers has it."""

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

optuna.logging.set_verbosity(optuna.logging.ERROR)  # A search speaks for itself.

SAMPLERS = ("random", "tpe", "grid")


@dataclasses.dataclass(frozen=True)
class Draws:
    """What the fields of a search are in its trials.

    A trial depends on the seed, on its number and, of `tpe`, on the trials before it; never on
    which worker draws it.

    Attributes:
        axes: the fields, checked.
        sampler: one of `SAMPLERS`.
        seed: of `random` and `tpe`.
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
        """How many a grid has."""
        return math.prod(len(axis.values) for axis in self.axes)

    def params(self, before: Sequence[FrozenTrial], direction: StudyDirection) -> dict[str, Any]:
        """The next trial, as Optuna stores it.

        Args:
            before: the trials that there are, finished or not.
            direction: of the search.
        """
        # In memory, so that of a trial all or nothing reaches the storage.
        study = optuna.create_study(direction=direction, sampler=self._sampler(len(before)))
        if self.sampler != "random":  # Which does not look at them.
            study.add_trials(before)
        return study.ask(self.distributions).params

    def fields(self, params: dict[str, Any]) -> dict[str, Any]:
        """The fields of a config and their values, of a trial as Optuna stores it."""
        return {axis.field: axis.value(params[axis.field]) for axis in self.axes}

    def foreseen(self, count: int) -> list[dict[str, Any]]:
        """The fields of so many trials before any is run.

        Of `tpe`, which nobody can foresee, every combination of the values named, with the low
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
        """That of one trial."""
        if self.sampler == "grid":
            return GridSampler({axis.field: axis.choices for axis in self.axes}, seed=0)
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        if self.sampler == "random":
            return RandomSampler(seed)
        return TPESampler(seed=seed, constant_liar=True)  # Keeps away from what others are at.
