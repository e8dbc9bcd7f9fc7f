"""A process for every peer, which computes when it is told to and otherwise sleeps."""

import contextlib
import ctypes
import gc
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib import metadata
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from benchmarks.interface import PEERS, Batch, Training, Weights


class PeerError(Exception):
    """A peer failed; the text says how."""


class Worker:
    """The parent's side: calls any method of `_Child`, and waits for it."""

    def __init__(self, peer: str, cache_dir: str):
        ours, theirs = Pipe()
        self._connection = ours
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  Libraries talk much.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.workers", peer, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdout=self._log,
            stderr=self._log,
            env=os.environ | {"XDG_CACHE_HOME": cache_dir} | PEERS[peer].environment,
        )
        theirs.close()

    def call(self, method: str, *arguments) -> Any:
        """Calls a method in the worker.

        Raises:
            PeerError: the call failed.
        """
        try:
            self._connection.send((method, arguments))
            ok, result = self._connection.recv()
        except (EOFError, OSError) as error:
            code = self._process.wait()
            self._log.seek(0)
            log = self._log.read().decode("utf-8", "replace")[-3000:]
            raise PeerError(f"its process ended with {code}:\n{log}") from error
        if not ok:
            raise PeerError(f"failed:\n{result}")
        return result

    def close(self) -> None:
        """Ends the process; repeated calls do no harm."""
        self._connection.close()
        self._process.wait()
        self._log.close()


class _Child:
    """The worker's side."""

    def __init__(self, peer: str):
        self._entry = PEERS[peer]
        self._class = self._entry.load()
        self._idle = _Clocks(0.0, 0.0)

    def versions(self) -> dict[str, str]:
        return {package: metadata.version(package) for package in self._entry.packages}

    def load(self, batches: Sequence[Batch]) -> None:
        """Takes the batches that `epoch` trains on; memory is counted from here on."""
        self._batches = batches
        gc.collect()
        with contextlib.suppress(OSError):  # Sets the peak to what is resident now.
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        self._before = _resident("VmRSS")

    def build(self, training: Training, weights: Weights) -> None:
        self._peer = self._class(training, weights)

    def logits(self, batch: Batch) -> np.ndarray:
        return self._peer.logits(batch)

    def train(self, batch: Batch) -> float:
        return float(self._peer.train(batch))

    def weights(self) -> Weights:
        return self._peer.weights()

    def epoch(self, numbers: Sequence[int] | None = None) -> float:
        """Seconds of training on the loaded batches, or on those with these numbers."""
        batches = [self._batches[n] for n in numbers] if numbers is not None else self._batches
        start = time.perf_counter()
        self._peer.epoch(batches)
        return time.perf_counter() - start

    def turn(self, widest: int) -> float:
        """Seconds of an epoch, after two updates that warm memory and caches up."""
        self.epoch([widest, widest])
        seconds = self.epoch()
        self.release()
        return seconds

    def release(self) -> None:
        """Returns freed memory: all peers' together is more than machines have."""
        gc.collect()
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)

    def memory(self) -> tuple[int, int]:
        """Resident bytes: before a model was built, and the peak since."""
        return self._before, _resident("VmHWM")

    def idle(self) -> float:
        """The share of one core that was used between commands since the last call."""
        idle, self._idle = self._idle, _Clocks(0.0, 0.0)
        return idle.cpu / max(idle.wall, 1e-9)

    def serve(self, connection: Connection) -> None:
        """Serves calls until the parent closes the connection."""
        while True:
            before = _Clocks.now()
            try:
                method, arguments = connection.recv()
            except EOFError:
                return
            now = _Clocks.now()
            self._idle = _Clocks(
                *(i + n - b for i, n, b in zip(self._idle, now, before, strict=True))
            )
            try:
                reply = (True, getattr(self, method)(*arguments))
            except Exception:
                reply = (False, traceback.format_exc())
            connection.send(reply)


class _Clocks(NamedTuple):
    """Seconds: CPU time of this process on all cores, and wall-clock time."""

    cpu: float
    wall: float

    @classmethod
    def now(cls) -> "_Clocks":
        return cls(time.process_time(), time.perf_counter())


def _resident(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


if __name__ == "__main__":
    _Child(sys.argv[1]).serve(Connection(int(sys.argv[2])))
