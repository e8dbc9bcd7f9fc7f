"""Finished runs, made up; command lines; and runs that share what they compile."""

import json
import sys

import numpy as np
import pytest
from absl import flags

from configs import base
from train_lib import command
from train_lib.data.dataset import Dataset, Split
from train_lib.data.inputs import Tokens
from train_lib.records import predictions
from train_lib.records.folder import RunFolder
from train_lib.records.result import result
from train_lib.tasks.classes import Classes
from train_lib.tasks.labels import Labels
from train_lib.tasks.next_token import NextToken
from train_lib.tasks.numbers import Numbers
from train_lib.tasks.tags import Tags
from train_lib.training import optimizers, program
from train_lib.training.program import Evaluation

KINDS = ("two", "three", "labels", "numbers", "tags", "next")


def targets_of(kind, rng, lengths_N):
    """Targets as a source has them."""
    examples = len(lengths_N)
    if kind == "two":
        return ["bad" if number % 2 == 0 else "good" for number in range(examples)]
    if kind == "three":
        return [("bad", "fair", "good")[number % 3] for number in range(examples)]
    if kind == "labels":
        return [[name for name in "abc" if rng.random() < 0.4] for _ in range(examples)]
    if kind == "numbers":
        return (50 + 10 * rng.normal(size=examples)).tolist()
    choices = [0, 1, 2] if kind == "next" else ["O", "B-X", "I-X"]
    return [rng.choice(choices, length).tolist() for length in lengths_N]


TASKS = {
    "two": Classes(["bad", "good"]),
    "three": Classes(["bad", "fair", "good"]),
    "labels": Labels(["a", "b", "c"]),
    "numbers": Numbers([50.0], [10.0]),
    "tags": Tags(["B-X", "I-X", "O"]),
    "next": NextToken([("a", 1), ("b", 1), ("c", 1)]),
}
NAMES = {"two": "classes", "three": "classes", "next": "next_token"}  # Of others, the kind.


def outputs_of(kind, targets_N, strength_KxN, rng):
    """Outputs that speak for the target the more, the higher the strength of an item is."""
    if kind == "numbers":
        errors_KxN = np.exp(-strength_KxN / 2) * rng.normal(size=len(targets_N))
        return targets_N + errors_KxN[..., None]
    if kind == "two":
        signs_Nx1 = 2 * targets_N[:, None] - 1
    elif kind == "labels":
        signs_NxL = 2 * targets_N - 1
        return (strength_KxN[..., None] + rng.normal(0, 1, targets_N.shape)) * signs_NxL
    else:
        signs_Nx1 = (targets_N[:, None] == np.arange(3)).astype(float)
    return strength_KxN[..., None] * signs_Nx1


@pytest.fixture
def start_with(monkeypatch):
    """Reads words of a command line as a program does; gives the flags, which then go away."""

    def parse(*words):
        monkeypatch.setattr("sys.argv", ["program", *words])
        command._parse(sys.argv)
        return flags.FLAGS

    yield parse
    flags.FLAGS.unparse_flags()
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)


@pytest.fixture
def write_run(tmp_path):
    """Writes the folder of a run without training one; returns its path.

    Its 200 test examples are the same each time. What it says of them is right for the more of
    them, the better its `skill`, and is drawn from `draw` and from its seeds.
    """

    def write(
        name, seeds=(0, 1, 2), skill=1.0, draw=0, examples=200, others=0, changes=None,
        dataset=None, tested=True, kind="two", unlabelled=0, lengths=None,
    ):  # fmt: skip
        rng, task = np.random.default_rng(7 + others), TASKS[kind]
        longest = 40 if task.per_step else 400
        lengths = np.full(examples, lengths) if lengths else rng.integers(5, longest, examples)
        offsets = np.cumsum([0, *lengths])
        values = np.zeros(offsets[-1], np.int32)
        targets = targets_of(kind, rng, lengths)
        for number in range(unlabelled):
            targets[number] = [None] * lengths[number] if task.per_step else None
        split = Split(values, offsets, task.encode(targets))
        items = len(split.targets)
        margin_N = skill + rng.normal(0, 1, items)
        noise_KxN = [np.random.default_rng([draw, seed]).normal(0, 1, items) for seed in seeds]
        outputs = outputs_of(kind, split.targets, margin_N + np.array(noise_KxN), rng)
        kept_K = [
            {key: np.asarray(value) for key, value in task.kept(outputs_NxC, split.targets).items()}
            for outputs_NxC in outputs.astype(np.float32)
        ]
        each = [task.measure(outputs_NxC, split.targets) for outputs_NxC in outputs]
        metrics = {key: np.array([of[key] for of in each]) for key in each[0]}
        kept = {key: np.stack([of[key] for of in kept_K]) for key in kept_K[0]}
        evaluation = Evaluation(metrics, kept, int(task.labelled(split.targets).sum()))

        config = base.get_config(name, "exact")
        config.task.name = NAMES.get(kind, kind)
        config.update_from_flattened_dict(changes or {})
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        folder.write_json("config.json", config.to_dict())
        predictions.write(folder, seeds, split, [task] * len(seeds), kept_K)
        evaluations = {"validation": evaluation} | ({"test": evaluation} if tested else {})
        found = result(
            name,
            Dataset("made_up", "0123456789abcdef", Tokens(1), split, split, split),
            task,
            [task] * len(seeds),
            {"architecture": {}, "parameters": 1_234},
            [{"seed": seed} for seed in seeds],
            evaluations,
            {"train": 12.3, "total": 15.0},
        )
        found["dataset"] |= dataset or {}
        decides = f"validation_{task.metric}"
        rows = [
            {
                "epoch": n,
                "seconds": 5.0 * n,
                decides: 0.7 + 0.01 * n,
                "ci95": {decides: [0.65, 0.8]} if len(seeds) > 1 else None,
            }
            for n in (1, 2, 3)
        ]
        folder.write("metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
        folder.finish(found)
        return folder.path

    return write


def _cached(function):
    """The same result for arguments that look the same."""
    made = {}

    def call(*arguments, **named):
        key = repr((arguments, sorted(named.items())))
        return made[key] if key in made else made.setdefault(key, function(*arguments, **named))

    return call


@pytest.fixture(scope="module")
def compiled_once():
    """In a file that asks for it, runs of the same model trace and compile their steps once."""
    compile_steps, made = program.compile_steps, {}

    def compile_once(learner, mesh, seeds_at_once=1):
        task = type(learner.task), json.dumps(learner.task.to_json())
        recipe = learner.recipe._replace(schedule=None)  # The optimiser has it.
        key = learner.graphdef, task, learner.optimizer, learner.treatment, recipe
        key = *key, mesh, seeds_at_once
        if key not in made:
            made[key] = compile_steps(learner, mesh, seeds_at_once)
        return made[key]

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(optimizers, "make", _cached(optimizers.make))
        monkeypatch.setattr(program, "compile_steps", compile_once)
        yield
