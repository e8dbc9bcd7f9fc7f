"""Workers that `submitit` starts: as SLURM jobs, or as processes on this machine."""

import pathlib
import subprocess
from collections.abc import Sequence
from typing import Any

from train_lib.errors import UserError

CLUSTERS = ("local", "slurm")

_DEFAULTS = {"name": "sweep", "timeout_min": 24 * 60}
"""Without them, submitit would end a worker after minutes."""


def submit(
    folder: pathlib.Path, words: Sequence[str], count: int, cluster: str, options: dict[str, Any]
) -> list:
    """Starts workers, and does not wait for them.

    Args:
        folder: the folder for their logs.
        words: the command of a worker.
        count: the number of workers.
        cluster: one of `CLUSTERS`.
        options: options of `submitit.AutoExecutor.update_parameters`.

    Returns:
        The jobs, as submitit objects.

    Raises:
        UserError: submitit is not installed, or it refuses.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            f"--submitit={cluster} needs the package submitit: pip install submitit."
        ) from error
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
        executor.update_parameters(**(_DEFAULTS | options))
        return [executor.submit(subprocess.run, list(words), check=True) for _ in range(count)]
    except (
        AssertionError, NameError, OSError, RuntimeError, TypeError, ValueError,
        submitit.core.utils.FailedSubmissionError,
    ) as error:  # fmt: skip
        raise UserError(f"--submitit={cluster} cannot start workers: {error}") from error
