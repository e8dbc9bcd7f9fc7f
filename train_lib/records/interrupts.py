"""Lets a run that is asked to end save first."""

import signal
import sys
import threading
from types import FrameType


class Interrupts:
    """A context in which SIGTERM and the first Ctrl-C only request an end.

    A second Ctrl-C ends the program at once. Outside the main thread, nothing changes.

    Attributes:
        asked: what requested the end, as in `SIGTERM`; empty: nothing yet.
    """

    def __init__(self):
        self.asked = ""
        self._before = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name
        print(
            f"\n{self.asked}: the steps in progress are finished and saved first; Ctrl-C again "
            "ends at once.",
            file=sys.stderr, flush=True,
        )  # fmt: skip
