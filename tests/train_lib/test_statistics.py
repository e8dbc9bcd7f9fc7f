"""Intervals cover as often as they say: on synthetic data whose answer is known."""

import itertools
import math

import numpy as np
import pytest

from train_lib.statistics import (
    expected_best,
    mean_interval,
    one_more_interval,
    wilson_interval,
)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_the_interval_of_a_mean_covers_it_and_that_of_one_more_covers_that(seeds):
    rng = np.random.default_rng(seeds)
    values, one_more = rng.normal(0.86, 0.01, (4_000, seeds)), rng.normal(0.86, 0.01, 4_000)
    _, low, high = np.array([mean_interval(row) for row in values]).T
    assert 0.935 < np.mean((low <= 0.86) & (high >= 0.86)) < 0.965
    _, low, high = np.array([one_more_interval(row) for row in values]).T
    assert 0.935 < np.mean((low <= one_more) & (one_more <= high)) < 0.965


def test_one_seed_says_nothing_about_others():
    assert mean_interval([0.8]) == (0.8, -math.inf, math.inf)


@pytest.mark.parametrize("proportion", [0.02, 0.5, 0.86])
def test_wilson_interval_covers_as_often_as_it_says(proportion):
    count, trials = 400, 4_000
    seen = np.random.default_rng(0).binomial(count, proportion, trials) / count
    low, high = np.array([wilson_interval(value, count)[1:] for value in seen]).T
    covered = ((low <= proportion) & (proportion <= high)).mean()
    assert 0.93 < covered < 0.97


def test_wilson_interval_stays_between_zero_and_one():
    for proportion in (0.0, 1.0):
        _, low, high = wilson_interval(proportion, 10)
        assert -1e-12 <= low < high <= 1 + 1e-12


def test_the_expected_best_of_so_many_is_the_mean_over_all_ways_to_choose_them():
    values = np.random.default_rng(0).normal(size=7)
    expected = [
        np.mean([max(chosen) for chosen in itertools.combinations(values, count)])
        for count in range(1, 8)
    ]
    np.testing.assert_allclose(expected_best(values), expected)
