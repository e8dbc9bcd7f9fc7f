"""Checks that user code (a cell, a task or a source) keeps its contract."""

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any


def outcomes(
    checks: Sequence[Callable[[Any], None]], case: Any, told: Callable[[Exception], str | None]
) -> Iterator[tuple[str, str]]:
    """Yields the name of each check in words, and what failed; empty if nothing did.

    Args:
        checks: functions of the case, which raise if it fails.
        case: the object to check.
        told: describes an error; None: it is not the case's fault, and is re-raised.
    """
    for check in checks:
        failure = ""
        try:
            check(case)
        except Exception as error:  # User code may raise anything.
            text = told(error)
            if text is None:
                raise
            failure = text
        yield check.__name__.replace("_", " "), failure


def raised(owner: type | str, error: Exception) -> str:
    """An error's message, and the line where it arose in a file, or in a class's file."""
    file = owner
    if isinstance(owner, type):
        file = getattr(sys.modules.get(owner.__module__), "__file__", None) or ""
    frames = traceback.extract_tb(error.__traceback__)
    path = os.path.abspath(str(file))
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == path]
    where = f" ({file}, line {lines[-1]})" if lines else ""
    text = str(error).partition("\n")[0]
    if isinstance(error, NotImplementedError):
        text = f"{frames[-1].name} is not defined"
    return f"{type(error).__name__}: {text}{where}"


def print_outcomes(found: Iterable[tuple[str, str]]) -> int:
    """Prints a line for each check, and returns how many failed."""
    failed = 0
    for words, failure in found:
        failed += bool(failure)
        print(f"FAILED  {words}: {failure}" if failure else f"ok      {words}", flush=True)
    return failed
