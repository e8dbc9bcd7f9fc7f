"""The files of a report, and what it says."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from configs import base
from train_lib import files
from train_lib.errors import UserError
from train_lib.records import curves, metrics
from train_lib.records.folder import RunFolder
from train_lib.records.progress import _duration
from train_lib.tasks.classes import Classes

CONFIG = base.get_config("name", "exact")


def test_two_runs_cannot_take_the_same_folder(tmp_path):
    folder = RunFolder.open(str(tmp_path / "run"), CONFIG)
    with pytest.raises(UserError, match="another process is at work"):
        RunFolder.open(str(tmp_path / "run"), CONFIG)
    folder.close()
    RunFolder.open(str(tmp_path / "run"), CONFIG).close()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not the folder of a run"):
        RunFolder.open(str(tmp_path), CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_runs_without_a_folder_get_one_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {RunFolder.open(None, CONFIG).path for _ in range(3)}
    assert len(folders) == 3


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write(path, "old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# The same examples on every machine, so that a failure is never luck. Any text UTF-8 can hold.
@settings(deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("a\r\n\x85\u2028\ufeff\\"))
def test_a_text_comes_back_as_it_was(tmp_path, monkeypatch, text):
    monkeypatch.setattr(files.os, "fsync", lambda _: None)
    folder = RunFolder(tmp_path)
    folder.write("vocabulary.txt", text)
    assert folder.read_text("vocabulary.txt") == text


def test_duration():
    assert [_duration(seconds) for seconds in (0.4, 65, 3723)] == ["0:00", "1:05", "1:02:03"]


COUNTS = st.integers(1, 10**6).flatmap(
    lambda reviews: st.tuples(
        st.lists(st.integers(0, reviews), min_size=1, max_size=10)
        | st.integers(0, reviews).map(lambda count: [count] * 3),
        st.just(reviews),
    )
)


@given(COUNTS)
@example(([4, 6], 8))
@example(([5, 5], 10))
@example(([1, 1], 1))
@pytest.mark.filterwarnings("error")
def test_the_interval_of_an_accuracy_is_one_that_can_be(counts):
    right_K, reviews = np.array(counts[0]), counts[1]
    found, turned = (
        metrics.summary(count_K / reviews, reviews) for count_K in (right_K, reviews - right_K)
    )
    pairs = [("ci95_low", "ci95_high")] + [("one_seed_low", "one_seed_high")] * (len(right_K) > 1)
    for low, high in pairs:
        assert 0 <= found[low] <= found["mean"] <= found[high] <= 1
        assert found[low] < found[high]
        assert found[low] == pytest.approx(1 - turned[high], abs=1e-9)
    if len(right_K) > 1:
        assert found["one_seed_low"] <= found["ci95_low"]
        assert found["one_seed_high"] >= found["ci95_high"]


def test_the_interval_of_a_loss_never_goes_below_zero_and_never_has_no_width():
    found = metrics.summary(np.array([0.01, 0.5]), lowest=0)
    assert 0 <= found["ci95_low"] < found["mean"] < found["ci95_high"]
    assert metrics.summary(np.array([0.7, 0.7])).keys() == {"mean"}


def test_intervals_of_an_epoch_are_ones_that_can_be():
    """Seeds that agree, and two that do not at all; their lines say what the file says."""

    task = Classes(["a", "b"])
    of_seeds = {
        "train_loss": [0.7, 0.7], "train_accuracy": [0.5, 0.5],
        "validation_loss": [0.7, 0.7], "validation_accuracy": [4 / 8, 7 / 8],
    }  # fmt: skip
    row = {"epoch": 1, "step": 8, "items": {"train": 10, "validation": 8}, "seeds": of_seeds}
    row = metrics.line(row, task)
    for name in ("train_accuracy", "validation_accuracy"):
        low, high = row["ci95"][name]
        assert 0 <= low < row[name] < high <= 1
        assert f"accuracy {row[name]:.4f} [{low:.4f}, {high:.4f}]" in metrics.describe(row, task)
    assert row["ci95"]["train_loss"] is None
    assert "train loss 0.7000, " in metrics.describe(row, task)
    assert all(math.isfinite(row[name]) for name in ("train_loss", "validation_loss"))


STOPPED = {
    "epoch": 3, "step": 24, "items": {"train": 10, "validation": 8},
    "seeds": {
        "train_loss": [None, 0.6, None], "train_accuracy": [None, 0.5, None],
        "validation_loss": [0.7, 0.6, 0.8], "validation_accuracy": [4 / 8, 7 / 8, 5 / 8],
        "learning_rate": [None, 0.1, None],
    },
}  # fmt: skip


def test_seeds_that_have_stopped_are_still_among_those_validated():
    row = metrics.line(STOPPED, Classes(["a", "b"]))
    assert row["train_loss"] == 0.6
    assert row["ci95"]["train_accuracy"] is None, "one seed has no interval over seeds"
    assert row["validation_loss"] == pytest.approx(0.7)
    assert row["ci95"]["validation_accuracy"] is not None
    assert row["seeds"] == STOPPED["seeds"]


@pytest.mark.parametrize(("later", "panels"), [(0.1, 2), (0.05, 3)])
def test_the_learning_rate_is_drawn_where_it_changes(later, panels, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves.pictures, "png", lambda figure: drawn.append(figure) or b"")
    rows = [
        {**STOPPED, "epoch": epoch, "seeds": STOPPED["seeds"] | {"learning_rate": rates}}
        for epoch, rates in ((1, [0.1, 0.1, 0.1]), (2, [None, later, 0.1]))
    ]
    older = {"epoch": 0, "train_loss": 0.7, "validation_loss": 0.7, "ci95": None}
    curves.draw(RunFolder(tmp_path), "title", [older, *rows], Classes(["a", "b"]))
    all_axes = drawn[0].axes
    assert len(all_axes) == panels
    if panels == 3:
        lines = [line.get_ydata().tolist() for line in all_axes[-1].lines]
        assert lines[1] == [0.1, 0.05]
        assert lines[0][0] == 0.1
        assert math.isnan(lines[0][1])
        assert lines[2] == [0.1, 0.1]
