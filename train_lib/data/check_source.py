"""Checks a source against everything that the codebase asks of it, and describes its contents.

python -m train_lib.data.check_source imdb
python -m train_lib.data.check_source path/to/mine.py --options="size=500"
python -m train_lib.data.check_source reviews.csv --options="target_column='stars'"

The tests do the same with every source in `train_lib/data/sources`, and with files of every kind.
"""

import argparse
import collections
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from seqmodels import checking
from seqmodels import loading as seqmodels_loading
from train_lib.data import inputs, loading
from train_lib.data.dataset import Dataset
from train_lib.data.examples import SPLITS, UNLABELLED, Examples, Source, fingerprint
from train_lib.data.finding import find
from train_lib.errors import UserError, told_to_user

_ALONE = 20  # Examples that are encoded on their own.
_SHOWN = 8


class CheckFailed(Exception):
    """Says how a source breaks its contract."""


class Case:
    """A source, made twice, and what was read from it.

    Args:
        make: makes the source.

    Raises:
        CheckFailed: it lacks what every source must have.
        UserError: its examples cannot be used.
    """

    def __init__(self, make: Callable[[], Source]):
        self.source, self.again = make(), make()
        self.names = tuple(self.source.splits())
        if unknown := set(self.names) - {*SPLITS, UNLABELLED}:
            raise CheckFailed(
                f"splits() has {sorted(map(str, unknown))}; a split is one of "
                f"{', '.join((*SPLITS, UNLABELLED))}"
            )
        if "train" not in self.names or len(set(self.names)) < len(self.names):
            raise CheckFailed(f"splits() is {self.names}; it must have `train`, and each name once")
        self.parts: dict[str, Examples] = {}
        for split in self.names:
            self.parts[split] = _read(self.source, split)

    def dataset(self) -> Dataset:
        """Builds the data set that a run has with default settings, without the cache."""
        return loading.build(self.source, loading.DataSettings())


def the_identity_is_text_and_stays_the_same(case: Case) -> None:
    """It is asked for at every start, and must not depend on when or by whom."""
    found = [case.source.identity(), case.source.identity(), case.again.identity()]
    if not all(isinstance(one, str) and one for one in found):
        raise CheckFailed(f"identity() gives {found[0]!r}; it must give a text")
    if len(set(found)) > 1:
        raise CheckFailed(
            f"identity() gives {found[0]!r} and then {next(o for o in found if o != found[0])!r}; "
            "the cache would never be found"
        )


def reading_twice_gives_the_same_examples(case: Case) -> None:
    """From the same source and from another one with the same arguments, in any order of splits."""
    for source in (case.source, case.again):
        for split in reversed(case.names):
            if _digest(_read(source, split)) != _digest(case.parts[split]):
                raise CheckFailed(
                    f"read({split!r}) gives other examples each time; draw them from a generator "
                    "with a fixed seed that is made in read"
                )


def all_splits_have_inputs_of_one_kind(case: Case) -> None:
    """They are all text, words, tokens, or vectors of one width."""
    kinds = {split: inputs.kind_of(part.inputs[0]) for split, part in case.parts.items()}
    if len(set(kinds.values())) > 1:
        raise CheckFailed(f"inputs are {kinds}; they must be of one kind")


def every_example_has_a_place_of_its_own(case: Case) -> None:
    """So that a message can say which one it is about."""
    for split, part in case.parts.items():
        places = {part.where(number) for number in range(len(part.inputs))}
        if len(places) < len(part.inputs):
            raise CheckFailed(f"two examples of {split} have the same place in `rows`")
        if not part.origin:
            raise CheckFailed(f"`origin` of {split} is empty; it is the file, for messages")


def unlabelled_examples_have_no_targets(case: Case) -> None:
    """The split is for examples without targets."""
    part = case.parts.get(UNLABELLED)
    if part is not None and any(target is not None for target in part.targets):
        raise CheckFailed("an example of `unlabelled` has a target; it must be None")


def a_data_set_can_be_made_of_it(case: Case) -> None:
    """Splits are drawn, texts become tokens, and nothing is left out of the source's own splits."""
    dataset = case.dataset()
    sizes = getattr(case.source, "default_sizes", {})
    for split in SPLITS[1:]:
        if split in case.parts and split not in sizes:
            found, read = len(getattr(dataset, split)), len(case.parts[split].inputs)
            if found != read:
                raise CheckFailed(f"{split} has {read} examples, and {found} are used")
    for part in dataset.splits:
        if not (part.lengths > 0).all():
            raise CheckFailed(f"{part.where(int(np.argmin(part.lengths)))} has no steps")


