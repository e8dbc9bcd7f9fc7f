"""The tasks there are, and how one is made from its name, its options and training targets."""

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from typing import Any

from train_lib.tasks.base import BadTarget, Task

__all__ = ["BadTarget", "Task", "find", "make", "names", "option_names"]

_NO_TASKS = {"base", "check_task"}


def names() -> list[str]:
    """The tasks there are: the modules in `train_lib/tasks`, in alphabetical order."""
    modules = pkgutil.iter_modules(__path__)
    return sorted(one.name for one in modules if not one.ispkg and one.name not in _NO_TASKS)


def find(name: str) -> type[Task]:
    """The task class that `train_lib/tasks/<name>.py` defines, or a file of the user's own.

    Args:
        name: of a module, or the path of a file that ends in `.py`. The file is executed.

    Raises:
        ValueError: there is none, it cannot be run, or it does not define exactly one task.
    """
    if name.endswith(".py"):
        module = _run(name)
    elif name in names():
        module = importlib.import_module(f"{__name__}.{name}")
    else:
        raise ValueError(
            f"unknown task {name!r}; choose one of {', '.join(names())}, or give the path of a "
            "file of your own, which ends in .py"
        )
    defined = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Task)
        and value.__module__ == module.__name__
    ]
    if len(defined) != 1:
        found = ", ".join(one.__name__ for one in defined) or "none"
        raise ValueError(
            f"{module.__file__} must define one subclass of Task of train_lib.tasks.base; it "
            f"defines {found}"
        )
    return defined[0]


def _run(path: str) -> types.ModuleType:
    """The module that a file is."""
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path!r} to take a task from")
    # One name a file, so that two files never mix.
    spec = importlib.util.spec_from_file_location(f"task_file_{os.path.abspath(path)}", path)
    assert spec is not None  # It ends in .py.
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # It is a researcher's code: whatever it raises.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == spec.origin]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else "?"
        text = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}, line {line}, cannot be run: {text}") from error
    return module


def option_names(task_class: type[Task]) -> list[str]:
    """The options of a task: keyword arguments with defaults, of `of_targets`.

    Where that takes any, as the base's does, they are those of the constructor.
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
) -> Task:
    """The task that a config asks for.

    Args:
        name: as in `find`.
        training_targets: as in `Task.encode`.
        fields: of the config, which may be options: a task gets those that it has.
        defaults: of the fields. One with another value is an option that the task has to have.
        options: further ones, all of which it has to have.

    Raises:
        BadTarget: the targets are not of such a task.
        ValueError: there is no such task, it lacks an option, or an option cannot have that value.
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
    return task_class.of_targets(training_targets, **asked, **options)
