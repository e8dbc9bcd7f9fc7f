"""A whole run of any task: what its folder holds adds up, and its models answer again."""

import csv
import json

import numpy as np
import pytest

from configs import base
from tests.train_lib import cases
from tests.train_lib.cases import FEW, Case
from train_lib import run as runs
from train_lib.errors import UserError
from train_lib.restored import Restored

pytestmark = pytest.mark.slow

WORDS = [
    pytest.param(Case("tags", "words"), id="tags-words"),
    pytest.param(Case("numbers", "words"), id="numbers-words", marks=pytest.mark.slow),
]


def read(folder):
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_same(told, expected):
    """Columns of answers, numbers up to rounding."""
    for name in expected:
        for one, other in zip(told[name], expected[name], strict=True):
            # An answer is a number, or two: the least and the largest of the seeds.
            pairs = zip(*(str(of).split(" to ") for of in (one, other)), strict=True)
            for told_part, expected_part in pairs:
                try:
                    expected_part = pytest.approx(float(expected_part), rel=1e-4, abs=1e-4)
                    told_part = float(told_part)
                except ValueError:  # They are no numbers.
                    pass
                assert told_part == expected_part, (name, one, other)


@pytest.mark.parametrize("case", [*FEW, *WORDS])
def test_a_run_adds_up_and_its_models_answer_again(case, tmp_path, capsys):
    config = base.get_config("any", "exact")
    config.model.update(embedding_size=4, hidden_sizes=(3,))
    config.data.update(source=cases.PATH, source_options=cases.options(case))
    config.task.name = cases.TASKS[case.task]
    config.train.update(num_epochs=2, batch_size=20, learning_rate=0.01, seeds=2)
    result = runs.run(config, str(tmp_path / "run"))
    assert "epoch 2/2: train loss" in capsys.readouterr().out

    restored, rows = Restored(str(tmp_path / "run")), read(tmp_path / "run")
    task, metric = restored.task, result["task"]["metric"]
    for seed in result["seeds"]:
        of_seed = [row for row in rows if row["seed"] == str(seed["seed"])]
        assert [row["example"] for row in of_seed] == [str(number) for number in range(10)]
        scores_N, weights_N = (
            np.array([float(row[name]) for row in of_seed]) for name in ("score", "weight")
        )
        score = np.average(scores_N, weights=weights_N)
        assert score == pytest.approx(seed[f"test_{task.score_name}"], rel=1e-4)
        assert json.dumps(seed["test_figures"])
    values = [seed[f"test_{metric}"] for seed in result["seeds"]]
    assert result[f"test_{metric}"]["mean"] == pytest.approx(np.mean(values))
    assert metric in result["guess"]
    assert task.score_name in result["seeds_together"]

    examples = cases.MadeUp(*case).read("test")
    split = restored.encode(examples.inputs, examples.where)
    kept_K = restored.answer(split)
    for number, kept in enumerate(kept_K):
        of_steps, offsets = restored.items(split, kept)
        told = task.columns(of_steps, None, offsets)
        of_seed = [row for row in rows if row["seed"] == str(number)]
        if case.task == "tags":  # A report shows labelled steps alone; an answer all of them.
            for answer, row, tags in zip(told["answer"], of_seed, examples.targets, strict=True):
                words = answer.split()
                assert len(words) == len(tags)
                labelled = [one for one, tag in zip(words, tags, strict=True) if tag]
                assert " ".join(labelled) == row["answer"]
        else:
            assert_same(told, {name: [row[name] for row in of_seed] for name in told})
    alone = restored.columns(restored.encode(examples.inputs[3:4], examples.where))
    together = restored.columns(split)
    assert_same(alone, {name: column[3:4] for name, column in together.items()})
    turned = restored.columns(restored.encode(examples.inputs[::-1], examples.where))
    assert_same(turned, {name: column[::-1] for name, column in together.items()})


OWN = """import jax.numpy as jnp
import numpy as np
from train_lib.tasks.base import Task


class Mine(Task):
    num_outputs = 1

    def encode(self, targets):
        return np.array([np.nan if one is None else one == "yes" for one in targets], np.float32)

    def loss(self, outputs_NxC, targets_N):
        return jnp.square(outputs_NxC[:, 0] - targets_N)
"""


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("targets_N)\n", "targets_N).mean()\n", "loss of outputs"),
        ("[:, 0] - targets_N", " - targets_N[:, None]", "loss of outputs"),
        ("np.float32)", "np.float32)[:1]", "encode of 122 examples"),
        ("num_outputs = 1", "num_outputs = 1\n    metric = 'nothing'", "nothing"),
        ('one == "yes"', "one[7]", r"IndexError: string index out of range \(.+mine.py, line 10"),
    ],
    ids=["a mean", "a column", "one row", "no such metric", "an error"],
)
def test_a_task_of_ones_own_is_checked_before_training(right, wrong, told, tmp_path):
    assert right in OWN
    (tmp_path / "mine.py").write_text(OWN.replace(right, wrong))
    config = base.get_config("any", "exact")
    config.data.update(source=cases.PATH, source_options=cases.options(Case("two", "tokens")))
    config.task.name = str(tmp_path / "mine.py")
    with pytest.raises(UserError, match=told):
        runs.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_steps_that_have_a_target_are_never_cut(tmp_path):
    config = base.get_config("any", "exact")
    config.data.update(source=cases.PATH, source_options=cases.options(Case("tags", "tokens")))
    config.data.max_length_tokens = 5
    config.task.name = "tags"
    with pytest.raises(UserError, match="would lose its first 7 steps, and each step has a target"):
        runs.run(config, str(tmp_path / "run"))
