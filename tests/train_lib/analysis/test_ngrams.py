"""Counts of n-grams against counting by hand, and what is not counted."""

import collections

import numpy as np
import pytest

from train_lib.analysis.ngrams import MAX_FEATURES, NGrams
from train_lib.data.dataset import Split
from train_lib.data.vocabulary import Vocabulary


def split_of(examples):
    sequences = [Vocabulary("abcdefgh").encode(example.split()) for example in examples]
    offsets = np.cumsum([0, *map(len, sequences)])
    return Split(
        np.concatenate([np.empty(0, np.int32), *sequences]), offsets, [None] * len(examples)
    )


TRAIN = split_of(["a b a b a", "b a b", "c", ""])


@pytest.mark.parametrize(("longest", "min_count"), [(1, 1), (1, 2), (2, 2), (3, 1), (3, 2)])
def test_counts_are_those_of_a_plain_loop(longest, min_count):
    rng = np.random.default_rng(0)
    train, other = (
        [" ".join(rng.choice(list("abcdef"), rng.integers(0, 9))) for _ in range(20)]
        for _ in range(2)
    )

    def count(example):
        words = example.split()
        return collections.Counter(
            tuple(words[place : place + n])
            for n in range(1, longest + 1)
            for place in range(len(words) - n + 1)
        )

    in_training = sum(map(count, train), collections.Counter())
    known = [ngram for ngram, times in in_training.items() if times >= min_count]
    ngrams = NGrams(split_of(train), longest, min_count)
    assert len(ngrams) == len(known)
    for examples in (train, other):
        expected = [[count(example)[ngram] for ngram in known] for example in examples]
        counts = ngrams.count(split_of(examples)).toarray()
        # Columns have no promised order.
        assert sorted(map(tuple, counts.T)) == sorted(zip(*expected, strict=True))


def test_no_ngram_reaches_into_the_next_example():
    ngrams = NGrams(TRAIN, 2, 1)
    assert len(ngrams) == 3 + 2
    np.testing.assert_array_equal(ngrams.count(split_of(["b", "b", "c"])).sum(1), [1, 1, 1])


def test_no_examples_and_no_ngrams_have_counts_too():
    assert NGrams(TRAIN, 3, 1).count(split_of([])).shape == (0, 3 + 2 + 2)
    assert NGrams(split_of(["", "a"]), 3, 2).count(TRAIN).shape == (4, 0)


def test_the_largest_vocabulary_does_not_mix_ngrams_up():
    tokens = np.array([MAX_FEATURES - 1, MAX_FEATURES - 1, MAX_FEATURES - 2, 4, 5], np.int32)
    split = Split(tokens, np.array([0, 5]), [None])
    assert len(NGrams(split, 3, 1)) == 4 + 4 + 3
