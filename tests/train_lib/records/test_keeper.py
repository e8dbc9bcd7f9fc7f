"""A run that was interrupted ends as if it had not been."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs import base
from tests.marks import slow
from tests.train_lib import cases
from tests.train_lib.cases import FEW
from tests.train_lib.records.events import scalars
from train_lib import files, predict
from train_lib import run as runs
from train_lib.data import loading
from train_lib.errors import STOPPED, Stopped, UserError
from train_lib.records import environment, finished
from train_lib.records.folder import TESTED, RunFolder
from train_lib.records.keeper import Keeper
from train_lib.restored import Restored
from train_lib.training import devices
from train_lib.training.program import Program

ROOT = pathlib.Path(__file__).parent.parent.parent.parent
pytestmark = pytest.mark.usefixtures("compiled_once")


class Killed(BaseException):
    """Nothing in the program catches it."""


def make_config():
    """Two epochs of four calls, all of it in work: two seeds, dropout, both directions."""
    config = base.get_config("small", "exact")
    config.model.update(
        embedding_size=4, hidden_sizes=(3,), dropout_rates=(0.3,), direction="bidirectional"
    )
    config.data.update(
        source="generated", train_examples=120, validation_examples=10, test_examples=10,
        max_features=50, max_length_tokens=20,
    )  # fmt: skip
    config.train.update(
        num_epochs=2, batch_size=4, seeds=2, learning_rate=0.01, checkpoint_every_steps=16
    )
    return config


@pytest.fixture
def config():
    return make_config()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, compiled_once):
    """The folder of the run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    runs.run(make_config(), str(folder))
    return folder


def run_until(calls, config, workdir, monkeypatch, **options):
    """Runs, and is killed after so many calls; what is being saved is saved."""
    after_call = Keeper.after_call
    made = []

    def kill(keeper, *arguments):
        after_call(keeper, *arguments)
        made.append(None)
        if len(made) == calls:
            keeper._checkpoints.wait()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "after_call", kill)
        with pytest.raises(Killed):
            runs.run(config, str(workdir), **options)


def spoil_at_start(patch, spoil):
    """From now on runs begin, or resume, with parameters of which `spoil` has made others."""
    resume = Keeper.resume

    def spoilt(*arguments):
        begin = resume(*arguments)
        state = begin.training.state
        state = state._replace(params=jax.tree.map(spoil, state.params))
        return begin._replace(training=begin.training._replace(state=state))

    patch.setattr(Keeper, "resume", spoilt)


def spoil_second(leaf_K):
    return leaf_K.at[1].set(jnp.nan)


def without_seconds(lines):
    rows = [json.loads(line) for line in lines]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


COMPARED = (
    "model.safetensors",
    "best_model.safetensors",
    "predictions.csv",
    "vocabulary.txt",
    "data.json",
)


def assert_same(one, other):
    for name in COMPARED:
        if name == "vocabulary.txt" and not (other / name).exists():
            continue  # Of what is no text.
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("result.json", "metrics.jsonl"):
        texts = [(folder / name).read_text() for folder in (one, other)]
        split = str.splitlines if name.endswith("l") else lambda text: [text]
        assert without_seconds(split(texts[0])) == without_seconds(split(texts[1])), name


# A call is of 8 steps here, an epoch of 30; calls 2, 4 and 6 are saved, 4 being an epoch's last.
@pytest.mark.parametrize("calls", [[1], [3, 1], [4], [5, 2]])
def test_resumes_bit_for_bit_wherever_it_was_killed(config, whole, calls, tmp_path, monkeypatch):
    folder = tmp_path / "killed"
    for number in calls:
        run_until(number, config, folder, monkeypatch)
        assert not (folder / "result.json").exists()
    runs.run(config, str(folder))
    assert_same(folder, whole)


