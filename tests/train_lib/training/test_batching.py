"""Every example once, in its place, and little padding."""

import numpy as np
import pytest

from tests.train_lib import cases
from train_lib.data.dataset import Split
from train_lib.tasks.classes import Classes
from train_lib.training import devices as on_devices
from train_lib.training.batching import (
    EXACT,
    NO_EXAMPLE,
    DeviceSplit,
    Layout,
    Treatment,
    gather,
    plan_bucketed,
    plan_uniform,
    plans,
    row_widths,
    steps_taken,
)

TUTORIAL = Treatment(mask_padding=False, padding_side="pre")


def make_split(lengths, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    tokens = rng.integers(1, 99, offsets[-1]).astype(np.int32)
    return Split(tokens, offsets, rng.integers(0, 2, len(lengths)).astype(np.float32))


LENGTHS = np.random.default_rng(1).lognormal(5, 0.8, 103).astype(int) + 1


@pytest.mark.parametrize("plan", [plan_bucketed, plan_uniform])
@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("batch_size", [1, 10, 103, 500])
def test_every_example_stands_in_one_batch(plan, seed, batch_size):
    rng = None if seed is None else np.random.default_rng(seed)
    plans = plan(LENGTHS, batch_size, rng)
    examples = np.concatenate(plans)
    np.testing.assert_array_equal(np.sort(examples), np.arange(len(LENGTHS)))
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
def test_a_layout_has_a_place_for_every_example_and_few_empty_ones(batch_size, devices, max_rows):
    layout = Layout.of(batch_size, devices, max_rows)
    assert layout.rows <= max_rows
    examples = np.random.default_rng(0).choice(len(LENGTHS), min(batch_size, 103), replace=False)
    places = layout.place(examples, LENGTHS)
    assert places.shape == layout
    assert places.size < batch_size + devices * layout.blocks
    np.testing.assert_array_equal(np.sort(places[places != NO_EXAMPLE]), np.sort(examples))


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


@pytest.mark.parametrize("case", [pytest.param(one, id=str(one)) for one in cases.ALL])
@pytest.mark.parametrize("side", ["pre", "post"])
def test_rows_equal_a_loop_over_examples(case, side):
    task, split, width = cases.task_of(case), cases.split_of(case, 8), cases.LONGEST + 1
    examples = np.array([2, NO_EXAMPLE, 0, 3, 6, 1, NO_EXAMPLE])
    batch = gather(DeviceSplit.of(split, task), examples, width, side, per_step=task.per_step)
    inputs, lengths_B, targets, weights_I = map(np.asarray, batch)
    assert inputs.shape == (7, width, *split.values.shape[1:])
    assert inputs.dtype == split.values.dtype
    if task.per_step:
        targets, weights_I = targets.reshape(7, width), weights_I.reshape(7, width)
    for row, example in enumerate(examples):
        if example == NO_EXAMPLE:
            assert not inputs[row].any()
            assert lengths_B[row] == 0
            assert not weights_I[row].any()
            continue
        steps = slice(*split.offsets[example : example + 2])
        length = steps.stop - steps.start
        assert lengths_B[row] == length
        real = slice(width - length, width) if side == "pre" else slice(length)
        np.testing.assert_array_equal(inputs[row, real], split.values[steps])
        padding = np.delete(np.arange(width), real)
        assert not inputs[row, padding].any()
        of_row = split.targets[steps] if task.per_step else split.targets[example : example + 1]
        found = targets[row, real] if task.per_step else targets[row : row + 1]
        weights = weights_I[row, real] if task.per_step else weights_I[row : row + 1]
        has_label = task.labelled(of_row)
        np.testing.assert_array_equal(weights, has_label)
        np.testing.assert_array_equal(found[has_label], of_row[has_label].astype(found.dtype))
        if task.per_step:
            assert not weights_I[row, padding].any()


def test_what_has_no_label_is_zero_on_the_device_and_weighs_nothing():
    split = make_split([2, 2, 2])
    split.targets[:] = 1, np.nan, 0
    on_device = DeviceSplit.of(split, Classes(["a", "b"]))
    assert on_device.targets.tolist() == [1, 0, 0]
    assert on_device.weights.tolist() == [1, 0, 1]


def test_where_all_have_a_label_the_device_has_no_weights():
    assert DeviceSplit.of(make_split([2, 2, 2]), Classes(["a", "b"])).weights is None


@pytest.mark.parametrize("plan", [plan_bucketed, plan_uniform])
@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_one_example_is_one_batch(plan, rng):
    (only,) = plan(np.array([7]), 32, rng)
    assert list(only) == [0]


@pytest.mark.parametrize("treatment", [EXACT, TUTORIAL])
def test_every_example_that_is_read_whole_fits_the_widest_row(treatment):
    train, *others = (
        make_split(LENGTHS[:40]), make_split(LENGTHS[40:50]), make_split(LENGTHS[50:])
    )  # fmt: skip
    widths = row_widths(train, others, treatment)
    if treatment == TUTORIAL:
        assert widths == (train.lengths.max(),)  # Longer ones are cut: see `test_steps`.
    else:
        assert widths[-1] == LENGTHS.max()


def test_bucketing_without_a_generator_goes_from_short_to_long():
    examples = np.concatenate(plan_bucketed(LENGTHS, 10))
    assert (np.diff(LENGTHS[examples]) >= 0).all()


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


def test_the_left_over_batch_is_not_always_of_the_longest_examples():
    places = set()
    for seed in range(10):
        one_pass = plan_bucketed(LENGTHS, 10, np.random.default_rng(seed))
        (left_over,) = [group for group in one_pass if len(group) == len(LENGTHS) % 10]
        places.add(np.argsort(np.argsort(LENGTHS))[left_over].min() // 20)
    assert len(places) > 2


@pytest.mark.parametrize("side", ["pre", "post"])
def test_a_pass_delivers_every_token_and_target_once(side):
    split, layout = make_split(LENGTHS), Layout.of(10, 2, 3)
    delivered = []
    for plan in plan_bucketed(split.lengths, 10, np.random.default_rng(0)):
        places = layout.place(plan, split.lengths).ravel()
        on_device = DeviceSplit.of(split, Classes(["a", "b"]))
        rows = gather(on_device, places, int(LENGTHS.max()), side, per_step=False)
        # Real tokens are never 0 here, so what is not 0 is what the model is to read.
        for tokens, length, label, weight in zip(*map(np.asarray, rows), strict=True):
            assert (tokens != 0).sum() == length
            assert weight == (length > 0)
            if weight:
                delivered.append((tuple(tokens[tokens != 0]), label))
    expected = [
        (tuple(tokens), label)
        for tokens, label in zip(
            np.split(split.values, split.offsets[1:-1]), split.targets, strict=True
        )
    ]
    assert sorted(delivered) == sorted(expected)


@pytest.mark.parametrize(("treatment", "plan"), [(EXACT, plan_bucketed), (TUTORIAL, plan_uniform)])
def test_the_treatment_chooses_the_plan(treatment, plan):
    chosen = plans(LENGTHS, treatment, 10, np.random.default_rng(0))
    expected = plan(LENGTHS, 10, np.random.default_rng(0))
    for one, other in zip(chosen, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_there_are_no_more_devices_than_rows():
    shapes = [
        tuple(on_devices.mesh(seeds, rows).shape.values()) for seeds, rows in ((1, 1), (1, 9))
    ]
    assert shapes == [(1, 1), (1, 2)]
    assert tuple(on_devices.mesh(2, 1).shape.values()) == (2, 1)
