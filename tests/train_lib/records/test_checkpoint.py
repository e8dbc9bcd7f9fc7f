"""Checkpoints under kills, full disks and damaged files."""

import contextlib
import itertools
import json
import multiprocessing
import re
import resource
import shutil
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests import faults
from train_lib import files
from train_lib.errors import UserError
from train_lib.records import checkpoint
from train_lib.records.checkpoint import Checkpoints
from train_lib.training import optimizers
from train_lib.training import state as state_lib

KILLS = 4  # `python -m tests.faults` makes more of them, and more damage.
DAMAGED = 7


def state_of(step, size=200):
    """A state whose every number follows from the step."""
    rng = np.random.default_rng(step)
    return {
        "step": jnp.int32(step),
        "w": jnp.asarray(rng.normal(size=(size, 3)), jnp.float32),
        "key": jax.random.key(step),
    }


def position_of(step):
    return {"epoch": step // 3, "loss": float(np.random.default_rng(step).normal())}


def bits(state):
    """Every array of a state as dtype, shape and bytes."""
    return [
        (str(leaf.dtype), leaf.shape, np.asarray(checkpoint._data(leaf)).tobytes())
        for leaf in jax.tree.leaves(state)
    ]


def assert_is_of_step(restored, step):
    assert restored.step == step
    assert bits(restored.state) == bits(state_of(step))
    assert restored.position == position_of(step)


def save_steps(folder, steps, keep=2):
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, state_of(step), position_of(step))
    checkpoints.wait()
    return checkpoints


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def float32_with_bits(*patterns):
    return np.array(patterns, np.uint32).view(np.float32)


def test_all_kinds_of_arrays_come_back_bit_for_bit(tmp_path):
    odd = float32_with_bits(0x7FC00123, 0xFF812345, 0x7F800001, 0x80000000, 0x00000001)
    state = {
        "nan": jax.device_put(odd),
        "bfloat16": jax.lax.bitcast_convert_type(jnp.arange(0, 65536, 17, jnp.uint16), "bfloat16"),
        "int8": jnp.arange(-128, 128, dtype=jnp.int8),
        "bool": jnp.array([True, False]),
        "scalar": jnp.float32(0.1),
        "empty": jnp.zeros((3, 0), jnp.bfloat16),
        "keys": jax.random.split(jax.random.key(1), 3),
        "rbg": jax.random.key(2, impl="rbg"),
        "a.b": (jnp.int32(1), [jnp.uint32(2)]),
        "a": {"b": jnp.int32(3)},
    }
    position = {"loss": 0.1 + 0.2, "best": float("inf"), "rows": [1, None, "é"]}
    checkpoints = Checkpoints(tmp_path / "new" / "folder")
    checkpoints.save(7, state, position)
    step, restored, of_restored = checkpoints.restore(jax.tree.map(jnp.zeros_like, state))
    assert (step, of_restored) == (7, position)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert bits(restored) == bits(state)
    np.testing.assert_array_equal(
        jax.random.normal(restored["rbg"], 4), jax.random.normal(state["rbg"], 4)
    )


@pytest.mark.parametrize("devices", [1, 2])
def test_a_state_on_two_devices_comes_back_on_one_and_on_two(tmp_path, devices):
    def on(num_devices):
        mesh = Mesh(np.array(jax.devices()[:num_devices]), "seed")
        return jax.device_put(create(), NamedSharding(mesh, PartitionSpec("seed")))

    def create():
        params_K = nnx.State({"kernel": nnx.Param(jnp.arange(24.0).reshape(4, 2, 3))})
        return state_lib.create(params_K, optimizers.adam(1e-3, 1e-7), range(4))

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, on(2), {})
    like = on(devices)
    restored = checkpoints.restore(like).state
    assert bits(restored) == bits(create())
    for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
        assert leaf.sharding == wanted.sharding


def test_what_is_saved_is_the_state_at_the_call_although_its_memory_is_given_away(tmp_path):
    update = jax.jit(lambda state: jax.tree.map(lambda x: x * 2, state), donate_argnums=0)
    checkpoints, position = Checkpoints(tmp_path), {"sums": [1.5]}
    state = update({"w": jnp.ones(100_000)})
    checkpoints.save(1, state, position)
    position["sums"].append(2.5)
    after = update(state)
    assert state["w"].is_deleted()
    restored = checkpoints.restore(after)
    np.testing.assert_array_equal(restored.state["w"], 2)
    assert restored.position == {"sums": [1.5]}


