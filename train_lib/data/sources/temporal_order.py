"""Temporal order: which of two marks stood first in a long sequence of nothing.

Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997, experiment 6a,
with two classes: of its four (XX, XY, YX, YY) those with one mark of each kind, so that no count
of words tells them apart. Marks stand, as there, at 10 to 20 % and at 50 to 60 % of the length, and
all else is drawn from four symbols that mean nothing. A model that reads forwards must remember for
at least two fifths of the sequence.
"""

import dataclasses

import numpy as np

from train_lib.data.corpus import Reviews

# Of the rules above. Raise it when any generated text changes.
_VERSION = 1

MARKS = ("x", "y")
NOTHING = ("a", "b", "c", "d")


@dataclasses.dataclass(frozen=True)
class TemporalOrder:
    """Sequences in which y stood first (negative) or x did (positive), half of them each.

    Attributes:
        length_tokens: T, of the shortest; they have up to a tenth more.
        train_reviews, test_reviews: how many there are.
    """

    length_tokens: int
    train_reviews: int
    test_reviews: int
    name = "temporal_order"

    def identity(self) -> str:
        return (
            f"version {_VERSION}, {self.length_tokens} tokens, {self.train_reviews} train, "
            f"{self.test_reviews} test"
        )

    def read(self, split: str) -> Reviews:
        split_number, count = {
            "train": (0, self.train_reviews),
            "test": (1, self.test_reviews),
        }[split]
        labels = np.arange(count) % 2
        texts = [
            self._write(np.random.default_rng([split_number, number]), bool(label))
            for number, label in enumerate(labels)
        ]
        return Reviews(texts, labels)

    def _write(self, rng: np.random.Generator, label: bool) -> str:
        """One sequence; its start and end are marked, the start by the vocabulary."""
        shortest = self.length_tokens
        # Two more are the start and the end.
        length = int(rng.integers(shortest, shortest + shortest // 10 + 1)) - 2
        words = rng.choice(NOTHING, length)
        for mark, tenth in zip(MARKS if label else MARKS[::-1], (1, 5), strict=True):
            words[rng.integers(tenth * shortest // 10, (tenth + 1) * shortest // 10)] = mark
        return " ".join([*words, "end"])
