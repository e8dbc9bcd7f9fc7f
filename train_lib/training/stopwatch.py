"""Measures where the time of a run goes."""

import contextlib
import time
from collections.abc import Iterator

import jax


class Stopwatch:
    """Counts the seconds of each phase of a run, and those of compilation separately."""

    def __init__(self):
        self._start = time.perf_counter()
        self.seconds = {"data": 0.0, "compile": 0.0, "train": 0.0, "evaluate": 0.0}
        self._phase: tuple[str, float, float] | None = None
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **_) -> None:
        # Tracing, lowering and compiling: everything a new batch shape costs before it runs.
        if event.startswith("/jax/core/compile/"):
            self.seconds["compile"] += duration_secs

    def add(self, report: dict[str, float]) -> None:
        """Adds the time that an earlier start of the same run took until it was saved."""
        for name in self.seconds:
            self.seconds[name] += report[name]
        self._start -= report["total"]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time in the block, except compilation, under `name`."""
        self._phase = name, time.perf_counter(), self.seconds["compile"]
        yield
        self._count_phase()
        self._phase = None

    def _count_phase(self) -> None:
        """Counts what the current phase has taken so far."""
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
