"""What the temporal-order problem promises: order decides, and nothing else tells."""

import numpy as np
import pytest

from train_lib.data.corpus import fingerprint
from train_lib.data.temporal_order import TemporalOrder

LENGTH = 50
FINGERPRINT = "cc1fe587ca4f3a12f065be94c6474442a986f7508ee04e69066d77e2bab160d8"


@pytest.fixture(scope="module")
def corpus():
    corpus = TemporalOrder(LENGTH, 400, 300)
    return corpus.read("train"), corpus.read("test")


def test_the_mark_that_stands_first_is_the_label(corpus):
    for texts, labels in corpus:
        for text, label in zip(texts, labels, strict=True):
            assert (text.index("x") < text.index("y")) == label


def test_marks_stand_where_they_stand_in_the_paper(corpus):
    # The start of a sequence, which the vocabulary adds, is a token too.
    lengths = {len(text.split()) + 1 for text in corpus[0].texts}
    assert lengths == set(range(LENGTH, LENGTH + 6))
    places = np.array(
        [sorted(text.split().index(mark) for mark in "xy") for text in corpus[0].texts]
    )
    assert set(places[:, 0]) == set(range(5, 10))
    assert set(places[:, 1]) == set(range(25, 30))


def test_no_count_of_words_tells(corpus):
    texts, labels = corpus[0]
    counts = np.array([[text.split().count(word) for word in "abcdxy"] for text in texts])
    assert (counts[:, 4:] == 1).all()
    for column in counts[:, :4].T:
        assert abs(np.corrcoef(column, labels)[0, 1]) < 5 / np.sqrt(len(labels))


def test_sequences_differ_and_are_the_same_every_time(corpus):
    texts = corpus[0].texts + corpus[1].texts
    assert len(set(texts)) == len(texts)
    assert corpus[0].labels.mean() == corpus[1].labels.mean() == 0.5
    again = TemporalOrder(LENGTH, 10, 10)
    assert again.read("train").texts == corpus[0].texts[:10]
    # Changes only together with temporal_order._VERSION.
    assert fingerprint((again.read("train"), again.read("test"))) == FINGERPRINT


def test_everything_that_decides_the_texts_is_in_the_identity():
    same = TemporalOrder(LENGTH, 4, 2).identity()
    others = (TemporalOrder(60, 4, 2), TemporalOrder(LENGTH, 6, 2), TemporalOrder(LENGTH, 4, 4))
    assert all(other.identity() != same for other in others)
