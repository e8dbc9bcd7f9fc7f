"""A whole run of any task: what its folder holds adds up, and its models answer again."""

import csv
import json

import numpy as np
import pytest

from configs import base
from tests.train_lib import cases
from tests.train_lib.cases import FEW, Case
from train_lib import run as runs
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
            try:
                is_close = float(one) == pytest.approx(float(other), rel=1e-4, abs=1e-4)
            except (TypeError, ValueError):  # They are no numbers.
                is_close = str(one) == str(other)
            assert is_close, (name, one, other)


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
