"""Four workers on one folder, one of which is killed."""

import json
import pathlib
import re
import sys

import pytest

from tests.train_lib.trials import worker
from train_lib import run as train
from train_lib import sweep
from train_lib.analysis.axes import Axis
from train_lib.errors import UserError
from train_lib.trials import running, workers

ROOT = pathlib.Path(__file__).parent.parent.parent.parent


@pytest.mark.slow
def test_four_workers_one_of_which_is_killed_do_what_one_does(tmp_path, monkeypatch):
    """Submitit's processes of this machine."""
    monkeypatch.chdir(ROOT)
    words = [sys.executable, "-m", "tests.train_lib.trials.worker", str(tmp_path / "sweep")]
    logs = tmp_path / "logs"
    (killed,) = workers.submit(logs, [*words, "killed"], 1, "local", {})
    others = workers.submit(logs, words, 3, "local", {})
    printed = [job.stderr() for job in others if job.exception()]
    assert not printed
    assert "SIGKILL" in str(killed.exception())

    folder = tmp_path / "sweep"
    content = json.loads((folder / "sweep.json").read_text())
    found = {row["trial"]: row["fields"] for row in content["trials"]}
    assert found == one_worker(tmp_path / "alone", monkeypatch)
    assert {row["state"] for row in content["trials"]} == {"complete"}
    said = [(folder / f"trial-{number:04}.log").read_text() for number in found]
    starts = [text.count("run:    ") for text in said]
    assert sorted(starts) == [1, 1, 1, 2]
    number = starts.index(2)
    # It had been saved after four steps for certain, and after eight if the disk was fast.
    assert re.search("resuming from step [48],", said[number])
    assert not list(folder.glob("*.lease"))

    config = sweep.changed(worker.small_config(), found[number])
    train.run(config, str(tmp_path / "whole"), evaluate_test=False)
    for name in ("model.safetensors", "vocabulary.txt"):
        resumed = (folder / f"trial-{number:04}" / name).read_bytes()
        assert resumed == (tmp_path / "whole" / name).read_bytes()


def one_worker(folder, monkeypatch):
    """The fields of each trial of one worker, which trains nothing."""

    def run(trial, config, goal, path):
        row = {"state": "complete", goal.field: 0.5, "ci95": None, "seeds_diverged": 0}
        trial.end(row | {"validation_loss": 1.0, "parameters": 9, "seconds": 1.0})

    monkeypatch.setattr(running, "run", run)
    axes = [Axis.parse(text) for text in worker.AXES]
    content = sweep.run(worker.small_config(), axes, None, 0, str(folder))
    return {row["trial"]: row["fields"] for row in content["trials"]}


def test_submitit_refuses_options_that_it_does_not_know(tmp_path):
    with pytest.raises(UserError, match="Unknown argument 'patrition'"):
        workers.submit(tmp_path, ["true"], 1, "local", {"slurm_patrition": "gpu"})
    with pytest.raises(UserError, match="srun"):
        workers.submit(tmp_path, ["true"], 1, "slurm", {})
