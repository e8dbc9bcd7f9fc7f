"""What a model reads: word numbers, token numbers or vectors; and how inputs are encoded as these.

Each kind learns what it needs from training inputs (`learn`), and encodes any inputs (`encode`)
into `values`, end to end, and `offsets`, where each sequence starts and the last one ends.
"""

import array
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from train_lib.data.vocabulary import (
    FIRST_WORD,
    START,
    UNKNOWN,
    Vocabulary,
    bytes_of,
    words_of,
)
from train_lib.errors import UserError

Where = Callable[[int], str]
"""Gives the location of the input with a number, for messages."""

Token = tuple[str, int | None]
"""What a number stands for: its name, and how many bytes of a text; None: not known."""

Meaning = tuple[str, str | int]
"""What a number stands for, so that two models can be compared: a kind, and a name of that kind."""

RESERVED = "reserved numbers"
"""The kind of the numbers that all texts share."""

MOST_TOKENS = 1 << 24
"""Token numbers must be below this."""

WORDS = "words"
"""The rules of inputs that are lists of words, which are used as they are."""


@dataclasses.dataclass(frozen=True)
class Text:
    """Texts or lists of words as word numbers; int32, with `START` in front of each.

    Attributes:
        vocabulary: the words that have a number.
        rules: how texts are split, one of `TEXT_RULES`; or `WORDS`.
    """

    vocabulary: Vocabulary
    rules: str
    kind: ClassVar[str] = "text"
    starts: ClassVar[int] = 1  # Steps added before each sequence.

    def encode(self, inputs: Sequence[str | list[str]], where: Where) -> tuple:
        """Values `[S]` and offsets `[N + 1]`.

        Raises:
            UserError: an input is not a text, or is empty.
        """
        check_texts(inputs, where)
        sequences = [self.vocabulary.encode(split(one, self.rules)) for one in inputs]
        return _joined(sequences, np.empty(0, np.int32))

    @property
    def tokens(self) -> list[Token]:
        """What each number stands for."""
        special = [("", None), ("", None), ("", None), ("", 0)]
        words = self.vocabulary.words
        return [*special, *((word, bytes_of(word, self.rules)) for word in words)]

    @property
    def meanings(self) -> list[Meaning]:
        """What each number stands for; a word is the same under any rules that split words."""
        kind = self.rules if self.rules in ("characters", "bytes") else WORDS
        reserved = ((RESERVED, number) for number in range(FIRST_WORD))
        return [*reserved, *((kind, word) for word in self.vocabulary.words)]

    def to_json(self) -> dict[str, Any]:
        """Everything except the vocabulary, which has its own file."""
        return {"kind": self.kind, "rules": self.rules}


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Token numbers, as they are; int32.

    Attributes:
        size: one more than the largest number.
    """

    size: int
    kind: ClassVar[str] = "tokens"
    starts: ClassVar[int] = 0

    @classmethod
    def learn(cls, inputs: Sequence[np.ndarray], where: Where) -> Self:
        """Learns the largest number; raises UserError if one is negative or too large."""
        largest = 0
        for number, one in enumerate(inputs):
            _check_shape(one, 1, where, number)
            if one.min() < 0:
                raise UserError(f"{where(number)}: token {one.min()} is below 0.")
            if one.max() >= MOST_TOKENS:
                raise UserError(
                    f"{where(number)}: token {one.max():,} would need a vector for each number "
                    f"below it; number the tokens from 0 without gaps, below {MOST_TOKENS:,}."
                )
            largest = max(largest, int(one.max()))
        return cls(largest + 1)

    def encode(self, inputs: Sequence[np.ndarray], where: Where) -> tuple:
        """Values `[S]` and offsets `[N + 1]`.

        Raises:
            UserError: an input is not an array of token numbers, is empty, or has a number out of
                range.
        """
        for number, one in enumerate(inputs):
            _check_array(one, np.integer, "token numbers", where, number)
            _check_shape(one, 1, where, number)
            if one.min() < 0 or one.max() >= self.size:
                wrong = one.min() if one.min() < 0 else one.max()
                raise UserError(
                    f"{where(number)}: token {wrong} is not one of the {self.size:,} from 0 to "
                    f"{self.size - 1:,} that the model knows."
                )
        return _joined([one.astype(np.int32) for one in inputs], np.empty(0, np.int32))

    @property
    def tokens(self) -> list[Token]:
        """What each number stands for."""
        return [(str(number), None) for number in range(self.size)]

    @property
    def meanings(self) -> list[Meaning]:
        """What each number stands for."""
        return [("token numbers", number) for number in range(self.size)]

    def to_json(self) -> dict[str, Any]:
        """The fields from which `from_json` restores this."""
        return {"kind": self.kind, "size": self.size}


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Vectors, float32: as they are, or standardised by a mean and a scale.

    Attributes:
        size: D, the numbers in a vector.
        mean: of each number, over all steps of the training sequences; None: not standardised.
        scale: likewise.
    """

    size: int
    mean: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    kind: ClassVar[str] = "vectors"
    starts: ClassVar[int] = 0
    meanings: ClassVar[list[Meaning]] = []  # There are no token numbers.

    @classmethod
    def learn(cls, inputs: Sequence[np.ndarray], where: Where, standardize: bool) -> Self:
        """Learns the width of the first and, if asked, the mean and standard deviation of all."""
        _check_shape(inputs[0], 2, where, 0)
        plain = cls(inputs[0].shape[1])
        if not standardize:
            return plain
        values_SxD = plain.encode(inputs, where)[0].astype(np.float64)
        mean_D, scale_D = values_SxD.mean(0), values_SxD.std(0)
        # A constant carries no information: only its mean is subtracted.
        scale_D = np.where(scale_D > 1e-9 * np.maximum(1, np.abs(mean_D)), scale_D, 1.0)
        return cls(plain.size, tuple(mean_D.tolist()), tuple(scale_D.tolist()))

    def encode(self, inputs: Sequence[np.ndarray], where: Where) -> tuple:
        """Values `[S, D]` and offsets `[N + 1]`.

        Raises:
            UserError: an input is not an array of vectors of D numbers, is empty, or has a number
                that is not finite.
        """
        for number, one in enumerate(inputs):
            _check_array(one, np.floating, "vectors", where, number)
            _check_shape(one, 2, where, number)
            if one.shape[1] != self.size:
                raise UserError(
                    f"{where(number)}: vectors have {one.shape[1]} numbers and must have "
                    f"{self.size}, as those of the first training example."
                )
            # As float32, in which a number of 1e39 is infinite.
            with np.errstate(over="ignore"):
                is_finite_T = np.isfinite(one.astype(np.float32)).all(1)
            if not is_finite_T.all():
                step = int(np.argmin(is_finite_T))
                raise UserError(
                    f"{where(number)}: the vector of step {step} has a number that is NaN, "
                    f"infinite or too large for float32: {one[step].tolist()}."
                )
        values_SxD, offsets = _joined(
            [one.astype(np.float32) for one in inputs], np.empty((0, self.size), np.float32)
        )
        if self.mean is not None:
            values_SxD = ((values_SxD - np.array(self.mean)) / np.array(self.scale)).astype("f4")
        return values_SxD, offsets

    def to_json(self) -> dict[str, Any]:
        """The fields from which `from_json` restores this."""
        return {"kind": self.kind, "size": self.size, "mean": self.mean, "scale": self.scale}


