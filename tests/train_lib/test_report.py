"""The files of a report."""

import pytest

from train_lib import files
from train_lib.errors import UserError
from train_lib.progress import _duration
from train_lib.report import RunFolder


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
