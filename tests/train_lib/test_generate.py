"""A language model from a text file to written text."""

import csv
import json
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from configs import base
from tests.train_lib import cases
from train_lib import evaluate, restored
from train_lib import run as runs
from train_lib.errors import UserError
from train_lib.generate import generate
from train_lib.records.folder import RunFolder
from train_lib.restored import Restored

ROOT = pathlib.Path(__file__).parent.parent.parent
TEXT = "one two three é. " * 150


def config_of(path, **changes):
    config = base.get_config("any", "exact")
    config.model.update(embedding_size=8, hidden_sizes=(24,))
    config.data.update(source=str(path), text_rules="characters")
    config.task.name = "next_token"
    config.train.update(
        num_epochs=12, batch_size=8, learning_rate=0.02, stream_steps=16, seeds=2, **changes
    )
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "mine.txt").write_text(TEXT)
    result = runs.run(config_of(folder / "mine.txt"), str(folder / "run"))
    return folder, result


def test_a_text_that_repeats_itself_is_learnt_and_written_on(finished):
    folder, result = finished
    assert result["test_loss"]["mean"] < 0.5 < result["guess"]["loss"]
    assert result["test_bits_per_byte"]["mean"] < result["test_bits_per_token"]["mean"]
    written = "".join(
        token
        for piece in generate(Restored(str(folder / "run")), "one two", tokens=100, temperature=0)
        for token in piece
    )
    assert len(written) == 100
    assert TEXT.startswith("one two" + written[:50])


def test_the_same_seed_writes_the_same_and_another_one_something_else(finished):
    told = Restored(str(finished[0] / "run"))

    def write(**options):
        return [token for piece in generate(told, "t", tokens=80, **options) for token in piece]

    assert write(seed=1, temperature=3.0) == write(seed=1, temperature=3.0)
    assert write(seed=1, temperature=3.0) != write(seed=2, temperature=3.0)
    assert write(top_k=1, temperature=3.0) == write(temperature=0)


