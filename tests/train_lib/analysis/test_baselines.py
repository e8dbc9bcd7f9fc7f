"""Baselines: the same reviews, nothing learnt from the test reviews, and a run folder of each."""

import csv
import dataclasses
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from train_lib.finished import load
from train_lib.ngram_models import train_linear
from train_lib.report import RunFolder

from configs import base
from train_lib import baselines, predict
from train_lib.data import dataset
from train_lib.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent.parent
NAMES = [
    "logistic-regression-50", "logistic-regression", "nb-svm-1", "nb-svm-2", "nb-svm-3",
    "fasttext-2",
]  # fmt: skip


def small_config():
    config = base.get_config("test", "exact")
    config.data.update(
        source="generated", train_reviews=60, validation_reviews=30, test_reviews=40,
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


def test_neighbouring_words_are_worth_what_the_generated_corpus_promises(config):
    config.data.update(train_reviews=2_000, test_reviews=600)
    config.data.max_features = baselines.MAX_FEATURES
    data = dataset.load(config.data)
    accuracies = {}
    for baseline in baselines.baselines(50):
        if baseline.name in ("nb-svm-1", "nb-svm-2"):
            counts = baselines._count(baseline, data)
            options = [{"weighting": "log-count ratio", "cost": 0.01}]
            (model,) = baseline.train(counts["train"], data.train.labels, options, 0)
            is_right = (model.logits(counts["test"]) > 0) == data.test.labels
            accuracies[baseline.name] = is_right.mean()
    assert accuracies["nb-svm-1"] < 0.63 < 0.7 < accuracies["nb-svm-2"] < 0.8


def test_every_baseline_is_a_finished_run_on_the_reviews_of_a_recurrent_model(finished, config):
    data = dataset.load(config.data)
    workdir, output = finished
    assert {path.name for path in workdir.iterdir()} == set(NAMES)
    runs = load([str(workdir / name) for name in NAMES])
    table = output.splitlines()[-len(NAMES) :]
    assert "Manning" not in output  # Whose figures are not of these reviews.
    for run, name, row in zip(runs, NAMES, table, strict=True):
        result = run.result
        assert run.config["name"] == result["config"] == name
        assert run.seeds == ([5, 6] if name == "fasttext-2" else [5])
        assert [result["dataset"][split] for split in dataset.SPLITS] == [60, 30, 40]
        assert result["dataset"]["fingerprint"] == data.fingerprint
        np.testing.assert_array_equal(run.labels_N, data.test.labels)
        np.testing.assert_array_equal(run.tokens_N, data.test.lengths)
        # Of the chosen options it is what was seen when they were chosen.
        best = max(choice["validation_accuracy"] for choice in result["search"])
        assert result["seeds"][0]["validation_accuracy"] == pytest.approx(best)
        assert row.startswith(f"{name} ")
        assert f"{result['test_accuracy']['mean']:.4f} [" in row


def test_all_words_change_neither_the_draw_nor_the_vocabulary_of_the_most_frequent(config):
    data = dataset.load(config.data)
    config.data.max_features = baselines.MAX_FEATURES
    everything = dataset.load(config.data)
    for split, of_all in zip(data.splits, everything.splits, strict=True):
        np.testing.assert_array_equal(split.labels, of_all.labels)
        np.testing.assert_array_equal(split.lengths, of_all.lengths)
        np.testing.assert_array_equal(split.tokens, of_all.most_frequent_words(50).tokens)


def test_full_trains_on_the_validation_reviews_too_and_chooses_without_them(
    finished, config, tmp_path, monkeypatch, capsys
):
    trained_on = []

    def train(counts, labels, grid, seed):
        trained_on.append(len(labels))
        return train_linear(counts, labels, grid, seed)

    baseline = dataclasses.replace(baselines.baselines(50)[3], train=train)
    monkeypatch.setattr(baselines, "baselines", lambda _: [baseline])
    (result,) = baselines.run(config, str(tmp_path), full=True)
    assert trained_on == [60, 90]
    assert [result["dataset"][split] for split in dataset.SPLITS] == [90, 0, 40]
    usual, run = load([str(folder / "nb-svm-2") for folder in (finished[0], tmp_path)])
    assert result["search"] == usual.result["search"]
    assert (run.logits_KxN != usual.logits_KxN).any()
    assert "validation_accuracy" not in result
    assert "trained on 90 reviews" in capsys.readouterr().out


@pytest.mark.parametrize("number", [0, 3, 5])
def test_nothing_is_learnt_or_chosen_from_the_test_reviews(number, config, tmp_path):
    baseline = baselines.baselines(50)[number]
    described = baselines._describe(baseline, config, full=False)
    data = baselines._load(config.data)
    test = dataclasses.replace(data.test, labels=1 - data.test.labels)
    flipped = dataclasses.replace(data, test=test)
    results, predictions = [], []
    for name, of_run in (("one", data), ("other", flipped)):
        folder = RunFolder.open(str(tmp_path / name), described)
        baselines._run(baseline, described, of_run, of_run, folder)
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
    run = baselines._run
    monkeypatch.setattr(baselines, "_run", lambda *a: (started.append(a[0].name), run(*a)))
    results = baselines.run(config, str(tmp_path))
    assert started == ["nb-svm-2"]
    for result in (*results, *expected):
        del result["seconds"]
    assert results == expected


def test_what_cannot_be_done_is_told(finished, config, tmp_path):
    done = program("--ful")
    assert done.returncode == 1
    assert "ful" in done.stderr
    before = (finished[0] / "nb-svm-1" / "result.json").read_bytes()
    with pytest.raises(UserError, match="train_reviews was 60 and is 90"):
        baselines.run(config, str(finished[0]), full=True)
    assert (finished[0] / "nb-svm-1" / "result.json").read_bytes() == before
    with pytest.raises(UserError, match=r"no weights\.npz"):
        predict.predict(str(finished[0] / "nb-svm-1"), ["good"])
    config.data.train_reviews = 3
    with pytest.raises(UserError, match="train_reviews"):
        baselines.run(config, str(tmp_path / "odd"))
    config.data.update(train_reviews=60, source="imdb", dir="/dev/null/x", archive="none.tar.gz")
    with pytest.raises(UserError, match="/dev/null/x"):
        baselines.run(config, str(tmp_path / "missing"))
