"""Baselines: the same examples, nothing learnt from those of the test, and a run folder of each."""

import csv
import dataclasses
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from configs import base
from tests.train_lib import cases
from train_lib import baselines as program_of
from train_lib import predict
from train_lib.analysis import baselines, comparison, features
from train_lib.analysis.ngram_models import train_linear
from train_lib.building import load_data
from train_lib.data.dataset import SPLITS, Split
from train_lib.data.inputs import Tokens
from train_lib.errors import UserError
from train_lib.records.finished import load
from train_lib.records.folder import RunFolder
from train_lib.tasks.base import Task

ROOT = pathlib.Path(__file__).parents[3]
NAMES = [
    "logistic-regression-50", "logistic-regression", "nb-svm-1", "nb-svm-2", "nb-svm-3",
    "fasttext-2",
]  # fmt: skip


def small_config():
    config = base.get_config("test", "exact")
    config.data.update(
        source="generated", train_examples=60, validation_examples=30, test_examples=40,
        max_features=50,
    )  # fmt: skip
    config.train.update(seeds=2, seed=5)
    return config


@pytest.fixture
def config():
    return small_config()


def program(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "train_lib.baselines", *arguments],
        cwd=ROOT, capture_output=True, timeout=300, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of all baselines' folders, and what the program printed."""
    workdir = tmp_path_factory.mktemp("finished") / "new"
    fields = {
        f"--config.{group}.{name}={value}"
        for group in ("data", "train")
        for name, value in small_config()[group].items()
        if value != ""
    }
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        done = program(f"--workdir={workdir}", *fields)
    assert (done.returncode, done.stderr) == (0, "")
    return workdir, done.stdout


def everything(config):
    """The data set with all its words, its task, and the baselines."""
    data, task = load_data(config)
    everyone = baselines.baselines(data.inputs, task, config.data.max_features)
    config.data.max_features = baselines.MAX_FEATURES
    return *load_data(config), everyone


def test_neighbouring_words_are_worth_what_the_generated_corpus_promises(config):
    config.data.update(train_examples=2_000, test_examples=600)
    data, task, everyone = everything(config)
    accuracies = {}
    for baseline in everyone:
        if baseline.name in ("nb-svm-1", "nb-svm-2"):
            counts = baseline.read(data)
            options = {"weighting": "log-count ratio", "cost": 0.01}
            models = baselines.train(baseline, data, task, counts, options, [0])
            found = baselines.evaluate(models, task, counts["test"], data.test.targets)
            accuracies[baseline.name] = found.metrics["accuracy"][0]
    assert accuracies["nb-svm-1"] < 0.63 < 0.7 < accuracies["nb-svm-2"] < 0.8


@pytest.mark.slow
def test_every_baseline_is_a_finished_run_on_the_examples_of_a_recurrent_model(finished, config):
    data, task = load_data(config)
    workdir, output = finished
    assert {path.name for path in workdir.iterdir()} == set(NAMES)
    runs = load([str(workdir / name) for name in NAMES])
    table = output.splitlines()[-len(NAMES) - 1 : -1]
    assert "Manning" not in output  # Whose figures are not of these reviews.
    for run, name, row in zip(runs, NAMES, table, strict=True):
        result = run.result
        assert run.config["name"] == result["config"] == name
        assert run.seeds == ([5, 6] if name == "fasttext-2" else [5])
        assert [result["dataset"][split] for split in SPLITS] == [60, 30, 40]
        assert result["dataset"]["fingerprint"] == data.fingerprint
        assert run.targets == [task.names[int(target)] for target in data.test.targets]
        np.testing.assert_array_equal(run.steps_N, data.test.lengths)
        # Of the chosen options it is what was seen when they were chosen.
        best = max(choice["validation_accuracy"] for choice in result["search"])
        assert result["seeds"][0]["validation_accuracy"] == pytest.approx(best)
        assert row.startswith(f"{name} ")
        assert f"{result['test_accuracy']['mean']:.4f} [" in row
        assert {path.name for path in run.folder.iterdir()} >= {"confusion.png", "config.json"}


def test_all_words_change_neither_the_draw_nor_the_vocabulary_of_the_most_frequent(config):
    data, _ = load_data(config)
    of_all, _, _ = everything(config)
    for split, other in zip(data.splits, of_all.splits, strict=True):
        np.testing.assert_array_equal(split.targets, other.targets)
        np.testing.assert_array_equal(split.lengths, other.lengths)
        np.testing.assert_array_equal(split.values, other.most_frequent_words(50).values)