Inputs = Text | Tokens | Vectors


def from_json(fields: Mapping[str, Any], vocabulary: Vocabulary | None = None) -> Inputs:
    """Restores what `to_json` was called on.

    Args:
        fields: as returned by `to_json`, whether or not they went through JSON.
        vocabulary: for texts.
    """
    if fields["kind"] == Text.kind:
        assert vocabulary is not None
        return Text(vocabulary, fields["rules"])
    if fields["kind"] == Tokens.kind:
        return Tokens(fields["size"])
    mean, scale = (fields[name] and tuple(fields[name]) for name in ("mean", "scale"))
    return Vectors(fields["size"], mean, scale)


def kind_of(one: Any) -> str | None:
    """The kind of an input: `text`, `words`, `tokens` or `vectors`; None: none of these."""
    if isinstance(one, str):
        return Text.kind
    if isinstance(one, list):
        return WORDS
    if isinstance(one, np.ndarray) and np.issubdtype(one.dtype, np.integer):
        return Tokens.kind
    if isinstance(one, np.ndarray) and np.issubdtype(one.dtype, np.floating):
        return Vectors.kind
    return None


def check_texts(inputs: Sequence[Any], where: Where) -> None:
    """Raises UserError if an input is neither a text nor a list of words, or is empty."""
    for number, one in enumerate(inputs):
        words = one if isinstance(one, list) else [one]
        if not all(isinstance(word, str) for word in words):
            raise UserError(f"{where(number)}: {one!r:.60} is not a text or a list of words.")
        if not words or not all(word.strip() for word in words):
            what = "the text is empty" if isinstance(one, str) else "a word is empty, or all are"
            raise UserError(f"{where(number)}: {what}.")


