"""Two processes, each with a device of its own, train as one does with two."""

import csv
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.train_lib import cases
from train_lib.errors import STOPPED

ROOT = pathlib.Path(__file__).parent.parent.parent
FIELDS = {
    "model.embedding_size": 4, "model.hidden_sizes": (3,), "model.dropout_rates": (0.3,),
    "data.source": "generated", "data.train_examples": 120, "data.validation_examples": 10,
    "data.test_examples": 10, "data.max_features": 50, "data.max_length_tokens": 20,
    "train.num_epochs": 2, "train.batch_size": 4, "train.learning_rate": 0.01,
    "train.checkpoint_every_steps": 16,
}  # fmt: skip
# The tutorial's treatment, since it compiles soonest.
CONFIG = [
    "--config=configs/lstm.py:tutorial",
    *(f"--config.{name}={value}" for name, value in FIELDS.items()),
]
PROGRAM = """
import dataclasses, os, runpy
from train_lib.data import loading
from train_lib.records.keeper import Keeper

os.sched_getaffinity = lambda _: {0}  # So that it has one device.
after_call, load = Keeper.after_call, loading.load
"""
RUN = 'runpy.run_path("main.py", run_name="__main__")'
# After step 24, when 16 is saved.
SENDS_ITSELF = """
def interrupt(keeper, moment, *arguments):
    if moment.step == 24:
        os.kill(os.getpid(), {})
    after_call(keeper, moment, *arguments)

Keeper.after_call = interrupt
"""
HAS_OTHER_DATA = """
def load_other(*arguments, **rest):
    return dataclasses.replace(load(*arguments, **rest), fingerprint="f")

loading.load = load_other
"""
# Two seeds on one device, on eight and in two groups of four, of every task; prints what differs.
MANY_DEVICES = """
import jax
import numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from jax.sharding import AxisType
from tests.train_lib import cases
from train_lib.training import devices, fitting, optimizers
from train_lib.training.program import Program

def found(case, *shape):
    mesh = jax.make_mesh(
        shape, ("seed", "batch"), (AxisType.Auto,) * 2, devices=jax.devices()[: np.prod(shape)]
    )
    devices.mesh = lambda *_: mesh
    program = Program(
        cases.models_of(case, (0, 1), direction="backward"), cases.task_of(case),
        optimizers.adam(1e-2, 1e-7), batch_size=20,
    )
    splits = cases.split_of(case, 50), cases.split_of(case, 20, seed=1)
    fitted = fitting.fit(program, *splits, seeds=(0, 1), num_epochs=2)
    return [*jax.tree.leaves(devices.fetch(fitted.training.best)), *fitted.validation.kept.values()]

for case in cases.ALL[2:]:
    one, *others = (found(case, *shape) for shape in ((1, 1), (2, 4)))
    difference = max(
        np.abs(a - b).max() for other in others for a, b in zip(one, other, strict=True)
    )
    print(case, difference < 1e-5, difference)
"""


@pytest.fixture(autouse=True, scope="module")
def shared_cache(tmp_path_factory):
    """One cache for this file's runs."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_cache(shared_cache):
    """In place of one for each test."""


def run_two(folder, *arguments, second=""):
    """Exit codes, outputs and errors of the first process and of the second.

    Args:
        folder: of the run. The second process is told of another, as if on another host.
        arguments: of both.
        second: what the second one does before it runs.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    elsewhere = pathlib.Path(f"{folder}-elsewhere")
    started = [
        subprocess.Popen(
            [
                sys.executable, "-c", PROGRAM + changed + RUN, *arguments, f"--workdir={workdir}",
                f"--coordinator={address}", "--num_processes=2", f"--process_id={number}",
            ],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for number, (workdir, changed) in enumerate([(folder, ""), (elsewhere, second)])
    ]  # fmt: skip
    told = [process.communicate(timeout=200) for process in started]
    assert not elsewhere.exists()
    return [process.returncode for process in started], *zip(*told, strict=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shared_cache):
    """The folder of the run of two processes that nothing interrupts."""
    folder = tmp_path_factory.mktemp("distributed") / "whole"
    codes, outputs, errors = run_two(folder, *CONFIG)
    assert codes == [0, 0], errors
    assert "epoch 2/2: train loss" in outputs[0]
    assert outputs[1] == ""
    return folder


def run_one(folder, *arguments):
    """What one process with two devices prints, in a run of its own as those of two are."""
    code = PROGRAM.replace("{0}", "{0, 1}") + RUN
    command = [sys.executable, "-c", code, *CONFIG, *arguments, f"--workdir={folder}"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_first_seeds_close(*folders):
    for name in ("model.safetensors", "best_model.safetensors"):
        one, other = (load_file(folder / name) for folder in folders)
        for path in one:
            np.testing.assert_allclose(one[path][0], other[path][0], atol=1e-5, err_msg=path)
    for one, other in zip(*(answers_of_first_seed(folder) for folder in folders), strict=True):
        for column in one:
            try:
                assert float(one[column]) == pytest.approx(float(other[column]), abs=1e-5), column
            except ValueError:  # It is no number.
                assert one[column] == other[column], column


def answers_of_first_seed(folder):
    with open(folder / "predictions.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["seed"] == "0"]


@pytest.mark.slow
def test_two_processes_give_what_one_does(whole, tmp_path):
    run_one(tmp_path)
    assert_first_seeds_close(whole, tmp_path)


def assert_two_are_as_one(folder, changes):
    """With these fields changed, two processes in `two` end as one does in `one`."""
    flags = [f"--config.{name}={value}" for name, value in changes.items()]
    codes, *told = run_two(folder / "two", *CONFIG, *flags)
    assert codes == [0, 0], told
    run_one(folder / "one", *flags)
    assert_first_seeds_close(folder / "two", folder / "one")


TWO_PROCESSES = [cases.Case("labels", "tokens"), cases.Case("tags", "vectors")]


@pytest.mark.slow
@pytest.mark.parametrize("case", TWO_PROCESSES, ids=str)
def test_two_processes_give_what_one_does_of_any_task(case, tmp_path):
    changes = {
        "data.source": cases.PATH, "data.source_options": cases.options(case),
        "task.name": cases.TASKS[case.task], "data.max_features": 5_000,
        "data.train_examples": 0, "data.validation_examples": 0, "data.test_examples": 0,
    }  # fmt: skip
    assert_two_are_as_one(tmp_path, changes)


STREAM = {
    "task.name": "next_token", "data.max_length_tokens": 0, "data.mask_padding": True,
    "data.padding_side": "post", "train.stream_steps": 32,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "of_task"), [(1, STREAM), (2, {"task.metric": "loss"})])
def test_two_processes_follow_a_recipe_as_one_does(seeds, of_task, tmp_path):
    """One reads a stream, of which each process has half of the rows.

    Of two seeds each process has one, and one of them stops before the other.
    """
    changes = of_task | {
        "train.seeds": seeds, "train.num_epochs": 6, "train.batch_size": 8,
        "train.accumulate_batches": 2, "train.schedule": "cosine", "train.warmup": 0.1,
        "train.plateau_patience": 1, "train.ema_decay": 0.5, "train.patience": 2,
        "train.learning_rate": 0.05,
    }  # fmt: skip
    assert_two_are_as_one(tmp_path, changes)
    if of_task is STREAM:  # From batch to batch a row stays where it is, and so does its state.
        for name in ("model.safetensors", "best_model.safetensors", "predictions.csv"):
            two, one = ((tmp_path / of / name).read_bytes() for of in ("two", "one"))
            assert two == one, name
    rows = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])
        for name in ("two", "one")
    ]
    assert rows[0]["epoch"] == rows[1]["epoch"]
    rates = [row["seeds"]["learning_rate"] for row in rows]
    assert rates[0] == rates[1]
    assert (None in rates[0]) == (seeds == 2), rates