def test_a_restored_state_goes_on_as_if_nothing_had_been(tmp_path):
    optimizer = optimizers.make("adam", 1e-2, clip_norm=1.0)

    @jax.jit
    def update(state):
        noise = jax.random.normal(jax.random.fold_in(state.key[0], state.step[0]), (1, 5))
        updates, opt_state = jax.vmap(optimizer.update)(noise, state.opt_state, state.params)
        return state._replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
        )

    start = state_lib.create(jnp.zeros((1, 5)), optimizer, [3])
    state = start
    checkpoints = Checkpoints(tmp_path)
    for step in range(6):
        if step == 3:
            checkpoints.save(step, state, {})
        state = update(state)
    resumed = checkpoints.restore(start).state
    for _ in range(3):
        resumed = update(resumed)
    assert bits(resumed) == bits(state)


def test_the_last_two_are_kept(tmp_path):
    checkpoints = save_steps(tmp_path, range(7))
    assert names(tmp_path) == ["000006-step-5", "000007-step-6"]
    assert_is_of_step(checkpoints.restore(state_of(0)), 6)
    assert save_steps(tmp_path, [7], keep=1).newest() == tmp_path / "000008-step-7"
    assert names(tmp_path) == ["000008-step-7"]


def test_without_checkpoints_there_is_nothing_to_restore(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        assert Checkpoints(folder).restore(state_of(0)) is None
        assert Checkpoints(folder).newest() is None


def test_a_step_may_be_saved_again(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for epoch in range(3):
        checkpoints.save(5, state_of(5), {"epoch": epoch})
    assert checkpoints.restore(state_of(0)).position == {"epoch": 2}


def test_what_a_kill_left_after_is_deleted_by_the_next_save_and_nothing_else_is(tmp_path):
    save_steps(tmp_path, [1, 2])
    (tmp_path / "000002-step-2").rename(tmp_path / ".000002-step-2")
    (tmp_path / "notes.txt").write_text("mine")
    assert_is_of_step(Checkpoints(tmp_path).restore(state_of(0)), 1)
    save_steps(tmp_path, [3])
    assert names(tmp_path) == ["000001-step-1", "000002-step-3", "notes.txt"]


def test_intact_ones_are_not_deleted_in_favour_of_damaged_ones(tmp_path):
    save_steps(tmp_path, range(1, 5), keep=4)
    for name in ("000002-step-2", "000004-step-4"):
        (tmp_path / name / "manifest.json").write_text("{}")
    save_steps(tmp_path, [5])
    assert names(tmp_path) == ["000003-step-3", "000005-step-5"]


def extend(rng, path, _):
    path.write_bytes(path.read_bytes() + rng.bytes(1 + rng.integers(9)))


def add(rng, path, _):
    path.with_name(f"{rng.integers(99)}").write_bytes(rng.bytes(9))


def every_file(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in every_file(folder)}


TWO = "000001-step-1", "000002-step-2"


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intact")
    save_steps(folder, [1, 2])
    return folder


@pytest.mark.parametrize("damage", [*faults.DAMAGES, extend, add])
def test_no_damage_to_any_file_reaches_a_number(two_checkpoints, tmp_path, capsys, damage):
    rng = np.random.default_rng(0)
    files_of_last = every_file(two_checkpoints / TWO[1])
    for number in range(DAMAGED):
        folder = shutil.copytree(two_checkpoints, tmp_path / str(number))
        chosen = files_of_last[(number * 5) % len(files_of_last)].relative_to(two_checkpoints)
        damage(rng, folder / chosen, every_file(folder))
        changed = [content(folder / name) != content(two_checkpoints / name) for name in TWO]
        checkpoints = Checkpoints(folder)
        if all(changed):  # A file of one and a file of the other were swapped.
            with pytest.raises(UserError, match="000001-step-1 is damaged"):
                checkpoints.restore(state_of(0))
            continue
        restored = checkpoints.restore(state_of(0))
        told = capsys.readouterr().out
        # Two equal files may have been swapped.
        assert_is_of_step(restored, 1 if changed[1] else 2)
        assert (f"{folder / TWO[1]} is damaged" in told) == changed[1]
        if damage in (faults.flip, faults.truncate, extend) and chosen.name != "SHA256SUMS":
            assert chosen.relative_to("000002-step-2").as_posix() in told


@pytest.mark.parametrize("content", [b"", b"\xff\0 noise\n" * 9, b"[1, 2]", b"0" * 64 + b"  cut"])
def test_where_the_digests_are_lost_no_other_file_is_blamed(
    two_checkpoints, tmp_path, capsys, content
):
    folder = shutil.copytree(two_checkpoints, tmp_path / "folder")
    (folder / TWO[1] / "SHA256SUMS").write_bytes(content)
    assert_is_of_step(Checkpoints(folder).restore(state_of(0)), 1)
    assert "changed since they were written: SHA256SUMS; passed over" in capsys.readouterr().out


def test_two_checkpoints_in_each_others_place_are_both_refused(two_checkpoints, tmp_path):
    (tmp_path / "folder").mkdir()
    for name, other in zip(TWO, reversed(TWO), strict=True):
        shutil.copytree(two_checkpoints / name, tmp_path / "folder" / other)
    with pytest.raises(UserError, match="no intact checkpoint") as error:
        Checkpoints(tmp_path / "folder").restore(state_of(0))
    assert "these are the files of 000001-step-1" in str(error.value)
    assert "these are the files of 000002-step-2" in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"w": jnp.zeros((2, 3))}, ["['w']", "float32[200, 3]", "float32[2, 3]"]),
        ({"w": jnp.zeros((200, 3), jnp.bfloat16)}, ["float32[200, 3]", "bfloat16[200, 3]"]),
        ({"key": jax.random.key(0, impl="rbg")}, ["['key']", "key<fry>[]", "key<rbg>[]"]),
        ({"more": jnp.zeros(2)}, ["['more']", "none there", "float32[2]"]),
    ],
)
def test_a_state_of_another_kind_is_refused_by_name(two_checkpoints, change, words):
    with pytest.raises(UserError) as error:
        Checkpoints(two_checkpoints).restore(state_of(0) | change)
    for word in words:
        assert word in str(error.value)