def test_the_program_writes_a_prompt_and_what_follows(finished):
    done = subprocess.run(
        [
            sys.executable, "-m", "train_lib.generate", f"--workdir={finished[0] / 'run'}",
            "one two", "--tokens=10", "--temperature=0",
        ],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "one two" + TEXT[7:17] + "\n"


def test_test_predictions_are_of_blocks_and_add_up(finished):
    folder, result = finished
    with open(folder / "run" / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["seed"] == "0"]
    assert {row["steps"] for row in rows[:-1]} == {"16"}
    scores_N, weights_N = (
        np.array([float(row[name]) for row in rows]) for name in ("score", "weight")
    )
    expected = result["seeds"][0]["test_loss"]
    assert np.average(scores_N, weights=weights_N) == pytest.approx(expected, rel=1e-4)
    assert weights_N.sum() == round(0.1 * len(TEXT))


def test_evaluating_the_test_part_as_a_file_gives_the_figures_of_the_run(finished, tmp_path):
    """In one piece, block by block, from the first token to the last."""
    folder, result = finished
    (tmp_path / "test.txt").write_text(TEXT[round(0.9 * len(TEXT)) :])
    out = RunFolder(tmp_path)
    found = evaluate.evaluate(Restored(str(folder / "run")), str(tmp_path / "test.txt"), out)
    assert (found["examples"], found["examples_are"]) == (result["dataset"]["test"], "blocks")
    assert found["unknown_share"] == 0
    assert found["loss"]["mean"] == pytest.approx(result["test_loss"]["mean"], rel=1e-5)
    for one, of_run in zip(found["seeds"], result["seeds"], strict=True):
        for name in ("loss", "perplexity", "bits_per_token", "bits_per_byte"):
            assert one[name] == pytest.approx(of_run[f"test_{name}"], rel=1e-5)
    assert found["seeds_together"] == pytest.approx(result["seeds_together"])
    assert (tmp_path / "predictions.csv").read_bytes() == (
        folder / "run" / "predictions.csv"
    ).read_bytes()


def test_evaluating_tells_how_much_of_a_text_is_unknown(finished, tmp_path, monkeypatch, capsys):
    (tmp_path / "other.txt").write_text("one XXXX")
    monkeypatch.chdir(tmp_path)
    evaluate.main([str(finished[0] / "run"), "other.txt", "--out=out"])
    assert "50 % of the tokens are unknown to the run" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["unknown_share"] == 0.5


@pytest.mark.parametrize("direction", ["backward", "bidirectional"])
def test_a_model_that_has_read_the_next_token_is_refused(direction, tmp_path):
    (tmp_path / "mine.txt").write_text(TEXT)
    config = config_of(tmp_path / "mine.txt")
    config.train.stream_steps, config.model.direction = 0, direction
    with pytest.raises(UserError, match="reads the next token before it is predicted"):
        runs.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_text_is_the_same_in_blocks_and_in_one_piece(finished, monkeypatch):
    told = Restored(str(finished[0] / "run"))
    split = told.encode([TEXT[:150], "one", TEXT[3:130]], str)
    whole_K = told.answer(split)
    monkeypatch.setattr(restored, "_MAX_BATCH_STEPS", 100)
    for one, whole in zip(told.answer(split), whole_K, strict=True):
        is_known_S = split.targets >= 0
        np.testing.assert_allclose(
            one["loss"][is_known_S], whole["loss"][is_known_S], rtol=1e-5, atol=1e-6
        )


def test_the_documented_stream_tells_how_likely_each_character_was(finished, capsys):
    guide = (ROOT / "docs/language_models.md").read_text("utf-8")
    snippet = guide.split("```python\n")[1].partition("```")[0]
    exec(snippet.replace("runs/plays", str(finished[0] / "run")), found := {})
    assert found["outputs_KxBxC"].shape[:2] == (2, 1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len("To be")
    assert all(re.match(r"\['\d+\.\d{4} nats per token  perplexity", line) for line in lines)


def test_a_stream_is_answered_as_it_comes_and_an_interrupt_ends_it(finished):
    """The program, which has not seen the end of its input."""
    with subprocess.Popen(
        [sys.executable, "-m", "train_lib.predict", f"--workdir={finished[0] / 'run'}", "--stream"],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdin.write("one\n")
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in "one"]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=100)
    assert [line.split("  ")[-1] for line in lines] == ["o\n", "n\n", "e\n"]
    assert (process.returncode, errors) == (-signal.SIGINT, "")
    told = Restored(str(finished[0] / "run"))
    losses_T = told.together.average(told.answer(told.encode(["one"], str)))["loss"][:3]
    shown_T = [float(line.split(" ")[0]) for line in lines]
    np.testing.assert_allclose(shown_T, losses_T, atol=6e-5)


@pytest.mark.slow
def test_a_stream_ends_when_nobody_reads_its_answers(finished):
    done = subprocess.run(
        f"yes one | {sys.executable} -m train_lib.predict --workdir={finished[0] / 'run'} --stream "
        "| head -n 2",
        shell=True, cwd=ROOT, text=True, capture_output=True, timeout=100,
    )  # fmt: skip
    assert (len(done.stdout.splitlines()), done.stderr) == (2, "")


def test_predict_tells_the_loss_of_a_text(finished):
    told = Restored(str(finished[0] / "run"))
    split = told.encode(["one two three", "xyz", ""], str)
    likely, unlikely, nothing = told.columns(split)["answer"]
    assert likely < 1 < unlikely
    assert nothing is None
    lines = told.describe(split)
    assert re.match(r"\d\.\d{4} nats per token  perplexity", lines[0])
    assert lines[2].startswith("nothing to predict")


@pytest.mark.slow
def test_texts_that_are_sequences_end(tmp_path):
    """Where texts are no stream, their end is learnt, and ends what is written."""
    lines = [json.dumps({"text": "go on"})] * 60
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    config = config_of(tmp_path / "mine.jsonl")
    config.train.update(stream_steps=0, seeds=1, num_epochs=60, learning_rate=0.05)
    config.data.text_column = "text"
    result = runs.run(config, str(tmp_path / "run"))
    assert result["test_loss"]["mean"] < 0.2
    told = Restored(str(tmp_path / "run"))
    assert ["".join(p) for p in generate(told, "go", temperature=0)] == [" on"]


@pytest.mark.slow
def test_a_classifier_cannot_write(tmp_path):
    case = cases.Case("two", "tokens")
    config = base.get_config("any", "exact")
    config.model.update(embedding_size=4, hidden_sizes=(3,))
    config.data.update(source=cases.PATH, source_options=cases.options(case))
    config.train.update(num_epochs=1, batch_size=40)
    runs.run(config, str(tmp_path / "run"))
    with pytest.raises(UserError, match="was not trained to predict the next token of a text"):
        next(generate(Restored(str(tmp_path / "run")), "a"))


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("model.direction", "bidirectional", "needs the end of a text first"),
        ("model.learned_initial_state", True, "no gradient reaches an initial state"),
        ("data.max_length_tokens", 9, "joins all texts"),
        ("data.mask_padding", False, "has no padding to treat"),
        ("task.name", "classes", "is for a task that predicts the next token"),
    ],
)
def test_what_a_stream_cannot_have_is_refused(path, value, told, tmp_path):
    (tmp_path / "mine.txt").write_text(TEXT)
    config = config_of(tmp_path / "mine.txt")
    config.update_from_flattened_dict({path: value})
    with pytest.raises(UserError, match=told):
        runs.run(config, str(tmp_path / "run"))
