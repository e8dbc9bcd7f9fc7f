"""What is logged is what the run found, once, and what cannot be logged is told before."""

import json
import os
import sys

import numpy as np
import pytest

from configs import base
from tests.train_lib.records.events import events, scalars
from train_lib import run as runs
from train_lib.errors import UserError
from train_lib.records import loggers
from train_lib.records.folder import RunFolder

SEEDS = range(4, 6)
ROWS = [
    {
        "epoch": epoch, "step": 10 * epoch, "seconds": 1.0,
        "seeds": {
            "train_loss": [0.5 / epoch, None if epoch == 2 else 0.75],
            "validation_macro_f1": [0.25 * epoch, 0.125], "learning_rate": [0.5, 0.5],
            "gradient_norm": [2.0, 3.0],
        },
    }
    for epoch in (1, 2)
]  # fmt: skip
RESULT = {
    "seeds": [
        {"seed": 4, "test_loss": 0.5, "test_figures": {"f1": 0.5}, "best_validation_loss": 0.1},
        {"seed": 5, "diverged_at_step": 12},
    ]
}
# In place of the package, which is not among those of the tests.
STAND_IN = """
calls = []

class Run:
    def __init__(self, given):
        self.given, self.summary = given, {}
        self.starting_step = 20 if given["resume"] else 0
        self.logged, self.is_finished = [], False
        calls.append(self)

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.is_finished = True

def init(**given):
    return Run(given)
"""


@pytest.fixture
def config():
    config = base.get_config("mine", "exact")
    config.train.update(seed=4, seeds=2)
    return config


@pytest.fixture
def folder(tmp_path, config):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.begin(config)
    return folder


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    import wandb

    return wandb


def log(name, folder, config, rows=ROWS):
    """Logs as a run does, that was killed and resumed after its first epoch."""
    (kind,) = loggers.find([name])
    kind(folder, config, SEEDS).begin(rows)
    logger = kind(folder, config, SEEDS)
    logger.begin(rows[:1])
    for row in rows[1:]:
        logger.log(row)
    logger.finish(RESULT)


def test_tensorboard_has_a_run_for_each_seed(folder, config):
    log("tensorboard", folder, config)
    first, second = (scalars(folder.path / f"tensorboard/seed-{seed}") for seed in SEEDS)
    assert first == {
        "train/loss": [(10, 0.5), (20, 0.25)], "validation/macro_f1": [(10, 0.25), (20, 0.5)],
        "train/learning_rate": [(10, 0.5), (20, 0.5)], "train/gradient_norm": [(10, 2), (20, 2)],
        "epoch": [(10, 1), (20, 2)], "test/loss": [(20, 0.5)],
    }  # fmt: skip
    assert second["train/loss"] == [(10, 0.75)], "of a seed that has diverged nothing more"
    assert "test/loss" not in second
    found = events(folder.path / "tensorboard/seed-4")
    tags = {value.tag: value for event in found for value in event.summary.value}
    text = tags["config/text_summary"].tensor.string_val[0].decode()
    assert json.loads(text.removeprefix("```\n").removesuffix("\n```"))["name"] == "mine"
    parameters = tags["_hparams_/session_start_info"].metadata.plugin_data.content
    assert b"train.learning_rate" in parameters


def test_wandb_has_a_run_for_each_seed_and_sends_nothing(folder, config, wandb, monkeypatch):
    log("wandb", folder, config)
    *_, first, second = wandb.calls
    assert [one.given["mode"] for one in wandb.calls] == ["offline"] * 4
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    assert [step for step, _ in first.logged] == [10, 20]
    assert first.logged[1][1] == {
        "train/loss": 0.25, "validation/macro_f1": 0.5, "train/learning_rate": 0.5,
        "train/gradient_norm": 2.0, "epoch": 2,
    }  # fmt: skip
    assert "train/loss" not in second.logged[1][1]
    assert [one.summary for one in (first, second)] == [{"test/loss": 0.5}, {}]
    assert [one.given["config"]["seed"] for one in (first, second)] == [4, 5]
    assert first.given["group"] == second.given["group"]
    assert first.is_finished
    assert second.is_finished
    ids = [one.given["id"] for one in wandb.calls]
    assert len(set(ids)) == 2, "a run that resumes is the same one"


def test_wandb_resumes_where_it_sends_and_sends_no_epoch_twice(folder, config, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    log("wandb", folder, config)
    assert {(one.given["mode"], one.given["resume"]) for one in wandb.calls} == {
        ("online", "allow")
    }
    assert [step for step, _ in wandb.calls[-1].logged] == [20], "the stand-in has had 10"


def test_a_finished_run_is_logged_after_the_fact(write_run, monkeypatch):
    path = write_run("finished", seeds=SEEDS, changes={"train.seed": 4, "train.seeds": 2})
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    folder = RunFolder(path)
    folder.finish(folder.read_json("result.json"))
    runs.run(folder.read_config(), str(path), log=["tensorboard"])
    logged = scalars(path / "tensorboard/seed-4")
    assert logged["train/loss"] == [(10, 0.5), (20, 0.25)]
    tested = folder.read_json("result.json")["seeds"][0]["test_accuracy"]
    assert logged["test/accuracy"] == [(20, np.float32(tested))]
    folder.check()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["tensorflow"], "--log=tensorflow is not one of tensorboard, wandb"),
        (["tensorboard", ""], "--log= is not one of"),
        (["wandb"], "--log=wandb needs wandb, which is not installed: pip install wandb"),
    ],
)
def test_a_logger_that_cannot_be_is_told_before_training(
    names, words, config, tmp_path, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name != "wandb" or None)
    with pytest.raises(UserError, match=words):
        runs.run(config, str(tmp_path / "run"), log=names)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_written_is_told(folder, config):
    (folder.path / "tensorboard").write_text("a file")
    (kind,) = loggers.find(["tensorboard"])
    with pytest.raises(UserError, match="tensorboardX cannot log to "):
        kind(folder, config, SEEDS).begin(ROWS)