def split(one: str | list[str], rules: str) -> list[str]:
    """The words of an input; a text is split at spaces if lists of words are expected."""
    if isinstance(one, list):
        return one
    return one.split() if rules == WORDS else words_of(one, rules)


class WordCounter:
    """Numbers words as they come, so that texts are split once and stored in four bytes per word.

    Words get the numbers 0, 1, 2, ... in order of first appearance.
    """

    def __init__(self, rules: str):
        self.rules = rules
        self._numbers: dict[str, int] = {}

    def number(self, inputs: Iterable[str | list[str]]) -> list[np.ndarray]:
        """The words of each input as numbers."""
        numbers = self._numbers
        found = []
        for one in inputs:
            words = array.array("i")
            for word in split(one, self.rules):
                words.append(numbers.setdefault(word, len(numbers)))
            found.append(np.frombuffer(words, np.int32) if words else np.empty(0, np.int32))
        return found

    def vocabulary(self, texts: Sequence[np.ndarray], max_features: int) -> Vocabulary:
        """The most frequent words of numbered texts; ties go to the word seen first."""
        joined = np.concatenate([np.empty(0, np.int32), *texts])
        counts = np.bincount(joined, minlength=1)
        order = np.argsort(-counts, kind="stable")[: max_features - FIRST_WORD]
        words = list(self._numbers)
        return Vocabulary([words[number] for number in order if counts[number]])

    def encode(self, vocabulary: Vocabulary, texts: Sequence[np.ndarray]) -> tuple:
        """Renumbers texts by a vocabulary: values `[S]` and offsets `[N + 1]`."""
        known = {word: number for number, word in enumerate(vocabulary.words, FIRST_WORD)}
        new = np.array([known.get(word, UNKNOWN) for word in self._numbers], np.int32)
        offsets = np.cumsum([0, *(1 + len(text) for text in texts)], dtype=np.int64)
        values = np.full(offsets[-1], START, np.int32)
        for text, start in zip(texts, offsets, strict=False):
            values[start + 1 : start + 1 + len(text)] = new[text]
        return values, offsets


def _joined(sequences: list[np.ndarray], none: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
    return np.concatenate([none, *sequences]), offsets


def _check_array(one: Any, kind: type, what: str, where: Where, number: int) -> None:
    if not (isinstance(one, np.ndarray) and np.issubdtype(one.dtype, kind)):
        found = f"{one.dtype} {one.shape}" if isinstance(one, np.ndarray) else f"{one!r:.60}"
        raise UserError(f"{where(number)}: the input must be an array of {what}, not {found}.")


def _check_shape(one: np.ndarray, axes: int, where: Where, number: int) -> None:
    if one.ndim != axes:
        expected = "[T]" if axes == 1 else "[T, D]"
        raise UserError(f"{where(number)}: the input must be {expected} and is {list(one.shape)}.")
    if 0 in one.shape:
        raise UserError(f"{where(number)}: the sequence is empty.")