@pytest.mark.slow
def test_one_device_and_eight_give_the_same_of_any_task():
    done = subprocess.run(
        [sys.executable, "-c", MANY_DEVICES], cwd=ROOT, text=True, capture_output=True
    )
    assert done.stdout.count(" True ") == len(cases.ALL[2:]), done.stdout + done.stderr


@pytest.mark.slow
def test_eight_devices_see_the_examples_in_the_order_in_which_one_does(tmp_path):
    losses = []
    for cores in (1, 8):
        code = PROGRAM.replace("{0}", f"set(range({cores}))") + RUN
        folder = tmp_path / str(cores)
        arguments = [*CONFIG, "--config.train.batch_size=9", f"--workdir={folder}"]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, capture_output=True
        )
        assert f"a batch is {cores} devices" in done.stdout, done.stderr
        rows = (folder / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(row)["train_loss"] for row in rows])
    assert_first_seeds_close(tmp_path / "1", tmp_path / "8")
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_both_go_on_bit_for_bit(whole, tmp_path):
    folder = tmp_path / "killed"
    codes, _, errors = run_two(folder, *CONFIG, second=SENDS_ITSELF.format("9"))
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, STOPPED)
    assert "error: another process of this run has ended" in errors[0]
    assert "Traceback" not in errors[0]
    codes, outputs, errors = run_two(folder)  # Its config is in its folder.
    assert codes == [0, 0], errors
    assert "resuming from step 16, in epoch 1" in outputs[0]
    for name in ("model.safetensors", "best_model.safetensors", "predictions.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_a_signal_to_one_saves_all_and_one_process_can_go_on(whole, tmp_path):
    """Of two seeds each process has one."""
    arguments = [*CONFIG, "--config.train.seeds=2"]
    codes, _, errors = run_two(tmp_path / "run", *arguments, second=SENDS_ITSELF.format("15"))
    assert codes == [STOPPED, STOPPED], errors
    for error in errors:
        assert "SIGTERM: saved after step" in error
    told = run_one(tmp_path / "run", "--config.train.seeds=2")
    assert "devices were 2 x cpu, 2 processes and are 2 x cpu" in told
    assert_first_seeds_close(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_finished_run_goes_on_for_more_epochs_and_is_watched(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "two")
    longer = "--config.train.num_epochs=3"
    watched = ["--log=tensorboard", "--profile_steps=63:68"]
    codes, outputs, errors = run_two(tmp_path / "two", *CONFIG, longer, *watched)
    assert codes == [0, 0], errors
    for words in ("resuming from step 54", "already tested after epoch 2", "traced steps 61 to"):
        assert words in outputs[0]
    assert [*tmp_path.glob("two/tensorboard/seed-0/events*")]
    run_one(tmp_path / "one", longer)
    assert_first_seeds_close(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_other(tmp_path):
    codes, _, errors = run_two(tmp_path / "run", *CONFIG, second=HAS_OTHER_DATA)
    assert 0 not in codes
    assert "do not have the same data" in errors[1]
    assert "this one f" in errors[1]
    assert "error: another process of this run has ended" in errors[0]


@pytest.mark.slow
def test_a_process_that_waits_in_vain_says_for_what():
    code = (
        "from train_lib.training import processes; processes.START_SECONDS = 1; "
        "processes.join('127.0.0.1:1', 2, 1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=100
    )
    assert done.returncode != 0
    assert "error: the processes did not all find each other within 1 seconds" in done.stderr
    assert "127.0.0.1:1" in done.stderr
    assert "stack trace" not in done.stderr
