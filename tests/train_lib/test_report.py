"""The files of a report."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs import base
from train_lib import files
from train_lib.errors import UserError
from train_lib.progress import _duration
from train_lib.report import RunFolder

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
