"""Several processes, one per host, that train together; a single process pays nothing for this.

All do the same at the same time, on a mesh of all their devices. Only the first one reads and
writes the run's folder, prints, and decides what depends on a clock. It sends the others what they
need of that, so they need none of its files.
"""

import contextlib
import itertools
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

# Before JAX is used, only this gives the number of processes and lets them communicate.
from jax._src.distributed import global_state

from train_lib.errors import STOPPED, UserError

T = TypeVar("T")

START_SECONDS = 60
"""All processes must be started within this time."""

_LOST_SECONDS = 30  # Without a heartbeat. A broken connection is noticed at once.
_EVER = 2**31 - 1  # Milliseconds; losing a process ends the wait.
_LOST = (
    "another process of this run has ended or cannot be reached any more; its last output says "
    "why. Start all of them again, with the same commands and the run's --workdir, to resume from "
    "the last checkpoint."
)
_numbers = itertools.count()


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Makes this process one of several; call it before JAX is first used.

    Without arguments, the cluster's environment provides them.

    Args:
        coordinator: `host:port` of the first process, where it waits for the others.
        num_processes: the number of processes.
        process_id: the number of this one, from 0.

    Raises:
        UserError: it cannot join. (If the others do not join, the process is aborted with a
            message.)
    """
    _put_fatal_errors_plainly(
        f"the processes did not all find each other within {START_SECONDS} seconds. Check that "
        "each was started, with its own --process_id and the same --num_processes and "
        f"--coordinator ({coordinator or 'as set by the cluster'}), and that the first one's host "
        "and port can be reached from the others."
    )
    # It would take over SIGTERM.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if coordinator and process_id == 0:  # JAX may crash if the port is taken.
            socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=_LOST_SECONDS,
        )
    except ValueError as error:
        raise UserError(
            f"--distributed finds no cluster whose environment JAX can read ({error}) Give "
            "--coordinator, --num_processes and --process_id instead."
        ) from error
    except (OSError, OverflowError, RuntimeError) as error:
        raise UserError(
            f"the first process cannot wait for the others at --coordinator={coordinator}: {error}"
        ) from error
    if not is_first():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _put_fatal_errors_plainly(when_starting: str) -> None:
    """Pipes this process's standard error through `fatal_log.py`."""
    program = pathlib.Path(__file__).with_name("fatal_log.py")
    reader = subprocess.Popen(
        [sys.executable, "-I", program, when_starting, _LOST],
        stdin=subprocess.PIPE,
        start_new_session=True,  # So that a Ctrl-C does not end it before this process.
    )
    assert reader.stdin is not None
    os.dup2(reader.stdin.fileno(), sys.stderr.fileno())
    reader.stdin.close()


def count() -> int:
    """The number of processes."""
    return global_state.num_processes


def is_first() -> bool:
    """Whether this is the process that reads, writes and prints."""
    return global_state.process_id == 0


def from_first(make: Callable[[], T]) -> T:
    """Returns in every process what `make` returns in the first, the only caller; a JSON value."""
    if count() == 1:
        return make()
    key = f"from_first/{next(_numbers)}"
    if not is_first():
        return json.loads(_store().blocking_key_value_get(key, _EVER))
    value = make()
    _store().key_value_set(key, json.dumps(value))
    return value


def from_any(text: str) -> str:
    """A text that at least one of the processes has, the same in all; empty if none has one.

    Waits for the first process only, so another process's text may arrive at a later call.
    """
    if text and not is_first():
        _store().key_value_set("from_any", text, allow_overwrite=True)
    return from_first(lambda: text or _text_of_others())


def _text_of_others() -> str:
    if count() > 1:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # There is no such key.
            return _store().key_value_try_get("from_any")
    return ""


def _store() -> Any:
    """A key-value store that all processes can read and write."""
    return global_state.client


def wait_for_all() -> None:
    """Returns when all processes have reached this call."""
    if count() > 1:
        _store().wait_at_barrier(f"wait_for_all/{next(_numbers)}", _EVER)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends this process at once if it fails: JAX would wait for the others, and they for it."""
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        if count() == 1 or code in (None, 0, STOPPED):
            raise
        if re.search("gloo|nccl|unavailable", str(error), re.IGNORECASE):
            print(f"error: {_LOST}", file=sys.stderr)
        elif not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
