"""The learning rate of every update, against the formulas written down once more."""

import math

import numpy as np
import pytest

from train_lib.training.schedules import SCHEDULES, Schedule

RATE, N, F = 0.3, 20, 0.1


def expected(name, n, warmup, final):
    """In plain floating point, update by update."""
    if n < warmup and name == "one_cycle":
        return RATE * (1 / 25 + (24 / 25) * (1 - math.cos(math.pi * n / warmup)) / 2)
    if n < warmup:
        return RATE * (n + 1) / warmup
    part = (n - warmup) / (N - warmup)
    if name == "constant":
        return RATE
    if name == "linear":
        return RATE - part * (RATE - final * RATE)
    if name == "inverse_sqrt":
        return RATE * math.sqrt(max(warmup, 1)) / math.sqrt(n + 1)
    lowest = final * RATE
    return lowest + 0.5 * (RATE - lowest) * (1 + math.cos(math.pi * part))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("warmup", "updates"), [(0, 0), (5, 5), (0.25, 5), (1, 1)])
def test_every_rate_is_that_of_the_formula(name, warmup, updates):
    if name == "one_cycle" and not warmup:
        updates = 6  # 0.3 of the run.
    schedule = Schedule.of(name, RATE, N, warmup, F)
    found = [float(schedule(n)) for n in range(N)]
    np.testing.assert_allclose(found, [expected(name, n, updates, F) for n in range(N)], rtol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_rises_to_the_highest_and_does_not_rise_again(name):
    rates = np.array([float(Schedule.of(name, RATE, N, 4)(n)) for n in range(N + 1)])
    assert (np.diff(rates[:4]) > 0).all()
    assert rates.max() == pytest.approx(RATE)
    assert (np.diff(rates[4:]) <= 1e-7).all()
    if name in ("linear", "cosine", "one_cycle"):
        assert rates[-1] == pytest.approx(0, abs=1e-7)


def test_only_a_rate_that_never_changes_is_constant():
    assert Schedule.of("constant", RATE, N).is_constant
    assert not Schedule.of("constant", RATE, N, 3).is_constant
    assert not Schedule.of("linear", RATE, N).is_constant


@pytest.mark.parametrize("warmup", [20, 500, 0.99])
def test_a_warm_up_that_does_not_end_is_refused(warmup):
    with pytest.raises(ValueError, match=r"does not end before the run, which has 20"):
        Schedule.of("linear", RATE, N, warmup)
