"""Errors whose cause lies outside the program, and which its user can fix."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from seqmodels import program


class UserError(Exception):
    """Says what was wrong, where, and what to do next; it is shown without a traceback."""


class Diverged(UserError):
    """No seed of a run has a finite loss and gradient any more."""


class Stopped(Exception):
    """The run was asked to end, and has saved; its text says how to resume it."""


STOPPED = 75  # From sysexits.h: try again later.
"""The exit code of a run that was asked to end and has saved."""


@contextlib.contextmanager
def told_to_user() -> Iterator[None]:
    """Wraps a program: ends it with a message if it fails for a reason that its user can fix."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # While modules were imported.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["MPLBACKEND"] = "agg"  # Figures go into files; a window may not be available.
    with program.lasting_streams():
        try:
            for name in ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):  # Matplotlib's too.
                if program.is_address(folder := os.environ.get(name, "")):
                    raise UserError(f"{name}={folder} is an address; set it to a folder.")
            yield
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            sys.exit(STOPPED)
