"""Splits text into words by `config.data.text_rules`, and numbers words as Keras does.

The numbers are those of Keras' `imdb.load_data`: 0 is padding, 1 the start of a text, 2 a word
outside the vocabulary; 3, which Keras does not use, is the end of a text, which a language model
may have to predict; the most frequent word is 4, the next 5, and so on below `max_features`.
"""

import collections
import itertools
import json
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from train_lib import files
from train_lib.encoding import decode, escape, unescape
from train_lib.errors import UserError

PADDING, START, UNKNOWN, END = 0, 1, 2, 3
FIRST_WORD = END + 1

_FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n\r'
_FILTERS_TO_SPACES = str.maketrans(_FILTERS, " " * len(_FILTERS))
_BYTE_ORDER_MARK = "\ufeff"


def split_words(text: str) -> list[str]:
    """The words of a text: `"Not bad, at ALL!<br />"` is `["not", "bad", "at", "all", "br"]`.

    As in Keras' `Tokenizer`, text is lower-cased, ASCII punctuation becomes spaces, and words are
    separated by spaces. Unlike there, a carriage return separates words, as a newline does.
    """
    return [word for word in text.lower().translate(_FILTERS_TO_SPACES).split(" ") if word]


class _UnicodeRules(dict):
    """A translation table for `str.translate`, computed once for each code point."""

    def __missing__(self, code: int) -> str | None:
        category = unicodedata.category(chr(code))
        if category[0] in "LMN":
            self[code] = chr(code)
        else:  # Format characters are invisible and occur inside words.
            self[code] = None if category == "Cf" else " "
        return self[code]


# Applied before NFKC, which turns some of them into a space with an accent.
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bb\u02bc\u2032\u00b4`", "'"))
_UNICODE_RULES = _UnicodeRules({ord("'"): "'", ord("\u200b"): " "})  # A space without width.


def split_unicode_words(text: str) -> list[str]:
    """The words of a text in any typography: `"«Don't» — it's"` is `["don't", "it's"]`.

    Words are letters, marks and digits, with apostrophes of any kind between them; everything else
    separates words, including dashes and spaces. Scripts without spaces between words, such as
    Chinese and Thai, are not split. Text is case-folded, and characters that look alike are unified
    (NFKC).
    """
    folded = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).casefold()
    parts = unicodedata.normalize("NFKC", folded).translate(_UNICODE_RULES).split()
    return [word for part in parts if (word := _without_edges(part))]


def _without_edges(word: str) -> str:
    """Strips apostrophes around a word, and leading marks."""
    word = word.strip("'")
    while word and (word[0] == "'" or unicodedata.category(word[0])[0] == "M"):
        word = word[1:]
    return word


def split_characters(text: str) -> list[str]:
    """The characters of a text, as they are."""
    return list(text)


def split_bytes(text: str) -> list[str]:
    """The bytes of a text in UTF-8, two hexadecimal digits each."""
    digits = text.encode("utf-8", "surrogateescape").hex()
    return [digits[place : place + 2] for place in range(0, len(digits), 2)]


TEXT_RULES = {
    "keras": split_words, "unicode": split_unicode_words, "characters": split_characters,
    "bytes": split_bytes,
}  # fmt: skip
"""Ways to split a text into words or other units."""


def join_words(words: Sequence[str], rules: str) -> str:
    """A text that `TEXT_RULES[rules]` splits into these words; bad UTF-8 is replaced."""
    if rules == "characters":
        return "".join(words)
    if rules == "bytes":
        return bytes.fromhex("".join(words)).decode("utf-8", "replace")
    return " ".join(words)


def bytes_of(word: str, rules: str) -> int | None:
    """The number of bytes of a text that a word stands for; None: not known."""
    if rules == "characters":
        return len(word.encode("utf-8", "surrogateescape"))
    return 1 if rules == "bytes" else None


def words_of(text: str, rules: str) -> list[str]:
    """The words of a text by one of `TEXT_RULES`; a leading byte-order mark is dropped."""
    return TEXT_RULES[rules](text.lstrip(_BYTE_ORDER_MARK))


class Vocabulary:
    """The words a model knows, most frequent first."""

    def __init__(self, words: Sequence[str]):
        self.words = list(words)
        self._numbers = {word: number for number, word in enumerate(self.words, FIRST_WORD)}

    @classmethod
    def build(cls, texts: Iterable[Sequence[str]], max_features: int) -> "Vocabulary":
        """The most frequent words of split texts; ties go to the word seen first.

        Args:
            texts: each as a list of words.
            max_features: one more than the largest number assigned.
        """
        counts = collections.Counter(itertools.chain.from_iterable(texts))
        return cls([word for word, _ in counts.most_common(max_features - FIRST_WORD)])

    @classmethod
    def from_text(cls, text: str) -> "Vocabulary":
        """Restores the vocabulary from the result of `to_text`."""
        return cls([unescape(line) for line in text.split("\n")[:-1]])

    @classmethod
    def read(cls, name: str, max_features: int) -> "Vocabulary":
        """The first words of a file.

        Args:
            name: a file in the format of `to_text`, the most frequent word first; or, if it ends in
                .json, with an object of the rank of each word, from 1, as returned by Keras'
                `imdb.get_word_index`.
            max_features: one more than the largest number assigned.

        Raises:
            UserError: it cannot be read, or is not such a file.
        """
        path = files.local(name)
        try:
            (text,) = decode({str(path): path.read_bytes()})
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
        if path.suffix.lower() != ".json":
            words = cls.from_text(text if text.endswith("\n") else f"{text}\n").words
        else:
            words = _by_rank(text, str(path))
        repeated = [word for word, count in collections.Counter(words).items() if count > 1]
        if repeated or not any(words):
            what = f"the word {repeated[0]!r:.60} twice" if repeated else "no words"
            raise UserError(f"{path} has {what}; it must have each word once.")
        return cls(words[: max_features - FIRST_WORD])

    def to_text(self) -> str:
        """One word per line, escaped where it would break the line."""
        return "".join(f"{escape(word)}\n" for word in self.words)

    def encode(self, words: Iterable[str]) -> np.ndarray:
        """The numbers of a text, `[1 + words]`, with `START` in front."""
        numbers = self._numbers
        return np.array([START, *(numbers.get(word, UNKNOWN) for word in words)], np.int32)


def _by_rank(text: str, where: str) -> list[str]:
    """The words of a JSON object from words to ranks, which are 1, 2, 3, ..., in any order."""
    try:
        ranks = json.loads(text)
        words = sorted(ranks, key=ranks.get)
        is_complete = [ranks[word] for word in words] == list(range(1, len(words) + 1))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{where} is not a JSON object of words and ranks: {error}.") from error
    if not is_complete:
        raise UserError(f"{where}: the ranks of its words are not 1, 2, 3 and so on.")
    return words
