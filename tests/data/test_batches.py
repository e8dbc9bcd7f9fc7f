"""Every review once, in its place, and little padding."""

import numpy as np
import pytest

from configs import base
from train_lib.data.batches import batch, bucket_width, plan_bucketed, plan_uniform, plans
from train_lib.data.dataset import Split


def make_split(lengths, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    tokens = rng.integers(1, 99, offsets[-1]).astype(np.int32)
    return Split(tokens, offsets, rng.integers(0, 2, len(lengths)).astype(np.int8))


LENGTHS = np.random.default_rng(1).lognormal(5, 0.8, 103).astype(int) + 1


@pytest.mark.parametrize("plan", [plan_bucketed, plan_uniform])
@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("batch_size", [1, 10, 103, 500])
def test_every_review_stands_in_one_batch(plan, seed, batch_size):
    rng = None if seed is None else np.random.default_rng(seed)
    plans = plan(LENGTHS, batch_size, rng)
    reviews = np.concatenate([group for group, _ in plans])
    np.testing.assert_array_equal(np.sort(reviews), np.arange(len(LENGTHS)))
    assert len(plans) == -(-len(LENGTHS) // batch_size)
    for group, width in plans:
        assert 1 <= len(group) <= batch_size
        assert LENGTHS[group].max() <= width


def test_widths_are_few_and_close():
    lengths = np.arange(1, 2_500)
    widths = np.array([bucket_width(length) for length in lengths])
    assert (widths >= lengths).all()
    assert (widths <= np.maximum(64, lengths * 1.25 + 16)).all()
    assert len(set(widths)) <= 18


def test_bucketing_reads_less_padding_than_words():
    plans = plan_bucketed(np.tile(LENGTHS, 20), 100, np.random.default_rng(0))
    padded = sum(len(group) * width for group, width in plans)
    assert padded < 2 * 20 * LENGTHS.sum()
    uniform = sum(len(group) * width for group, width in plan_uniform(LENGTHS, 100))
    assert uniform > 3 * LENGTHS.sum()


@pytest.mark.parametrize("plan", [plan_bucketed, plan_uniform])
def test_the_order_belongs_to_the_seed(plan):
    def order(seed):
        return [tuple(group) for group, _ in plan(LENGTHS, 10, np.random.default_rng(seed))]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert {frozenset(group) for group in order(0)} != {frozenset(group) for group in order(1)}


@pytest.mark.parametrize("side", ["pre", "post"])
def test_rows_equal_a_loop_over_reviews(side):
    split = make_split([3, 1, 5, 2])
    (plan,) = plan_uniform(split.lengths, 6, np.random.default_rng(0))
    rows = batch(split, plan, 6, side)
    assert rows.tokens_BxT.shape == (6, 5)
    for row, review in enumerate(plan.reviews):
        tokens = list(split.tokens[split.offsets[review] : split.offsets[review + 1]])
        padding = [0] * (5 - len(tokens))
        expected = padding + tokens if side == "pre" else tokens + padding
        assert list(rows.tokens_BxT[row]) == expected
        assert rows.lengths_B[row] == len(tokens)
        assert rows.labels_B[row] == split.labels[review]
    assert list(rows.weights_B) == [1, 1, 1, 1, 0, 0]
    assert not rows.tokens_BxT[4:].any()
    assert not rows.lengths_B[4:].any()


@pytest.mark.parametrize("plan", [plan_bucketed, plan_uniform])
@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_one_review_is_one_batch(plan, rng):
    (only,) = plan(np.array([7]), 32, rng)
    assert list(only.reviews) == [0]
    assert only.width >= 7


@pytest.mark.parametrize("seed", [None, 0])
def test_bucketed_batches_are_as_wide_as_their_own_longest_review_needs(seed):
    rng = None if seed is None else np.random.default_rng(seed)
    for group, width in plan_bucketed(LENGTHS, 10, rng):
        assert width == bucket_width(LENGTHS[group].max())


def test_bucketing_without_a_generator_goes_from_short_to_long():
    reviews = np.concatenate([group for group, _ in plan_bucketed(LENGTHS, 10)])
    assert (np.diff(LENGTHS[reviews]) >= 0).all()


def test_bucketing_with_a_generator_blurs_and_shuffles():
    # Ten divides 100 evenly: only blurred lengths can change who meets whom.
    lengths = LENGTHS[:100]
    passes = [plan_bucketed(lengths, 10, np.random.default_rng(seed)) for seed in range(5)]
    meetings = {frozenset(frozenset(group) for group, _ in one_pass) for one_pass in passes}
    assert len(meetings) == len(passes)
    # From short to long would be a curriculum; that all five passes are so is no chance.
    assert any(np.diff([width for _, width in one_pass]).min() < 0 for one_pass in passes)


def test_the_left_over_batch_is_not_always_of_the_longest_reviews():
    widths = set()
    for seed in range(10):
        one_pass = plan_bucketed(LENGTHS, 10, np.random.default_rng(seed))
        (left_over,) = [width for group, width in one_pass if len(group) == len(LENGTHS) % 10]
        widths.add(left_over)
    assert len(widths) > 2


@pytest.mark.parametrize("side", ["pre", "post"])
def test_a_pass_delivers_every_token_and_label_once(side):
    split = make_split(LENGTHS)
    delivered = []
    for plan in plan_bucketed(split.lengths, 10, np.random.default_rng(0)):
        rows = batch(split, plan, 10, side)
        # Real tokens are never 0 here, so what is not 0 is what the model is to read.
        for tokens, length, label, weight in zip(*rows, strict=True):
            assert (tokens != 0).sum() == length
            assert weight == (length > 0)
            if weight:
                delivered.append((tuple(tokens[tokens != 0]), label))
    expected = [
        (tuple(tokens), label)
        for tokens, label in zip(
            np.split(split.tokens, split.offsets[1:-1]), split.labels, strict=True
        )
    ]
    assert sorted(delivered) == sorted(expected)


@pytest.mark.parametrize(
    ("treatment", "plan"), [("exact", plan_bucketed), ("tutorial", plan_uniform)]
)
def test_the_treatment_chooses_the_plan(treatment, plan):
    split, config = make_split(LENGTHS), base.get_config("test", treatment).data
    chosen = plans(split, config, 10, np.random.default_rng(0))
    expected = plan(split.lengths, 10, np.random.default_rng(0))
    for one, other in zip(chosen, expected, strict=True):
        np.testing.assert_array_equal(one.reviews, other.reviews)
        assert one.width == other.width
