"""Classes: their names, order and weights."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from train_lib.tasks.base import BadTarget

_SHOWN = 12
"""The most classes that a message names."""


def name_of(target: Any, number: int) -> str:
    """The name of the class that a JSON value stands for: `3`, `3.0` and `"3"` are one class.

    Raises:
        BadTarget: it does not stand for a class.
    """
    if isinstance(target, np.generic):
        target = target.item()
    if isinstance(target, bool):
        return str(target).lower()
    if isinstance(target, str):
        if not target.strip():
            raise BadTarget(number, "is an empty text, where the name of a class should be")
        return target
    if isinstance(target, int):
        return str(target)
    if isinstance(target, float):
        if not math.isfinite(target):
            raise BadTarget(number, f"is {target}, which is not a class")
        return str(int(target)) if target.is_integer() else repr(target)
    several = ""
    if isinstance(target, list | tuple):
        several = "; for several labels choose the task labels, for one at every step the task tags"
    raise BadTarget(
        number, f"is {shown(target)}, where one class should be, a text or a number{several}"
    )


def ordered(names: Iterable[str]) -> list[str]:
    """The distinct names, ascending if all are numbers, otherwise in alphabetical order."""
    distinct = sorted(set(names))
    values = [_number(name) for name in distinct]
    if all(map(math.isfinite, values)):
        return [name for _, name in sorted(zip(values, distinct, strict=True))]
    return distinct


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def given_order(given: Sequence[Any] | None, found: Sequence[str], what: str) -> list[str]:
    """The classes in the user's order; if none is given, those found in training.

    Raises:
        BadTarget: the two differ.
    """
    if not given:
        return list(found)
    classes = [name_of(one, 0) for one in given]
    if sorted(classes) != sorted(found):
        raise BadTarget(
            None,
            f"The {what} given are {listed(classes)}, and those of the training examples are "
            f"{listed(found)}; they must be the same.",
        )
    return classes


def shown_names(
    names: Sequence[str] | None, classes: Sequence[str], what: str = "classes"
) -> list[str]:
    """The names that people read in place of the classes.

    Raises:
        ValueError: there is not exactly one name for each.
    """
    if not names:
        return list(classes)
    is_list = isinstance(names, list | tuple)
    if not is_list or len(names) != len(classes) or len(set(names)) != len(names):
        raise ValueError(
            f"names={names!r} must be a list with a different name for each of the "
            f"{len(classes)} {what} {listed(classes)}, in this order"
        )
    if set(map(str, names)) == set(classes) and list(map(str, names)) != list(classes):
        raise ValueError(
            f"names={names!r} are the {what} themselves in another order, so that each would be "
            f"called another one; names are in the order {listed(classes)}"
        )
    return [str(name) for name in names]


def number_of(numbers: Mapping[str, int], target: Any, number: int, what: str = "class") -> int:
    """The number of a target's class.

    Args:
        numbers: the number of each class.
        target: a JSON value.
        number: the number of its example.
        what: the word for a class, for messages.

    Raises:
        BadTarget: no training example has this class.
    """
    name = name_of(target, number)
    if name not in numbers:
        raise BadTarget(
            number,
            f"is the {what} {name!r}, which no training example has; theirs are "
            f"{listed(list(numbers))}",
        )
    return numbers[name]


def weights(
    given: str | Mapping[Any, float] | None, classes: Sequence[str], counts_C: np.ndarray
) -> list[float] | None:
    """The weight of each class in the training loss; None: all are 1.

    Args:
        given: empty; `balanced`: n / (C n_c), whose mean over the n training items is 1; or the
            weight of each class by name, also as the text of a JSON object.
        classes: the names of the classes.
        counts_C: n_c, the number of training items of each.

    Raises:
        ValueError: the weights given are none of these, or lack a class.
    """
    if not given:
        return None
    if given == "balanced":
        return [float(counts_C.sum() / (len(classes) * count)) for count in counts_C]
    try:
        mapping = json.loads(given) if isinstance(given, str) else dict(given)
        by_name = {name_of(name, 0): float(weight) for name, weight in mapping.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"class_weights={given!r} must be 'balanced', or the weight of each class, as in "
            f'\'{{"{classes[0]}": 1.0, "{classes[-1]}": 2.5}}\''
        ) from error
    if by_name.keys() != set(classes):
        raise ValueError(
            f"class_weights has weights of {listed(list(by_name))}, and the classes are "
            f"{listed(classes)}; there must be one weight for each"
        )
    if not all(0 <= weight <= 1e6 for weight in by_name.values()) or not any(by_name.values()):
        raise ValueError(f"class_weights={given!r} must be from 0 to 1e6, and not all 0")
    return [by_name[name] for name in classes]


def choose(option: str, value: Any, choices: Sequence[str]) -> Any:
    """The value of an option, if it is one of the choices.

    Raises:
        ValueError: it is not.
    """
    if value not in choices:
        raise ValueError(f"{option}={value!r} is unknown; choose one of {', '.join(choices)}")
    return value


def listed(names: Sequence[str]) -> str:
    """Lists names for a message, but not too many."""
    text = ", ".join(map(repr, names[:_SHOWN]))
    return f"{text} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else text


def shown(target: Any) -> str:
    """A target for a message."""
    text = repr(target)
    return text if len(text) <= 60 else text[:57] + "..."


def check_count(classes: Sequence[str], count: int, what: str) -> None:
    """Rejects targets with too few or too many classes.

    Args:
        classes: the classes found.
        count: the number of labels they were found in.
        what: what the labels belong to.

    Raises:
        BadTarget: there is at most one class, or there are too many for the number of labels.
    """
    if not classes:
        raise BadTarget(None, f"None of the {what} has a label.")
    if len(classes) == 1:
        raise BadTarget(
            None,
            f"All {count:,} {what} have the same class, {classes[0]!r}; there must be at least "
            "two.",
        )
    if len(classes) > max(100, count // 2):
        raise BadTarget(
            None,
            f"The {count:,} {what} have {len(classes):,} different targets, too many to be classes "
            f"({listed(classes[:3])}, ...); for numbers choose the task numbers.",
        )
