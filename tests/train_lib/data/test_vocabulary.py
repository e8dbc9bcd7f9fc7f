"""Text rules against Keras' own Tokenizer."""

import inspect
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing.text import Tokenizer

from train_lib.data.vocabulary import (
    FIRST_WORD,
    START,
    TEXT_RULES,
    UNKNOWN,
    Vocabulary,
    bytes_of,
    join_words,
    split_words,
    words_of,
)

# Keras' own, and the carriage return.
FILTERS = inspect.signature(Tokenizer).parameters["filters"].default + "\r"
# The same examples on every machine, so that a failure is never luck.
ALWAYS_THE_SAME = settings(deadline=None, derandomize=True, database=None)
ALPHABET = "aB é\tc.\r\n,!D'-_ \u00a0\u0130ß\"<br />Z7"


def random_texts(seed, count=200):
    rng = random.Random(seed)
    return ["".join(rng.choices(ALPHABET, k=rng.randrange(40))) for _ in range(count)]


def test_words_ranks_and_numbers_equal_those_of_keras():
    for seed in range(5):
        texts, max_features = random_texts(seed), 30
        # Keras drops numbers from `num_words` on; ours are 3 higher and end at max_features.
        tokenizer = Tokenizer(num_words=max_features - FIRST_WORD + 1, filters=FILTERS)
        tokenizer.fit_on_texts(texts)
        vocabulary = Vocabulary.build(map(split_words, texts), max_features)
        ranked = sorted(tokenizer.word_index, key=tokenizer.word_index.get)
        assert vocabulary.words == ranked[: max_features - FIRST_WORD]
        for text, expected in zip(texts, tokenizer.texts_to_sequences(texts), strict=True):
            numbers = vocabulary.encode(split_words(text))
            assert numbers[0] == START
            assert [n - FIRST_WORD + 1 for n in numbers[1:] if n != UNKNOWN] == expected
            assert len(numbers) == 1 + len(split_words(text))


def test_numbers_stay_below_max_features_and_clear_of_the_reserved_ones():
    texts = random_texts(0)
    for max_features in (5, 12, 10_000):
        vocabulary = Vocabulary.build(map(split_words, texts), max_features)
        words = np.concatenate([vocabulary.encode(split_words(text))[1:] for text in texts])
        assert words.max() < max_features
        assert set(words[words < FIRST_WORD]) <= {UNKNOWN}


def test_an_empty_review_is_its_start():
    assert list(Vocabulary(["a"]).encode(split_words(" .,!\n"))) == [START]


# Any text UTF-8 can hold.
@settings(ALWAYS_THE_SAME, max_examples=200)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_every_token_of_any_unicode_stands_where_keras_has_it(texts):
    """All words known and every position compared, so that no word moves or is lost."""
    tokenizer = Tokenizer(filters=FILTERS)
    tokenizer.fit_on_texts(texts)
    vocabulary = Vocabulary.build(map(split_words, texts), 10_000)
    for text, expected in zip(texts, tokenizer.texts_to_sequences(texts), strict=True):
        assert list(vocabulary.encode(split_words(text))) == [1, *(rank + 3 for rank in expected)]


@ALWAYS_THE_SAME
@given(st.lists(st.text() | st.text("a\\nrxu041\r\n\x85\u2028\ufeff\ud800")))
def test_any_words_come_back_from_a_text_with_one_on_each_line(words):
    text = Vocabulary(words).to_text()
    assert Vocabulary.from_text(text).words == words
    assert len(text.splitlines()) == len(words)
    text.encode()


def test_words_without_backslashes_were_stored_as_they_are():
    words = "good", "caf\u00e9", "a\rb", "c\x85d", "\ufeffe", "f\u2028g"
    assert Vocabulary.from_text("\n".join(words) + "\n").words == list(words)


def test_line_ends_of_all_kinds_separate_words():
    assert split_words("one\r\ntwo\rthree\nfour") == ["one", "two", "three", "four"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don\u2019t\u2014it\u2019s bad", ["don't", "it's", "bad"]),
        ("Don't, it's", ["don't", "it's"]),
        ("'The dogs' film'", ["the", "dogs", "film"]),
        ("a\u00a0b\u2028c\u3000d\u200be\rf_g/h-i", list("abcdefghi")),
        ("e\u0301tude \ufb01lm STRASSE stra\u00dfe", ["\u00e9tude", "film", "strasse", "strasse"]),
        ("\u202b\u05e1\u05e8\u05d8\u202c co\u00adop", ["\u05e1\u05e8\u05d8", "coop"]),
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940 10/10",
            ["\u0939\u093f\u0928\u094d\u0926\u0940", "10", "10"],
        ),
        ("good\U0001f642film \u2026", ["good", "film"]),
    ],
)
def test_unicode_rules_know_words_of_any_script(text, words):
    assert words_of(text, "unicode") == words


@ALWAYS_THE_SAME
@given(st.text())
def test_words_by_unicode_rules_are_whole(text):
    """Nothing in them separates, and split again they are the same."""
    words = words_of(text, "unicode")
    assert words_of(" ".join(words), "unicode") == words
    assert all(word.replace("'", "").isprintable() and " " not in word for word in words)


@pytest.mark.parametrize("rules", TEXT_RULES)
def test_a_byte_order_mark_in_front_is_no_part_of_a_word(rules):
    assert words_of("\ufeffgood film", rules) == words_of("good film", rules)


@pytest.mark.parametrize("rules", ["characters", "bytes"])
@ALWAYS_THE_SAME
@given(st.text())
def test_characters_and_bytes_are_all_there_is(rules, text):
    text = text.lstrip("\ufeff")
    words = words_of(text, rules)
    assert join_words(words, rules) == text
    assert sum(bytes_of(word, rules) for word in words) == len(text.encode())


def test_unknown_words_keep_their_place():
    vocabulary = Vocabulary(["good", "film"])
    assert list(vocabulary.encode(["a", "good", "new", "film", "a"])) == [1, 2, 4, 2, 5, 2]


def test_of_equally_frequent_words_the_one_seen_first_leads():
    vocabulary = Vocabulary.build([["late", "often"], ["early", "often"]], 7)
    assert vocabulary.words == ["often", "late", "early"]
