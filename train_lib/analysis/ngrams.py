"""Counts of n-grams: all that a model sees if it reads only a few words at a time."""

import numpy as np
import scipy.sparse
from scipy.sparse import csr_array

from train_lib.data.dataset import Split
from train_lib.data.vocabulary import START

_TOKEN_BITS = 21
MAX_FEATURES = 1 << _TOKEN_BITS
"""The largest vocabulary: three of its token numbers fit into 64 bits."""


class NGrams:
    """Every n-gram that is frequent enough in the training texts, as a column.

    Args:
        train: the training texts, with a vocabulary of at most `MAX_FEATURES`.
        longest: the number of words in the longest n-grams, 1 to 3.
        min_count: how often an n-gram must occur in the training texts.
        start: the token before every text, which is not a word; None: there is none.
    """

    def __init__(self, train: Split, longest: int, min_count: int, start: int | None = START):
        self._start = start
        self._known = []  # For each length, ascending.
        for words in range(1, longest + 1):
            ngrams, counts = np.unique(_ngrams(train, words, start)[0], return_counts=True)
            self._known.append(ngrams[counts >= min_count])

    def __len__(self) -> int:
        return sum(map(len, self._known))

    def count(self, split: Split) -> csr_array:
        """How often each of N sequences has each of F n-grams: float32 `[N, F]`."""
        blocks = []
        for words, known_F in enumerate(self._known, 1):
            ngrams, sequences = _ngrams(split, words, self._start)
            columns = np.searchsorted(known_F, ngrams)
            is_known = np.append(known_F, -1)[columns] == ngrams
            # 32 bits, since LIBLINEAR reads no others.
            places = np.stack([sequences[is_known], columns[is_known]]).astype(np.int32)
            ones = np.ones(places.shape[1], np.float32)
            blocks.append(csr_array((ones, tuple(places)), (len(split), len(known_F))))
        return scipy.sparse.hstack(blocks, format="csr")


def _ngrams(split: Split, words: int, start: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Each n-gram of `words` words as a number, and the sequence that it is in."""
    count = max(len(split.values) - words + 1, 0)
    sequences = np.repeat(np.arange(len(split)), split.lengths)
    ngrams = np.zeros(count, np.int64)
    for place in range(words):
        ngrams = (ngrams << _TOKEN_BITS) | split.values[place : place + count]
    first, last = sequences[:count], sequences[words - 1 :]
    is_inside = first == last
    if start is not None:
        is_inside &= split.values[:count] != start
    return ngrams[is_inside], first[is_inside]
