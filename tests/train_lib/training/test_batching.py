"""Every review once, in its place, and little padding."""

import numpy as np
import pytest
from train_lib.data.batches import (
    NO_REVIEW,
    Corpus,
    Layout,
    gather,
    plan_bucketed,
    plan_uniform,
    plans,
    row_widths,
    steps_taken,
)

from configs import base
from train_lib.data.dataset import Dataset, Split


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
    reviews = np.concatenate(plans)
    np.testing.assert_array_equal(np.sort(reviews), np.arange(len(LENGTHS)))
    assert len(plans) == -(-len(LENGTHS) // batch_size)
    assert all(1 <= len(group) <= batch_size for group in plans)


def test_bucketing_takes_few_steps_beside_words():
    lengths = np.tile(LENGTHS, 20)
    layout = Layout.of(100, 2, 25)

    def steps(plans):
        return steps_taken(layout.place_all(plans, lengths, len(plans)), lengths, (1, 2))

    assert lengths.sum() <= steps(plan_bucketed(lengths, 100, np.random.default_rng(0)))
    assert steps(plan_bucketed(lengths, 100, np.random.default_rng(0))) < 1.15 * lengths.sum()
    assert steps(plan_uniform(lengths, 100)) > 1.3 * lengths.sum()


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64, 100, 512])
@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize("max_rows", [1, 16, 128, float("inf")])
def test_a_layout_has_a_place_for_every_review_and_few_empty_ones(batch_size, devices, max_rows):
    layout = Layout.of(batch_size, devices, max_rows)
    assert layout.rows <= max_rows
    reviews = np.random.default_rng(0).choice(len(LENGTHS), min(batch_size, 103), replace=False)
    places = layout.place(reviews, LENGTHS)
    assert places.shape == layout
    assert places.size < batch_size + devices * layout.blocks
    np.testing.assert_array_equal(np.sort(places[places != NO_REVIEW]), np.sort(reviews))


def test_devices_share_the_work_and_blocks_are_of_similar_length():
    layout = Layout.of(96, 2, 16)
    places = layout.place(np.arange(96), LENGTHS)
    work = LENGTHS[places].max(-1).sum(-1)
    assert abs(work[0] - work[1]) < 0.1 * work[0]
    longest, shortest = LENGTHS[places].max(-1), LENGTHS[places].min(-1)
    assert (shortest[:, :-1] >= longest[:, 1:].min(0)).all()


@pytest.mark.parametrize("plan", [plan_bucketed, plan_uniform])
def test_the_order_belongs_to_the_seed(plan):
    def order(seed):
        return [tuple(group) for group in plan(LENGTHS, 10, np.random.default_rng(seed))]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert {frozenset(group) for group in order(0)} != {frozenset(group) for group in order(1)}


@pytest.mark.parametrize("side", ["pre", "post"])
def test_rows_equal_a_loop_over_reviews(side):
    split = make_split([3, 1, 5, 2])
    reviews = np.array([2, NO_REVIEW, 0, 3, 1, NO_REVIEW])
    rows = gather(Corpus.of(split), reviews, 6, side)
    assert rows.tokens_BxT.shape == (6, 6)
    for row, review in enumerate(reviews):
        is_review = review != NO_REVIEW
        tokens = list(split.tokens[slice(*split.offsets[review : review + 2])]) if is_review else []
        padding = [0] * (6 - len(tokens))
        expected = padding + tokens if side == "pre" else tokens + padding
        assert list(rows.tokens_BxT[row]) == expected
        assert rows.lengths_B[row] == len(tokens)
        assert rows.weights_B[row] == is_review
        if is_review:
            assert rows.labels_B[row] == split.labels[review]


@pytest.mark.parametrize("plan", [plan_bucketed, plan_uniform])
@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_one_review_is_one_batch(plan, rng):
    (only,) = plan(np.array([7]), 32, rng)
    assert list(only) == [0]


@pytest.mark.parametrize("treatment", ["exact", "tutorial"])
def test_every_review_that_is_read_whole_fits_the_widest_row(treatment):
    splits = [make_split(LENGTHS[:40]), make_split(LENGTHS[40:50]), make_split(LENGTHS[50:])]
    data = Dataset("test", "", None, *splits)
    config = base.get_config("test", treatment).data
    widths = row_widths(data, config)
    if treatment == "tutorial":
        assert widths == (splits[0].lengths.max(),)  # Longer reviews are cut: see `test_steps`.
    else:
        assert widths[-1] == LENGTHS.max()


def test_bucketing_without_a_generator_goes_from_short_to_long():
    reviews = np.concatenate(plan_bucketed(LENGTHS, 10))
    assert (np.diff(LENGTHS[reviews]) >= 0).all()


def test_bucketing_with_a_generator_blurs_and_shuffles():
    # Ten divides 100 evenly: only blurred lengths can change who meets whom.
    lengths = LENGTHS[:100]
    passes = [plan_bucketed(lengths, 10, np.random.default_rng(seed)) for seed in range(5)]
    meetings = {frozenset(map(frozenset, one_pass)) for one_pass in passes}
    assert len(meetings) == len(passes)
    # From short to long would be a curriculum; that all five passes are so is no chance.
    assert any(
        np.diff([lengths[group].max() for group in one_pass]).min() < 0 for one_pass in passes
    )


def test_the_left_over_batch_is_not_always_of_the_longest_reviews():
    places = set()
    for seed in range(10):
        one_pass = plan_bucketed(LENGTHS, 10, np.random.default_rng(seed))
        (left_over,) = [group for group in one_pass if len(group) == len(LENGTHS) % 10]
        places.add(np.argsort(np.argsort(LENGTHS))[left_over].min() // 20)
    assert len(places) > 2


@pytest.mark.parametrize("side", ["pre", "post"])
def test_a_pass_delivers_every_token_and_label_once(side):
    split, layout = make_split(LENGTHS), Layout.of(10, 2, 3)
    delivered = []
    for plan in plan_bucketed(split.lengths, 10, np.random.default_rng(0)):
        places = layout.place(plan, split.lengths).ravel()
        rows = gather(Corpus.of(split), places, int(LENGTHS.max()), side)
        # Real tokens are never 0 here, so what is not 0 is what the model is to read.
        for tokens, length, label, weight in zip(*map(np.asarray, rows), strict=True):
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
        np.testing.assert_array_equal(one, other)
