"""From a corpus to training, validation and test sets of tokens, through a cache on disk."""

import dataclasses
import functools
import hashlib
import io
import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from train_lib import files
from train_lib.data import sources
from train_lib.data.corpus import Corpus, Reviews, fingerprint
from train_lib.data.vocabulary import UNKNOWN, Vocabulary, words_of
from train_lib.errors import UserError

# Of the way tokens are made and stored. Raise it when either changes: old caches are then left.
_CACHE_VERSION = 3


@dataclasses.dataclass(frozen=True)
class Split:
    """Reviews as tokens, end to end.

    Attributes:
        tokens: all reviews' tokens, int32.
        offsets: where each review starts, and where the last one ends; int64 `[N + 1]`.
        labels: 0 negative, 1 positive; int8 `[N]`.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each review, the start token included."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.labels)

    def last_tokens(self, count: int) -> "Split":
        """The same reviews without what stands before their last `count` tokens; 0: all of them."""
        if count == 0 or self.lengths.max(initial=0) <= count:
            return self
        kept = np.minimum(self.lengths, count)
        is_kept = np.arange(len(self.tokens)) >= np.repeat(self.offsets[1:] - kept, self.lengths)
        return Split(self.tokens[is_kept], np.concatenate([[0], np.cumsum(kept)]), self.labels)

    def most_frequent_words(self, max_features: int) -> "Split":
        """The same reviews in a smaller vocabulary: its words, and all others unknown."""
        tokens = np.where(self.tokens < max_features, self.tokens, np.int32(UNKNOWN))
        return dataclasses.replace(self, tokens=tokens)

    @classmethod
    def encode(
        cls, vocabulary: Vocabulary, reviews: Sequence[Sequence[str]], labels: np.ndarray
    ) -> "Split":
        tokens = [vocabulary.encode(words) for words in reviews]
        offsets = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        return cls(
            np.concatenate([np.empty(0, np.int32), *tokens]), offsets, labels.astype(np.int8)
        )


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What a run trains, validates and tests on.

    Attributes:
        name: of the corpus.
        fingerprint: SHA-256 of the corpus' labelled texts, whatever file they came in.
        vocabulary: built from the training reviews.
        train, validation, test: the reviews.
        repeated: test reviews that have the same words, in order, as one of the others.
    """

    name: str
    fingerprint: str
    vocabulary: Vocabulary
    train: Split
    validation: Split
    test: Split
    repeated: int = 0

    @property
    def splits(self) -> list[Split]:
        return [getattr(self, name) for name in SPLITS]


SPLITS = ("train", "validation", "test")


def load(data_config) -> Dataset:
    """Loads the data set that `config.data` asks for.

    Raises:
        UserError: it cannot be had; the message says what to do.
    """
    corpus = sources.find(data_config)
    settings = {
        "version": _CACHE_VERSION,
        "source": corpus.identity(),
        **{
            field: data_config[field]
            for field in (
                "max_features", "train_reviews", "validation_reviews", "test_reviews", "split_seed",
                "text_rules",
            )
        },
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = files.cache_dir() / "tokens" / f"{corpus.name}-{key[:20]}.npz"
    dataset = _read_cache(path, corpus.name)
    if dataset is None:
        dataset = _build(corpus, data_config)
        _write_cache(path, dataset)
    train, validation, test = (
        split.last_tokens(data_config.max_length_tokens) for split in dataset.splits
    )
    return dataclasses.replace(dataset, train=train, validation=validation, test=test)


def _build(corpus: Corpus, data_config) -> Dataset:
    train = corpus.read("train")
    test = corpus.read("test")
    rng = np.random.default_rng(data_config.split_seed)
    train_indices, validation_indices = _draw_balanced(
        train.labels, (data_config.train_reviews, data_config.validation_reviews), rng
    )
    (test_indices,) = _draw_balanced(test.labels, (data_config.test_reviews,), rng)

    def split(reviews: Reviews, indices: np.ndarray) -> list[list[str]]:
        return [words_of(reviews.texts[index], data_config.text_rules) for index in indices]

    train_words, validation_words, test_words = (
        split(train, train_indices), split(train, validation_indices), split(test, test_indices),
    )  # fmt: skip
    seen = {" ".join(words) for words in (*train_words, *validation_words)}
    vocabulary = Vocabulary.build(train_words, data_config.max_features)
    return Dataset(
        name=corpus.name,
        fingerprint=fingerprint((train, test)),
        vocabulary=vocabulary,
        train=Split.encode(vocabulary, train_words, train.labels[train_indices]),
        validation=Split.encode(vocabulary, validation_words, train.labels[validation_indices]),
        test=Split.encode(vocabulary, test_words, test.labels[test_indices]),
        repeated=sum(" ".join(words) in seen for words in test_words),
    )


def _draw_balanced(
    labels: np.ndarray, sizes: Sequence[int], rng: np.random.Generator
) -> list[np.ndarray]:
    """Draws disjoint sets of indices, half of each from either class, each in corpus order.

    Raises:
        UserError: there are labels other than 0 and 1, or too few of these.
    """
    classes, counts = np.unique(labels, return_counts=True)
    found = dict(zip(classes.tolist(), counts.tolist(), strict=True))
    shown = ", ".join(f"{count:,} of class {label}" for label, count in found.items()) or "none"
    if not found.keys() <= {0, 1}:
        raise UserError(
            f"reviews must be of class 0 (negative) or 1 (positive), and there are {shown}."
        )
    if any(size % 2 for size in sizes) or sum(sizes) // 2 > min(found.get(0, 0), found.get(1, 0)):
        raise UserError(
            f"{' + '.join(f'{size:,}' for size in sizes)} reviews are asked for, half of each set "
            f"from either class, and there are {shown}. Ask for fewer, in even numbers, with "
            "config.data.train_reviews, .validation_reviews and .test_reviews."
        )
    shuffled = [rng.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]
    sets, start = [], 0
    for size in sizes:
        stop = start + size // 2
        sets.append(np.sort(np.concatenate([indices[start:stop] for indices in shuffled])))
        start = stop
    return sets


# A cache file is the SHA-256 of what follows in hexadecimal, a newline, and an .npz.


def _write_cache(path: pathlib.Path, dataset: Dataset) -> None:
    header = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "words": dataset.vocabulary.words,
        "repeated": dataset.repeated,
    }
    arrays = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
    for split in SPLITS:
        for field, array in dataclasses.asdict(getattr(dataset, split)).items():
            arrays[f"{split}.{field}"] = array
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    content = buffer.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    except OSError as error:
        print(f"note: the tokens were not cached: {error}", file=sys.stderr)


def _read_cache(path: pathlib.Path, name: str) -> Dataset | None:
    """The cached data set, or None where there is none or it is damaged."""
    try:
        digest, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest().encode() != digest:
        print(f"note: {path} is damaged and is made again", file=sys.stderr)
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        header = json.loads(arrays["header"].tobytes())
        splits = {
            split: Split(*(arrays[f"{split}.{field.name}"] for field in dataclasses.fields(Split)))
            for split in SPLITS
        }
    return Dataset(
        name, header["fingerprint"], Vocabulary(header["words"]), **splits,
        repeated=header["repeated"],
    )  # fmt: skip
