"""A run that is asked to end saves first."""

import signal
import sys
import threading
from types import FrameType


class Interrupts:
    """While it is entered, SIGTERM and the first Ctrl-C ask for an end instead of being one.

    A second Ctrl-C ends the program at once. Outside of the main thread nothing is changed.

    Attributes:
        asked: by what, as in `SIGTERM`; empty: nothing has asked yet.
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
            f"\n{self.asked}: the steps in work are finished and saved first; Ctrl-C again ends at "
            "once.",
            file=sys.stderr, flush=True,
        )  # fmt: skip
