"""Intervals cover as often as they say: on synthetic data whose answer is known."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tests.train_lib import coverage as of_shares
from train_lib.analysis.scores import difference
from train_lib.analysis.statistics import (
    cohens_d,
    cohens_h,
    equal_count_bins,
    expected_best,
    holm,
    mcnemar,
    mean_interval,
    one_more_interval,
    reliability,
    seeds_needed,
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
    assert mean_interval([0.8]) == (0.8, 0, math.inf)
    assert mean_interval([0.8, 0.8, 0.8], math.inf)[1:] == (0, 1)


@pytest.mark.parametrize(("right", "examples"), [(0, 7), (1, 1), (3, 7), (1_990, 2_000)])
def test_of_one_seed_the_interval_of_a_share_is_that_of_clopper_and_pearson(right, examples):
    expected = scipy.stats.binomtest(right, examples).proportion_ci(method="exact")
    found = mean_interval([right / examples], examples)
    np.testing.assert_allclose(found, [right / examples, *expected], rtol=1e-9, atol=1e-12)


def test_of_many_seeds_and_examples_the_interval_of_a_share_is_students():
    values = np.random.default_rng(0).normal(0.86, 0.01, 200)
    for interval in (mean_interval, one_more_interval):
        mean, low, high = interval(values)
        np.testing.assert_allclose(
            interval(values, 10**9), [mean, low, high], atol=0.05 * (high - low)
        )


def test_of_seeds_that_agree_the_interval_is_that_of_the_examples():
    assert mean_interval([0.25] * 5, 80) == mean_interval([0.25], 80)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize(
    ("share", "scatter", "examples"),
    [(0.002, 0.1, 25_000), (0.02, 0.3, 20), (0.5, 0.0, 80), (0.98, 0.0, 200), (0.998, 0.02, 2_000)],
)
def test_the_interval_of_a_share_holds_that_of_all_seeds_and_examples(
    share, scatter, examples, seeds, same
):
    covered(share, scatter, seeds, examples, same=same, trials=250)


@pytest.mark.slow
@pytest.mark.parametrize("share", of_shares.SHARES)
def test_the_interval_of_a_share_holds_it_in_every_case_of_the_table(share):
    for case in itertools.product(of_shares.SCATTER, of_shares.SEEDS, of_shares.EXAMPLES):
        for same in (True, False):
            covered(share, *case, same=same, trials=500)


def covered(*case, trials, same):
    held, held_one_more, width = of_shares.coverage(*case, same=same, trials=trials)
    four_errors = 4 * math.sqrt(0.93 * 0.07 / trials)
    assert min(held, held_one_more) > 0.93 - four_errors, (case, same)
    seeds, examples = case[2:]
    if same and seeds == 10 and examples == 25_000:
        assert width < 1.5, case


def test_the_expected_best_of_so_many_is_the_mean_over_all_ways_to_choose_them():
    values = np.random.default_rng(0).normal(size=7)
    expected = [
        np.mean([max(chosen) for chosen in itertools.combinations(values, count)])
        for count in range(1, 8)
    ]
    np.testing.assert_allclose(expected_best(values), expected)


# What makes an answer right is a sum of normal parts, above 0: of the example, of the example with
# that architecture, of the seed, and of the example with that seed. As the LSTM on IMDB, two seeds
# agree with a correlation of about 0.7.
EXAMPLE, ARCHITECTURE, EACH = 0.8, 0.25, 0.54
GOOD = 1.08


def simulate(rng, seeds, examples, gap, seed_sd, good=GOOD):
    """Whether two runs of `seeds` each are right, `[K, N]`, and how good each seed is in truth."""
    example_N = rng.normal(0, EXAMPLE, examples)
    for mean in (good, good + gap):
        skill_K = mean + rng.normal(0, seed_sd, seeds)
        both_N = example_N + rng.normal(0, ARCHITECTURE, examples)
        yield skill_K[:, None] + both_N + rng.normal(0, EACH, (seeds, examples)) > 0, skill_K


def accuracy(skill, seed_sd=0.0):
    """On all examples there are: the probability that the sum is above 0."""
    return scipy.stats.norm.cdf(skill / math.hypot(EXAMPLE, ARCHITECTURE, EACH, seed_sd))


def coverage(seeds, paired, gap, seed_sd, trials, examples=500, good=GOOD):
    """How often the interval of a difference holds the true one, and how often p is below 0.05."""
    rng = np.random.default_rng(0)
    covered = alarms = 0
    for _ in range(trials):
        (first_KxN, first_K), (second_KxN, second_K) = simulate(
            rng, seeds, examples, gap, seed_sd, good
        )
        found = difference(first_KxN, second_KxN, paired=paired)
        true = accuracy(good + gap, seed_sd) - accuracy(good, seed_sd)
        if seeds == 1:  # These two models, whatever other seeds would have brought.
            true = accuracy(second_K[0]) - accuracy(first_K[0])
        covered += found.low <= true <= found.high
        alarms += found.p < 0.05
    return covered / trials, alarms / trials


@pytest.mark.parametrize("gap", [0.0, 0.12])
@pytest.mark.parametrize(
    ("seeds", "paired"), [(1, True), (2, True), (3, True), (3, False), (10, True), (10, False)]
)
@pytest.mark.slow
def test_the_interval_of_a_difference_holds_the_true_one(seeds, paired, gap):
    covered, alarms = coverage(seeds, paired, gap, seed_sd=0.1, trials=800)
    three_errors = 3 * math.sqrt(0.95 * 0.05 / 800)
    assert 0.95 - three_errors < covered < 0.99
    if gap == 0 and seeds > 1:
        assert alarms == pytest.approx(1 - covered, abs=1e-12)


@pytest.mark.parametrize("examples", [20, 200])
@pytest.mark.parametrize(("seeds", "paired"), [(1, True), (2, True), (3, False), (10, True)])
@pytest.mark.parametrize(("good", "gap"), [(2.0, 0.9), (-2.0, -0.9), (2.9, 0.0)])
def test_where_nearly_all_is_right_or_wrong_the_interval_of_a_difference_holds_it_too(
    seeds, paired, examples, good, gap
):
    covered, _ = coverage(seeds, paired, gap, 0.1, trials=150, examples=examples, good=good)
    assert covered > 0.93 - 3 * math.sqrt(0.93 * 0.07 / 150)


def test_where_seeds_hardly_matter_the_interval_is_still_honest_and_not_all_there_is():
    covered, _ = coverage(3, True, 0.0, seed_sd=0.0, trials=500)
    assert covered > 0.95 - 0.03
    _, seen = coverage(10, True, 0.25, seed_sd=0.0, trials=100)
    assert seen > 0.9


def test_of_seeds_alone_the_difference_is_welchs_or_the_paired_t_test():
    rng = np.random.default_rng(0)
    first_K, second_K, more_K = (rng.normal(0.5, 0.1, size) for size in (5, 5, 7))

    def on_every_example(values_K):
        return np.repeat(values_K[:, None], 100_000, axis=1)

    for other_K, paired in ((second_K, True), (second_K, False), (more_K, False)):
        found = difference(on_every_example(first_K), on_every_example(other_K), paired=paired)
        if paired:
            expected = scipy.stats.ttest_rel(other_K, first_K)
        else:
            expected = scipy.stats.ttest_ind(other_K, first_K, equal_var=False)
        interval = expected.confidence_interval(0.95)
        np.testing.assert_allclose(
            found, [other_K.mean() - first_K.mean(), interval.low, interval.high, expected.pvalue],
            rtol=1e-6,
        )  # fmt: skip


def test_of_one_seed_the_difference_is_that_of_two_paired_proportions():
    rng = np.random.default_rng(0)
    (first_1xN, _), (second_1xN, _) = simulate(rng, 1, 2_000, 0.2, 0.0)
    b, c = (second_1xN & ~first_1xN).sum(), (first_1xN & ~second_1xN).sum()
    # Bonett and Price, 2012, whose interval has the middle of the extended sample.
    error = math.sqrt(b + c + 2 - (b - c) ** 2 / 2_002) / 2_002
    found = difference(first_1xN, second_1xN, paired=True)
    expected = (b - c) / 2_000 + np.array([0, -1.96, 1.96]) * error
    np.testing.assert_allclose(found[:3], expected, rtol=1e-3)
    assert found.p == pytest.approx(2 * scipy.stats.norm.sf((b - c) / 2_000 / error), rel=1e-2)


def test_with_many_seeds_the_interval_is_that_of_drawing_seeds_and_examples_again():
    rng = np.random.default_rng(0)
    scores_KxN = 0.1 + rng.normal(0, 0.5, (60, 1)) + rng.normal(0, 2.0, 800)
    seeds, examples = scores_KxN.shape
    drawn = [
        scores_KxN[rng.integers(seeds, size=seeds)].mean(0)[rng.integers(examples, size=examples)]
        for _ in range(2_000)
    ]
    found = difference(np.zeros_like(scores_KxN), scores_KxN, paired=True)
    np.testing.assert_allclose(
        found[1:3], np.quantile(np.mean(drawn, 1), [0.025, 0.975]), atol=0.1 * found.high
    )


def test_the_interval_is_made_of_the_mean_squares_of_seeds_examples_and_both():
    rng = np.random.default_rng(0)
    seeds, examples = 4, 50
    scores_KxN = rng.normal(0, 1, examples) + rng.normal(0, 0.2, (seeds, 1))
    scores_KxN += rng.normal(0, 1, scores_KxN.shape)
    total = ((scores_KxN - scores_KxN.mean()) ** 2).sum()
    of_seeds = examples * ((scores_KxN.mean(1) - scores_KxN.mean()) ** 2).sum()
    of_examples = seeds * ((scores_KxN.mean(0) - scores_KxN.mean()) ** 2).sum()
    of_both = (total - of_seeds - of_examples) / ((seeds - 1) * (examples - 1))
    # Two examples more, one for either run.
    middle_of_all = scores_KxN.sum() / (seeds * (examples + 2))
    of_examples += seeds * (2 + examples * (scores_KxN.mean() - middle_of_all) ** 2)
    of_examples += 2 * seeds * middle_of_all**2
    of_examples /= (examples + 1) * (examples + 2) / examples
    of_seeds /= seeds - 1
    t, z = scipy.stats.t.ppf(0.975, seeds - 1), scipy.stats.norm.ppf(0.975)
    expected = math.sqrt((t**2 * of_seeds + z**2 * (of_examples - of_both)) / (seeds * examples))
    found = difference(np.zeros_like(scores_KxN), scores_KxN, paired=True)
    assert found.high - found.mean == pytest.approx(expected)


def test_seeds_that_agree_by_chance_do_not_make_it_narrower_than_examples_alone():
    scores_KxN = np.array([[1, 0, 1, 0], [1, 0, 0, 1]])
    alone = difference(np.zeros((1, 4)), scores_KxN.mean(0, keepdims=True), paired=True)
    assert difference(np.zeros((2, 4)), scores_KxN, paired=True) == pytest.approx(alone)


@pytest.mark.parametrize("paired", [True, False])
def test_a_difference_turns_its_sign_with_its_runs_and_knows_no_order(paired):
    rng = np.random.default_rng(0)
    (first_KxN, _), (second_KxN, _) = simulate(rng, 4, 300, 0.2, 0.1)
    mean, low, high, p = difference(first_KxN, second_KxN, paired=paired)
    turned = difference(second_KxN, first_KxN, paired=paired)
    np.testing.assert_allclose(turned, [-mean, -high, -low, p], rtol=1e-8)
    seeds, examples = rng.permutation(4), rng.permutation(300)
    mixed = difference(first_KxN[seeds][:, examples], second_KxN[seeds][:, examples], paired=paired)
    np.testing.assert_allclose(mixed, [mean, low, high, p], rtol=1e-8)


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_p_is_one_in_twenty_where_the_interval_ends_at_zero(seeds):
    (first_KxN, _), (second_KxN, _) = simulate(np.random.default_rng(0), seeds, 300, 0.2, 0.1)
    low = difference(first_KxN, second_KxN, paired=True).low
    # Nearly, as the two examples that `difference` adds do not move.
    assert difference(first_KxN, second_KxN - low, paired=True).p == pytest.approx(0.05, rel=1e-3)


def test_no_difference_at_all():
    (same_KxN, _), _ = simulate(np.random.default_rng(0), 3, 300, 0.0, 0.1)
    mean, low, high, p = difference(same_KxN, same_KxN, paired=True)
    assert (mean, p) == (0, 1)
    assert -0.02 < low < 0 < high < 0.02
    assert difference(same_KxN, same_KxN + 0.5, paired=True).p < 1e-9


BITS = st.booleans().map(float)


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 12)).flatmap(
        lambda sizes: st.tuples(
            *(
                st.one_of(
                    st.lists(
                        st.lists(BITS, min_size=sizes[2], max_size=sizes[2]),
                        min_size=seeds, max_size=seeds,
                    ),
                    BITS.map(lambda bit, seeds=seeds: [[bit] * sizes[2]] * seeds),
                )
                for seeds in sizes[:2]
            )
        )
    )
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_a_difference_of_accuracies_is_one_that_can_be(scores):
    first_KxN, second_KxN = map(np.array, scores)
    for paired in (True, False) if len(first_KxN) == len(second_KxN) else (False,):
        mean, low, high, p = difference(first_KxN, second_KxN, paired=paired)
        assert -1 <= low <= mean <= high <= 1
        assert low < high
        assert 0 < p <= 1
        assert (p < 0.05) == (low > 0 or high < 0)
        d = cohens_d(first_KxN.mean(1), second_KxN.mean(1), paired=paired)
        assert math.isnan(d) == (min(len(first_KxN), len(second_KxN)) == 1)
        assert abs(d) < 1e9 or not math.isfinite(d)
        assert math.isfinite(cohens_h(first_KxN.mean(), second_KxN.mean()))
    assert 0 < mcnemar(first_KxN[0] > 0, second_KxN[0] > 0).p <= 1


@pytest.mark.parametrize("alone", [(0, 0), (1, 0), (3, 9), (10, 10), (700, 800)])
def test_mcnemars_test_is_the_binomial_test_of_the_examples_where_two_models_differ(alone):
    first, second = alone
    first_N = np.repeat([True, False, True, False], [first, second, 50, 7])
    second_N = np.repeat([False, True, True, False], [first, second, 50, 7])
    expected = scipy.stats.binomtest(first, first + second).pvalue if sum(alone) else 1.0
    assert mcnemar(first_N, second_N) == (first, second, pytest.approx(expected, rel=1e-9))


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]


def test_cohens_d_is_t_without_the_number_of_seeds():
    rng = np.random.default_rng(0)
    first, second, more = (rng.normal(0, 1, size) for size in (5, 5, 8))
    t = scipy.stats.ttest_rel(second, first).statistic
    assert cohens_d(first, second, paired=True) == pytest.approx(t / math.sqrt(5))
    t = scipy.stats.ttest_ind(more, first).statistic
    assert cohens_d(first, more, paired=False) == pytest.approx(t * math.sqrt(1 / 5 + 1 / 8))


def test_cohens_d_without_scatter_or_with_one_seed():
    same = np.array([0.5, 0.5])
    assert cohens_d(same, same, paired=True) == 0
    assert cohens_d(same, same - 0.25, paired=True) == -math.inf
    assert math.isnan(cohens_d(same[:1], same, paired=False))
    # Differences that are rounding's alone.
    first, second = np.array([0.1, 0.3, 0.6]), np.array([0.2, 0.4, 0.7])
    assert cohens_d(first, second, paired=True) == math.inf
    assert cohens_d(np.full(3, 0.7), np.full(3, 0.1 * 7), paired=False) == 0


def test_cohens_h():
    assert cohens_h(0.5, 0.75) == pytest.approx(math.pi / 6)


# Cohen, Statistical Power Analysis, 1988, table 2.4.1, and for pairs the program G*Power 3.1.
@pytest.mark.parametrize(
    ("d", "paired", "expected"),
    [(0.5, False, 64), (0.8, False, 26), (0.5, True, 34), (-0.8, True, 15), (0, True, None),
     (0.05, True, None), (math.inf, True, 2), (-math.inf, False, 2)],
)  # fmt: skip
def test_seeds_needed(d, paired, expected):
    assert seeds_needed(d, paired=paired) == expected


def test_so_many_seeds_show_the_difference_four_times_in_five_and_one_less_does_not():
    needed = seeds_needed(1.2, paired=False)
    rng = np.random.default_rng(0)
    shown = []
    for seeds in (needed - 1, needed):
        first, second = rng.normal(0, 1, (20_000, seeds)), rng.normal(1.2, 1, (20_000, seeds))
        shown.append(np.mean(scipy.stats.ttest_ind(first, second, axis=1).pvalue < 0.05))
    assert shown[0] < 0.8 + 0.009
    assert shown[1] > 0.8 - 0.009
    assert shown[1] - shown[0] > 0.01


@pytest.mark.filterwarnings("error")
def test_more_seeds_are_needed_the_smaller_the_difference():
    for paired in (True, False):
        needed = [seeds_needed(d, paired=paired) or math.inf for d in np.geomspace(0.1, 1e6, 60)]
        assert needed == sorted(needed, reverse=True)
        assert needed[-1] == 2


def test_bins_are_of_equal_counts_and_never_part_equal_values():
    rng = np.random.default_rng(0)
    values = rng.permutation(1_003)
    bins = equal_count_bins(values, 5)
    assert np.ptp(np.bincount(bins)) <= 1
    assert (np.diff(bins[np.argsort(values)]) >= 0).all()

    tied = rng.integers(0, 7, 1_000)
    bins = equal_count_bins(tied, 5)
    assert all(len(set(bins[tied == value])) == 1 for value in range(7))
    assert set(bins) == set(range(bins.max() + 1))
    assert equal_count_bins(np.array([1, 5, 5, 5, 5]), 5).tolist() == [0, 1, 1, 1, 1]
    assert equal_count_bins(np.full(10, 0.5), 5).tolist() == [0] * 10


def test_calibration_error_by_hand():
    probabilities = np.repeat([0.1, 0.6, 0.9], [4, 4, 2])
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 0, 1, 1])
    predicted, observed, share = found = reliability(probabilities, labels)
    np.testing.assert_allclose(predicted, [0.1, 0.6, 0.9])
    np.testing.assert_allclose(observed, [0.25, 0.5, 1.0])
    np.testing.assert_allclose(share, [0.4, 0.4, 0.2])
    assert found.ece == pytest.approx(0.4 * 0.15 + 0.4 * 0.1 + 0.2 * 0.1)


def test_calibration_error_of_what_is_calibrated_is_chance_alone():
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.5, 0.5, 30_000)
    labels = (rng.random(30_000) < probabilities).astype(int)
    found = reliability(probabilities, labels)
    assert len(found.share_B) == 15
    assert found.ece < 0.01
    shifted = 0.1 + 0.8 * probabilities
    assert reliability(shifted, labels).ece == pytest.approx(
        np.mean(np.abs(shifted - probabilities)), abs=0.01
    )
    # A guess that is always the same has one bin, however the examples are sorted.
    assert reliability(np.full(100, 0.5), np.repeat([0, 1], 50)).ece == 0
