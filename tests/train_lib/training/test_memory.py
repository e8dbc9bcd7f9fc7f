"""A run says what memory it needs before it takes it."""

import jax
import numpy as np
import optax
import pytest

from seqmodels import factory
from train_lib.data.dataset import Dataset, Split
from train_lib.data.inputs import Vectors
from train_lib.errors import UserError
from train_lib.records import report
from train_lib.tasks.classes import Classes
from train_lib.training import Program, batching, fitting, memory
from train_lib.training.memory import Room

GIB = 2**30
TASK = Classes(["no", "yes"])


def program_and_split(longest, seeds=(0,)):
    models = factory.build_all(input_size=3, cell="lstm", hidden_sizes=(4,), seeds=seeds)
    program = Program(models, TASK, optax.adam(1e-2), batch_size=4)
    lengths = [longest, 3, 2, 1, 5, 1]
    inputs = [np.full((length, 3), 0.5, np.float32) for length in lengths]
    return program, Split.of(inputs, ["no", "yes"] * 3).encoded(TASK)


def needed(longest, seeds=(0,)):
    program, split = program_and_split(longest, seeds)
    widths = batching.row_widths(split, [], program.treatment)
    state = fitting.start(program, seeds).training.state
    return memory.needed(program, state, split, widths)


def test_longer_sequences_need_more():
    # At least inputs, outputs and carries, 3 + 2 x 4 numbers of 4 bytes, of two rows a device.
    assert needed(50_000) - needed(500) > 49_500 * 2 * 2 * 11 * 4


def test_training_does_not_compile_again():
    program, split = program_and_split(7, seeds=[0, 1])
    widths = batching.row_widths(split, [split], program.treatment)
    begin = fitting.start(program, [0, 1])
    assert memory.needed(program, begin.training.state, split, widths) > 0
    names = []
    jax.monitoring.register_event_duration_secs_listener(
        listener := lambda event, seconds, **about: names.append(about.get("fun_name"))
    )
    try:
        fitting.fit(program, split, split, seeds=[0, 1], num_epochs=1, widths=widths, begin=begin)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert "evaluate" in names
    assert "train" not in names


MEMINFO = "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\nHugePages_Total: 0\n"
VERSION_1 = "5:devices:/\n4:memory:/job/step\n0::/\n"
LIMIT, USAGE = "memory.limit_in_bytes", "memory.usage_in_bytes"


@pytest.mark.parametrize(
    ("own", "groups", "expected"),
    [
        ("", {}, (1000, 600)),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "5\n"}, (1000, 600)),
        ("0::/\n", {"memory.max": "409600\n", "memory.current": "102400\n"}, (400, 300)),
        ("0::/\n", {"memory.max": "1000000000\n", "memory.current": "5\n"}, (1000, 600)),
        # A limit of the group itself, of one around it, and of a container that hides its path.
        ("0::/job/step\n", {"job/step/memory.max": "409600", "job/step/memory.current": "0"},
         (400, 400)),
        ("0::/job/step\n", {"job/memory.max": "409600", "job/memory.current": "204800"},
         (400, 200)),
        ("0::/job/step\n", {"memory.max": "409600", "memory.current": "0"}, (400, 400)),
        ("0::/job\n", {"other/memory.max": "409600", "other/memory.current": "0"}, (1000, 600)),
        (VERSION_1, {f"memory/job/{LIMIT}": "204800", f"memory/job/{USAGE}": "409600"}, (200, 0)),
        (VERSION_1, {f"memory/{LIMIT}": "204800", f"memory/{USAGE}": "0"}, (200, 200)),
    ],
)  # fmt: skip
def test_a_machine_has_what_its_control_groups_leave(tmp_path, own, groups, expected):
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": own}
    for name, text in (files | {f"sys/fs/cgroup/{name}": groups[name] for name in groups}).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert memory._of_machine(tmp_path) == Room(*(1024 * size for size in expected))


def test_where_nothing_is_known_nothing_is_said(tmp_path):
    assert memory._of_machine(tmp_path) is None
    assert report.describe_memory(None, Room(1, 1), dataset()) == "memory: unknown"
    assert report.describe_memory(1, None, dataset()) == "memory: unknown"


def dataset():
    _, split = program_and_split(12_345)
    return Dataset("mine", "0" * 64, Vectors(3), split, split, split, 0, ())


def test_what_is_too_much_is_refused_with_what_to_change():
    fits = report.describe_memory(GIB, Room(8 * GIB, 4 * GIB), dataset())
    assert fits == "memory: training takes about 1.0 GiB of 4.0 that are available\n"
    tight = report.describe_memory(5 * GIB, Room(8 * GIB, 4 * GIB), dataset())
    assert "note:   that is too much unless other programs end" in tight
    with pytest.raises(UserError, match=r"9\.0 GiB, and there are 8\.0 .* 12,345 steps; config\."):
        report.describe_memory(9 * GIB, Room(8 * GIB, 4 * GIB), dataset())
