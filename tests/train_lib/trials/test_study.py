"""Trials that workers share: no training, and all workers in this process."""

import math
import os
import statistics
import time

import pytest
from optuna.trial import TrialState

from train_lib.analysis.axes import Axis
from train_lib.analysis.search import Goal
from train_lib.errors import UserError
from train_lib.training.hooks import Moment
from train_lib.training.state import Position
from train_lib.trials import lease as lease_lib
from train_lib.trials import study as study_lib
from train_lib.trials.draws import Draws
from train_lib.trials.study import JOURNAL, Lost, Pruned, Study

GOAL = Goal("accuracy", higher_is_better=True)
RATE = Axis.parse("train.learning_rate=log:1e-4:1e-1")
CHOICE = Axis.parse("model.pooling=last,mean,max")
GRID = (Axis.parse("train.learning_rate=1e-3,1e-2"), CHOICE)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease_lib, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(study_lib, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(lease_lib, "STALE_SECONDS", 0.5)


def worker(folder, sampler="random", total=6, axes=(RATE, CHOICE), pruner="none", goal=GOAL):
    return Study(folder, Draws(tuple(axes), sampler, 3), total, goal, pruner)


def end(trial, value=0.5):
    row = {"state": "complete", GOAL.field: value, "ci95": None, "seeds_diverged": 0}
    with trial.lease:
        trial.end(row)


def moment(values, epochs=4):
    """After the epochs whose accuracies are given, of one seed or of several."""
    rows = [
        {"epoch": number, "seeds": {GOAL.field: of if isinstance(of, list) else [of]}, "seconds": 9}
        for number, of in enumerate(values, 1)
    ]
    position = Position([None], [0], epoch=len(rows) + 1, rows=rows)
    return Moment(10 * len(rows), 10 * epochs, None, position, lambda: None)


def die(trial):
    """The end of its worker: from now on it does not show that it lives."""
    trial.lease._ended.set()
    trial.lease._thread.join()
    then = time.time() - 1
    os.utime(trial.lease._path, (then, then))


@pytest.mark.parametrize(("sampler", "axes"), [("random", (RATE, CHOICE)), ("grid", GRID)])
def test_trials_are_those_of_one_worker_whoever_runs_them(tmp_path, sampler, axes):
    """Of several that are at work at once, too, and one after the other."""
    for name in ("many", "one"):
        (tmp_path / name).mkdir()
    many = [worker(tmp_path / "many", sampler, axes=axes) for _ in range(3)]
    running = [each.next() for each in many]
    assert [trial.number for trial in running] == [0, 1, 2]
    for each, trial in zip(many, running, strict=True):
        end(trial)
        end(each.next())
    assert [each.next() for each in many] == [None] * 3
    one = worker(tmp_path / "one", sampler, axes=axes)
    while trial := one.next():
        end(trial)
    assert many[0].rows() == one.rows()
    fields = [row["fields"] for row in one.rows()]
    assert fields == Draws(tuple(axes), sampler, 3).foreseen(6)
    assert len(set(map(str, fields))) == 6


def test_more_trials_are_added_to_those_there_are(tmp_path):
    for total in (2, 4, 3):
        study = worker(tmp_path, total=total)
        while trial := study.next():
            end(trial)
    assert [row["trial"] for row in study.rows()] == [0, 1, 2, 3]


def test_tpe_learns_from_the_trials_of_all_workers_and_draws_the_same_again(tmp_path):
    rates = {}
    for name in "ab":
        (tmp_path / name).mkdir()
        for _ in range(30):  # Each by a worker that was just started.
            trial = worker(tmp_path / name, "tpe", 30, [RATE]).next()
            end(trial, value=-abs(math.log10(trial.fields["train.learning_rate"]) + 2))
        rows = worker(tmp_path / name, "tpe", 30, [RATE]).rows()
        rates[name] = [row["fields"]["train.learning_rate"] for row in rows]
    assert rates["a"] == rates["b"]
    errors = [abs(math.log10(rate) + 2) for rate in rates["a"]]
    assert statistics.median(errors[15:]) < statistics.median(errors[:10]) / 2


def test_a_trial_whose_worker_died_is_resumed_under_its_number(tmp_path):
    first, second = worker(tmp_path, total=2), worker(tmp_path, total=2)
    dead = first.next()
    dead.after_epoch(moment([0.5]))
    assert second.next().number == 1
    die(dead)
    again = second.next()
    assert (again.number, again.fields) == (0, dead.fields)
    with pytest.raises(Lost, match="trial 0: another worker runs it"):
        dead.after_call(moment([0.5]), 1)
    with pytest.raises(Lost):
        end(dead)
    again.before(moment([0.5, 0.6]))  # The second was trained and not yet reported.
    frozen = second._all()[0]
    assert frozen.intermediate_values == {1: 0.5, 2: 0.6}
    end(again, 0.7)
    assert second.rows()[0][GOAL.field] == 0.7


def test_a_worker_that_lives_keeps_its_trial_and_others_wait_for_it(tmp_path, monkeypatch, capsys):
    first, second = worker(tmp_path, total=1), worker(tmp_path, total=1)
    trial = first.next()
    start, seconds = time.monotonic(), 3 * lease_lib.STALE_SECONDS

    def sleep(_, sleep=time.sleep):
        sleep(0.02)
        if time.monotonic() - start > seconds and trial.lease.is_held():
            end(trial)

    monkeypatch.setattr(study_lib.time, "sleep", sleep)
    assert second.next() is None
    assert time.monotonic() - start > seconds
    assert capsys.readouterr().out == "waits for other workers' trials: 0\n"


def test_a_trial_that_was_given_up_is_taken_at_once(tmp_path):
    first, second = worker(tmp_path), worker(tmp_path)
    with pytest.raises(KeyboardInterrupt), first.next().lease:
        raise KeyboardInterrupt
    assert second.next().number == 0


@pytest.mark.parametrize("higher", [True, False])
def test_halving_ends_what_falls_behind_and_that_stays_so(tmp_path, higher):
    goal = Goal("accuracy", higher)
    sign = goal.sign
    study = worker(tmp_path, total=4, pruner="halving", goal=goal)
    best, worse, better = (study.next() for _ in range(3))
    best.after_epoch(moment([0.5 * sign]))
    with pytest.raises(Pruned, match="after epoch 1"):
        worse.after_epoch(moment([[0.5 * sign, 0.3 * sign, None]]))
    worse.lease.release()
    better.after_epoch(moment([0.6 * sign]))
    for number in (2, 3):  # No rung is there.
        better.after_epoch(moment([0.6 * sign] + [-9.0 * sign] * (number - 1)))
    better.after_epoch(moment([0.6 * sign] + [-9.0 * sign] * 3))  # Nothing is left to save.
    for trial in (best, better):
        end(trial)
    again = worker(tmp_path, total=3, pruner="halving", goal=goal)
    assert again.next() is None
    row = again.rows()[1]
    assert row["state"] == "pruned"
    assert row[goal.field] == pytest.approx(0.4 * sign)  # The mean of the seeds that are left.
    assert (row["epochs"], row["seconds"], row["seeds_diverged"]) == (1, 9, 1)
    assert again._all()[1].state == TrialState.PRUNED


def test_without_a_pruner_none_is_pruned(tmp_path):
    study = worker(tmp_path)
    first, second = study.next(), study.next()
    first.after_epoch(moment([0.5]))
    second.after_epoch(moment([0.1]))


def test_a_damaged_journal_is_told(tmp_path):
    worker(tmp_path)
    with open(tmp_path / JOURNAL, "a") as file:
        file.write('{"op_code": \n')
    with pytest.raises(UserError, match=f"{JOURNAL} is damaged"):
        worker(tmp_path)


def test_a_journal_that_cannot_be_written_is_told(tmp_path):
    study = worker(tmp_path)
    (tmp_path / JOURNAL).unlink()
    (tmp_path / JOURNAL).mkdir()
    with pytest.raises(UserError, match=f"{JOURNAL} cannot be used: Is a directory"):
        study.next()
    with pytest.raises(UserError, match="absent"):
        worker(tmp_path / "absent")
