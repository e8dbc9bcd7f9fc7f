"""Splits, vocabulary and cache."""

import os
import pathlib

import numpy as np
import pytest

from configs import base
from train_lib import files
from train_lib.data import dataset
from train_lib.data.generated import GeneratedCorpus
from train_lib.data.vocabulary import UNKNOWN, split_words

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
