"""Runs are read back as they were written, and what was damaged is refused with a reason."""

import json
import re

import numpy as np
import pytest

from train_lib import finished
from train_lib.errors import UserError


def edit_json(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def edit_rows(path, edit):
    """Changes the lines of a CSV, its header among them."""
    lines = path.read_text().splitlines()
    path.write_text("".join(line + "\n" for line in edit(lines)))


def cell(number, column, value):
    """An edit: a line's cell becomes another."""

    def edit(lines):
        cells = lines[number].split(",")
        cells[column] = value
        return [*lines[:number], ",".join(cells), *lines[number + 1 :]]

    return edit


def test_a_run_is_read_as_it_was_written(write_run):
    path = write_run("one", seeds=(4, 5), changes={"model.cell": "mine"})
    run, _ = finished.load([str(path), str(write_run("two", seeds=(4, 5)))])
    assert (run.name, run.folder, run.seeds) == ("one", path, [4, 5])
    assert run.config["model.cell"] == "mine"
    accuracies = [seed["test_accuracy"] for seed in run.result["seeds"]]
    np.testing.assert_allclose(run.correct_KxN.mean(1), accuracies)
    table = np.genfromtxt(path / "predictions.csv", delimiter=",", names=True)
    of_last = table[table["seed"] == 5]
    np.testing.assert_array_equal(run.logits_KxN[1], of_last["logit"])
    np.testing.assert_allclose(run.probabilities_KxN[1], of_last["probability"], atol=1e-5)
    np.testing.assert_array_equal(run.tokens_N, of_last["tokens"])
    np.testing.assert_array_equal(run.labels_N, of_last["label"])


def test_rows_and_columns_may_have_any_order(write_run):
    paths = [str(write_run("one")), str(write_run("two"))]
    before = finished.load(paths)[0]

    def mix(lines):
        rows = [",".join(reversed(line.split(","))) for line in lines]
        return [rows[0], *np.random.default_rng(0).permutation(rows[1:])]

    edit_rows(before.folder / "predictions.csv", mix)
    after = finished.load(paths)[0]
    np.testing.assert_array_equal(before.logits_KxN, after.logits_KxN)
    np.testing.assert_array_equal(before.tokens_N, after.tokens_N)


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


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda lines: [], "first line does not name seed"),
        (lambda lines: lines[:1], "it has 0 rows"),
        (lambda lines: lines[:-1], "599 rows"),
        (lambda lines: [*lines[:-1], lines[1]], "seed 0, review 0 is there twice"),
        (lambda lines: [*lines[:-1], ""], "empty rows"),
        (lambda lines: [*lines[:-1], lines[-1][:9]], "row 599"),
        (lambda lines: [line.rpartition(",")[0] for line in lines], "not name probability"),
        (cell(0, 4, "logits"), "not name logit"),
        (cell(7, 4, "nan"), "cannot be"),
        (cell(7, 4, "inf"), "cannot be"),
        (cell(7, 4, "abc"), "abc"),
        (cell(7, 5, "0.123456"), "cannot be"),
        (cell(7, 3, "2"), "cannot be"),
        (cell(7, 2, "-3"), "cannot be"),
        (cell(7, 2, "17.5"), "cannot be"),
        (cell(7, 2, "100000"), "differ in the tokens or the label"),
        (cell(7, 1, "200"), "cannot be"),
        (cell(7, 1, "1.5"), "cannot be"),
        (cell(7, 0, "9"), "cannot be"),
    ],
)
def test_damaged_predictions_are_refused(write_run, edit, reason):
    path = write_run("one")
    edit_rows(path / "predictions.csv", edit)
    with pytest.raises(UserError, match=f"predictions.csv.*{reason}"):
        finished.load([str(path), str(write_run("two"))])


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda result: result.pop("test_accuracy"), "left the test reviews unseen"),
        (lambda result: result.pop("dataset"), "dataset.name is missing"),
        (lambda result: result.update(dataset="imdb"), "dataset.name is missing"),
        (lambda result: result["dataset"].update(test="many"), "dataset.test = 'many'"),
        (lambda result: result["dataset"].update(test=10**15), "are 3,000,000,000,000,000"),
        (lambda result: result["dataset"].update(test=0), "two test reviews"),
        (lambda result: result["seconds"].update(train=float("nan")), "seconds.train = nan"),
        (lambda result: result.update(seeds={}), "seeds = {}"),
        (lambda result: result.update(seeds=[]), "a seed"),
        (lambda result: result["seeds"][0].update(seed=True), "seed = True"),
        (
            lambda result: result["seeds"].pop(),
            "600 rows, and seeds times test reviews, as in result.json, are 400",
        ),
        (lambda result: result["seeds"][1].update(test_accuracy=0.5), "accuracy of seed 1"),
    ],
)
def test_damaged_results_are_refused(write_run, edit, reason):
    path = write_run("one")
    edit_json(path / "result.json", edit)
    with pytest.raises(UserError, match=re.escape(reason)):
        finished.load([str(path), str(write_run("two"))])


@pytest.mark.parametrize("name", ["config.json", "result.json"])
@pytest.mark.parametrize("content", ['{"a": ', "[]", "\xff", "[" * 100_000])
def test_what_is_no_json_object_is_refused(write_run, name, content):
    path = write_run("one")
    (path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=f"{name}.*(damaged|cannot be read)"):
        finished.load([str(path), str(write_run("two"))])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("result.json", "not the folder of a finished run"),
        ("config.json", "config.json cannot be read"),
        ("predictions.csv", "predictions.csv cannot be read"),
    ],
)
def test_a_run_that_lacks_a_file_is_refused(write_run, name, reason):
    path = write_run("one")
    (path / name).unlink()
    with pytest.raises(UserError, match=reason):
        finished.load([str(path), str(write_run("two"))])


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda path: edit_json(path / "result.json", lambda result: result["dataset"].update(
            fingerprint="fedc")), "fingerprint: 0123456789abcdef / fedc"),
        (lambda path: edit_json(path / "result.json", lambda result: result["dataset"].update(
            name="imdb_reviews")), "name: made_up / imdb_reviews"),
        (lambda path: edit_rows(path / "predictions.csv", cell(3, 2, "401")),
         "1 reviews have other tokens or another label\n  config.data.split_seed: 0 / 5"),
    ],
)  # fmt: skip
def test_runs_that_were_tested_on_different_reviews_are_refused(write_run, edit, reason):
    first = write_run("one", seeds=(0,))
    second = write_run("two", seeds=(0,), changes={"data.split_seed": 5})
    edit(second)
    with pytest.raises(UserError, match=re.escape(reason)):
        finished.load([str(first), str(second)])


def test_runs_with_different_numbers_of_test_reviews_are_refused(write_run):
    paths = [str(write_run("one")), str(write_run("two", reviews=100))]
    with pytest.raises(UserError, match=r"dataset\.test: 200 / 100"):
        finished.load(paths)
