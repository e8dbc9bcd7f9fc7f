"""A trace has the steps that were asked for, whole calls, and says which."""

import re
from types import SimpleNamespace

import jax
import pytest

from train_lib.errors import UserError
from train_lib.records import profiling
from train_lib.records.folder import RunFolder
from train_lib.records.profiling import Profile
from train_lib.training import fitting
from train_lib.training.hooks import Moment
from train_lib.training.state import Position

AN_EPOCH, EPOCHS, CALL = 11, 3, 4
PROGRAM = SimpleNamespace(
    num_seeds=1, mesh=SimpleNamespace(shape={"seed": 1}), examples_a_step=5
)  # fmt: skip


def watch(profile, begin, end):
    """Calls of 4 steps in epochs of 11, as `fit` makes them; the ends of all calls."""

    def moment():
        position = Position.first(1)
        position.epoch, position.steps = 1 + step // AN_EPOCH, step % AN_EPOCH
        if is_epochs_last:
            position.epoch, position.steps = position.epoch - 1, AN_EPOCH
        return Moment(step, AN_EPOCH * EPOCHS, None, position, lambda: None)

    step, is_epochs_last, ends = begin, False, [begin]
    with profile:
        profile.before(moment())
        while step < end:
            step = min(step + CALL, (step // AN_EPOCH + 1) * AN_EPOCH)
            is_epochs_last = step % AN_EPOCH == 0
            ends.append(step)
            profile.after_call(moment(), 5)
            if is_epochs_last:
                is_epochs_last = False
                profile.after_epoch(moment())
    return ends


@pytest.fixture
def traced(monkeypatch, tmp_path, capsys):
    """Traces; returns what was called, the ends of all calls, and what was said."""
    monkeypatch.setattr(fitting, "STEPS_A_CALL", CALL)

    def trace(first, last, begin=0, end=AN_EPOCH * EPOCHS):
        calls = []
        monkeypatch.setattr(jax.profiler, "start_trace", lambda path: calls.append("start"))
        monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
        profile = Profile((first, last), RunFolder(tmp_path), PROGRAM, 5 * AN_EPOCH - 2, EPOCHS)
        return calls, watch(profile, begin, end), capsys.readouterr().out

    return trace


@pytest.mark.parametrize("begin", [0, 4, 11, 15])
def test_calls_are_traced_whole_and_no_more_than_needed(traced, begin):
    total = AN_EPOCH * EPOCHS
    for first in range(1, total + 1):
        for last in range(first, total + 1):
            calls, ends, said = traced(first, last, begin)
            if last <= begin:
                assert calls == []
                assert f"{begin} updates were made before: nothing is traced" in said
                continue
            assert calls == ["start", "stop"]
            began, ended = map(int, re.search(r"traced steps (\d+) to (\d+)", said).groups())
            assert began - 1 == max(end for end in ends if end < max(first, begin + 1))
            assert ended == min(end for end in ends if end >= last)
            assert ("what was compiled" in said) == (began - 1 == begin)


def test_a_run_that_ends_before_says_what_there_is(traced):
    calls, _, said = traced(6, 20, end=11)
    assert calls == ["start", "stop"]
    assert "traced steps 5 to 11" in said
    calls, _, said = traced(13, 20, end=8)
    assert calls == []
    assert "step 13 was not reached: nothing is traced" in said


@pytest.mark.parametrize("text", ["", "5", "a:b", "5:4", "0:3", "-1:3", "1:2:3", "1.5:2", "٣:٤"])
def test_what_are_no_steps_is_refused(text):
    with pytest.raises(UserError, match=f"--profile_steps={text} "):
        profiling.parse(text)
    assert profiling.parse("7:7") == (7, 7)


def test_steps_beyond_the_run_are_refused(traced):
    with pytest.raises(UserError, match="3:34 goes beyond the run, which has 33 updates"):
        traced(3, 34)