def test_full_trains_on_the_validation_examples_too_and_chooses_without_them(
    finished, config, tmp_path, monkeypatch, capsys
):
    trained_on = []

    def train(counts, labels, task, grid, seed):
        trained_on.append((len(labels), len(grid)))
        return baselines.baseline_models.two_classes(train_linear)(counts, labels, task, grid, seed)

    of_task = baselines.baselines

    def third(*arguments):
        return [dataclasses.replace(of_task(*arguments)[3], train=train)]

    monkeypatch.setattr(baselines, "baselines", third)
    (result,) = program_of.run(config, str(tmp_path), full=True)
    assert trained_on == [(60, 10), (60, 1), (90, 1)]
    assert [result["dataset"][split] for split in SPLITS] == [90, 0, 40]
    usual, run = load([str(folder / "nb-svm-2") for folder in (finished[0], tmp_path)])
    assert result["search"] == usual.result["search"]
    assert (run.probabilities_KxN != usual.probabilities_KxN).any()
    assert "validation_accuracy" not in result
    assert "trained on 90 examples" in capsys.readouterr().out


@pytest.mark.parametrize("number", [0, 3, 5])
def test_nothing_is_learnt_or_chosen_from_the_test_examples(number, config, tmp_path):
    data, task, everyone = everything(config)
    baseline = everyone[number]
    described = program_of._describe(baseline, config, full=False)
    test = dataclasses.replace(data.test, targets=1 - data.test.targets)
    flipped = dataclasses.replace(data, test=test)
    results, predictions = [], []
    for name, of_run in (("one", (data, task)), ("other", (flipped, task))):
        folder = RunFolder.open(str(tmp_path / name), described)
        program_of._run(baseline, described, of_run, of_run, folder)
        results.append(folder.read_json("result.json"))
        rows = csv.DictReader(folder.read_text("predictions.csv").splitlines())
        predictions.append([row["logit"] for row in rows])
    assert predictions[0] == predictions[1]
    one, other = results
    for field in ("model", "search", "validation_accuracy"):
        assert one[field] == other[field]
    for before, after in zip(one["seeds"], other["seeds"], strict=True):
        assert before["test_accuracy"] == pytest.approx(1 - after["test_accuracy"])


def test_the_same_command_again_leaves_what_is_finished_and_makes_the_rest(
    finished, config, tmp_path, monkeypatch
):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    expected = [RunFolder(tmp_path / name).read_json("result.json") for name in NAMES]
    (tmp_path / "nb-svm-2" / "SHA256SUMS").unlink()
    started = []
    run = program_of._run
    monkeypatch.setattr(program_of, "_run", lambda *a: (started.append(a[0].name), run(*a)))
    results = program_of.run(config, str(tmp_path))
    assert started == ["nb-svm-2"]
    for result in (*results, *expected):
        del result["seconds"]
    assert results == expected


def test_what_cannot_be_done_is_told(finished, config, tmp_path):
    done = program("--ful")
    assert done.returncode == 1
    assert "ful" in done.stderr
    before = (finished[0] / "nb-svm-1" / "result.json").read_bytes()
    with pytest.raises(UserError, match="trained_on_validation_too was False and is True"):
        program_of.run(config, str(finished[0]), full=True)
    assert (finished[0] / "nb-svm-1" / "result.json").read_bytes() == before
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        predict.predict(str(finished[0] / "nb-svm-1"), ["good"])
    config.data.update(source="imdb", dir="/dev/null/x", archive="none.tar.gz")
    with pytest.raises(UserError, match="/dev/null/x"):
        program_of.run(config, str(tmp_path / "missing"))


# Of each kind of task, over numbers of tokens and over vectors.
EXPECTED = {
    ("two", "tokens"): ["logistic-regression", "nb-svm-1", "nb-svm-2", "nb-svm-3", "fasttext-2"],
    ("three", "tokens"): ["logistic-regression", "nb-svm-1", "nb-svm-2", "nb-svm-3"],
    ("labels", "tokens"): ["logistic-regression", "nb-svm-1", "nb-svm-2", "nb-svm-3"],
    ("numbers", "tokens"): ["ridge-1", "ridge-2"],
    ("tags", "tokens"): ["most-frequent-tag", "logistic-regression-neighbours"],
    ("two", "vectors"): ["logistic-regression-summary"],
    ("three", "vectors"): ["logistic-regression-summary"],
    ("labels", "vectors"): ["logistic-regression-summary"],
    ("numbers", "vectors"): ["ridge-summary"],
    ("tags", "vectors"): ["logistic-regression-neighbours"],
}
SOURCE = """
from train_lib.data.examples import Examples
from tests.train_lib import cases

class Texts:
    name = "texts"

    def __init__(self, task: str):
        self._case = cases.Case(task, "tokens")

    def identity(self):
        return str(self._case)

    def splits(self):
        return "train", "validation", "test"

    def read(self, split):
        seed = self.splits().index(split)
        found = cases.examples(self._case, 10 if seed else 120, seed)
        return found._replace(inputs=[[f"w{token}" for token in one] for one in found.inputs])
"""


