"""Splits, vocabulary and cache."""

import os
import pathlib
import re

import numpy as np
import pytest

from configs import base
from train_lib import files
from train_lib.data import dataset
from train_lib.data.corpus import Reviews, fingerprint
from train_lib.data.generated import GeneratedCorpus
from train_lib.data.vocabulary import FIRST_WORD, START, UNKNOWN, split_words
from train_lib.errors import UserError

IMDB = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "")) / "imdb_reviews" / "plain_text" / "1.0.0"


@pytest.fixture
def config():
    config = base.get_config("test", "exact").data
    config.source = "generated"
    config.train_reviews, config.validation_reviews, config.test_reviews = 40, 20, 10
    return config


def assert_equal(one, other):
    assert (one.name, one.fingerprint) == (other.name, other.fingerprint)
    assert one.vocabulary.words == other.vocabulary.words
    for split in dataset.SPLITS:
        for field in ("tokens", "offsets", "labels"):
            ours, theirs = (getattr(getattr(data, split), field) for data in (one, other))
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def reviews_of(split):
    return {
        tuple(split.tokens[a:b]) for a, b in zip(split.offsets, split.offsets[1:], strict=False)
    }


def test_splits_have_their_sizes_are_balanced_and_disjoint(config):
    config.max_features = 100_000  # No word unknown, so that different reviews differ.
    data = dataset.load(config)
    for split, size in (("train", 40), ("validation", 20), ("test", 10)):
        reviews = getattr(data, split)
        assert len(reviews) == size
        assert reviews.labels.sum() == size // 2
    assert not reviews_of(data.train) & reviews_of(data.validation)


def test_the_vocabulary_comes_from_training_reviews_only(config):
    config.max_features, config.train_reviews = 100_000, 2
    data = dataset.load(config)
    assert UNKNOWN not in data.train.tokens
    assert UNKNOWN in data.validation.tokens
    corpus = GeneratedCorpus(22, 10).read("train")
    everything = {word for text in corpus.texts for word in split_words(text)}
    assert set(data.vocabulary.words) < everything


def test_another_seed_draws_another_split_of_the_same_data(config):
    first = dataset.load(config)
    config.split_seed = 1
    second = dataset.load(config)
    assert first.fingerprint == second.fingerprint
    assert reviews_of(first.train) != reviews_of(second.train)


def test_the_same_seed_draws_the_same_reviews(config):
    # From more reviews than are asked for, so that there is something to draw in every split.
    corpus = GeneratedCorpus(200, 200)
    first = dataset._build(corpus, config)
    assert_equal(dataset._build(corpus, config), first)
    config.split_seed = 1
    assert reviews_of(dataset._build(corpus, config).test) != reviews_of(first.test)


def test_a_second_start_reads_the_cache(config, monkeypatch):
    first = dataset.load(config)
    monkeypatch.setattr(dataset, "_build", None)
    assert_equal(dataset.load(config), first)


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [flip, lambda c: c[:-1], lambda c: c[:40], lambda c: b"", lambda c: b"\n" + c]
)
def test_a_damaged_cache_is_built_again(config, damage, capsys):
    first = dataset.load(config)
    (path,) = (files.cache_dir() / "tokens").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert_equal(dataset.load(config), first)
    assert "damaged" in capsys.readouterr().err
    dataset.load(config)
    assert "damaged" not in capsys.readouterr().err


def test_without_a_cache_folder_it_works_and_says_so(config, capsys):
    files.cache_dir().parent.mkdir(parents=True)
    files.cache_dir().write_text("not a folder")
    assert len(dataset.load(config).train) == 40
    assert "not cached" in capsys.readouterr().err


def test_test_reviews_that_are_among_the_others_are_counted(config, monkeypatch):
    texts = {"train": ["One."] * 30 + ["two"] * 30, "test": ["three"] * 5 + ["TWO!"] * 5}
    monkeypatch.setattr(
        GeneratedCorpus,
        "read",
        lambda _, split: Reviews(texts[split], np.arange(len(texts[split])) % 2),
    )
    assert dataset.load(config).repeated == 5
    assert dataset.load(config).repeated == 5  # From the cache.


def test_long_reviews_keep_their_last_tokens(config):
    whole = dataset.load(config).train
    config.max_length_tokens = 100
    cut = dataset.load(config).train
    assert whole.lengths.min() < 100 < whole.lengths.max()
    for first, last, start, stop in zip(
        whole.offsets[:-1], whole.offsets[1:], cut.offsets[:-1], cut.offsets[1:], strict=True
    ):
        np.testing.assert_array_equal(cut.tokens[start:stop], whole.tokens[first:last][-100:])
    np.testing.assert_array_equal(cut.labels, whole.labels)


def test_every_review_keeps_its_words_and_label(config):
    config.max_features = 100_000
    data = dataset.load(config)
    corpus = GeneratedCorpus(60, 10)
    label_of = {
        split: {tuple(split_words(text)): label for text, label in zip(*reviews, strict=True)}
        for split, reviews in (("train", corpus.read("train")), ("test", corpus.read("test")))
    }
    for split, source in (("train", "train"), ("validation", "train"), ("test", "test")):
        reviews = getattr(data, split)
        for start, stop, label in zip(
            reviews.offsets, reviews.offsets[1:], reviews.labels, strict=False
        ):
            assert reviews.tokens[start] == START
            numbers = reviews.tokens[start + 1 : stop]
            # Words that training never saw cannot be told back; most reviews have none.
            if UNKNOWN not in numbers:
                words = tuple(data.vocabulary.words[n - FIRST_WORD] for n in numbers)
                assert label_of[source][words] == label
        assert (reviews.tokens[reviews.offsets[:-1]] == START).all()


