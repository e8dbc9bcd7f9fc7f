"""What puts a researcher's own code through its contract: a cell, a task or a source."""

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any


def outcomes(
    checks: Sequence[Callable[[Any], None]], case: Any, told: Callable[[Exception], str | None]
) -> Iterator[tuple[str, str]]:
    """The name of each check in words, and what failed; empty where nothing did.

    Args:
        checks: functions of the case, which raise where it fails.
        case: what is checked.
        told: what to say of what was raised; None: it is not the case's fault, and is raised on.
    """
    for check in checks:
        failure = ""
        try:
            check(case)
        except Exception as error:  # It is a researcher's code: whatever it raises.
            text = told(error)
            if text is None:
                raise
            failure = text
        yield check.__name__.replace("_", " "), failure


def raised(owner: type | str, error: Exception) -> str:
    """What an error says, and the line where it came up in a file, or in that of a class."""
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