def test_what_watches_a_run_changes_nothing_and_logs_each_epoch_once(
    config, whole, tmp_path, monkeypatch, capsys
):
    folder, options = tmp_path / "watched", {"log": ["tensorboard"], "profile_steps": "33:38"}
    run_until(6, config, folder, monkeypatch, **options)
    assert "--profile_steps=33:38: traced steps 31 to 38 (a call" in capsys.readouterr().out
    runs.run(config, str(folder), **options)
    assert "33:38: 38 updates were made before" in capsys.readouterr().out
    assert len([*folder.glob("profile/plugins/profile/*/*.xplane.pb")]) == 1
    assert_same(folder, whole)
    RunFolder.open_finished(str(folder))
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((whole / "result.json").read_text())
    logged = scalars(folder / "tensorboard/seed-1")
    for name in ("train_loss", "validation_accuracy"):
        expected = [(row["step"], np.float32(row["seeds"][name][1])) for row in rows]
        assert logged[name.replace("_", "/")] == expected
    assert logged["test/loss"] == [(60, np.float32(result["seeds"][1]["test_loss"]))]
    runs.run(config, str(folder), **options)
    assert "nothing was trained, so nothing is traced" in capsys.readouterr().out
    assert scalars(folder / "tensorboard/seed-1") == logged
    config.train.num_epochs = 3
    was = tree(folder)
    assert "33:91 goes beyond the run, which has 90 updates" in refusal(
        lambda: runs.run(config, str(folder), profile_steps="33:91")
    )
    assert tree(folder) == was


RECIPE = {
    "seeds": 3, "num_epochs": 6, "batch_size": 8, "accumulate_batches": 2, "schedule": "cosine",
    "warmup": 0.2, "final_share": 0.1, "plateau_patience": 1, "plateau_factor": 0.5,
    "ema_decay": 0.5, "patience": 2, "optimizer": "sgd", "weight_decay": 0.01, "clip_norm": 1.0,
    "optimizer_options": "momentum=0.9", "learning_rate": 10.0, "checkpoint_every_steps": 3,
    "groups": '{"inputs.*": {"rate": 0.5, "frozen_epochs": 2, "decay": false}}',
}  # fmt: skip
"""All of a recipe: three seeds, each on both devices, of which some stop before the end."""


@pytest.fixture(scope="module")
def whole_recipe(tmp_path_factory, compiled_once):
    config, folder = make_config(), tmp_path_factory.mktemp("whole_recipe")
    config.train.update(RECIPE)
    config.task.metric = "loss"
    runs.run(config, str(folder))
    return folder


# An epoch is of 8 updates, in calls of 2.
@pytest.mark.parametrize("calls", [[6, 11], [2, 3, 9], [8]])
@pytest.mark.slow
def test_a_run_of_every_recipe_resumes_bit_for_bit(
    config, whole_recipe, calls, tmp_path, monkeypatch
):
    config.train.update(RECIPE)
    config.task.metric = "loss"
    for number in calls:
        run_until(number, config, tmp_path / "killed", monkeypatch)
    runs.run(config, str(tmp_path / "killed"))
    assert_same(tmp_path / "killed", whole_recipe)