# Of Orbax' other writes under way when one fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_told_and_harms_nothing_before(tmp_path, capfd, caplog):
    checkpoints = save_steps(tmp_path, [1, 2])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # Of any file, in bytes.
    try:
        checkpoints.save(3, state_of(3, size=100_000), {})
        with pytest.raises(UserError, match="step 3") as error:
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")  # No traceback of Orbax.
    assert_is_of_step(checkpoints.restore(state_of(0)), 2)
    checkpoints.save(4, state_of(4), position_of(4))
    assert_is_of_step(checkpoints.restore(state_of(0)), 4)
    assert names(tmp_path) == ["000002-step-2", "000003-step-4"]


def test_a_disk_that_loses_what_is_written_costs_no_earlier_checkpoint(tmp_path, monkeypatch):
    checkpoints = save_steps(tmp_path, [1, 2])
    publish = files.publish

    def lose(folder, path):
        publish(folder, path)
        faults.flip(np.random.default_rng(0), path / "manifest.json", [])

    monkeypatch.setattr(files, "publish", lose)
    checkpoints.save(3, state_of(3), {})
    with pytest.raises(
        UserError, match=r"step 3 .* changed since they were written: manifest.json"
    ):
        checkpoints.wait()
    assert_is_of_step(checkpoints.restore(state_of(0)), 2)


@pytest.mark.parametrize("where", ["write", "publish"])
def test_a_failure_surfaces_at_the_next_save(tmp_path, monkeypatch, where):
    checkpoints = save_steps(tmp_path, [1, 2])
    before = content(tmp_path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, where, fail)
        checkpoints.save(3, state_of(3), {})
        with pytest.raises(UserError, match="No space left on device"):
            checkpoints.save(4, state_of(4), {})
    assert content(tmp_path).items() >= before.items()
    assert_is_of_step(checkpoints.restore(state_of(0)), 2)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    checkpoints.save(1, state_of(1), {})
    with pytest.raises(UserError, match="file/checkpoints"):
        checkpoints.wait()


def save_for_ever(folder, told):
    checkpoints = Checkpoints(folder)
    for step in itertools.count(1):
        checkpoints.save(step, state_of(step), position_of(step))
        told.send(step)


def test_a_killed_run_always_has_a_complete_checkpoint(tmp_path):
    spawning = multiprocessing.get_context("forkserver")
    spawning.set_forkserver_preload(["flax.nnx", "optax", "orbax.checkpoint", "pytest"])
    rng = np.random.default_rng()
    for number in range(KILLS):
        folder = tmp_path / str(number)
        told, tell = spawning.Pipe(duplex=False)
        child = spawning.Process(target=save_for_ever, args=(folder, tell), daemon=True)
        child.start()
        tell.close()
        steps = [told.recv(), told.recv()]
        time.sleep(rng.uniform(0, 0.3))  # A save takes a tenth of a second.
        child.kill()
        child.join()
        with contextlib.suppress(EOFError):
            while True:
                steps.append(told.recv())
        restored = Checkpoints(folder).restore(state_of(0))
        assert_is_of_step(restored, restored.step)
        # Each save waits for the one before.
        assert restored.step >= steps[-1] - 1
        save_steps(folder, [restored.step + 1])
        assert all(re.fullmatch(r"\d+-step-\d+", name) for name in names(folder))


def test_the_sums_are_those_of_the_standard_tool(two_checkpoints):
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=two_checkpoints / "000001-step-1", capture_output=True, check=True,
    )  # fmt: skip
    assert b"manifest.json: OK" in done.stdout
    assert json.loads((two_checkpoints / "000001-step-1/manifest.json").read_text())["step"] == 1
