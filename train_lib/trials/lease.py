"""Who runs a trial: a file that its worker keeps touching, which workers on other hosts see.

A lock of the operating system would do on one host, but often does not work between hosts.
"""

import contextlib
import os
import pathlib
import platform
import tempfile
import threading
import uuid

from train_lib import files

BEAT_SECONDS = 5.0
"""How often a worker shows that it is alive."""

STALE_SECONDS = 60.0
"""A worker that has not done so for this long counts as dead."""


class Lease:
    """A worker's right to run a trial, as long as it is alive and nobody takes that right away.

    It ends with `release`, also as a context.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._owner = f"{platform.node()} {os.getpid()} {uuid.uuid4().hex}\n"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    @classmethod
    def take(cls, path: pathlib.Path) -> "Lease | None":
        """Takes the lease of a file; None: a live worker has it.

        Two workers must not take one at the same time.

        Raises:
            OSError: the file system reports an error.
        """
        if _is_fresh(path):
            return None
        lease = cls(path)
        files.write(path, lease._owner)
        lease._thread.start()
        return lease

    def is_held(self) -> bool:
        """Whether it is still this worker's.

        A worker that was suspended for too long may have lost it. If that cannot be read, it is.
        """
        try:
            return self._path.read_text("utf-8") == self._owner
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def release(self) -> None:
        """Lets others take it at once."""
        self._ended.set()
        self._thread.join()
        if self.is_held():
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # The next one may succeed.
                if self.is_held():
                    os.utime(self._path)


def _is_fresh(path: pathlib.Path) -> bool:
    """Whether its worker has recently shown that it is alive."""
    try:
        with path.open("rb") as file:  # Opened, because network file systems cache times.
            beat = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return False
    # Both times come from one clock, the file server's, whatever the hosts' clocks say.
    with tempfile.TemporaryFile(dir=path.parent) as file:
        now = os.fstat(file.fileno()).st_mtime
    return now - beat < STALE_SECONDS
