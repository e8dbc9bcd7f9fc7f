"""Counts of n-grams: all that a model sees that reads a few words at a time, and no further."""

import numpy as np
import scipy.sparse
from scipy.sparse import csr_array

from train_lib.data.dataset import Split
from train_lib.data.vocabulary import START

_TOKEN_BITS = 21
MAX_FEATURES = 1 << _TOKEN_BITS
"""The largest vocabulary: three of its numbers fit into one of 64 bits."""


class NGrams:
    """Every n-gram that training reviews have often enough, as a column.

    Args:
        train: the training reviews; of a vocabulary of at most `MAX_FEATURES`.
        longest: words of the longest n-grams; 1 to 3.
        min_count: how often the training reviews must have an n-gram.
    """

    def __init__(self, train: Split, longest: int, min_count: int):
        self._known = []  # Of each length, ascending.
        for words in range(1, longest + 1):
            ngrams, counts = np.unique(_ngrams(train, words)[0], return_counts=True)
            self._known.append(ngrams[counts >= min_count])

    def __len__(self) -> int:
        return sum(map(len, self._known))

    def count(self, split: Split) -> csr_array:
        """How often each of N reviews has each of F n-grams: float32 `[N, F]`."""
        blocks = []
        for words, known_F in enumerate(self._known, 1):
            ngrams, reviews = _ngrams(split, words)
            columns = np.searchsorted(known_F, ngrams)
            is_known = np.append(known_F, -1)[columns] == ngrams
            # 32 bits, since LIBLINEAR reads no others.
            places = np.stack([reviews[is_known], columns[is_known]]).astype(np.int32)
            ones = np.ones(places.shape[1], np.float32)
            blocks.append(csr_array((ones, tuple(places)), (len(split), len(known_F))))
        return scipy.sparse.hstack(blocks, format="csr")


def _ngrams(split: Split, words: int) -> tuple[np.ndarray, np.ndarray]:
    """Each n-gram of so many words as a number, and the review that it stands in."""
    count = max(len(split.tokens) - words + 1, 0)
    reviews = np.repeat(np.arange(len(split)), split.lengths)
    ngrams = np.zeros(count, np.int64)
    for place in range(words):
        ngrams = (ngrams << _TOKEN_BITS) | split.tokens[place : place + count]
    first, last = reviews[:count], reviews[words - 1 :]
    is_inside = (first == last) & (split.tokens[:count] != START)
    return ngrams[is_inside], first[is_inside]
