"""Temporal order: which of two marks came first in a long sequence of distractors.

Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997, experiment 6a,
with two of its four classes (XX, XY, YX, YY): those with one mark of each kind, so that word counts
cannot tell them apart. As there, the marks are at 10 to 20 % and 50 to 60 % of the length, and
everything else is drawn from four distractor symbols. A model that reads forwards must remember for
at least two fifths of the sequence.
"""

import numpy as np

from train_lib.data.examples import Examples
from train_lib.data.sources import generated
from train_lib.errors import UserError

# Version of the rules above. Raise it when any generated text changes.
_VERSION = 1

MARKS = ("x", "y")
SHORTEST = 20
NOTHING = ("a", "b", "c", "d")


class TemporalOrder:
    """Sequences in which y came first (negative) or x did (positive), half of them each.

    Training and validation examples are one split, to be drawn from.

    Args:
        length_tokens: T, the length of the shortest; others have up to a tenth more.
        train_examples: how many; 0: as in the generated corpus.
        validation_examples: likewise.
        test_examples: likewise.
    """

    name = "temporal_order"
    fingerprinted = generated.FINGERPRINTED

    def __init__(
        self,
        length_tokens: int = 500,
        train_examples: int = 0,
        validation_examples: int = 0,
        test_examples: int = 0,
    ):
        if not isinstance(length_tokens, int) or length_tokens < SHORTEST:
            raise UserError(
                f"length_tokens = {length_tokens!r} must be a whole number of at least {SHORTEST}, "
                "so that marks have places to stand in."
            )
        self.length_tokens = length_tokens
        self.default_sizes = generated.sizes(train_examples, validation_examples, test_examples)
        self._counts = generated.counts(self.default_sizes)

    def identity(self) -> str:
        return (
            f"version {_VERSION}, {self.length_tokens} tokens, {self._counts['train']} train, "
            f"{self._counts['test']} test"
        )

    def splits(self) -> tuple[str, ...]:
        return tuple(self._counts)

    def read(self, split: str) -> Examples:
        split_number = {"train": 0, "test": 1}[split]
        numbers = range(self._counts[split])
        texts = [
            self._write(np.random.default_rng([split_number, number]), bool(number % 2))
            for number in numbers
        ]
        targets = [generated.LABELS[number % 2] for number in numbers]
        return Examples.numbered(texts, targets, f"{self.name}, {split}")

    def _write(self, rng: np.random.Generator, positive: bool) -> str:
        """Writes one sequence; its start and end are marked, the start by the vocabulary."""
        shortest = self.length_tokens
        # The start and the end count too.
        length = int(rng.integers(shortest, shortest + shortest // 10 + 1)) - 2
        words = rng.choice(NOTHING, length)
        for mark, tenth in zip(MARKS if positive else MARKS[::-1], (1, 5), strict=True):
            words[rng.integers(tenth * shortest // 10, (tenth + 1) * shortest // 10)] = mark
        return " ".join([*words, "end"])
