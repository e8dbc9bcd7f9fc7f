"""What every source of reviews looks like."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np


class Reviews(NamedTuple):
    """Labelled texts.

    Attributes:
        texts: the reviews.
        labels: 0 negative, 1 positive; `[N]`.
    """

    texts: list[str]
    labels: np.ndarray


class Corpus(Protocol):
    """A set of labelled reviews to train and one to test on.

    Attributes:
        name: for people.
    """

    name: str

    def identity(self) -> str:
        """Changes when the reviews do; quick to ask, since it decides whether to read them."""

    def read(self, split: str) -> Reviews:
        """The reviews of `train` or `test`; raises UserError where they cannot be read."""


def fingerprint(parts: Iterable[Reviews]) -> str:
    """SHA-256 of labelled texts in order, in hexadecimal."""
    digest = hashlib.sha256()
    for reviews in parts:
        digest.update(f"{len(reviews.texts)}\n".encode())
        for text, label in zip(reviews.texts, reviews.labels, strict=True):
            data = text.encode("utf-8", "surrogateescape")
            digest.update(f"{label} {len(data)}\n".encode() + data)
    return digest.hexdigest()
