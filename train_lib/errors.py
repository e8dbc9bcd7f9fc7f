"""What goes wrong outside the program and can be put right by its user."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Its text says what was wrong, where, and what to do next; it is shown without a traceback."""


@contextlib.contextmanager
def told_to_user() -> Iterator[None]:
    """Ends the program with a message where it fails for a reason its user can mend."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