def company_changes_no_example(case: Case) -> None:
    """An example is encoded the same on its own as among others."""
    kind, part = case.dataset().inputs, case.parts["train"]
    whole, offsets = kind.encode(part.inputs[:_ALONE], part.where)
    for number, one in enumerate(part.inputs[:_ALONE]):
        alone, _ = kind.encode([one], part.where)
        if not np.array_equal(alone, whole[offsets[number] : offsets[number + 1]]):
            raise CheckFailed(f"{part.where(number)} is encoded differently on its own")


CHECKS = (
    the_identity_is_text_and_stays_the_same,
    reading_twice_gives_the_same_examples,
    all_splits_have_inputs_of_one_kind,
    every_example_has_a_place_of_its_own,
    unlabelled_examples_have_no_targets,
    a_data_set_can_be_made_of_it,
    company_changes_no_example,
)


def check_source(make: Callable[[], Source]) -> Case:
    """Checks that a source keeps its contract.

    Args:
        make: makes the source: its class, if its constructor needs no arguments.

    Raises:
        CheckFailed: it breaks the contract; the message says how.
        UserError: its examples cannot be used; the message says why.
    """
    case = Case(make)
    for check in CHECKS:
        check(case)
    return case


def _read(source: Source, split: str) -> Examples:
    examples = source.read(split)
    if not isinstance(examples, Examples):
        raise CheckFailed(f"read({split!r}) gives {type(examples).__name__}; it must give Examples")
    return loading.check(examples, split, labelled=split != UNLABELLED)


def _raised(error: Exception, source: str) -> str:
    """The message of an exception in a researcher's code, and where it was raised."""
    is_told = isinstance(error, CheckFailed | UserError)
    return str(error) if is_told else checking.raised(source, error)


def _digest(examples: Examples) -> tuple:
    groups, rows = json.dumps(examples.groups, default=str), list(examples.rows)
    return fingerprint([examples]), groups, rows, examples.origin


def _described(case: Case) -> list[str]:
    """The contents, one line for each split."""
    lines = []
    for split, part in case.parts.items():
        lengths = [len(one) for one in part.inputs]
        unit = "characters" if isinstance(part.inputs[0], str) else "steps"
        lines.append(
            f"{split}: {len(lengths):,} examples ({inputs.kind_of(part.inputs[0])}) of "
            f"{min(lengths):,} to {max(lengths):,} {unit}{_targets(part.targets)}"
        )
    return lines


def _targets(targets: Sequence[Any]) -> str:
    counts = collections.Counter(map(json.dumps, targets))
    if len(counts) <= _SHOWN:
        return "; targets " + ", ".join(f"{key} {count:,}x" for key, count in counts.most_common())
    numbers = [one for one in targets if isinstance(one, int | float)]
    if len(numbers) == len(targets):
        return f"; targets from {min(numbers)} to {max(numbers)}"
    return f"; {len(counts):,} different targets, as {json.dumps(targets[0])[:60]}"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train_lib.data.check_source",
        description="Checks that a source keeps its contract, and describes its contents.",
    )
    parser.add_argument("source", help="a name, the path of a Python file, or data")
    parser.add_argument(
        "--options", default="", help="constructor arguments, as in \"size=500, dir='x'\""
    )
    arguments = parser.parse_args(argv)
    try:
        options: Mapping[str, Any] = seqmodels_loading.parse_options(arguments.options, "source")
    except ValueError as error:
        raise UserError(f"{error}.") from error
    try:
        case = Case(lambda: find(arguments.source, {}, options))
    except Exception as error:
        print(f"BROKEN  {_raised(error, arguments.source)}")
        return 1
    print("ok      keeps the contract")
    failed = checking.print_outcomes(
        checking.outcomes(CHECKS, case, lambda error: _raised(error, arguments.source))
    )
    print("\n".join(_described(case)))
    return 1 if failed else 0


if __name__ == "__main__":
    with told_to_user():
        sys.exit(main(sys.argv[1:]))
