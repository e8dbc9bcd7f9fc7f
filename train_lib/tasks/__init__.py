"""Finds tasks by name, and makes them from options and training targets."""

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from seqmodels import loading
from train_lib.tasks.base import BadTarget, Task

__all__ = ["BadTarget", "Task", "find", "make", "names", "option_names"]


def names() -> list[str]:
    """The names of the built-in tasks: the modules in `train_lib/tasks`, in alphabetical order."""
    return loading.names(sys.modules[__name__])


def find(name: str) -> type[Task]:
    """The task class defined by `train_lib/tasks/<name>.py` or by the user's own file.

    Args:
        name: the name of a module, or the path of a file that ends in `.py`. The file is executed.

    Raises:
        ValueError: there is none, it cannot be run, or it does not define exactly one task.
    """
    return loading.find(name, Task, sys.modules[__name__], "task")


def option_names(task_class: type[Task]) -> list[str]:
    """The options of a task: the keyword arguments of `of_targets` that have defaults.

    If that takes arbitrary ones, as in the base class, they are those of the constructor.
    """
    parameters = list(inspect.signature(task_class.of_targets).parameters.values())
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        parameters = list(inspect.signature(task_class).parameters.values())
    return [one.name for one in parameters if one.default is not one.empty]


def make(
    name: str,
    training_targets: Sequence[Any],
    fields: Mapping[str, Any],
    defaults: Mapping[str, Any],
    options: Mapping[str, Any],
    tokens: Sequence[tuple[str, int | None]] | None = None,
) -> Task:
    """Makes the task that a config asks for.

    Args:
        name: as in `find`.
        training_targets: as in `Task.encode`.
        fields: the config's fields that may be options of the task.
        defaults: of the fields. The task must have an option for each field that differs from its
            default.
        options: further options; the task must have all of them.
        tokens: of the inputs, for a task that predicts them; it then needs no targets.

    Raises:
        BadTarget: the targets do not suit the task.
        ValueError: there is no such task, it lacks an option, or an option has an invalid value.
    """
    task_class = find(name)
    known = option_names(task_class)
    asked = {field: value for field, value in fields.items() if value != defaults[field]}
    twice = sorted(asked.keys() & options.keys())
    if twice:
        raise ValueError(f"the option {twice[0]} of the task {name} is given twice")
    unknown = sorted((asked.keys() | options.keys()) - set(known))
    if unknown:
        raise ValueError(
            f"the task {name} has no option {unknown[0]!r}; it has "
            f"{', '.join(known) or 'no options'}"
        )
    if tokens is not None:
        return task_class.of_tokens(tokens, **asked, **options)
    return task_class.of_targets(training_targets, **asked, **options)
