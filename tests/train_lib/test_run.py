"""Whole runs, through the program itself, on a small generated corpus."""

import csv
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import expit

from tests.marks import slow
from train_lib import restored
from train_lib.data.sources.generated import Generated
from train_lib.records.folder import RunFolder
from train_lib.restored import Restored

ROOT = pathlib.Path(__file__).parent.parent.parent


SMALL = [
    "--config.data.source=generated", "--config.data.train_examples=60",
    "--config.data.validation_examples=20", "--config.data.test_examples=30",
    "--config.train.batch_size=32", "--config.train.num_epochs=2",
]  # fmt: skip
# One layer: a second one would cost as much again at every start.
STACKED = [
    "--config=configs/stacked.py", *SMALL, "--config.model.hidden_sizes=(16,)",
    "--config.model.dropout_rates=(0.3,)",
]  # fmt: skip


def python(*arguments, stdin=b""):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, input=stdin, capture_output=True, timeout=300
    )


def run(workdir, *arguments):
    done = python("main.py", f"--workdir={workdir}", *arguments)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode(), json.loads((workdir / "result.json").read_text())


def assert_refused(done, *words):
    message = done.stderr.decode()
    assert done.returncode != 0
    assert "Traceback" not in message
    for word in words:
        assert word in message, message


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def shared_cache(monkeypatch, cache, own_cache):
    """One cache for this file's runs, so that only the first of them compiles."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        workdir = tmp_path_factory.mktemp("finished")
        return workdir, *run(workdir, *STACKED)


def test_a_run_tells_and_keeps_what_it_did(finished):
    workdir, output, result = finished
    for words in (
        "330,401",
        "task:   Classes, 1 output a sequence; accuracy decides",
        "epoch 2/2: train loss",
        "test:       accuracy",
        "jax ",
        "cpu: ",
        "engine: loop, float32",
        "evaluated:  each seed's last parameters",
    ):
        assert words in output  # fmt: skip
    assert {path.name for path in workdir.iterdir()} == {
        "config.json", "metrics.jsonl", "vocabulary.txt", "model.safetensors",
        "best_model.safetensors", "predictions.csv", "curves.png", "result.json", "SHA256SUMS",
        "data.json", "confusion.png", "README.md",
    }  # fmt: skip
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((workdir / "config.json").read_text())["train"]["num_epochs"] == 2
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 2), (2, 4)]
    assert all(0 < row["padding_share_of_steps"] < 1 for row in rows)
    assert [row["seeds"]["learning_rate"] for row in rows] == [[0.001], [0.001]]
    assert all(row["seeds"]["gradient_norm"][0] > 0 for row in rows)
    dataset = result["dataset"]
    assert [dataset[split] for split in ("train", "validation", "test")] == [60, 20, 30]
    assert dataset["name"] == "generated_reviews"
    assert len(dataset["fingerprint"]) == 64
    assert result["model"]["parameters"] == 330_401
    seconds = result["seconds"]
    phases = sum(seconds[name] for name in ("data", "compile", "train", "evaluate"))
    assert all(value >= 0 for value in seconds.values())
    assert phases <= seconds["total"]


def test_predictions_add_up_to_the_result(finished):
    workdir, _, result = finished
    with open(workdir / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["example"]) for row in rows] == list(range(30))
    right = [row["answer"] == row["target"] for row in rows]
    assert [row["score"] for row in rows] == [str(int(one)) for one in right]
    accuracy = result["test_accuracy"]
    assert np.mean(right) == pytest.approx(accuracy["mean"])
    assert accuracy["ci95_low"] < accuracy["mean"] < accuracy["ci95_high"]


def of_positive(line):
    """The probability of the positive class that an answer gives."""
    label, probability = line.split()[:2]
    return float(probability) if label == "positive" else 1 - float(probability)


@pytest.mark.slow
def test_predict_repeats_the_test_predictions(finished):
    workdir = finished[0]
    reviews = Generated(60, 20, 30).read("test").inputs
    done = python("-m", "train_lib.predict", f"--workdir={workdir}", "-", *reviews[:2],
                  stdin="\n".join(reviews).encode())  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    with open(workdir / "predictions.csv", newline="") as file:
        expected = [float(row["probability"]) for row in csv.DictReader(file)]
    told = [of_positive(line) for line in done.stdout.decode().splitlines()]
    np.testing.assert_allclose(told, expected + expected[:2], atol=2e-4)


@pytest.mark.slow
def test_the_tutorial_treatment_predicts_with_the_padding_it_was_trained_with(tmp_path):
    _, result = run(tmp_path, "--config=configs/lstm.py:tutorial", *SMALL)
    assert result["config"] == "lstm-tutorial"
    reviews = Generated(60, 20, 30).read("test").inputs
    done = python("-m", "train_lib.predict", f"--workdir={tmp_path}", *reviews)
    assert done.returncode == 0, done.stderr.decode()
    with open(tmp_path / "predictions.csv", newline="") as file:
        expected = [float(row["probability"]) for row in csv.DictReader(file)]
    lines = done.stdout.decode().splitlines()
    np.testing.assert_allclose([of_positive(line) for line in lines], expected, atol=2e-4)
    assert [line.split()[0] for line in lines] == [
        "positive" if one > 0.5 else "negative" for one in expected
    ]


@pytest.mark.slow
def test_the_same_command_gives_the_same_numbers(finished, tmp_path):
    run(tmp_path, *STACKED)
    for name in ("predictions.csv", "model.safetensors", "vocabulary.txt", "config.json"):
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes()


@pytest.mark.slow
def test_seeds_at_once_are_the_runs_they_would_be_alone(finished, tmp_path):
    """Of three on two devices: the first one equals the finished run, whose seed is 0."""
    output, result = run(tmp_path, *STACKED, "--config.train.seeds=3")
    assert "one more seed lies between" in output
    assert [seed["seed"] for seed in result["seeds"]] == [0, 1, 2]
    for name, value in finished[2]["seeds"][0].items():
        if isinstance(value, float):
            assert result["seeds"][0][name] == pytest.approx(value, rel=1e-4)
    together = result["seeds_together"]["accuracy"]
    assert f"the average of all seeds' answers: accuracy {together:.4f}" in output
    accuracies = [seed["test_accuracy"] for seed in result["seeds"]]
    assert result["test_accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        low, high = row["ci95"]["validation_loss"]
        assert low < row["validation_loss"] == np.mean(row["seeds"]["validation_loss"]) < high
    with open(tmp_path / "predictions.csv", newline="") as file:
        predictions = list(csv.DictReader(file))
    assert [(int(p["seed"]), int(p["example"])) for p in predictions] == [
        (seed, review) for seed in range(3) for review in range(30)
    ]
    of_first = [float(p["probability"]) for p in predictions if p["example"] == "0"]
    review = Generated(60, 20, 30).read("test").inputs[0]
    done = python("-m", "train_lib.predict", f"--workdir={tmp_path}", review)
    told = done.stdout.decode()
    label, _, said = told.split("  ")[:3]
    assert of_positive(told) == pytest.approx(np.mean(of_first), abs=2e-4)
    agreeing = sum((one > 0.5) == (label == "positive") for one in of_first)
    assert said == f"[{agreeing} of 3 seeds]"


def test_predict_refuses_bytes_that_are_no_text(finished):
    noise = np.random.default_rng(0).bytes(200_000)
    done = python("-m", "train_lib.predict", f"--workdir={finished[0]}", "-", stdin=noise)
    assert_refused(done, "the input is not UTF-8")


@pytest.mark.slow
def test_what_predict_says_of_a_text_does_not_depend_on_the_company(finished, monkeypatch):
    texts = ["good " * 3_000, "bad", "", "a " * 100, "xyzzy"]
    together = logits(finished[0], texts)
    monkeypatch.setattr(restored, "_MAX_BATCH_STEPS", 1)
    apart = logits(finished[0], texts[::-1])[::-1]
    np.testing.assert_allclose(together, apart, rtol=1e-6)
    alone = np.concatenate([logits(finished[0], [text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def logits(workdir, texts):
    answerer = Restored(str(workdir))
    (kept,) = answerer.answer(answerer.encode(texts, str))
    return kept["outputs"][:, 0]


@pytest.mark.slow
def test_predict_takes_the_weights_after_the_best_epoch_where_it_is_asked_to(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    last = load_file(tmp_path / "model.safetensors")
    opposite = {name: -a if name.startswith("head") else a for name, a in last.items()}
    save_file(opposite, tmp_path / "best_model.safetensors")
    folder = RunFolder(tmp_path)
    folder.finish(folder.read_json("result.json"))
    (logit,) = logits(tmp_path, ["good"])
    done = python("-m", "train_lib.predict", f"--workdir={tmp_path}", "--best", "good")
    assert float(done.stdout.split()[1]) == pytest.approx(expit(-logit), abs=1e-4)


@pytest.mark.parametrize("name", ["model.safetensors", slow("config.json"), slow("vocabulary.txt")])
def test_predict_says_which_file_is_damaged(finished, tmp_path, name):
    for path in finished[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(b"\xff" + (finished[0] / name).read_bytes()[:100])
    done = python("-m", "train_lib.predict", f"--workdir={tmp_path}", "text")
    assert_refused(done, name)


def test_predict_refuses_a_folder_without_a_finished_run(tmp_path):
    done = python("-m", "train_lib.predict", f"--workdir={tmp_path}", "text")
    assert_refused(done, "finished run")


@pytest.mark.slow
def test_a_finished_run_is_never_overwritten(finished):
    before = (finished[0] / "result.json").read_bytes()
    done = python("main.py", f"--workdir={finished[0]}", "--config=configs/lstm.py", *SMALL)
    assert_refused(done, "config.model.embedding_size was 64 and is 16", "name a new folder")
    output, _ = run(finished[0], *STACKED)
    assert "is finished" in output
    assert "epoch" not in output
    assert (finished[0] / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--config is missing", "configs/stacked.py"]),
        slow(["--config=configs/none.py"], ["configs/none.py"]),
        slow(["--config=configs/lstm.py:nope"], ["nope", "exact, tutorial"]),
        (["--config=configs/lstm.py", "--config.train.num_epoch=3"], ["num_epochs"]),
        slow(
            ["--config=configs/lstm.py", "--config.train.num_epochs=x"], ["train.num_epochs", "x"]
        ),
        (["--config=configs/lstm.py", "--config.model.cell=x"], ["config.model.cell", "lstm"]),
        slow(
            ["--config=configs/lstm.py", *SMALL, "--config.model.cell_options=forget=1"],
            ["config.model cannot be built", "LSTM has no option 'forget'", "forget_bias"],
        ),
        slow(["--config=configs/lstm.py", "--wrkdir=x"], ["wrkdir", "workdir"]),
        slow(["--config=configs/lstm.py", "stray"], ["stray"]),
        slow(["--config=configs/lstm.py", "--num_processes=2"], ["--coordinator", "--process_id"]),
        slow(["--config=configs/lstm.py", "--distributed"], ["--distributed finds no cluster"]),
        (["--config=configs/lstm.py", "--workdir=/dev/null/x"], ["/dev/null/x"]),
        slow(
            ["--config=configs/lstm.py", "--config.data.archive=none.tar.gz",
             "--config.data.dir=/dev/null/x"],
            ["/dev/null/x", "--config.data.dir"],
        ),
    ],
)  # fmt: skip
def test_a_wrong_command_is_told_and_leaves_nothing_behind(arguments, words, tmp_path):
    if not any("workdir" in argument for argument in arguments):
        arguments = [*arguments, f"--workdir={tmp_path / 'run'}"]
    assert_refused(python("main.py", *arguments), *words)
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_a_model_of_many_options_is_built_again_to_predict(tmp_path):
    run(
        tmp_path, "--config=configs/lstm.py", *SMALL, "--config.model.cell_options=forget_bias=3.0",
        "--config.model.learned_initial_state", "--config.model.hidden_sizes=(16, 16)",
        "--config.model.dropout_rates=(0.0, 0.0)", "--config.model.residual",
        "--config.model.word_dropout=0.1", "--config.model.embedding_dropout=0.1",
        "--config.model.weight_drop=0.2",
    )  # fmt: skip
    review = Generated(60, 20, 30).read("test").inputs[0]
    done = python("-m", "train_lib.predict", f"--workdir={tmp_path}", review)
    assert done.returncode == 0, done.stderr.decode()
    with open(tmp_path / "predictions.csv", newline="") as file:
        expected = float(next(csv.DictReader(file))["probability"])
    assert of_positive(done.stdout.decode()) == pytest.approx(expected, abs=2e-4)


def test_a_broken_cell_is_refused_before_there_is_a_folder(tmp_path):
    cell = tmp_path / "mine.py"
    cell.write_text("from seqmodels.cells import base\n\n\nclass Mine(base.Cell):\n    pass\n")
    workdir = tmp_path / "run"
    done = python(
        "main.py", f"--workdir={workdir}", "--config=configs/lstm.py", *SMALL,
        f"--config.model.cell={cell}",
    )  # fmt: skip
    assert_refused(done, "Mine does not define __init__")
    assert not workdir.exists()
