"""Makes data sets from sources, through a cache on disk."""

import hashlib
import inspect
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqmodels import checking
from train_lib.data import cache, drawing, inputs
from train_lib.data.dataset import Dataset, Split
from train_lib.data.examples import SPLITS, UNLABELLED, Examples, Source, fingerprint
from train_lib.data.inputs import Inputs, Text, Tokens, Vectors, WordCounter
from train_lib.data.vocabulary import Vocabulary
from train_lib.errors import UserError


class DataSettings(NamedTuple):
    """How examples become a data set.

    Attributes:
        max_features: for texts, the size of the vocabulary, including the four reserved numbers.
        text_rules: how texts are split into words, one of `TEXT_RULES`.
        max_length_tokens: longer sequences keep only this many last steps; 0: no limit.
        train_examples: how many; 0: the source's default, else all, or the share that `drawing`
            describes.
        validation_examples: likewise.
        test_examples: likewise.
        split_seed: the random seed for drawing splits that the source does not provide.
        standardize: whether vectors are standardised by their mean and standard deviation over all
            steps of the training examples.
    """

    max_features: int = 5_000
    text_rules: str = "keras"
    max_length_tokens: int = 0
    train_examples: int = 0
    validation_examples: int = 0
    test_examples: int = 0
    split_seed: int = 0
    standardize: bool = False


def load(
    source: Source,
    settings: DataSettings,
    *,
    joined: bool = False,
    labelled: bool = True,
    vocabulary: Vocabulary | None = None,
) -> Dataset:
    """Loads the data set of a source, from the cache if it is there.

    Args:
        source: of the examples.
        settings: how they become a data set.
        joined: whether the validation examples are moved to the training examples.
        labelled: whether examples must have targets; otherwise the source's unlabelled ones are
            added to the training examples.
        vocabulary: for texts; None: the vocabulary of the training examples.

    Raises:
        UserError: examples are missing or cannot be used; the message says which and where.
    """
    shaping = settings._replace(max_length_tokens=0)._asdict()
    del shaping["max_length_tokens"]
    if joined:
        shaping["joined"] = True
    if not labelled:
        shaping["with_unlabelled"] = True
    if vocabulary is not None:
        shaping["words"] = vocabulary.words
    path = cache.path(
        source.name, {"source": ask(source, "identity", str), "code": _code(source)} | shaping
    )
    dataset = cache.read(path)
    if dataset is None and sys.stderr.isatty():
        print(f"reading {source.name}, which takes longer the first time", file=sys.stderr)
    if dataset is None:
        dataset = build(source, settings, joined=joined, labelled=labelled, vocabulary=vocabulary)
        cache.write(path, dataset)
    _check_settings(dataset.inputs, settings, source.name)
    if vocabulary is not None and not isinstance(dataset.inputs, Text):
        raise UserError(
            f"a vocabulary does nothing here: the inputs of {source.name} are "
            f"{dataset.inputs.kind}. Leave it out."
        )
    return dataset.map(lambda split: split.last_steps(settings.max_length_tokens))


def _code(source: Source) -> str:
    """The digest of a source's file if it is the user's own: editing it may change what is read."""
    cls = type(source)
    if cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return ""
    try:
        return hashlib.sha256(pathlib.Path(inspect.getfile(cls)).read_bytes()).hexdigest()
    except (OSError, TypeError):  # It was defined in a notebook.
        return ""


def _check_settings(kind: Inputs, settings: DataSettings, name: str) -> None:
    """Rejects settings that would have no effect on these inputs."""
    refused = {"standardize": not isinstance(kind, Vectors)}
    refused["text_rules"] = not isinstance(kind, Text) or kind.rules == inputs.WORDS
    refused["max_features"] = not isinstance(kind, Text)
    what = "words" if isinstance(kind, Text) and kind.rules == inputs.WORDS else kind.kind
    for field, default in DataSettings._field_defaults.items():
        if refused.get(field) and (value := getattr(settings, field)) != default:
            raise UserError(
                f"config.data.{field} = {value!r} does nothing here: the inputs of {name} are "
                f"{what}. Leave it at {default!r}."
            )


def build(
    source: Source,
    settings: DataSettings,
    *,
    joined: bool = False,
    labelled: bool = True,
    vocabulary: Vocabulary | None = None,
) -> Dataset:
    """Reads, draws splits and encodes; takes the arguments of `load`."""
    names = ask(source, "splits", (tuple, list))
    if unknown := set(names) - {*SPLITS, UNLABELLED}:
        raise UserError(
            f"{source.name} has splits called {', '.join(sorted(map(str, unknown)))}; they must be "
            f"of {', '.join((*SPLITS, UNLABELLED))}."
        )
    if "train" not in names:
        raise UserError(f"{source.name} has no split to train on.")
    pools = {
        split: check(ask(source, "read", Examples, split), split, labelled=labelled)
        for split in SPLITS
        if split in names
    }
    kinds = {split: inputs.kind_of(pool.inputs[0]) for split, pool in pools.items()}
    if len(set(kinds.values())) > 1:
        shown = ", ".join(f"{kind} in {split}" for split, kind in kinds.items())
        raise UserError(f"{source.name}: the inputs of all splits must be of one kind: {shown}.")
    asked = {split: getattr(settings, f"{split}_examples") for split in SPLITS}
    defaults = getattr(source, "default_sizes", {})
    if not labelled and UNLABELLED in names:
        others = check(ask(source, "read", Examples, UNLABELLED), UNLABELLED, labelled=False)
        pools["train"], defaults = pools["train"].and_then(others), {}
    drawn = drawing.draw(pools, asked, defaults, settings.split_seed, source.name)
    if joined:
        pool, numbers = drawn["validation"]
        if pool != "train":
            raise UserError(
                f"{source.name} has validation examples of its own, which cannot be joined to the "
                "training examples."
            )
        drawn["train"] = pool, np.sort(np.concatenate([drawn["train"][1], numbers]))
        drawn["validation"] = pool, numbers[:0]
    examples = {split: pools[pool].take(numbers) for split, (pool, numbers) in drawn.items()}
    kind, encoded, repeated = _encode(examples, settings, vocabulary)
    splits = {
        split: Split(*encoded[split], part.targets, part.rows, part.origin, part.unit)
        for split, part in examples.items()
    }
    return Dataset(
        source.name,
        fingerprint(pools.values(), getattr(source, "fingerprinted", None)),
        kind,
        **splits,
        repeated=repeated,
        target_names=pools["train"].target_names,
    )


