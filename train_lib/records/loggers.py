"""Logs a run's metrics for programs that show them: TensorBoard, and Weights & Biases."""

import importlib.util
import json
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from train_lib import settings
from train_lib.errors import UserError
from train_lib.records.folder import RunFolder
from train_lib.training import processes
from train_lib.training.hooks import Hook, Moment


class Logger(Hook):
    """Shows a run, each seed as a run of its own.

    It begins with all known epochs, so that each appears once, however often the run was killed,
    and so do those from before there was a logger.

    Args:
        folder: the run's folder.
        config: its config.
        seeds: its seeds.

    Attributes:
        name: the name by which it is asked for.
        package: the package it needs.
    """

    name = package = ""

    def __init__(self, folder: RunFolder, config: ConfigDict, seeds: Sequence[int]):
        self.folder, self.path = folder, folder.path.resolve()
        self.config = config.to_dict()
        self.seeds = seeds
        self._step = 0

    def before(self, moment: Moment) -> None:
        self.begin(moment.position.rows)

    def after_epoch(self, moment: Moment) -> None:
        self.log(moment.position.rows[-1])

    def begin(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Begins anew, with these epochs.

        Args:
            rows: one for each epoch, as in `fit` or a line of `metrics.jsonl`.

        Raises:
            UserError: it cannot begin or, like the methods below, cannot write.
        """
        self._guarded(self.open)
        for row in rows:
            self.log(row)

    def log(self, row: Mapping[str, Any]) -> None:
        """Adds an epoch, at the number of updates made."""
        self._step = row["step"]
        for number in range(len(self.seeds)):
            values = {
                _tag(name): values_K[number]
                for name, values_K in row["seeds"].items()
                if values_K[number] is not None
            }
            self._guarded(self.write, number, self._step, values | {"epoch": row["epoch"]})

    def finish(self, result: Mapping[str, Any]) -> None:
        """Adds the test results of `result.json`, and ends."""
        for number, seed in enumerate(result["seeds"]):
            tested = {
                _tag(name): value
                for name, value in seed.items()
                if name.startswith("test_") and isinstance(value, float)
            }
            self._guarded(self.write_test, number, self._step, tested)
        self._guarded(self.close)

    def replay(self, result: Mapping[str, Any]) -> None:
        """Shows a run that has ended."""
        lines = self.folder.read_text("metrics.jsonl").splitlines()
        self.begin(map(json.loads, lines))
        self.finish(result)

    def _guarded(self, function, *arguments) -> None:
        try:
            function(*arguments)
        except Exception as error:  # The package may raise anything.
            raise UserError(f"{self.package} cannot log to {self.path}: {error}") from error

    def open(self) -> None:
        """Begins a run for each seed."""
        raise NotImplementedError

    def write(self, number: int, step: int, values: dict[str, float]) -> None:
        """Writes a seed's values after `step` updates."""
        raise NotImplementedError

    def write_test(self, number: int, step: int, values: dict[str, float]) -> None:
        """Writes what a seed scored in the test."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends, whether or not the run has ended."""


def _tag(name: str) -> str:
    """A metric's tag, as in `validation/loss`; the learning rate belongs to training."""
    split, _, rest = name.partition("_")
    return f"{split}/{rest}" if split in ("train", "validation", "test") else f"train/{name}"


class TensorBoard(Logger):
    """Event files in `WORKDIR/tensorboard/seed-0/` and so on."""

    name, package = "tensorboard", "tensorboardX"

    def open(self) -> None:
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._event, self._summary = event_pb2.Event, summary
        folder = self.path / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        # Its SummaryWriter writes in a thread, and waits forever if that has failed.
        self._writers = []
        for seed in self.seeds:
            path = folder / f"seed-{seed}"
            path.mkdir(parents=True)
            self._writers.append(EventsWriter(str(path / "events")))
        # A TensorBoard that has read earlier events then forgets them.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        text = summary.text("config", f"```\n{json.dumps(self.config, indent=2)}\n```")
        for number in range(len(self.seeds)):
            self._write(number, 0, session_log=start)
            self._write(number, 0, summary=text)

    def write(self, number: int, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._write(number, step, summary=self._summary.scalar(name, value))
        self._writers[number].flush()

    def write_test(self, number: int, step: int, values: dict[str, float]) -> None:
        self.write(number, step, values)
        fields = {
            path: value if isinstance(value, bool | int | float | str) else str(value)
            for path, value in settings.flatten(self.config)
        }
        for of_parameters in self._summary.hparams(fields, values):
            self._write(number, step, summary=of_parameters)
        self._writers[number].flush()

    def _write(self, number: int, step: int, **what) -> None:
        self._writers[number].write_event(self._event(step=step, wall_time=time.time(), **what))

    def close(self) -> None:
        for writer in self.__dict__.pop("_writers", []):
            writer.close()


class Wandb(Logger):
    """A run for each seed in `WORKDIR/wandb/`, in a group; nothing leaves the machine.

    If the environment has `WANDB_MODE=online`, they are sent, and resume there.
    """

    name = package = "wandb"

    def open(self) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode == "offline":  # Else it sends reports of its own errors.
            os.environ["WANDB_ERROR_REPORTING"] = "false"
        import wandb

        folder = self.path / "wandb"
        if mode == "offline":  # All that is there will be written again.
            for earlier in folder.glob("offline-run-*"):
                shutil.rmtree(earlier)
        name = self._name(folder / "id")
        self._runs = [
            wandb.init(
                project=self.config["name"],
                group=f"{self.path.name}-{name}",
                name=f"{self.path.name}-seed-{seed}",
                id=f"{name}-{seed}",
                config=self.config | {"seed": seed},
                dir=str(self.path),
                mode=mode,
                resume=None if mode == "offline" else "allow",
                reinit="create_new",
                settings={"console": "off", "silent": True},
            )
            for seed in self.seeds
        ]

    @staticmethod
    def _name(path: pathlib.Path) -> str:
        """A name for the run in this folder and in no other."""
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_text(uuid.uuid4().hex[:8])
        return path.read_text()

    def write(self, number: int, step: int, values: dict[str, float]) -> None:
        if step >= self._runs[number].starting_step:  # Else it was sent before.
            self._runs[number].log(values, step=step)

    def write_test(self, number: int, step: int, values: dict[str, float]) -> None:
        self._runs[number].summary.update(values)

    def close(self) -> None:
        for run in self.__dict__.pop("_runs", []):
            run.finish()


LOGGERS: dict[str, type[Logger]] = {logger.name: logger for logger in (TensorBoard, Wandb)}


def find(names: Sequence[str]) -> list[type[Logger]]:
    """The loggers of these names, whose packages are installed; none if this process never writes.

    Raises:
        UserError: there is no such logger, or its package is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise UserError(f"--log={name} is not one of {', '.join(LOGGERS)}.")
    if not processes.is_first():
        return []
    found = [LOGGERS[name] for name in dict.fromkeys(names)]
    for logger in found:
        if importlib.util.find_spec(logger.package) is None:
            raise UserError(
                f"--log={logger.name} needs {logger.package}, which is not installed: pip install "
                f"{logger.package}"
            )
    return found
