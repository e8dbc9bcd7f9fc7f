"""What surrounds a program must not change its numbers, end it with a traceback, or cost results.

For every program of `seqmodels` and `train_lib`, at its start.
"""

import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax

SETTINGS: dict[str, Any] = {
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_default_device": None,
    "jax_disable_jit": False,
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_debug_key_reuse": False,
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
    "jax_no_tracing": False,
    "jax_no_execution": False,
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
    "jax_transfer_guard": "allow",
}
"""Options of JAX that change numbers or end a sound program, as JAX has them by itself."""


def configure_jax() -> None:
    """Sets what a program's numbers depend on, and finds the devices to compute on.

    An environment variable of JAX that would set any of it has no effect, and is named.

    Raises:
        ValueError: JAX finds no device.
    """
    for name, value in SETTINGS.items():
        before = getattr(jax.config, name)
        jax.config.update(name, value)
        variable = name.upper()
        if variable in os.environ and before != getattr(jax.config, name):
            print(
                f"note: {variable}={os.environ[variable]} has no effect on this program, so that "
                "its numbers do not depend on it",
                file=sys.stderr,
            )
    try:
        jax.devices()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        asked = " and ".join(
            f"{name}={os.environ[name]}"
            for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
            if os.environ.get(name)
        )
        raise ValueError(
            f"JAX cannot compute on {asked or 'this machine'} ({reason}); leave JAX_PLATFORMS and "
            "JAX_PLATFORM_NAME unset, or set JAX_PLATFORMS=cpu."
        ) from error


def is_address(path: str) -> bool:
    """Whether it is an address such as `gs://bucket/folder`, which would become a folder `gs:`."""
    # A single letter is a drive of Windows.
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path) is not None


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Lets nothing that becomes of standard output or standard error stop the program.

    A character that their encoding lacks is written as its escape. Where the reader has gone away
    (`| head`), or a stream is closed, the program continues in silence. Where output is lost in any
    other way, as on a full disk, it continues too, and ends with a message and exit code 1.

    The block is the whole program: it ends here.
    """
    _take_free_handles()
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout, sys.stderr = map(_lasting, (sys.stdout, sys.stderr))
    code = None
    try:
        yield
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.stdout.flush()
    error = getattr(_raw(sys.stdout), "error", None)
    if error and error.errno != errno.EPIPE:
        print(f"error: not all output could be written: {error.strerror}", file=sys.stderr)
        code = code or 1
    sys.exit(code)


def has_reader() -> bool:
    """Whether all output could be written so far, in a program of `lasting_streams`."""
    return getattr(_raw(sys.stdout), "error", None) is None


def _take_free_handles() -> None:
    """Takes those of 0, 1 and 2 that are closed, so that no file of results gets their number.

    What libraries write to standard output and standard error would go into it.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)


def _lasting(stream):
    """A stream that writes where another one does, and never fails."""
    if stream is None:  # It was closed before Python started.
        return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
    raw = _raw(stream)
    if not isinstance(raw, io.RawIOBase):  # Another program's own, such as a notebook's.
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(raw)),
        stream.encoding,
        "backslashreplace",
        line_buffering=stream.line_buffering or stream.write_through,
    )


def _raw(stream):
    """What is below the buffer of a text stream; of `python -u` there is no buffer."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


class _Lasting(io.RawIOBase):
    """Writes to another raw stream until that fails, and then nowhere.

    Attributes:
        error: with which it failed.
    """

    def __init__(self, raw: io.RawIOBase):
        self._raw = raw
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data) -> int | None:
        if self.error is None:
            try:
                return self._raw.write(data)
            except OSError as error:
                self.error = error
        return len(data)
