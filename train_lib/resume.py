"""When a run is saved, and where it goes on."""

import hashlib
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from train_lib import metrics, processes, report
from train_lib.checkpoint import Checkpoints
from train_lib.data.dataset import Dataset
from train_lib.errors import Diverged, Stopped, UserError
from train_lib.interrupts import Interrupts
from train_lib.progress import Stopwatch
from train_lib.state import Position, Training


class Keeper:
    """Saves a run when it is time to, or when it is asked to end, and finds what was saved.

    Args:
        config: of the run.
        seeds: that it trains.
        folder: of the run.
        data: that it trains on.
        mesh: that it computes on.
        stopwatch: of the run.
    """

    def __init__(
        self,
        config: ConfigDict,
        seeds: Sequence[int],
        folder: report.RunFolder,
        data: Dataset,
        mesh: Mesh,
        stopwatch: Stopwatch,
    ):
        self._every_seconds = config.train.checkpoint_every_seconds
        self._every_steps = config.train.checkpoint_every_steps
        self._seeds = seeds
        self._folder = folder
        self._checkpoints = Checkpoints(folder.path / "checkpoints", config.train.checkpoints_kept)
        self._stopwatch = stopwatch
        # What numbers depend on. The folder compares the config with that in `config.json`; this
        # is for where a hand has changed both.
        fields = report.fixed_fields(config.to_dict())
        if (cell := pathlib.Path(config.model.cell)).suffix == ".py":
            digest = hashlib.sha256(cell.read_bytes()).hexdigest()
            fields["model.cell"] = f"a file with the SHA-256 {digest}"
        self._circumstances: dict[str, Any] = {
            "config": fields,
            "data": data.fingerprint,
            "devices": report.describe_mesh(mesh),
            "versions": report.versions(),
        }
        self._interrupts = Interrupts()
        self._unchecked: list[tuple[int, metrics.Sums]] = []

    def __enter__(self) -> "Keeper":
        self._interrupts.__enter__()
        return self

    def __exit__(self, error_type, *_) -> None:
        try:
            self._checkpoints.wait()
        except UserError:
            if error_type is None:  # Else what went wrong first is told.
                raise
        finally:
            self._interrupts.__exit__()
        if self._interrupts.asked and error_type is None:
            raise self._stopped(self._interrupts.asked, "too late to save")

    def start(self, training: Training, position: Position) -> tuple[Training, Position]:
        """Where the run was when it was last saved, or, if it never was, what is given.

        Raises:
            UserError: the data have changed since, or nothing that was saved is intact; or this
                process does not have what the first one has.
        """
        of_first = processes.from_first(lambda: self._circumstances)
        for name, mine in self._circumstances.items():
            if mine != of_first[name]:
                raise UserError(
                    f"processes do not have the same {name}: the first one has {of_first[name]}, "
                    f"this one {mine}."
                )
        saved = self._checkpoints.restore(training)
        if saved is not None:
            of_run = saved.position
            self._compare(of_run["circumstances"])
            training, position = saved.state, Position.from_json(of_run["position"])
            self._stopwatch.add(of_run["seconds"])
            print(f"goes on from step {saved.step:,}, in epoch {position.epoch}\n", flush=True)
        self._folder.write_metrics(position.rows)
        self._saved_at, self._saved_step = time.monotonic(), saved.step if saved else 0
        return training, position

    def _compare(self, before: dict) -> None:
        now = self._circumstances
        if differing := report.describe_differences(before["config"], now["config"]):
            raise UserError(
                "\n  ".join([f"{self._folder.path} was saved with another config:", *differing])
                + "\nGo on with the config as it was, or start in a new folder."
            )
        if before["data"] != now["data"]:
            raise UserError(
                f"{self._folder.path} was trained on data with the fingerprint {before['data']}, "
                f"and now there are others: {now['data']}. Bring those back, or start in a new "
                "folder."
            )
        for name in ("devices", "versions"):
            if before[name] != now[name]:
                print(
                    f"notice: {name} were {before[name]} and are {now[name]}: what follows is no "
                    "longer bit for bit what it would have been",
                    flush=True,
                )

    def after_call(self, step: int, training: Training, position: Position) -> None:
        """Looks at what a call gave, saves if it is time to, and ends the run if it was asked to.

        Waits for the call before, so that the host is one ahead of the device, and no more.

        Args:
            step: updates made so far.
            training, position: after the call.

        Raises:
            Diverged: no seed's loss and gradient are finite any more.
            UserError: it could not be saved.
            Stopped: the run was asked to end, and has been saved.
        """
        self._unchecked.append((step, position.sums[-1]))
        self._check(position, up_to=-1)
        asked = processes.from_any(self._interrupts.asked)
        if asked or processes.from_first(lambda: self._is_due(step)):
            self._check(position)
            self._save(step, training, position, asked)

    def _save(self, step: int, training: Training, position: Position, asked: str) -> None:
        """Saves, and ends the run if it was asked to."""
        content = {
            "position": position.to_json(),
            "circumstances": self._circumstances,
            "seconds": self._stopwatch.report(),
        }
        self._checkpoints.save(step, training, content)
        self._saved_at, self._saved_step = time.monotonic(), step
        if asked:
            self._checkpoints.wait()
            raise self._stopped(asked, f"saved after step {step:,}")

    def _stopped(self, asked: str, what: str) -> Stopped:
        path = self._folder.path
        return Stopped(
            f"{asked}: {what}. The same command goes on from the last checkpoint in {path}; of "
            f"main.py, with --workdir={path}."
        )

    def _is_due(self, step: int) -> bool:
        """Whether it is time to save."""
        seconds, steps = time.monotonic() - self._saved_at, step - self._saved_step
        return 0 < self._every_seconds < seconds or 0 < self._every_steps <= steps

    def after_epoch(
        self, step: int, training: Training, position: Position, validation: metrics.Metrics
    ) -> None:
        """Looks at what all calls of an epoch and its validation gave; ends the run if asked to.

        Args:
            step: updates made so far.
            training, position: after the last call.
            validation: of all seeds.

        Raises:
            Diverged: no seed's loss and gradient are finite any more.
            UserError: it could not be saved.
            Stopped: the run was asked to end, and has been saved.
        """
        self._check(position)
        for seed, loss in zip(self._seeds, validation.loss, strict=True):
            if not np.isfinite(loss) and seed not in position.diverged:
                self._diverged(position, seed, step)
        if asked := processes.from_any(self._interrupts.asked):
            self._save(step, training, position, asked)

    def _check(self, position: Position, up_to: int | None = None) -> None:
        """Takes down seeds that have diverged in the calls that have been made, the last or not."""
        for last, sums_KxS in self._unchecked[:up_to]:
            loss_KxS = np.asarray(sums_KxS.loss)
            steps = int((np.asarray(sums_KxS.reviews)[0] > 0).sum())
            for seed, loss_S in zip(self._seeds, loss_KxS, strict=True):
                bad = np.flatnonzero(~np.isfinite(loss_S))
                if len(bad) and seed not in position.diverged:
                    self._diverged(position, seed, last - steps + int(bad[0]) + 1)
        self._unchecked = self._unchecked[up_to:] if up_to is not None else []

    def _diverged(self, position: Position, seed: int, step: int) -> None:
        """Takes down that a seed's loss or gradient was not finite at a step.

        Raises:
            Diverged: there is none left whose are.
        """
        position.diverged[seed] = step
        epoch = position.epoch
        what = (
            f"seed {seed}: the loss or its gradient is not finite at step {step:,}, epoch {epoch}"
        )
        if len(position.diverged) < len(self._seeds):
            print(f"notice: {what}; the other seeds go on, and figures are of them", flush=True)
            return
        last = processes.from_first(lambda: str(self._checkpoints.newest() or ""))
        saved = f"The last good checkpoint is {last}" if last else "Nothing was saved yet"
        raise Diverged(
            f"{what}. {saved}. A lower config.train.learning_rate, or config.train.clip_norm=1, "
            "may prevent it."
        )
