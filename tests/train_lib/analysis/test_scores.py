"""Intervals of scores of any kind, with weights: on synthetic data whose answer is known."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tests.train_lib import coverage_of_scores as simulated
from train_lib.analysis.scores import difference, mean_score_interval
from train_lib.analysis.statistics import mean_interval

pytestmark = pytest.mark.slow


def covered(kind, seeds, examples, trials):
    held, held_difference, _ = simulated.coverage(kind, seeds, examples, trials)
    # No interval knows of rare high scores that a small sample lacks.
    least = 0.9 if kind.endswith("tails") and examples < 500 else 0.935
    four_errors = 4 * math.sqrt(least * (1 - least) / trials)
    assert min(held, held_difference) > least - four_errors, (kind, seeds, examples)


@pytest.mark.parametrize("kind", simulated.KINDS)
@pytest.mark.parametrize("seeds", simulated.SEEDS)
def test_intervals_hold_what_they_should(kind, seeds):
    covered(kind, seeds, 80, trials=150)


@pytest.mark.slow
@pytest.mark.parametrize("kind", simulated.KINDS)
def test_intervals_hold_what_they_should_in_every_case_of_the_table(kind):
    for seeds, examples in itertools.product(simulated.SEEDS, simulated.EXAMPLES):
        covered(kind, seeds, examples, trials=500)


@pytest.mark.parametrize("kind", simulated.KINDS)
def test_without_a_difference_few_alarms_are_raised_and_a_large_one_is_seen(kind):
    _, _, alarms = simulated.coverage(kind, 3, 200, 150, gap=0.0)
    assert alarms < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 150)
    _, _, seen = simulated.coverage(kind, 3, 500, 60, gap=0.6)
    assert seen > (0.8 if kind == "weighted tails" else 0.95)


@pytest.mark.parametrize("are_shares", [True, False])
def test_an_example_of_weight_two_is_as_two_examples_in_the_mean(are_shares):
    rng = np.random.default_rng(0)
    scores_KxN, weights_N = rng.uniform(size=(3, 40)), rng.integers(0, 4, 40)
    found = mean_score_interval(scores_KxN, weights_N, are_shares=are_shares)
    repeated_KxM = np.repeat(scores_KxN, weights_N, axis=1)
    assert found.mean == pytest.approx(repeated_KxM.mean())
    # And in the width as one, because the two are not independent.
    as_two = mean_score_interval(repeated_KxM, are_shares=are_shares)
    assert found.high - found.low > as_two.high - as_two.low


@pytest.mark.parametrize("are_shares", [True, False])
def test_the_size_of_weights_and_examples_without_weight_do_not_matter(are_shares):
    rng = np.random.default_rng(0)
    first_KxN, second_KxN = rng.uniform(size=(2, 3, 40))
    weights_N = rng.uniform(size=40)
    more = {"weights_N": np.append(1_000 * weights_N, 0), "are_shares": are_shares}
    one, other = (np.append(scores, np.full((3, 1), 0.3), 1) for scores in (first_KxN, second_KxN))
    np.testing.assert_allclose(
        mean_score_interval(first_KxN, weights_N, are_shares=are_shares),
        mean_score_interval(one, **more),
    )
    np.testing.assert_allclose(
        difference(first_KxN, second_KxN, paired=True, weights_N=weights_N, are_shares=are_shares),
        difference(one, other, paired=True, **more),
    )


def test_equal_weights_are_as_none():
    rng = np.random.default_rng(0)
    first_KxN, second_KxN = rng.integers(0, 2, (2, 3, 40))
    for are_shares in (True, False):
        np.testing.assert_allclose(
            difference(first_KxN, second_KxN, paired=True, are_shares=are_shares),
            difference(
                first_KxN, second_KxN, paired=True, weights_N=np.full(40, 7.0),
                are_shares=are_shares,
            ),
        )  # fmt: skip


def test_the_variance_is_that_of_a_ratio_of_sums():
    """As for domains in Cochran, Sampling Techniques, 1977, chapter 6."""
    rng = np.random.default_rng(0)
    means = []
    for _ in range(4_000):
        weights_N = 1 + rng.poisson(3, 200)
        scores_1xN = (rng.normal(size=(1, 200)) + 0.1 * weights_N) ** 2
        found = difference(
            np.zeros_like(scores_1xN), scores_1xN, paired=True, weights_N=weights_N,
            are_shares=False,
        )  # fmt: skip
        means.append((found.mean, found.high - found.mean))
    means, halves = np.array(means).T
    assert np.median(halves) / 1.97 == pytest.approx(np.std(means), rel=0.05)


def test_of_one_seed_a_difference_of_squared_errors_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    first_1xN, second_1xN = rng.normal(size=(2, 1, 30)) ** 2 * 100
    found = difference(first_1xN, second_1xN, paired=True, are_shares=False)
    expected = scipy.stats.ttest_rel(second_1xN[0], first_1xN[0])
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(
        found, [expected._estimate, interval.low, interval.high, expected.pvalue], rtol=1e-6
    )


def test_with_many_examples_the_interval_of_squared_errors_is_students():
    scores_1xN = np.random.default_rng(0).normal(size=(1, 200_000)) ** 2
    mean, low, high = mean_score_interval(scores_1xN, are_shares=False)
    half = 1.96 * scores_1xN.std() / math.sqrt(200_000)
    np.testing.assert_allclose([low, high], [mean - half, mean + half], rtol=1e-4)


@pytest.mark.parametrize("right", [0, 3, 140, 200])
def test_of_right_and_wrong_answers_the_interval_is_much_as_that_of_a_share(right):
    scores_1xN = (np.arange(200) < right)[None].astype(float)
    found = mean_score_interval(scores_1xN, are_shares=True)
    np.testing.assert_allclose(found, mean_interval([right / 200], 200), atol=0.004)


SCORES = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))


@given(
    st.integers(1, 3).flatmap(
        lambda seeds: st.lists(
            st.tuples(st.lists(SCORES, min_size=seeds, max_size=seeds), st.integers(0, 50)),
            min_size=1, max_size=9,
        )
    ),
    st.booleans(),
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_an_interval_is_one_that_can_be(examples, are_shares):
    scores_KxN = np.array([scores for scores, _ in examples]).T
    weights_N = np.array([weight for _, weight in examples]) + (len(examples) == 1)
    weights_N[0] += 1
    mean, low, high = mean_score_interval(scores_KxN, weights_N, are_shares=are_shares)
    assert 0 <= low <= mean <= high
    if are_shares:
        assert low < high <= 1
    found = difference(
        scores_KxN, 1 - scores_KxN, paired=True, weights_N=weights_N, are_shares=are_shares
    )
    assert found.low <= found.mean <= found.high
    assert 0 < found.p <= 1


def test_one_example_says_nothing_of_squared_errors():
    assert mean_score_interval(np.array([[4.0]]), are_shares=False) == (4, 0, math.inf)
    found = difference(np.array([[4.0]]), np.array([[5.0]]), paired=True, are_shares=False)
    assert found == (1, -math.inf, math.inf, pytest.approx(1))


def test_scores_that_can_be_negative_have_students_interval():
    scores_1xN = np.random.default_rng(0).normal(size=(1, 20))
    found = mean_score_interval(scores_1xN, are_shares=False)
    expected = scipy.stats.ttest_1samp(scores_1xN[0], 0).confidence_interval(0.95)
    np.testing.assert_allclose(found[1:], expected)