def test_drawn_sets_are_disjoint_balanced_and_in_corpus_order():
    labels = np.random.default_rng(0).integers(0, 2, 200)
    sets = dataset._draw_balanced(labels, (60, 40, 20), np.random.default_rng(1))
    assert [len(indices) for indices in sets] == [60, 40, 20]
    assert len(np.unique(np.concatenate(sets))) == 120
    for indices in sets:
        assert labels[indices].sum() == len(indices) // 2
        assert (np.diff(indices) > 0).all()


@pytest.mark.parametrize(
    ("labels", "sizes", "told"),
    [
        ([0, 1, 2, 3] * 100, (100, 100), "100 of class 0, 100 of class 1, 100 of class 2, 100 of"),
        ([-1, 0, 1] * 100, (20,), "100 of class -1, 100 of class 0, 100 of class 1"),
        (["neg", "pos"] * 10, (2,), "10 of class neg, 10 of class pos"),
        ([0, 1] * 10, (12, 10), "12 + 10 reviews are asked for"),
        ([0] * 90 + [1] * 10, (30,), "there are 90 of class 0, 10 of class 1"),
        ([0] * 10, (2,), "there are 10 of class 0"),
        ([], (2,), "there are none"),
        ([0, 1] * 10, (3,), "in even numbers"),
    ],
)
def test_reviews_that_a_corpus_cannot_give_are_refused_with_numbers(labels, sizes, told):
    refused = ""
    try:
        dataset._draw_balanced(np.array(labels), sizes, np.random.default_rng(0))
    except UserError as error:
        refused = str(error)
    assert told in refused


def test_a_corpus_with_other_classes_is_refused(config, monkeypatch):
    read = GeneratedCorpus.read

    def with_ratings(corpus, split):
        texts, labels = read(corpus, split)
        return Reviews(texts * 2, np.concatenate([labels, labels + 8]))

    monkeypatch.setattr(GeneratedCorpus, "read", with_ratings)
    refused = ""
    try:
        dataset.load(config)
    except UserError as error:
        refused = str(error)
    assert "30 of class 8, 30 of class 9" in refused


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_features", 50), ("train_reviews", 38), ("validation_reviews", 22), ("test_reviews", 8),
     ("split_seed", 1), ("text_rules", "unicode")],
)  # fmt: skip
def test_what_shapes_the_data_has_a_cache_of_its_own(config, field, value, monkeypatch):
    dataset.load(config)
    config[field] = value
    changed = dataset.load(config)
    monkeypatch.setenv("XDG_CACHE_HOME", str(files.cache_dir().parent / "empty"))
    assert_equal(dataset.load(config), changed)


def test_another_corpus_or_version_has_a_cache_of_its_own(config, monkeypatch):
    dataset.load(config)
    for change in (
        lambda: monkeypatch.setattr(GeneratedCorpus, "identity", lambda _: "other reviews"),
        lambda: monkeypatch.setattr(dataset, "_CACHE_VERSION", dataset._CACHE_VERSION + 1),
    ):
        before = len(list((files.cache_dir() / "tokens").iterdir()))
        change()
        dataset.load(config)
        assert len(list((files.cache_dir() / "tokens").iterdir())) == before + 1


def test_the_fingerprint_is_of_the_whole_corpus(config):
    corpus = GeneratedCorpus(60, 10)
    expected = fingerprint((corpus.read("train"), corpus.read("test")))
    assert dataset.load(config).fingerprint == expected
    # One label, or where one text ends and the next begins, makes another corpus.
    one = Reviews(["ab", "c"], np.array([0, 1]))
    others = [Reviews(["ab", "c"], np.array([1, 1])), Reviews(["a", "bc"], np.array([0, 1]))]
    assert len({fingerprint([reviews]) for reviews in [one, *others]}) == 3
    assert fingerprint([one, others[0]]) != fingerprint([others[0], one])


@pytest.mark.slow
@pytest.mark.skipif(not IMDB.exists(), reason="no prepared IMDB in $TFDS_DATA_DIR")
def test_imdb():
    config = base.get_config("test", "exact").data
    config.source = "imdb"
    data = dataset.load(config)
    assert data.name == "imdb_reviews"
    for split, size in (("train", 15_000), ("validation", 10_000), ("test", 25_000)):
        reviews = getattr(data, split)
        assert len(reviews) == size
        assert reviews.labels.sum() == size // 2
        assert 200 < reviews.lengths.mean() < 280
    # The longest review and the start token; it is one of the 25,000 for training.
    longest = max(data.train.lengths.max(), data.validation.lengths.max())
    assert 2_400 < longest < 2_600
    assert data.train.tokens.max() == 4_999
    assert len(data.vocabulary.words) == 4_996
    assert re.fullmatch("[0-9a-f]{64}", data.fingerprint)
    assert_equal(dataset.load(config), data)
