"""Text to numbers by Keras' rules.

The rules are those of Keras' `Tokenizer` for words and of its `imdb.load_data` for numbers: text is
lower-cased, its punctuation becomes spaces, and words are what stands between spaces. 0 is padding,
1 the start of a review, 2 a word outside the vocabulary; 3 is not used; the most frequent word
is 4, the next 5, and so on below `max_features`.
"""

import collections
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

PADDING, START, UNKNOWN, OFFSET = 0, 1, 2, 3
FIRST_WORD = OFFSET + 1

_FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
_FILTERS_TO_SPACES = str.maketrans(_FILTERS, " " * len(_FILTERS))


def split_words(text: str) -> list[str]:
    """The words of a text: `"Not bad, at ALL!<br />"` is `["not", "bad", "at", "all", "br"]`."""
    return [word for word in text.lower().translate(_FILTERS_TO_SPACES).split(" ") if word]


class Vocabulary:
    """The words a model knows, most frequent first."""

    def __init__(self, words: Sequence[str]):
        self.words = list(words)
        self._numbers = {word: number for number, word in enumerate(self.words, FIRST_WORD)}

    @classmethod
    def build(cls, reviews: Iterable[Sequence[str]], max_features: int) -> "Vocabulary":
        """The most frequent words of split reviews; of equals, the one seen first.

        Args:
            reviews: each as its words.
            max_features: one more than the largest number handed out.
        """
        counts = collections.Counter(itertools.chain.from_iterable(reviews))
        return cls([word for word, _ in counts.most_common(max_features - FIRST_WORD)])

    def encode(self, words: Iterable[str]) -> np.ndarray:
        """The numbers of a review, `[1 + words]`, with `START` in front."""
        numbers = self._numbers
        return np.array([START, *(numbers.get(word, UNKNOWN) for word in words)], np.int32)
