"""The statistics and the files of a report."""

import numpy as np
import pytest

from train_lib import files
from train_lib.errors import UserError
from train_lib.progress import _duration
from train_lib.report import RunFolder, wilson_interval


@pytest.mark.parametrize("proportion", [0.02, 0.5, 0.86])
def test_wilson_interval_covers_as_often_as_it_says(proportion):
    count, trials = 400, 4_000
    seen = np.random.default_rng(0).binomial(count, proportion, trials) / count
    low, high = np.array([wilson_interval(value, count) for value in seen]).T
    covered = ((low <= proportion) & (proportion <= high)).mean()
    assert 0.93 < covered < 0.97


def test_wilson_interval_stays_between_zero_and_one():
    for proportion in (0.0, 1.0):
        low, high = wilson_interval(proportion, 10)
        assert -1e-12 <= low < high <= 1 + 1e-12


def test_two_runs_cannot_take_the_same_folder(tmp_path):
    RunFolder.create(str(tmp_path / "run"), "name")
    with pytest.raises(UserError, match="not empty"):
        RunFolder.create(str(tmp_path / "run"), "name")


def test_runs_without_a_folder_get_one_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {RunFolder.create(None, "name").path for _ in range(3)}
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


def test_duration():
    assert [_duration(seconds) for seconds in (0.4, 65, 3723)] == ["0:00", "1:05", "1:02:03"]
