"""Every task over token and vector inputs: what the properties of training are shown over.

As a source of data it is used by its path, as any file of a user's own is:
`config.data.source = cases.PATH`, `config.data.source_options = cases.options(case)`.
"""

from typing import NamedTuple

import numpy as np
import pytest

from seqmodels import factory
from train_lib import tasks
from train_lib.data.dataset import Split
from train_lib.data.examples import Examples
from train_lib.data.inputs import Tokens, Vectors

PATH = __file__
VOCABULARY, WIDTH, LONGEST = 30, 3, 12
TASKS = {"two": "classes", "three": "classes", "labels": "labels", "numbers": "numbers",
         "tags": "tags"}  # fmt: skip
"""What is asked, and the name of its task."""

INPUTS = {"tokens": Tokens(VOCABULARY), "vectors": Vectors(WIDTH)}


class Case(NamedTuple):
    """What is asked, and what is read: tokens, vectors or, from the source alone, words."""

    task: str
    inputs: str

    def __str__(self) -> str:
        return f"{self.task}-{self.inputs}"


ALL = [
    Case("two", "tokens"), Case("three", "vectors"), Case("labels", "tokens"),
    Case("numbers", "vectors"), Case("tags", "tokens"), Case("tags", "vectors"),
]  # fmt: skip
"""Every task and both inputs; other pairs compile as much again, and show little more."""


def _params(quick) -> list:
    """All cases, of which those that are not quick are for `-m slow`."""
    return [
        pytest.param(case, id=str(case), marks=[] if case in quick else pytest.mark.slow)
        for case in ALL
    ]


CASES = _params(ALL)
"""To be parametrised over."""

FEW = _params({Case("two", "tokens"), Case("tags", "vectors")})
"""The same for what compiles long: two that have little in common are quick."""

ONE = _params({Case("tags", "vectors")})
"""The same for what compiles longer still."""

TWO = [one for one in ONE if one.id in ("two-tokens", "tags-vectors")]
"""Of these, those that have little in common, for what the task has no part in."""


def examples(case: Case, count: int, seed: int = 0, longest: int = LONGEST) -> Examples:
    """So many examples of 1 to `longest` steps, whose targets follow from what is read.

    But for those of two classes, some have no label.
    """
    rng = np.random.default_rng(seed)
    inputs, targets = [], []
    for number, length in enumerate(rng.integers(1, longest + 1, count)):
        # Never 0, which padding is; above 0, in steps of 1/15, as vectors.
        tokens_T = rng.integers(1, VOCABULARY, length)
        if case.inputs == "tokens":
            inputs.append(tokens_T)
        elif case.inputs == "words":
            inputs.append([f"w{token}" for token in tokens_T])
        else:
            turned_TxD = tokens_T[:, None] * np.array([1.0, -0.5, 0.25])
            inputs.append((turned_TxD / VOCABULARY).astype(np.float32))
        targets.append(_target(case.task, tokens_T, number))
    return Examples.numbered(inputs, targets, f"made up, of seed {seed}")


def _target(task: str, tokens_T: np.ndarray, number: int):
    if task == "two":
        return "yes" if number % 2 else "no"
    if task == "tags":
        tags = ["BIO"[token % 3] for token in tokens_T]
        return [None if n % 5 == 4 else tag for n, tag in enumerate(tags)]
    if number % 7 == 6:
        return None
    if task == "three":
        return "abc"[number % 3]
    if task == "labels":
        return [["x"], ["x", "y"], [], ["z"]][number % 4]
    return float(tokens_T.mean()) / VOCABULARY


def task_of(case: Case) -> tasks.Task:
    """The task as it is learnt from some training targets."""
    return tasks.make(TASKS[case.task], examples(case, 24).targets, {}, {}, {})


def split_of(case: Case, count: int, seed: int = 0, longest: int = LONGEST) -> Split:
    """Examples whose targets the task has encoded."""
    found = examples(case, count, seed, longest)
    values, offsets = INPUTS[case.inputs].encode(found.inputs, found.where)
    return Split(values, offsets, found.targets, found.rows).encoded(task_of(case), starts=0)


def models_of(case: Case, seeds=(0,), **changes) -> list:
    """Small models of two directions, with dropout, unless changes say otherwise."""
    task, inputs = task_of(case), INPUTS[case.inputs]
    size = "vocabulary_size" if case.inputs == "tokens" else "input_size"
    arguments = {
        size: inputs.size, "num_outputs": task.num_outputs, "per_step": task.per_step,
        "embedding_size": 3, "hidden_sizes": (4,), "dropout_rates": (0.3,),
        "direction": "bidirectional",
    }  # fmt: skip
    return factory.build_all(seeds=seeds, **arguments | changes)


def options(case: Case) -> str:
    """`config.data.source_options` of the source below."""
    return f"task={case.task!r}, inputs={case.inputs!r}"


class MadeUp:
    """These examples as a source: 120 to train on, and 10 each to validate and to test on."""

    name = "made_up"

    def __init__(self, task: str, inputs: str):
        self._case = Case(task, inputs)

    def identity(self) -> str:
        return str(self._case)

    def splits(self) -> tuple[str, ...]:
        return "train", "validation", "test"

    def read(self, split: str) -> Examples:
        seed = self.splits().index(split)
        return examples(self._case, 10 if seed else 120, seed)