@pytest.mark.slow
def test_a_run_of_every_recipe_stops_cuts_and_says_so(whole_recipe):
    result = json.loads((whole_recipe / "result.json").read_text())
    rows = [json.loads(line) for line in (whole_recipe / "metrics.jsonl").read_text().splitlines()]
    assert result["model"]["evaluated"] == "best averaged"
    rates = [row["seeds"]["learning_rate"] for row in rows]
    stopped = [sum(rate is None for rate in of_epoch) for of_epoch in rates]
    assert 0 == stopped[0] < stopped[-1] < 3
    assert stopped == sorted(stopped)
    assert len(set(rates[2])) == 2, "of some seeds it has been cut"
    weights, best = (
        (whole_recipe / name).read_bytes()
        for name in ("model.safetensors", "best_model.safetensors")
    )
    assert weights == best
    for seed in result["seeds"]:
        assert seed["validation_loss"] == seed["best_validation_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("case", FEW)
def test_a_run_of_any_task_resumes_bit_for_bit(case, tmp_path, monkeypatch):
    config = make_config()
    config.data.update(
        source=cases.PATH, source_options=cases.options(case), max_features=5_000,
        train_examples=0, validation_examples=0, test_examples=0,
    )  # fmt: skip
    config.task.name = cases.TASKS[case.task]
    monkeypatch.setattr(runs.curves, "draw", lambda *_: None)  # Slow, and not read here.
    monkeypatch.setattr(runs.description, "write_pictures", lambda *_: None)
    runs.run(config, str(tmp_path / "whole"))
    for number in (3, 1):
        run_until(number, config, tmp_path / "killed", monkeypatch)
    runs.run(config, str(tmp_path / "killed"))
    assert_same(tmp_path / "killed", tmp_path / "whole")


def test_a_damaged_checkpoint_is_passed_over(config, whole, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "killed"
    run_until(5, config, folder, monkeypatch)
    newest = max((folder / "checkpoints").iterdir())
    largest = max(newest.rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
    runs.run(config, str(folder))
    output = capsys.readouterr().out
    assert f"{newest} is damaged" in output
    assert "resuming from step 16, in epoch 1" in output
    assert_same(folder, whole)


def test_what_must_not_change_is_refused_with_both_values(config, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    run_until(3, config, folder, monkeypatch)
    config.train.update(learning_rate=0.02, batch_size=5)
    with pytest.raises(UserError) as refused:
        runs.run(config, str(folder))
    assert "config.train.learning_rate was 0.01 and is 0.02" in str(refused.value)
    assert "config.train.batch_size was 4 and is 5" in str(refused.value)
    config.train.update(learning_rate=0.01, batch_size=4, checkpoint_every_steps=0)

    load = loading.load

    def load_other(*arguments, **rest):
        return dataclasses.replace(load(*arguments, **rest), fingerprint="f")

    with monkeypatch.context() as patch:
        patch.setattr(loading, "load", load_other)
        with pytest.raises(UserError, match=r"data with the fingerprint .* now they have f"):
            runs.run(config, str(folder))

    manifest = max((folder / "checkpoints").iterdir()) / "manifest.json"
    assert '"devices": "2 x cpu"' in manifest.read_text()
    runs.run(config, str(folder))
    assert "notice" not in capsys.readouterr().out


def made_older(folder):
    """Takes away, from a run's folder and its checkpoints, every field that is as by default."""
    defaults = base.get_config("", "exact")
    config = json.loads((folder / "config.json").read_text())
    gone = []
    for group in ("model", "data", "task", "train"):
        for name, value in json.loads(json.dumps(defaults[group].to_dict())).items():
            if config[group][name] == value and name != "cell":  # The first version had that.
                del config[group][name]
                gone.append(f"{group}.{name}")
    rewrite(folder / "config.json", config)
    for path in folder.glob("checkpoints/*/manifest.json"):
        manifest = json.loads(path.read_text())
        for field in set(gone) & manifest["position"]["circumstances"]["config"].keys():
            del manifest["position"]["circumstances"]["config"][field]
        rewrite(path, manifest)
    return set(gone)


NEWER = {"data.padding_side", "model.zoneout", "task.metric", "train.clip_norm"}


def rewrite(path, content):
    """Writes a JSON file anew, and its digest where there is one."""
    path.write_text(json.dumps(content))
    sums, digest = path.with_name("SHA256SUMS"), hashlib.sha256(path.read_bytes()).hexdigest()
    if sums.exists():
        sums.write_text(re.sub(rf"\w+(?=  {path.name})", digest, sums.read_text()))


def refusal(call, *arguments):
    """Why something is refused; nothing, if it is not."""
    try:
        call(*arguments)
    except UserError as error:
        return str(error)
    return ""


def test_a_folder_from_before_there_was_a_field_is_read(config, whole, tmp_path, capsys):
    older = tmp_path / "older"
    shutil.copytree(whole, older)
    assert {"data.padding_side", "model.zoneout", "task.metric", "train.clip_norm"} <= made_older(
        older
    )
    assert not refusal(predict.predict, str(older), ["good"])
    answers = [predict.predict(str(folder), ["good"]) for folder in (older, whole)]
    assert answers[0] == answers[1]
    assert not refusal(runs.run, config, str(older))
    assert not refusal(lambda: runs.run(RunFolder(older).read_config(), str(older)))
    capsys.readouterr()
    assert finished.differing_fields(finished.load([str(older), str(whole)])) == {}
    config.model.zoneout = 0.5
    assert "config.model.zoneout was 0.0 and is 0.5" in refusal(runs.run, config, str(older))


def test_a_run_from_before_there_was_a_field_resumes(config, whole, tmp_path, monkeypatch):
    older = tmp_path / "older"
    run_until(4, config, older, monkeypatch)
    assert {"data.padding_side", "model.zoneout", "task.metric", "train.clip_norm"} <= made_older(
        older
    )
    assert not refusal(runs.run, config, str(older))
    assert_same(older, whole)


def test_a_field_of_another_version_is_named(config, whole, tmp_path):
    newer = tmp_path / "newer"
    shutil.copytree(whole, newer)
    content = json.loads((newer / "config.json").read_text())
    content["model"]["twist"] = 3
    (newer / "config.json").write_text(json.dumps(content))
    (newer / "SHA256SUMS").unlink()
    assert "config.model.twist was 3 and is no field" in refusal(runs.run, config, str(newer))
    assert "config.model.twist is not a field" in refusal(RunFolder(newer).read_config)


def test_a_seed_that_diverges_leaves_the_others_alone(config, whole, tmp_path, monkeypatch, capsys):
    spoil_at_start(monkeypatch, spoil_second)
    folder = tmp_path / "spoilt"
    result = runs.run(config, str(folder))
    assert (
        "notice: seed 1: the loss or its gradient is not finite at step 1"
        in capsys.readouterr().out
    )
    assert result["seeds"][1] == {"seed": 1, "diverged_at_step": 1}
    alone = json.loads((whole / "result.json").read_text())["seeds"][0]
    assert result["seeds"][0] == alone
    assert result["test_accuracy"]["mean"] == alone["test_accuracy"]
    predictions = (folder / "predictions.csv").read_text().splitlines()
    assert predictions == (whole / "predictions.csv").read_text().splitlines()[:11]
    assert (
        "NaN" not in (folder / "metrics.jsonl").read_text() + (folder / "result.json").read_text()
    )


def test_a_seed_that_has_diverged_stays_so_when_the_run_resumes(
    config, whole, tmp_path, monkeypatch
):
    folder = tmp_path / "spoilt"
    with monkeypatch.context() as patch:
        spoil_at_start(patch, spoil_second)
        run_until(3, config, folder, monkeypatch)
    first, second = runs.run(config, str(folder))["seeds"]
    assert second == {"seed": 1, "diverged_at_step": 1}
    assert first == json.loads((whole / "result.json").read_text())["seeds"][0]


def test_a_seed_may_diverge_after_epochs_in_which_it_did_not(config, tmp_path, monkeypatch):
    """Later epochs have no interval; reports are made all the same, and predict leaves it out."""
    folder = tmp_path / "late"
    run_until(5, config, folder, monkeypatch)
    spoil_at_start(monkeypatch, spoil_second)
    result = runs.run(config, str(folder))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["ci95"] is None for row in rows] == [False, True]
    assert "diverged_at_step" in result["seeds"][1]
    for best in (False, True):
        restored = Restored(str(folder), best=best)
        assert len(restored.answer(restored.encode(["good"], str))) == 1


def test_a_run_that_diverges_says_where_and_overwrites_nothing_good(config, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    run_until(3, config, folder, monkeypatch)
    good = max((folder / "checkpoints").iterdir())
    with monkeypatch.context() as patch:
        spoil_at_start(patch, lambda leaf: leaf * jnp.nan)
        with pytest.raises(UserError) as told:
            runs.run(config, str(folder))
    for words in ("seed 1", "not finite at step", f"last good checkpoint is {good}", "clip_norm"):
        assert words in str(told.value)
    assert not (folder / "result.json").exists()
    runs.run(config, str(folder))
    assert (folder / "result.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(config, whole, number, tmp_path, monkeypatch):
    config.train.checkpoint_every_steps = 0
    after_call = Keeper.after_call

    def interrupt(keeper, moment, *arguments):
        if moment.step == 16:
            os.kill(os.getpid(), number)
        after_call(keeper, moment, *arguments)

    folder = tmp_path / "asked"
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "after_call", interrupt)
        with pytest.raises(Stopped, match=f"saved after step 16.*--workdir={folder}"):
            runs.run(config, str(folder))
    runs.run(config, str(folder))
    config.train.checkpoint_every_steps = 16
    assert_same(folder, whole)


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_in_the_last_validation_is_obeyed(config, whole, times, tmp_path, monkeypatch):
    """By saving first; a second one at once."""
    evaluate, evaluated = Program.evaluate, []

    def interrupt(*arguments):
        evaluated.append(arguments)
        if len(evaluated) == 2:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*arguments)

    folder = tmp_path / "asked"
    with monkeypatch.context() as patch:
        patch.setattr(Program, "evaluate", interrupt)
        with pytest.raises(KeyboardInterrupt if times == 2 else Stopped):
            runs.run(config, str(folder))
    assert not (folder / "result.json").exists()
    runs.run(config, str(folder))
    assert_same(folder, whole)


def test_a_signal_that_comes_too_late_to_save_still_ends_the_run(
    config, whole, tmp_path, monkeypatch
):
    after_epoch = Keeper.after_epoch

    def interrupt(keeper, moment):
        after_epoch(keeper, moment)
        if moment.step == 60:
            os.kill(os.getpid(), signal.SIGINT)

    folder = tmp_path / "asked"
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "after_epoch", interrupt)
        with pytest.raises(Stopped, match="too late to save"):
            runs.run(config, str(folder))
    runs.run(config, str(folder))
    assert_same(folder, whole)


def test_a_second_interrupt_ends_at_once(config, whole, tmp_path, monkeypatch):
    after_call = Keeper.after_call

    def interrupt_twice(keeper, moment, *arguments):
        after_call(keeper, moment, *arguments)
        if moment.step == 24:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "after_call", interrupt_twice)
        with pytest.raises(KeyboardInterrupt):
            runs.run(config, str(folder))
    runs.run(config, str(folder))
    assert_same(folder, whole)


@pytest.mark.parametrize("name", ["metrics.jsonl", "predictions.csv", "SHA256SUMS"])
@pytest.mark.slow
def test_a_full_disk_is_told_and_costs_nothing(config, whole, name, tmp_path, monkeypatch):
    write = files.write

    def fail(path, content):
        if path == folder / name and (name != "metrics.jsonl" or content):
            raise OSError(28, "No space left on device")
        write(path, content)

    folder = tmp_path / "full"
    with monkeypatch.context() as patch:
        patch.setattr(files, "write", fail)
        with pytest.raises(UserError, match=f"{name} cannot be written: No space left"):
            runs.run(config, str(folder))
    runs.run(config, str(folder))
    assert_same(folder, whole)


@pytest.mark.slow
def test_on_another_number_of_devices_it_resumes_and_says_that_bits_may_differ(
    config, whole, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "killed"
    run_until(5, config, folder, monkeypatch)
    one = jax.make_mesh((1, 1), ("seed", "batch"), devices=jax.devices()[:1])
    monkeypatch.setattr(devices, "mesh", lambda *_: one)
    runs.run(config, str(folder))
    assert "devices were 2 x cpu and are 1 x cpu: what follows is no" in capsys.readouterr().out
    found, expected = (
        load_file(folder / "model.safetensors"),
        load_file(whole / "model.safetensors"),
    )
    for path in expected:
        np.testing.assert_allclose(found[path], expected[path], atol=1e-5, err_msg=path)


@pytest.mark.parametrize("edited", [slow("train.learning_rate"), slow("model.cell")])
def test_a_config_that_was_edited_in_the_folder_is_refused(edited, config, tmp_path, monkeypatch):
    cell = tmp_path / "mine.py"
    cell.write_text((ROOT / "seqmodels/cells/simple_rnn.py").read_text())
    config.model.cell = str(cell)
    folder = tmp_path / "run"
    run_until(3, config, folder, monkeypatch)
    name = "cell.py" if edited == "model.cell" else "config.json"
    text = (folder / name).read_text()
    (folder / name).write_text(text.replace("0.01", "0.02") if name.endswith("n") else text + "#")
    before = tree(folder)
    with pytest.raises(UserError, match=rf"saved with another config:\n  config\.{edited} was"):
        runs.run(RunFolder(folder).read_config(), str(folder))
    assert tree(folder) == before
    (folder / name).write_text(text)
    runs.run(RunFolder(folder).read_config(), str(folder))


def tree(folder):
    """Every file and what is in it."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_the_best_weights_are_those_after_the_best_epoch(config, tmp_path):
    config.train.update(num_epochs=4, learning_rate=0.1)
    best = [seed["best_epoch"] for seed in runs.run(config, str(tmp_path / "all"))["seeds"]]
    assert min(best) < 4, "so that the last weights will not do"
    for number, epochs in enumerate(best):
        config.train.num_epochs = epochs
        runs.run(config, str(tmp_path / str(epochs)))
        found = load_file(tmp_path / "all" / "best_model.safetensors")
        expected = load_file(tmp_path / str(epochs) / "model.safetensors")
        for path in expected:
            np.testing.assert_array_equal(found[path][number], expected[path][number])


@pytest.fixture(scope="module")
def longer(tmp_path_factory, compiled_once):
    """The folder of the run that had three epochs from the start."""
    folder = tmp_path_factory.mktemp("longer")
    config = make_config()
    config.train.num_epochs = 3
    runs.run(config, str(folder))
    return folder


@pytest.fixture
def short(whole, tmp_path, monkeypatch):
    """A copy of the folder of the run of two epochs."""
    monkeypatch.setattr(runs.curves, "draw", lambda *_: None)  # Slow, and not read here.
    monkeypatch.setattr(runs.description, "write_pictures", lambda *_: None)
    return pathlib.Path(shutil.copytree(whole, tmp_path / "short"))


def assert_became(folder, longer, before):
    """Asks whether a finished run is the longer one, tested after these epochs too."""
    copies = [pathlib.Path(f"{folder}-{number}") for number in range(2)]
    tested = []
    for copy, one in zip(copies, (folder, longer), strict=True):
        RunFolder.open_finished(str(one))
        shutil.copytree(one, copy)
        result = json.loads((copy / "result.json").read_text())
        tested.append(result.pop(TESTED))
        (copy / "result.json").write_text(json.dumps(result))
    assert_same(*copies)
    assert tested == [[*before, *tested[1]], tested[1]]
    assert (folder / "config.json").read_bytes() == (longer / "config.json").read_bytes()


def test_a_finished_run_goes_on_for_more_epochs(config, longer, short, capsys):
    config.train.num_epochs = 3
    runs.run(config, str(short))
    output = capsys.readouterr().out
    assert "resuming from step 54, in epoch 2" in output
    assert "already tested after epoch 2: to choose between these figures" in output
    runs.run(config, str(short))
    output = capsys.readouterr().out
    assert "is finished\n" in output
    assert "already tested after epoch 2" in output
    config.train.num_epochs = 2
    assert "was 3 and is 2, and a run cannot be made shorter" in refusal(
        runs.run, config, str(short)
    )
    assert_became(short, longer, [2])


@pytest.mark.slow
def test_an_unfinished_run_may_have_more_epochs(config, longer, tmp_path, monkeypatch):
    run_until(5, config, tmp_path / "run", monkeypatch)
    config.train.num_epochs = 3
    runs.run(config, str(tmp_path / "run"))
    assert_became(tmp_path / "run", longer, [])


# Changes of files, each with how many of the same name came before it.
@pytest.mark.parametrize(
    ("name", "before"),
    [
        slow("SHA256SUMS", 0), ("config.json", 0), slow("metrics.jsonl", 0),
        slow("result.json", 0), ("SHA256SUMS", 1),
    ],
)  # fmt: skip
def test_a_kill_leaves_the_finished_run_or_the_longer_one(
    name, before, config, longer, short, monkeypatch
):
    config.train.update(num_epochs=3, checkpoint_every_steps=0)
    was, made = tree(short), []

    def killing(change):
        def call(path, *arguments):
            if path.name == name:
                made.append(None)
                if len(made) > before:
                    raise Killed
            return change(path, *arguments)

        return call

    with monkeypatch.context() as patch:
        for change in ("write", "remove"):
            patch.setattr(files, change, killing(getattr(files, change)))
        with pytest.raises(Killed):
            runs.run(config, str(short))
    if (name, before) == ("SHA256SUMS", 0):
        assert tree(short) == was
    else:
        assert not RunFolder(short).is_finished()
    if name not in ("SHA256SUMS", "config.json") or before:  # By its folder alone.
        config = RunFolder(short).read_config()
    runs.run(config, str(short))
    assert_became(short, longer, [2])


def without_checkpoints(folder, config, patch):
    shutil.rmtree(folder / "checkpoints")
    config.train.checkpoint_every_seconds = 0


def with_damaged_checkpoints(folder, config, patch):
    for path in folder.glob("checkpoints/*/manifest.json"):
        path.write_text("{}")


def with_other_versions(folder, config, patch):
    patch.setattr(environment, "versions", lambda: {"jax": "0.0.1"})


def with_one_device(folder, config, patch):
    patch.setattr(environment, "describe_mesh", lambda _: "1 x cpu")


def with_other_data_and_no_checkpoints(folder, config, patch):
    shutil.rmtree(folder / "checkpoints")
    load = loading.load
    patch.setattr(
        loading, "load", lambda *a, **rest: dataclasses.replace(load(*a, **rest), fingerprint="f")
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_checkpoints, "has no checkpoint from which it could resume"),
        (with_damaged_checkpoints, "has no intact checkpoint"),
        (with_other_versions, "would not continue as it would have: versions were"),
        (with_one_device, "would not continue as it would have: devices were 2 x cpu"),
        (with_other_data_and_no_checkpoints, "but now they have f"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_finished_run_that_cannot_go_on_is_left_as_it_is(
    change, words, config, short, monkeypatch
):
    change(short, config, monkeypatch)
    config.train.num_epochs = 3
    was = tree(short)
    refused = refusal(runs.run, config, str(short))
    assert words in refused
    assert "new folder" in refused
    assert tree(short) == was


def test_a_run_too_short_for_a_checkpoint_starts_again(config, longer, short, capsys):
    shutil.rmtree(short / "checkpoints")
    config.train.num_epochs = 3
    runs.run(config, str(short))
    assert "the longer run starts from the first step" in capsys.readouterr().out
    assert_became(short, longer, [2])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": "linear"}, "'linear' ends with the run"),
        ({"schedule": "cosine"}, "'cosine' ends with the run"),
        ({"schedule": "one_cycle"}, "'one_cycle' ends with the run"),
        ({"warmup": 0.1}, "config.train.warmup = 0.1 is a share of the run"),
        ({"schedule": "inverse_sqrt", "warmup": 0.5}, "config.train.warmup = 0.5 is a share"),
        ({"schedule": "inverse_sqrt", "warmup": 5}, ""),
        ({"warmup": 1.0}, ""),
        ({"plateau_patience": 2, "ema_decay": 0.9, "patience": 3}, ""),
    ],
)
def test_more_epochs_are_a_matter_of_the_recipe(config, changes, words, tmp_path):
    config.train.update(changes)
    folder = RunFolder(tmp_path)
    folder.begin(config)
    config.train.num_epochs = 9
    refused = refusal(lambda: RunFolder.open(str(tmp_path), config).close())
    assert words in refused
    assert bool(refused) == bool(words)


def test_a_run_whose_seeds_have_stopped_has_no_more_epochs(write_run):
    """That of the fixture was to have 12 epochs, and had 3."""
    path = write_run("stopped", changes={"train.patience": 1})
    folder, was = RunFolder(path), tree(path)
    config = folder.read_config()
    assert folder.how_finished(config) == "is finished"
    config.train.num_epochs = 20
    runs.run(config, str(path))
    assert folder.how_finished(config).startswith("is finished: after epoch 3 every seed had")
    assert tree(path) == was


@pytest.mark.slow
def test_a_recipe_without_an_end_goes_on(config, tmp_path):
    config.train.update(RECIPE)
    config.train.update(schedule="inverse_sqrt", warmup=5, final_share=0.0, patience=4)
    config.task.metric = "loss"
    runs.run(config, str(tmp_path / "longer"))
    for num_epochs in (2, 6):
        config.train.num_epochs = num_epochs
        runs.run(config, str(tmp_path / "run"))
    assert_became(tmp_path / "run", tmp_path / "longer", [2])


@pytest.mark.slow
def test_the_program_ends_with_the_documented_code_and_goes_on_without_its_config(tmp_path):
    arguments = [
        "--config=configs/lstm.py:tutorial", "--config.data.source=generated",
        "--config.data.train_examples=1200", "--config.data.validation_examples=10",
        "--config.data.test_examples=10", "--config.data.max_length_tokens=20",
        "--config.model.hidden_sizes=(4,)", "--config.train.num_epochs=8",
        "--config.train.batch_size=8",
    ]  # fmt: skip
    folder = tmp_path / "run"

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "main.py", f"--workdir={folder}", *arguments],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    process = start(*arguments)
    while "epoch 1/8: " not in process.stdout.readline():
        assert process.poll() is None
    process.terminate()
    _, told = process.communicate(timeout=120)
    assert process.returncode == STOPPED
    assert "To resume, run the same command again" in told
    assert f"--workdir={folder}" in told
    output, errors = start().communicate(timeout=300)
    assert errors == ""
    assert "resuming from step" in output
    epochs = [
        json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert epochs == [*range(1, 9)]