def config_of(task, inputs, tmp_path):
    config = base.get_config("any", "exact")
    config.task.name = cases.TASKS[task]
    if inputs == "words":
        (tmp_path / "texts.py").write_text(SOURCE)
        config.data.update(
            source=str(tmp_path / "texts.py"), source_options=f"task={task!r}", max_features=20
        )
    else:
        options = cases.options(cases.Case(task, inputs))
        config.data.update(source=cases.PATH, source_options=options)
    return config


@pytest.mark.parametrize("case", cases.ALL, ids=str)
@pytest.mark.slow
def test_every_task_has_baselines_that_are_compared(case, tmp_path, capsys):
    config = config_of(case.task, case.inputs, tmp_path)
    results = program_of.run(config, str(tmp_path / "out"))
    names = EXPECTED[case]
    assert [result["config"] for result in results] == names
    metric = results[0]["task"]["metric"]
    runs = load([str(tmp_path / "out" / name) for name in names])
    if len(runs) > 1:
        found = comparison.compare(runs)
        assert [run["name"] for run in found["runs"]] == names
        assert not any("No baseline" in note for note in found["notes"])
    for result, run in zip(results, runs, strict=True):
        values = [one[f"validation_{metric}"] for one in result["search"]]
        best = max(values) if result["task"]["higher_is_better"] else min(values)
        assert result["seeds"][0][f"validation_{metric}"] == pytest.approx(best, rel=1e-5)
        assert run.mean_scores()[0] == pytest.approx(result["seeds"][0][f"test_{run.score}"], 1e-4)
    # What follows from what is read is learnt: better than the best guess, if not by each.
    sign = 1 if results[0]["task"]["higher_is_better"] else -1
    reached = max(sign * result[f"test_{metric}"]["mean"] for result in results)
    if case.task in ("tags", "numbers"):
        assert reached > sign * results[0]["guess"][metric]
    if case == ("tags", "tokens"):
        assert reached > 0.95
    printed = capsys.readouterr().out
    assert "review" not in printed
    assert "a constant guess" in printed


@pytest.mark.parametrize("task", ["labels", "numbers", "tags"])
@pytest.mark.slow
def test_of_texts_words_are_read_whatever_the_task(task, tmp_path):
    config = config_of(task, "words", tmp_path)
    results = program_of.run(config, str(tmp_path / "out"))
    first = {"labels": ["logistic-regression-20"], "numbers": ["ridge-20"], "tags": []}
    expected = [*first[task], *EXPECTED[task, "tokens"]]
    assert [result["config"] for result in results] == expected
    reached = [result["seeds"][0]["test_" + result["task"]["metric"]] for result in results]
    if task == "tags":
        assert min(reached) > 0.9
        assert set(results[0]["dataset"]["longest_steps"].values()) <= set(range(14))
    if task == "numbers":  # With more words there is more to tell.
        assert reached[1] < reached[0] < results[0]["guess"]["mse"]


def test_a_task_of_ones_own_has_none(config):
    class Own(Task):
        pass

    with pytest.raises(UserError, match="no baseline for the task Own"):
        baselines.baselines(Tokens(3), Own(), 50)


VECTORS = Split(
    np.array([[1, 5], [3, 5], [8, 2], [4, 0]], np.float32), np.array([0, 3, 4]), [None, None]
)


def test_the_summary_of_vectors_is_that_of_a_plain_loop():
    found = features.summary(VECTORS)
    for row, one in zip(found, np.split(VECTORS.values, [3]), strict=True):
        expected = [one.mean(0), one.std(0), one[0], one[-1], one.min(0), one.max(0)]
        np.testing.assert_allclose(row, np.concatenate(expected), rtol=1e-6)


def test_neighbours_are_of_the_same_sequence():
    found = features.vector_neighbours(VECTORS).reshape(4, 5, 2)
    zero = [0, 0]
    np.testing.assert_array_equal(found[0], [zero, zero, [1, 5], [3, 5], [8, 2]])
    np.testing.assert_array_equal(found[2], [[1, 5], [3, 5], [8, 2], zero, zero])
    np.testing.assert_array_equal(found[3], [zero, zero, [4, 0], zero, zero])
    tokens = Split(np.array([4, 6, 5, 6], np.int32), VECTORS.offsets, [None, None])
    dense = features.neighbours(tokens, 7).toarray().reshape(4, 5, 7)
    assert [np.argmax(dense[1, place]) for place in (1, 2, 3)] == [4, 6, 5]
    assert dense[1].sum() == 3
    assert dense[3].sum() == dense[3, 2, 6] == 1
