"""The runs of docs/tasks.md in small, with the commands of that page; IMDB has its own tests."""

import csv
import importlib.util
import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import mean_squared_error, precision_recall_fscore_support, r2_score
from sklearn.preprocessing import MultiLabelBinarizer

from studies import any_task

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent.parent
GUIDE = (ROOT / "docs" / "tasks.md").read_text()
SHAKESPEARE = ROOT.parent / "shared" / "data" / "tinyshakespeare" / "input.txt"
SMALL = [
    "--config.train.num_epochs=1",
    "--config.train.seeds=2",
    "--config.data.train_examples=200",
]
NEEDED = {
    "speakers": (SHAKESPEARE.is_file(), "tiny Shakespeare's text is not there"),
    "vowels": (
        importlib.util.find_spec("aeon") is not None,
        "aeon, which ships JapaneseVowels, is not installed",
    ),
}
"""What some of the runs need, and what is said where it is not there."""


def commands():
    """The arguments of `main.py` in each of the runs, under the name of its data."""
    found = {}
    for command in re.findall(r"python main\.py(.+?)```", GUIDE, re.DOTALL):
        arguments = shlex.split(command.replace("\\\n", " "))
        (source,) = [word for word in arguments if word.startswith("--config.data.source=")]
        found[pathlib.Path(source.partition("=")[2]).stem] = arguments
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seven")
    shakespeare = [f"--shakespeare={SHAKESPEARE}"] if SHAKESPEARE.is_file() else []
    any_task.main([f"--out={folder / 'data'}", *shakespeare])
    return folder


def test_there_are_six_beside_that_of_imdb():
    assert list(commands()) == ["speakers", "praised", "walk", "aspects", "vowels", "digits"]


@pytest.mark.parametrize("name", commands())
def test_figures_of_the_report_are_those_of_scikit_learn_on_its_predictions(name, data, tmp_path):
    is_there, reason = NEEDED.get(name, (True, ""))
    if not is_there:
        pytest.skip(reason)
    workdir = tmp_path / "run"
    arguments = [word.replace("source=data/", f"source={data}/data/") for word in commands()[name]]
    done = subprocess.run(
        [sys.executable, "main.py", f"--workdir={workdir}", *arguments, *SMALL],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "guess" in done.stdout
    result = json.loads((workdir / "result.json").read_text())
    with open(workdir / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["seed"] for row in rows} == {"0", "1"}
    for seed in result["seeds"]:
        of_seed = [row for row in rows if row["seed"] == str(seed["seed"])]
        columns = [[row[column] for row in of_seed] for column in ("target", "answer")]
        CHECKS.get(name, check_classes)(seed["test_figures"], *columns)


def check_classes(figures, targets, answers):
    names = figures["classes"]
    assert_same(figures["per_class"], targets, answers, names)
    expected = precision_recall_fscore_support(
        targets, answers, average="macro", zero_division=0, labels=sorted({*targets, *answers})
    )
    np.testing.assert_allclose(list(figures["macro"].values()), expected[:3])


def check_tags(figures, targets, answers):
    words = [[word for row in rows for word in row.split()] for rows in (targets, answers)]
    check_classes(figures, *words)


def check_labels(figures, targets, answers):
    names = figures["labels"]
    sets = [[set(filter(None, row.split(";"))) for row in rows] for rows in (targets, answers)]
    binarizer = MultiLabelBinarizer(classes=names)
    matrices = [binarizer.fit_transform(rows) for rows in sets]
    assert_same(figures["per_label"], *matrices, range(len(names)))


def check_numbers(figures, targets, answers):
    targets, answers = np.array(targets, float), np.array(answers, float)
    (of_number,) = figures["per_number"].values()
    assert of_number["mse"] == pytest.approx(mean_squared_error(targets, answers), rel=1e-6)
    assert of_number["r2"] == pytest.approx(r2_score(targets, answers), abs=1e-6)


CHECKS = {"praised": check_labels, "walk": check_numbers, "aspects": check_tags}


def assert_same(figures, targets, answers, labels):
    """Precision, recall, F1 and support of each class, or of each label."""
    expected = precision_recall_fscore_support(
        targets, answers, labels=list(labels), zero_division=np.nan
    )
    for found, *of_class in zip(figures.values(), *expected, strict=True):
        values = [np.nan if found[name] is None else found[name] for name in list(found)[:4]]
        np.testing.assert_allclose(values, of_class)
