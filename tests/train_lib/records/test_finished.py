"""Runs are read back as they were written, and what was damaged is refused with a reason."""

import pathlib
import re

import numpy as np
import pytest

from train_lib.errors import UserError
from train_lib.records import finished


def test_a_run_is_read_as_it_was_written(write_run):
    path = write_run("one", seeds=(4, 5), changes={"model.cell": "mine"})
    run, _ = finished.load([str(path), str(write_run("two", seeds=(4, 5)))])
    assert (run.name, run.folder, run.seeds) == ("one", path, [4, 5])
    assert run.config["model.cell"] == "mine"
    accuracies = [seed["test_accuracy"] for seed in run.result["seeds"]]
    np.testing.assert_allclose(run.mean_scores(), accuracies, rtol=1e-6)
    table = np.genfromtxt(path / "predictions.csv", delimiter=",", names=True)
    of_last = table[table["seed"] == 5]
    np.testing.assert_array_equal(run.scores_KxN[1], of_last["score"])
    np.testing.assert_array_equal(run.probabilities_KxN[1], of_last["probability"])
    np.testing.assert_array_equal(run.steps_N, of_last["steps"])
    np.testing.assert_array_equal(run.is_second_N, np.arange(200) % 2 == 1)


def test_runs_whose_folders_have_the_same_name_are_told_apart(write_run, tmp_path):
    first = write_run("one")
    (tmp_path / "other").mkdir()
    second = write_run("two").rename(tmp_path / "other/one")
    assert [run.name for run in finished.load([str(first), str(second)])] == [
        str(first), str(second),
    ]  # fmt: skip


def test_a_folder_named_twice_is_refused(write_run, monkeypatch):
    path = write_run("one")
    monkeypatch.chdir(path)
    with pytest.raises(UserError, match="named twice"):
        finished.load([str(path), "."])


def change(path):
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))


@pytest.mark.parametrize("name", ["config.json", "result.json", "metrics.jsonl", "predictions.csv"])
@pytest.mark.parametrize("edit", [change, pathlib.Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_run_whose_files_were_edited_is_refused(write_run, name, edit):
    path = write_run("one")
    edit(path / name)
    with pytest.raises(UserError, match=rf"{path} is damaged: changed since .* written: {name}\. "):
        finished.load([str(path), str(write_run("two"))])


def test_a_run_beside_which_notes_were_put_is_read(write_run):
    path = write_run("one")
    (path / "notes.txt").write_text("mine")
    assert finished.load([str(path), str(write_run("two"))])[0].folder == path


def test_a_run_that_has_not_ended_is_refused(write_run):
    path = write_run("one")
    (path / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="not the folder of a finished run"):
        finished.load([str(path), str(write_run("two"))])


def test_a_run_that_left_the_test_examples_unseen_is_refused(write_run):
    with pytest.raises(UserError, match="left the test examples unseen"):
        finished.load([str(write_run("one", tested=False)), str(write_run("two"))])


@pytest.mark.parametrize(
    ("tested_on", "reason"),
    [
        ({"dataset": {"fingerprint": "fedc"}}, "fingerprint: 0123456789abcdef / fedc"),
        ({"dataset": {"name": "imdb_reviews"}}, "name: made_up / imdb_reviews"),
        ({"examples": 100}, "test: 200 / 100"),
        ({"others": 1}, "differ in steps or target\n  config.data.split_seed: 0 / 5"),
    ],
)
def test_runs_that_were_tested_on_different_examples_are_refused(write_run, tested_on, reason):
    first = write_run("one")
    second = write_run("two", changes={"data.split_seed": 5}, **tested_on)
    with pytest.raises(UserError, match=re.escape(reason)):
        finished.load([str(first), str(second)])
