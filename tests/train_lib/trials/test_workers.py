"""Several workers on one folder, one of which is killed."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from tests.train_lib.trials import worker
from train_lib import sweep
from train_lib.analysis.axes import Axis

ROOT = pathlib.Path(__file__).parent.parent.parent.parent


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of the search that one worker ran."""
    folder = tmp_path_factory.mktemp("alone")
    axes = [Axis.parse(text) for text in worker.AXES]
    sweep.run(worker.small_config(), axes, None, 0, str(folder))
    return folder


def rows(folder):
    """The trials of a search by their number, without what depends on the machine."""
    content = json.loads((folder / "sweep.json").read_text())
    return {row["trial"]: row | {"seconds": None} for row in content["trials"]}


@pytest.mark.slow
def test_four_workers_one_of_which_is_killed_do_what_one_does(alone, tmp_path):
    script = [sys.executable, "-m", "tests.train_lib.trials.worker", str(tmp_path)]
    with (tmp_path.parent / "output").open("w") as output:
        start = {"cwd": ROOT, "stdout": output, "stderr": subprocess.STDOUT}
        workers = [subprocess.Popen([*script, "killed"], **start)]
        workers += [subprocess.Popen(script, **start) for _ in range(3)]
        codes = [each.wait(timeout=300) for each in workers]
    printed = (tmp_path.parent / "output").read_text()
    assert codes == [-signal.SIGKILL, 0, 0, 0], printed
    assert rows(tmp_path) == rows(alone)
    logs = [(tmp_path / f"trial-{number:04}.log").read_text() for number in range(4)]
    # One trial was begun twice: the second time, where it was saved.
    assert sorted(log.count("run:    ") for log in logs) == [1, 1, 1, 2], printed
    assert [len(re.findall("resumes from step (?:4|8),", log)) for log in logs if log.count(
        "run:    ") == 2] == [1]
    for number in range(4):
        one, other = (folder / f"trial-{number:04}" for folder in (tmp_path, alone))
        assert (one / "weights.npz").read_bytes() == (other / "weights.npz").read_bytes()
    assert not list(tmp_path.glob("*.lease"))
