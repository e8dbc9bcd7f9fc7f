"""How far a run is, and where its time went."""

import contextlib
import sys
import time
from collections.abc import Iterator

import jax


class Stopwatch:
    """Seconds of each phase of a run, with compilation taken out of them and counted apart."""

    def __init__(self):
        self._start = time.perf_counter()
        self.seconds = {"data": 0.0, "compile": 0.0, "train": 0.0, "evaluate": 0.0}
        self._phase: tuple[str, float, float] | None = None
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **_) -> None:
        # Tracing, lowering and compiling: all that a new batch shape costs before it runs.
        if event.startswith("/jax/core/compile/"):
            self.seconds["compile"] += duration_secs

    def add(self, report: dict[str, float]) -> None:
        """Adds what an earlier start of the same run took until it was saved."""
        for name in self.seconds:
            self.seconds[name] += report[name]
        self._start -= report["total"]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time in the block, less what was compiled in it, under `name`."""
        self._phase = name, time.perf_counter(), self.seconds["compile"]
        yield
        self._count_phase()
        self._phase = None

    def _count_phase(self) -> None:
        """Counts what the phase in work has taken so far."""
        if self._phase is not None:
            name, start, compiled = self._phase
            now, all_compiled = time.perf_counter(), self.seconds["compile"]
            self.seconds[name] += now - start - (all_compiled - compiled)
            self._phase = name, now, all_compiled

    def report(self) -> dict[str, float]:
        """The seconds of each phase and in total, to the millisecond."""
        self._count_phase()
        total = time.perf_counter() - self._start
        return {name: round(value, 3) for name, value in (self.seconds | {"total": total}).items()}


class Progress:
    """Counts steps: on a terminal in a line that renews itself, elsewhere in a line now and then.

    Args:
        total_steps: of the run.
        done: steps that an earlier start of it has done.
    """

    def __init__(self, total_steps: int, done: int = 0):
        self._total = total_steps
        self._done = self._first = done
        self._reviews = 0
        self._start = self._shown = time.perf_counter()
        self._live = sys.stdout.isatty()
        self._every = 0.2 if self._live else 20.0

    def steps(self, steps: int, reviews: int, label: str) -> None:
        """Counts steps of so many reviews; `label` says which part of the run they are in."""
        self._done += steps
        self._reviews += reviews
        now = time.perf_counter()
        if now - self._shown < self._every:
            return
        self._shown = now
        elapsed = now - self._start
        left = elapsed / (self._done - self._first) * (self._total - self._done)
        text = (
            f"{label}, step {self._done}/{self._total}, {self._reviews / elapsed:,.0f} reviews/s, "
            f"{_duration(left)} left"
        )
        print(f"\r\033[K{text}" if self._live else text, end="" if self._live else "\n", flush=True)

    def line(self, text: str) -> None:
        """Prints a line that stays."""
        print(f"\r\033[K{text}" if self._live else text, flush=True)


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds, as in `1:02:03` or `0:07`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
