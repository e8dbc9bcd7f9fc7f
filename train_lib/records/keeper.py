"""When a run is saved, and where it resumes."""

import hashlib
import pathlib
import time
from typing import Any

from ml_collections import ConfigDict

from train_lib.data.dataset import Dataset
from train_lib.errors import Stopped, UserError
from train_lib.records import environment, legacy
from train_lib.records.changes import describe_differences, fixed_fields
from train_lib.records.checkpoint import Checkpoints
from train_lib.records.folder import RunFolder, own_files
from train_lib.records.interrupts import Interrupts
from train_lib.training import processes
from train_lib.training.fitting import Start
from train_lib.training.hooks import Hook, Moment
from train_lib.training.program import Program
from train_lib.training.state import Position
from train_lib.training.stopwatch import Stopwatch


class Keeper(Hook):
    """Saves a run when it is due, or when it is asked to end, and finds what was saved.

    Args:
        config: the run's config.
        folder: its folder.
        data: the data it trains on.
        program: the program it trains.
        stopwatch: its stopwatch.
    """

    def __init__(
        self,
        config: ConfigDict,
        folder: RunFolder,
        data: Dataset,
        program: Program,
        stopwatch: Stopwatch,
    ):
        self._every_seconds = config.train.checkpoint_every_seconds
        self._every_steps = config.train.checkpoint_every_steps
        self._folder = folder
        self._checkpoints = Checkpoints(folder.path / "checkpoints", config.train.checkpoints_kept)
        self._stopwatch = stopwatch
        # What results depend on. The folder compares the config with that in `config.json`; this
        # catches edits to both.
        fields = fixed_fields(config.to_dict())
        for field, path in own_files(config).items():
            digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
            fields[field] = f"a file with the SHA-256 {digest}"
        self._circumstances: dict[str, Any] = {
            "config": fields,
            "data": data.fingerprint,
            "devices": environment.describe_mesh(program.mesh),
            "versions": environment.versions(),
        }
        self._interrupts = Interrupts()

    def __enter__(self) -> "Keeper":
        self._interrupts.__enter__()
        return self

    def __exit__(self, error_type, *_) -> None:
        try:
            self._checkpoints.wait()
        except UserError:
            if error_type is None:  # Else the first error is reported.
                raise
        finally:
            self._interrupts.__exit__()
        if self._interrupts.asked and error_type is None:
            raise self._stopped(self._interrupts.asked, "too late to save")

    def resume(self, begin: Start) -> Start:
        """Where the run was last saved or, if it never was, what is given.

        Raises:
            UserError: the data have changed since, or nothing that was saved is intact; or this
                process differs from the first one; or the run is finished, and would not continue
                as it would have.
        """
        of_first = processes.from_first(lambda: self._circumstances)
        for name, mine in self._circumstances.items():
            if mine != of_first[name]:
                raise UserError(
                    f"processes do not have the same {name}: the first one has {of_first[name]}, "
                    f"this one {mine}."
                )
        saved = self._checkpoints.restore(begin.training)
        is_finished = processes.from_first(self._folder.is_finished)
        if saved is None:
            if is_finished:
                self._check_start(
                    processes.from_first(lambda: self._folder.read_json("result.json"))
                )
            return begin
        of_run = saved.position
        self._compare(of_run["circumstances"], is_finished=is_finished)
        position = Position.from_json(legacy.position(of_run["position"]))
        self._stopwatch.add(of_run["seconds"])
        print(f"resuming from step {saved.step:,}, in epoch {position.epoch}\n", flush=True)
        return Start(saved.state, position)

    def _check_start(self, result: dict) -> None:
        """Whether a finished run without a checkpoint may train again from its first step."""
        path, seconds = self._folder.path, result["seconds"]["train"]
        if seconds >= self._every_seconds:
            raise UserError(
                f"{path} is finished and has no checkpoint from which it could resume for more "
                f"epochs. Restore {path / 'checkpoints'}, or train the longer run in a new folder."
            )
        self._compare_data(result["dataset"]["fingerprint"])
        print(
            f"no checkpoint was due in the {seconds:.0f} seconds of training: the longer run "
            "starts from the first step\n",
            flush=True,
        )

    def _compare(self, before: dict, *, is_finished: bool) -> None:
        now = self._circumstances
        fields = fixed_fields(before["config"])
        if differing := describe_differences(fields, now["config"]):
            raise UserError(
                "\n  ".join([f"{self._folder.path} was saved with another config:", *differing])
                + "\nResume with the config as it was, or start in a new folder."
            )
        self._compare_data(before["data"])
        for name in ("devices", "versions"):
            if before[name] == now[name]:
                continue
            changed = f"{name} were {before[name]} and are {now[name]}"
            if is_finished:
                raise UserError(
                    f"{self._folder.path} is finished, and would not continue as it would have: "
                    f"{changed}. Restore the former, or train the longer run in a new folder."
                )
            print(
                f"notice: {changed}: what follows is no longer bit for bit what it would have been",
                flush=True,
            )

    def _compare_data(self, before: str) -> None:
        now = self._circumstances["data"]
        if before != now:
            raise UserError(
                f"{self._folder.path} was trained on data with the fingerprint {before}, but now "
                f"they have {now}. Restore the former, or start in a new folder."
            )

    def before(self, moment: Moment) -> None:
        self._saved_at, self._saved_step = time.monotonic(), moment.step

    def after_call(self, moment: Moment, examples: int) -> None:
        """Saves if it is due, and ends the run if it was asked to.

        Raises:
            UserError: it could not be saved.
            Stopped: the run was asked to end, and has been saved.
        """
        asked = processes.from_any(self._interrupts.asked)
        if asked or processes.from_first(lambda: self._is_due(moment.step)):
            self._save(moment, asked)

    def after_epoch(self, moment: Moment) -> None:
        """Ends the run if it was asked to; raises as `after_call` does."""
        if asked := processes.from_any(self._interrupts.asked):
            self._save(moment, asked)

    def _save(self, moment: Moment, asked: str) -> None:
        """Saves, and ends the run if it was asked to."""
        moment.settle()
        content = {
            "position": moment.position.to_json(),
            "circumstances": self._circumstances,
            "seconds": self._stopwatch.report(),
        }
        self._checkpoints.save(moment.step, moment.training, content)
        self._saved_at, self._saved_step = time.monotonic(), moment.step
        if asked:
            self._checkpoints.wait()
            raise self._stopped(asked, f"saved after step {moment.step:,}")

    def _stopped(self, asked: str, what: str) -> Stopped:
        path = self._folder.path
        return Stopped(
            f"{asked}: {what}. To resume, run the same command again; main.py needs "
            f"--workdir={path}."
        )

    def _is_due(self, step: int) -> bool:
        """Whether a save is due."""
        seconds, steps = time.monotonic() - self._saved_at, step - self._saved_step
        return 0 < self._every_seconds < seconds or 0 < self._every_steps <= steps

    def last_saved(self) -> str:
        """A sentence on where the last good checkpoint is."""
        last = processes.from_first(lambda: str(self._checkpoints.newest() or ""))
        return f"The last good checkpoint is {last}" if last else "Nothing was saved yet"
