"""Examples as a source provides them, and the interface of sources."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

SPLITS = ("train", "validation", "test")
"""The splits that a run uses."""

UNLABELLED = "unlabelled"
"""One more split that a source may have; its targets are None."""


class Examples(NamedTuple):
    """Sequences and their targets, not yet encoded for a model.

    Attributes:
        inputs: each a text (str), words (list of str), token numbers (an integer array `[T]`) or
            vectors (a floating point array `[T, D]`); all of one kind.
        targets: JSON values: a str, a number, or a list of them; if every step has a target, a list
            as long as the input. None: no label.
        rows: the position of each example in `origin`, for people: numbers, `[N]`, or file names.
        origin: the file, or whatever they come from.
        unit: what `rows` counts, as in "line 3".
        groups: each example's group, which a drawn split must not separate; None: no groups.
        target_names: the names of a target's numbers, if it is a list with named numbers.
    """

    inputs: list[Any]
    targets: list[Any]
    rows: np.ndarray
    origin: str
    unit: str = "line"
    groups: list[Any] | None = None
    target_names: tuple[str, ...] = ()

    def where(self, number: int) -> str:
        """Where an example is found, as in `reviews.csv, line 3`."""
        return place(self.origin, self.unit, self.rows[number])

    def take(self, numbers: np.ndarray) -> "Examples":
        """Some of the examples, in the order of `numbers`."""
        return self._replace(
            inputs=[self.inputs[number] for number in numbers],
            targets=[self.targets[number] for number in numbers],
            rows=self.rows[numbers],
            groups=self.groups and [self.groups[number] for number in numbers],
        )

    def and_then(self, others: "Examples") -> "Examples":
        """These followed by others, which belong to no group, numbered consecutively."""
        count = len(others.inputs)
        return Examples(
            self.inputs + others.inputs,
            self.targets + others.targets,
            np.arange(len(self.inputs) + count),
            f"{self.origin} and {others.origin}",
            "example",
            self.groups and self.groups + (others.groups or [None] * count),
            self.target_names,
        )

    @classmethod
    def numbered(
        cls, inputs: Sequence[Any], targets: Sequence[Any] | None, origin: str
    ) -> "Examples":
        """Examples that are not from a file, numbered from 0; targets None: no labels."""
        return cls(
            list(inputs), [None] * len(inputs) if targets is None else list(targets),
            np.arange(len(inputs)), origin, "example",
        )  # fmt: skip


@runtime_checkable
class Source(Protocol):
    """Where examples come from. One file each: see docs/add_a_source.md.

    A constructor's keyword arguments are filled from the fields of `config.data` of the same names
    and from `config.data.source_options`. In addition to the members below, a source may have
    `default_sizes` (a dict from split to the number of examples used where the config has 0) and
    `fingerprinted` (a dict from target to what stands for it in the fingerprint).

    Attributes:
        name: for people, and for the file that caches the tokens.
    """

    name: str

    def identity(self) -> str:
        """A text that changes when the examples do; fast, since it decides whether to read them."""

    def splits(self) -> Sequence[str]:
        """The splits available: `train` (always), `validation`, `test` and `unlabelled`."""

    def read(self, split: str) -> Examples:
        """The examples of one of its splits; raises UserError if they cannot be read."""


def place(origin: str, unit: str, row: Any) -> str:
    """Where a row of a file is, for people."""
    return f"{origin}/{row}" if isinstance(row, str) else f"{origin}, {unit} {row}"


def fingerprint(parts: Iterable[Examples], written: Mapping[Any, Any] | None = None) -> str:
    """SHA-256 of labelled inputs in order, in hexadecimal, whatever file they came in.

    Args:
        parts: the splits.
        written: what to hash in place of a target, for some targets or none.
    """
    digest = hashlib.sha256()
    for examples in parts:
        digest.update(f"{len(examples.inputs)}\n".encode())
        for one, target in zip(examples.inputs, examples.targets, strict=True):
            if written and target in written:
                target = written[target]
            label = target if isinstance(target, int) else json.dumps(target)
            data, kind = _content(one)
            digest.update(f"{label} {len(data)}{kind}\n".encode())
            digest.update(data)
    return digest.hexdigest()


def _content(one: Any) -> tuple[bytes, str]:
    """An input as bytes, and their kind if they are not text."""
    if isinstance(one, str):
        return one.encode("utf-8", "surrogateescape"), ""
    if isinstance(one, list):
        return json.dumps(one).encode(), " words"
    if np.issubdtype(one.dtype, np.integer):
        return one.astype("<i8").tobytes(), " tokens"
    return one.astype("<f4").tobytes(), f" vectors of {one.shape[-1]}"
