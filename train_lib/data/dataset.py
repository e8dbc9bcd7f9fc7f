"""Training, validation and test sets that a model can read."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from train_lib.data.examples import SPLITS, place
from train_lib.data.inputs import Inputs, Tokens, Vectors
from train_lib.data.vocabulary import UNKNOWN
from train_lib.errors import UserError
from train_lib.tasks.base import BadTarget, Task


@dataclasses.dataclass(frozen=True)
class Split:
    """N sequences, end to end.

    Attributes:
        values: the steps of all sequences: int32 `[S]` or float32 `[S, D]`.
        offsets: where each begins, and where the last one ends; int64 `[N + 1]`.
        targets: JSON values as in the source, `[N]`; once encoded an array, `[N, ...]`, or, if
            every step has a target, `[S, ...]` parallel to `values`.
        rows: the position of each in `origin`, `[N]`; None: counted from 0.
        origin: the file.
        unit: what `rows` counts.
        cut: how many steps `last_steps` removed from the start of each, `[N]`; None: none.
    """

    values: np.ndarray
    offsets: np.ndarray
    targets: Any
    rows: np.ndarray | None = None
    origin: str = ""
    unit: str = "line"
    cut: np.ndarray | None = None

    @classmethod
    def of(cls, sequences: Sequence[Any], targets: Sequence[Any]) -> Self:
        """Makes a split from arrays; its targets must still be `encoded` by a task.

        Args:
            sequences: token numbers, `[T]` each, or vectors, `[T, D]` each, of any lengths.
            targets: one for each sequence, as the task reads them; None: no label.

        Raises:
            UserError: a sequence cannot be used, or there is not one target for each.
        """
        arrays = [np.asarray(one) for one in sequences]
        if not arrays or len(arrays) != len(targets):
            raise UserError(
                f"there are {len(arrays)} sequences and {len(targets)} targets; there must be a "
                "target for each sequence, and at least one sequence."
            )

        def where(number: int) -> str:
            return place("the sequences", "number", number)

        for number, one in enumerate(arrays):
            if one.dtype.kind not in "iuf":
                raise UserError(
                    f"{where(number)} has elements of type {one.dtype}; they must be integers, the "
                    "numbers of tokens, or floating point numbers, in vectors."
                )
        is_vectors = arrays[0].dtype.kind == "f"
        kind = Vectors.learn(arrays, where, False) if is_vectors else Tokens.learn(arrays, where)
        values, offsets = kind.encode(arrays, where)
        return cls(values, offsets, list(targets), origin="the sequences", unit="number")

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """The number of steps of each sequence, including the start token."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def row_names(self) -> list[Any]:
        """The position of each sequence in `origin`."""
        return list(range(len(self))) if self.rows is None else self.rows.tolist()

    def where(self, number: int) -> str:
        """Where an example is found, as in `reviews.csv, line 3`."""
        row = number if self.rows is None else self.rows[number]
        return place(self.origin, self.unit, row)

    def last_steps(self, count: int) -> Self:
        """The same sequences cut to their last `count` steps; 0: not cut."""
        if count == 0 or self.lengths.max(initial=0) <= count:
            return self
        kept = np.minimum(self.lengths, count)
        is_kept = np.arange(len(self.values)) >= np.repeat(self.offsets[1:] - kept, self.lengths)
        # Something is cut, so there are more steps than sequences.
        is_a_step = isinstance(self.targets, np.ndarray) and len(self.targets) == len(self.values)
        return dataclasses.replace(
            self,
            values=self.values[is_kept],
            offsets=np.cumsum([0, *kept], dtype=np.int64),
            targets=self.targets[is_kept] if is_a_step else self.targets,
            cut=self.lengths - kept + (0 if self.cut is None else self.cut),
        )

    def take(self, numbers: np.ndarray) -> Self:
        """Some of the sequences, in the order of `numbers`."""
        lengths, first = self.lengths[numbers], self.offsets[numbers]
        offsets = np.cumsum([0, *lengths], dtype=np.int64)
        steps = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths)
        targets = self.targets
        if isinstance(targets, np.ndarray):
            targets = targets[numbers if len(targets) == len(self) else steps]
        else:
            targets = [targets[number] for number in numbers]
        return dataclasses.replace(
            self,
            values=self.values[steps],
            offsets=offsets,
            targets=targets,
            rows=None if self.rows is None else self.rows[numbers],
            cut=None if self.cut is None else self.cut[numbers],
        )

    def most_frequent_words(self, max_features: int) -> Self:
        """The same texts in a smaller vocabulary, with all other words unknown."""
        values = np.where(self.values < max_features, self.values, np.int32(UNKNOWN))
        return dataclasses.replace(self, values=values)

    def with_next_tokens(self, end: int | None) -> Self:
        """The same sequences of tokens, each step having the next one as its target, int32 `[S]`.

        Args:
            end: the target of each sequence's last step; None: it has none.
        """
        targets_S = np.append(self.values[1:], np.int32(0))
        targets_S[self.offsets[1:] - 1] = -1 if end is None else end
        return dataclasses.replace(self, targets=targets_S)

    def in_blocks(self, steps: int) -> Self:
        """The same steps in blocks of `steps` each, ignoring boundaries; the last has the rest.

        Every step must have a target.
        """
        starts = np.arange(0, len(self.values), steps, dtype=np.int64)
        return dataclasses.replace(
            self, offsets=np.append(starts, len(self.values)), rows=None, unit="block", cut=None
        )

    def encoded(self, task: Task, starts: int = 0) -> Self:
        """The same sequences with their targets as an array.

        Args:
            task: encodes them.
            starts: how many steps stand before each sequence that are not in the source.

        Raises:
            UserError: the task rejects a target, or there is not one for every step.
        """
        targets = list(self.targets)
        if task.per_step:
            targets = [self._of_steps(number, starts) for number in range(len(self))]
        try:
            return dataclasses.replace(self, targets=task.encode(targets))
        except BadTarget as error:
            raise self.refused(error) from error

    def refused(self, error: BadTarget) -> UserError:
        """A task's complaint about a target, with the target's location."""
        if error.number is None:
            return UserError(f"{self.origin}: {error}")
        return UserError(f"{self.where(error.number)}: the target {error}")

    def _of_steps(self, number: int, starts: int) -> list[Any]:
        """The targets of the steps of a sequence."""
        targets, length = self.targets[number], int(self.lengths[number])
        cut = 0 if self.cut is None else int(self.cut[number])
        steps = length + cut - starts
        if targets is None:
            return [None] * length
        if not isinstance(targets, list) or len(targets) != steps:
            found = len(targets) if isinstance(targets, list) else json.dumps(targets)[:60]
            raise UserError(
                f"{self.where(number)}: every step must have a target, a list of {steps:,} of "
                f"them, but there is {found}."
            )
        return ([None] * starts + targets)[cut:]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What a run trains, validates and tests on.

    Attributes:
        name: the name of the source.
        fingerprint: SHA-256 of all labelled examples of the source, whatever file they came in.
        inputs: how inputs are encoded, as learnt from training examples.
        train: the training examples.
        validation: the validation examples.
        test: the test examples.
        repeated: the number of test examples whose input is also in another split.
        target_names: the names of a target's numbers, if it is a list with named numbers.
    """

    name: str
    fingerprint: str
    inputs: Inputs
    train: Split
    validation: Split
    test: Split
    repeated: int = 0
    target_names: tuple[str, ...] = ()

    @property
    def splits(self) -> list[Split]:
        return [getattr(self, name) for name in SPLITS]

    def map(self, change: Callable[[Split], Split]) -> Self:
        """The data set with each of its splits changed."""
        train, validation, test = map(change, self.splits)
        return dataclasses.replace(self, train=train, validation=validation, test=test)

    def encoded(self, task: Task) -> Self:
        """The data set with targets as arrays; raises UserError if the task rejects one."""
        return self.map(lambda split: split.encoded(task, self.inputs.starts))