def _encode(
    examples: Mapping[str, Examples], settings: DataSettings, vocabulary: Vocabulary | None
) -> tuple[Inputs, dict[str, tuple[np.ndarray, np.ndarray]], int]:
    """The inputs' kind, each split's values and offsets, and the number of repeated test inputs."""
    train = examples["train"]
    first = inputs.kind_of(train.inputs[0])
    kind: Inputs
    if first in (Text.kind, inputs.WORDS):
        rules = inputs.WORDS if first == inputs.WORDS else settings.text_rules
        counter = WordCounter(rules)
        numbered = {split: counter.number(part.inputs) for split, part in examples.items()}
        if vocabulary is None:
            vocabulary = counter.vocabulary(numbered["train"], settings.max_features)
        kind = Text(vocabulary, rules)
        encoded = {
            split: counter.encode(kind.vocabulary, numbers) for split, numbers in numbered.items()
        }
        return kind, encoded, _repeated(numbered)
    if first == Tokens.kind:
        sizes = [Tokens.learn(part.inputs, part.where).size for part in examples.values()]
        kind = Tokens(max(sizes))
    else:
        kind = Vectors.learn(train.inputs, train.where, settings.standardize)
    encoded = {split: kind.encode(part.inputs, part.where) for split, part in examples.items()}
    return kind, encoded, _repeated({split: part.inputs for split, part in examples.items()})


def _repeated(sequences: Mapping[str, Sequence[np.ndarray]]) -> int:
    """The number of test inputs that are also in another split."""

    def keys(split: str) -> list[bytes]:
        return [hashlib.sha256(one.tobytes()).digest() for one in sequences[split]]

    seen = {*keys("train"), *keys("validation")}
    return sum(key in seen for key in keys("test"))


def ask(source: Source, method: str, kind: type | tuple[type, ...], *arguments: Any) -> Any:
    """Calls a method of a source.

    Raises:
        UserError: the method raises any exception, or returns something of another kind.
    """
    try:
        found = getattr(source, method)(*arguments)
    except UserError:
        raise
    except Exception as error:  # A researcher's code may raise anything.
        raise UserError(
            f"the source {source.name} fails in {method}: {checking.raised(type(source), error)}."
        ) from error
    if not isinstance(found, kind):
        names = kind.__name__ if isinstance(kind, type) else "a sequence of names"
        raise UserError(
            f"{method} of the source {source.name} returns {_shown(found)}; it must return {names}."
        )
    return found


def check(examples: Examples, split: str, *, labelled: bool = True) -> Examples:
    """Checks that a data set can be made of examples; returns them with plain targets.

    Args:
        examples: as they were read.
        split: its name, for messages.
        labelled: whether at least one of them must have a target.

    Raises:
        UserError: it cannot; the message says where.
    """
    count = len(examples.inputs)
    counts = {"targets": len(examples.targets), "rows": len(examples.rows)}
    if examples.groups is not None:
        counts["groups"] = len(examples.groups)
    for field, found in counts.items():
        if found != count:
            raise UserError(
                f"{examples.origin}: the {split} split has {count:,} inputs and {found:,} {field}."
            )
    if not count:
        raise UserError(f"{examples.origin}: the {split} split is empty.")
    kind = inputs.kind_of(examples.inputs[0])
    for number, one in enumerate(examples.inputs):
        if kind is None or inputs.kind_of(one) != kind:
            raise UserError(
                f"{examples.where(number)}: the input is {_shown(one)}; inputs must all be texts, "
                "lists of words, integer arrays [T] of tokens or floating point arrays [T, D] of "
                f"vectors, and the first is {_shown(examples.inputs[0])}."
            )
    if kind in (Text.kind, inputs.WORDS):
        inputs.check_texts(examples.inputs, examples.where)
    targets = [_plain(target) for target in examples.targets]
    for number, target in enumerate(targets):
        for one in target if isinstance(target, list) else [target]:
            if not isinstance(one, str | int | float | None | list):
                raise UserError(
                    f"{examples.where(number)}: the target is {_shown(one)}; it must be a text, a "
                    "number, a list of them, or None."
                )
            if isinstance(one, float) and not math.isfinite(one):
                raise UserError(f"{examples.where(number)}: the target {one} is not a number.")
    if labelled and all(target is None for target in targets):
        raise UserError(f"{examples.origin}: no example of the {split} split has a target.")
    return examples._replace(targets=targets)


def _plain(target: Any) -> Any:
    """A target without NumPy types."""
    if isinstance(target, np.generic | np.ndarray):
        return target.tolist()
    if isinstance(target, list | tuple):
        return [_plain(one) for one in target]
    return target


def _shown(one: Any) -> str:
    """Describes a value of a wrong type, for people."""
    if isinstance(one, np.ndarray):
        return f"an array of {one.dtype} {list(one.shape)}"
    return f"{one!r:.60} ({type(one).__name__})"
