"""What is drawn is disjoint, of the sizes asked for, stratified, whole in its groups."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train_lib.data.drawing import draw
from train_lib.data.examples import SPLITS, Examples
from train_lib.errors import UserError

# The same examples on every machine, so that a failure is never luck.
ALWAYS_THE_SAME = settings(deadline=None, derandomize=True, database=None)
NOTHING_ASKED = dict.fromkeys(SPLITS, 0)


def pool(targets, groups=None):
    return Examples.numbered(range(len(targets)), targets, "made")._replace(groups=groups)


def drawn(targets, groups=None, seed=0, **asked):
    found = draw({"train": pool(targets, groups)}, NOTHING_ASKED | asked, {}, seed, "made")
    return {split: numbers for split, (_, numbers) in found.items()}


@ALWAYS_THE_SAME
@given(
    st.lists(st.sampled_from("aaaabbc"), min_size=3, max_size=200)
    | st.lists(st.floats(allow_nan=False) | st.text(), min_size=3, max_size=60),
    st.integers(0, 5),
)
def test_every_example_is_drawn_once_and_classes_keep_their_shares(targets, seed):
    found = drawn(targets, seed=seed)
    joined = np.concatenate([found[split] for split in SPLITS])
    assert sorted(joined) == list(range(len(targets)))
    assert len(found["test"]) == max(1, round(0.2 * len(targets)))
    assert all((np.diff(numbers) > 0).all() for numbers in found.values())
    counts = collections.Counter(map(repr, targets))
    # Numbers are no classes, nor are texts that hardly ever occur twice.
    is_text = all(isinstance(target, str) for target in targets)
    if 2 * len(counts) <= len(targets) and is_text:
        for numbers in found.values():
            of_part = collections.Counter(repr(targets[number]) for number in numbers)
            for name, count in counts.items():
                share = len(numbers) * count / len(targets)
                assert abs(of_part[name] - share) <= 2
        if len(found["train"]) >= len(counts):
            assert {repr(targets[number]) for number in found["train"]} == counts.keys()


@ALWAYS_THE_SAME
@given(st.lists(st.integers(0, 12), min_size=100, max_size=100), st.integers(0, 5))
def test_groups_stay_together_and_nothing_is_left_out(groups, seed):
    if len(set(groups)) < 3:
        return
    found = drawn([0, 1] * 50, groups, seed)
    homes = collections.defaultdict(set)
    for split, numbers in found.items():
        for number in numbers:
            homes[groups[number]].add(split)
    assert all(len(splits) == 1 for splits in homes.values())
    assert sum(map(len, found.values())) == 100
    assert all(len(numbers) for numbers in found.values())


def test_the_test_set_stays_while_the_others_change():
    targets = list("aaab" * 50)
    first = drawn(targets)["test"]
    for asked in ({"train": 50}, {"validation": 40}, {"train": 10, "validation": 90}):
        np.testing.assert_array_equal(drawn(targets, **asked)["test"], first)
    assert list(drawn(targets, seed=1)["test"]) != list(first)


def test_a_split_that_is_there_is_used_whole_or_as_asked_for():
    pools = {
        split: pool(list("ab" * size)) for split, size in zip(SPLITS, (50, 10, 20), strict=True)
    }
    found = draw(pools, NOTHING_ASKED, {}, 0, "made")
    assert {split: (home, len(numbers)) for split, (home, numbers) in found.items()} == {
        "train": ("train", 100), "validation": ("validation", 20), "test": ("test", 40),
    }  # fmt: skip
    found = draw(pools, NOTHING_ASKED | {"test": 10}, {"train": 30}, 0, "made")
    assert [len(found[split][1]) for split in SPLITS] == [30, 20, 10]
    del pools["validation"]
    found = draw(pools, NOTHING_ASKED, {}, 0, "made")
    assert [(found[split][0], len(found[split][1])) for split in SPLITS] == [
        ("train", 90), ("train", 10), ("test", 40),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "asked", "sizes"),
    [
        (100, {}, (72, 8, 20)), (10, {}, (7, 1, 2)), (3, {}, (1, 1, 1)),
        (100, {"train": 90}, (90, 4, 6)), (100, {"train": 10}, (10, 8, 20)),
        (100, {"test": 50}, (45, 5, 50)), (100, {"validation": 80}, (1, 80, 19)),
        (7, {"train": 3, "validation": 2, "test": 1}, (3, 2, 1)),
    ],
)  # fmt: skip
def test_sizes_that_nobody_asked_for_are_shares_of_what_there_is(count, asked, sizes):
    found = drawn(["a", "b"] * (count // 2) + ["a"] * (count % 2), **asked)
    assert tuple(len(found[split]) for split in SPLITS) == sizes


@pytest.mark.parametrize(
    ("count", "groups", "asked", "told"),
    [
        (100, None, {"train": 99}, "99 for train + 1 for validation + 1 for test are asked for, "
         "but there are 100 examples"),
        (100, None, {"train": 60, "validation": 30, "test": 20}, "there are 100 examples"),
        (2, None, {}, "there are 2 examples"),
        (100, [0, 1] * 50, {}, "the train examples have too few groups for a"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_with_numbers(count, groups, asked, told):
    refused = ""
    try:
        drawn(["a", "b"] * (count // 2), groups, **asked)
    except UserError as error:
        refused = str(error)
    assert told in refused
