"""What the temporal-order problem promises: order decides, and nothing else tells."""

import numpy as np
import pytest

from train_lib.data.examples import fingerprint
from train_lib.data.sources.generated import FINGERPRINTED
from train_lib.data.sources.temporal_order import TemporalOrder
from train_lib.errors import UserError

LENGTH = 50
FINGERPRINT = "cc1fe587ca4f3a12f065be94c6474442a986f7508ee04e69066d77e2bab160d8"


@pytest.fixture(scope="module")
def corpus():
    corpus = TemporalOrder(LENGTH, 300, 100, 300)
    return corpus.read("train"), corpus.read("test")


def labels_of(examples):
    return np.array([target == "positive" for target in examples.targets])


def test_the_mark_that_stands_first_is_the_label(corpus):
    for examples in corpus:
        for text, target in zip(examples.inputs, examples.targets, strict=True):
            assert (text.index("x") < text.index("y")) == (target == "positive")


def test_marks_stand_where_they_stand_in_the_paper(corpus):
    # The start of a sequence, which the vocabulary adds, is a token too.
    lengths = {len(text.split()) + 1 for text in corpus[0].inputs}
    assert lengths == set(range(LENGTH, LENGTH + 6))
    places = np.array(
        [sorted(text.split().index(mark) for mark in "xy") for text in corpus[0].inputs]
    )
    assert set(places[:, 0]) == set(range(5, 10))
    assert set(places[:, 1]) == set(range(25, 30))


def test_no_count_of_words_tells(corpus):
    texts, labels = corpus[0].inputs, labels_of(corpus[0])
    counts = np.array([[text.split().count(word) for word in "abcdxy"] for text in texts])
    assert (counts[:, 4:] == 1).all()
    for column in counts[:, :4].T:
        assert abs(np.corrcoef(column, labels)[0, 1]) < 5 / np.sqrt(len(labels))


def test_sequences_differ_and_are_the_same_every_time(corpus):
    texts = corpus[0].inputs + corpus[1].inputs
    assert len(set(texts)) == len(texts)
    assert labels_of(corpus[0]).mean() == labels_of(corpus[1]).mean() == 0.5
    again = TemporalOrder(LENGTH, 6, 4, 10)
    assert again.read("train").inputs == corpus[0].inputs[:10]
    # Changes only together with temporal_order._VERSION.
    assert fingerprint((again.read("train"), again.read("test")), FINGERPRINTED) == FINGERPRINT


@pytest.mark.parametrize("length", [19, -500, 50.0, "50"])
def test_a_length_that_cannot_be_is_refused(length):
    with pytest.raises(UserError, match="must be a whole number of at least 20"):
        TemporalOrder(length)


def test_everything_that_decides_the_texts_is_in_the_identity():
    same = TemporalOrder(LENGTH, 2, 2, 2).identity()
    others = (
        TemporalOrder(60, 2, 2, 2),
        TemporalOrder(LENGTH, 4, 2, 2),
        TemporalOrder(LENGTH, 2, 2, 4),
    )
    assert all(other.identity() != same for other in others)
