"""Every review once, in its place, and little padding."""

import numpy as np
import pytest

from train_lib.data.batches import batch, bucket_width, plan_bucketed, plan_uniform
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
