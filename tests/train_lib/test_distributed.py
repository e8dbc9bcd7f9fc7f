"""Two processes, each with a device of its own, train as one does with two."""

import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from configs import base
from train_lib import loop
from train_lib.errors import STOPPED

ROOT = pathlib.Path(__file__).parent.parent.parent
FIELDS = {
    "model.embedding_size": 4, "model.hidden_sizes": (3,), "model.dropout_rates": (0.3,),
    "data.source": "generated", "data.train_reviews": 120, "data.validation_reviews": 10,
    "data.test_reviews": 10, "data.max_features": 50, "data.max_length_tokens": 20,
    "train.num_epochs": 2, "train.batch_size": 4, "train.learning_rate": 0.01,
    "train.checkpoint_every_steps": 16,
}  # fmt: skip
CONFIG = ["--config=configs/lstm.py:tutorial", *(f"--config.{name}={FIELDS[name]}" for name in FIELDS)]
# Runs main.py with one device, and sends itself a signal after step 24, when 16 is saved.
PROGRAM = """
import os, runpy
from train_lib.resume import Keeper

after_call = Keeper.after_call

def interrupt(keeper, step, *arguments):
    if {number} and step == 24:
        os.kill(os.getpid(), {number})
    after_call(keeper, step, *arguments)

Keeper.after_call = interrupt
os.sched_getaffinity = lambda _: {{0}}
runpy.run_path("main.py", run_name="__main__")
"""


@pytest.fixture(autouse=True, scope="module")
def shared_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
        yield


@pytest.fixture(autouse=True)
def own_cache(shared_cache):
    """In place of the one for each test."""


def run_two(folder, *arguments, signal_to_second=0):
    """Exit codes, outputs and errors; the second process is told of another folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [
                sys.executable, "-c", PROGRAM.format(number=number * int(signal_to_second)),
                *arguments, f"--workdir={workdir}",
                f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={number}",
            ],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for number, workdir in enumerate([folder, f"{folder}-of-second"])
    ]  # fmt: skip
    told = [process.communicate(timeout=200) for process in started]
    assert not pathlib.Path(f"{folder}-of-second").exists()
    return [process.returncode for process in started], *zip(*told, strict=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shared_cache):
    """The folder of the run of two processes that nothing interrupts."""
    folder = tmp_path_factory.mktemp("distributed") / "whole"
    codes, outputs, errors = run_two(folder, *CONFIG)
    assert codes == [0, 0], errors
    assert errors == ("", "")
    assert "epoch 2/2: train loss" in outputs[0]
    assert outputs[1] == ""
    return folder


def assert_close(one, other):
    for name in ("weights.npz", "best_weights.npz"):
        with np.load(one / name) as ours, np.load(other / name) as theirs:
            for path in ours:
                np.testing.assert_allclose(ours[path], theirs[path], atol=1e-5, err_msg=path)
    logits = [
        np.loadtxt(folder / "predictions.csv", delimiter=",", skiprows=1)[:, 4]
        for folder in (one, other)
    ]
    np.testing.assert_allclose(*logits, atol=1e-5)


def of_one_process(folder, **train):
    config = base.get_config("lstm", "tutorial")
    config.update_from_flattened_dict(FIELDS)
    config.train.update(train)
    loop.run(config, str(folder))
    return folder


def test_two_processes_give_what_one_does(whole, tmp_path):
    assert_close(whole, of_one_process(tmp_path / "one"))


def test_a_killed_process_ends_the_other_and_both_go_on_bit_for_bit(whole, tmp_path):
    folder = tmp_path / "killed"
    codes, _, errors = run_two(folder, *CONFIG, signal_to_second=signal.SIGKILL)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, STOPPED)
    assert "error: another process of this run has ended" in errors[0]
    assert "Traceback" not in errors[0]
    codes, outputs, errors = run_two(folder)  # Its config is in its folder.
    assert codes == [0, 0], errors
    assert "goes on from step 16, in epoch 1" in outputs[0]
    for name in ("weights.npz", "best_weights.npz", "predictions.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_signal_to_one_saves_all_and_one_process_can_go_on(tmp_path, capsys):
    """Of two seeds each process has one."""
    folder = tmp_path / "asked"
    arguments = [*CONFIG, "--config.train.seeds=2"]
    codes, _, errors = run_two(folder, *arguments, signal_to_second=signal.SIGTERM)
    assert codes == [STOPPED, STOPPED], errors
    for error in errors:
        assert "SIGTERM: saved after step" in error
    assert_close(of_one_process(folder, seeds=2), of_one_process(tmp_path / "one", seeds=2))
    assert "devices were 2 x cpu, of 2 processes and are 2 x cpu" in capsys.readouterr().out
