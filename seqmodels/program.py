"""Keeps a program's environment from changing its numbers, crashing it, or losing its results.

Used by every program of `seqmodels` and `train_lib`, at its start.
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
"""JAX options that change numbers or end a correct program, with JAX's defaults."""

COMPILER_FLAGS = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"
"""One loop on a CPU instead of several that read the same arrays. Other backends ignore it.

With `--xla_cpu_use_fusion_emitters=false`, compiling `newton` would then take all memory.
"""


def configure_jax() -> None:
    """Sets the options that a program's numbers depend on, and finds the devices to compute on.

    JAX environment variables for these options have no effect, and a note names them. If JAX has
    not been used before, its compiler gets `COMPILER_FLAGS`.

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
        with _compiler_flags():
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


@contextlib.contextmanager
def _compiler_flags() -> Iterator[None]:
    """Within it, JAX sees `COMPILER_FLAGS` in the environment; it reads them once."""
    given = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = f"{COMPILER_FLAGS} {given or ''}"
    try:
        yield
    finally:
        del os.environ["XLA_FLAGS"]
        if given is not None:
            os.environ["XLA_FLAGS"] = given


def is_address(path: str) -> bool:
    """Whether it is a URL such as `gs://bucket/folder`, which would become a folder `gs:`."""
    # A single letter is a Windows drive.
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path) is not None


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Keeps the program running, whatever happens to standard output or standard error.

    A character that their encoding lacks is written as an escape. If the reader has gone away
    (`| head`), or a stream is closed, the program continues silently. If output is lost in any
    other way, as on a full disk, it continues too, but ends with a message and exit code 1.

    The block is the whole program: leaving it exits.
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
    """Whether all output could be written so far, within `lasting_streams`."""
    return getattr(_raw(sys.stdout), "error", None) is None


def _take_free_handles() -> None:
    """Opens those of descriptors 0, 1 and 2 that are closed, so that no result file gets them.

    Otherwise what libraries write to standard output and standard error would go into that file.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)


def _lasting(stream):
    """A stream that writes to the same place as another one, and never fails."""
    if stream is None:  # It was closed before Python started.
        return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
    raw = _raw(stream)
    if not isinstance(raw, io.RawIOBase):  # A replacement, such as a notebook's.
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(raw)),
        stream.encoding,
        "backslashreplace",
        line_buffering=stream.line_buffering or stream.write_through,
    )


def _raw(stream):
    """The raw stream below a text stream's buffer; with `python -u` there is no buffer."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


class _Lasting(io.RawIOBase):
    """Writes to another raw stream until that fails, then discards all output.

    Attributes:
        error: the error with which it failed; None if it has not.
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
