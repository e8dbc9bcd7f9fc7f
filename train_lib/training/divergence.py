"""Seeds whose loss or gradient is no longer finite."""

from collections.abc import Sequence

import numpy as np

from train_lib.errors import Diverged
from train_lib.training.state import Position
from train_lib.training.steps import Sums


class Divergence:
    """Records in a position which seeds have diverged, and when.

    Args:
        seeds: the seeds being trained.
        position: the position of the fit.
    """

    def __init__(self, seeds: Sequence[int], position: Position):
        self._seeds = seeds
        self._position = position
        self._unchecked: list[tuple[int, int, Sums]] = []

    def watch(self, step: int, steps: int, sums_KxS: Sums) -> None:
        """Checks the results of the previous call, and keeps those of this one for later.

        So the host is one call ahead of the device, and no more.

        Args:
            step: updates made after this call.
            steps: the number of steps in this call.
            sums_KxS: the sums of its steps, and of the empty ones that fill up the call.

        Raises:
            Diverged: no seed has a finite loss and gradient any more.
        """
        waiting, self._unchecked = self._unchecked, [(step, steps, sums_KxS)]
        self._check(waiting)

    def settle(self) -> None:
        """Checks the results of all calls; raises as `watch` does."""
        waiting, self._unchecked = self._unchecked, []
        self._check(waiting)

    def check_validation(self, step: int, loss_K: np.ndarray) -> None:
        """Checks each seed's validation loss; raises as `watch` does."""
        for seed, loss in zip(self._seeds, loss_K, strict=True):
            if not np.isfinite(loss):
                self._note(seed, step)

    def _check(self, calls: Sequence[tuple[int, int, Sums]]) -> None:
        for last, steps, sums_KxS in calls:
            loss_KxS = np.asarray(sums_KxS["loss"])[:, :steps]
            for seed, loss_S in zip(self._seeds, loss_KxS, strict=True):
                bad = np.flatnonzero(~np.isfinite(loss_S))
                if len(bad):
                    self._note(seed, last - steps + int(bad[0]) + 1)

    def _note(self, seed: int, step: int) -> None:
        if seed in self._position.diverged:
            return
        self._position.diverged[seed] = step
        epoch = self._position.epoch
        what = (
            f"seed {seed}: the loss or its gradient is not finite at step {step:,}, epoch {epoch}"
        )
        if len(self._position.diverged) == len(self._seeds):
            raise Diverged(f"{what}.")
        print(f"notice: {what}; the other seeds continue, and figures are theirs", flush=True)
