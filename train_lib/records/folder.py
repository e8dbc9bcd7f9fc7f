"""The folder of a run."""

import json
import os
import pathlib
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

from train_lib import files, settings
from train_lib.errors import UserError
from train_lib.records import legacy
from train_lib.records.changes import EPOCHS, describe_differences, fixed_fields
from train_lib.training import processes

OWN_FILES = {"model.cell": "cell.py", "task.name": "task.py"}
"""Fields that may name a user's own file, and the name of its copy in a run's folder."""

REPORTS = (
    "config.json", *OWN_FILES.values(), "data.json", "vocabulary.txt", "initial.json",
    "metrics.jsonl", *legacy.WEIGHTS, *legacy.WEIGHTS.values(), "predictions.csv", "curves.png",
    "result.json",
)  # fmt: skip
"""What a finished run's folder may hold besides its checkpoints and a task's pictures."""

ANSWERS = ("config.json", *OWN_FILES.values(), "data.json", "vocabulary.txt", "result.json")
"""Those that a finished run answers with, besides its weights."""

CARD = "README.md"
"""The run's model card, which may be edited."""

TESTED = "test_evaluated_after_epochs"
"""In `result.json`, how long the run was each time its test examples were evaluated."""


class InUse(UserError):
    """Another process is using a run's folder."""


class RunFolder:
    """A run's folder, in which nothing of another run is ever overwritten.

    A run is finished once `SHA256SUMS` has the digest of every other file except the model card.
    `checkpoints/` has its own digests.
    """

    def __init__(self, path: pathlib.Path | str):
        self.path = files.local(path)
        self._lock: int | None = None
        self._written: set[str] = set()

    @classmethod
    def open(cls, workdir: str | None, config: ConfigDict) -> "RunFolder":
        """The folder of a new run, or of this one, started before; locked until it is closed.

        Nothing of a new run is written before `begin`. In all processes but the first, it is only a
        name, and nothing is ever written.

        Args:
            workdir: the folder; None: a new one, named after the experiment and the time.
            config: the run's config.

        Raises:
            UserError: it has the files of another run, or of the same run with another config, or
                those of a finished run are not as it wrote them; or it cannot be made.
            InUse: another process is using it.
        """
        folder = cls(processes.from_first(lambda: workdir or files.name_by_time(config.name)))
        if not processes.is_first():
            return folder
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder._take()
            folder._compare(config)
        except OSError as error:
            folder.close()
            raise UserError(_why_no_folder(folder.path, error)) from error
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def open_finished(cls, workdir: str, names: Sequence[str] = ()) -> "RunFolder":
        """The folder of a finished run, whose files are as it wrote them.

        Args:
            workdir: the folder.
            names: the names of the files that matter, say in a copy that has no others. Empty: all.

        Raises:
            UserError: it is not one, or its files are not.
        """
        folder = cls(workdir)
        if not folder.is_finished():
            raise UserError(
                f"{folder.path} is not the folder of a finished run: {folder._why_not_finished()}."
            )
        folder.check(names)
        return folder

    def begin(self, config: ConfigDict) -> None:
        """Writes a new run's config, and the user's own files that it names.

        For an existing run, it records that there will be more epochs. A finished run is then
        unfinished: its reports stay as they are until the longer run writes its own.

        Raises:
            UserError: one of them cannot be read or written.
        """
        if not processes.is_first():
            return
        if self.is_begun():
            self._lengthen(dict(settings.flatten(config)).get(EPOCHS))
            return
        for field, path in own_files(config).items():
            self.write(OWN_FILES[field], _content(path))
        self.write_json("config.json", config.to_dict())

    def _lengthen(self, num_epochs: int | None) -> None:
        """Records more epochs; a kill in between leaves an unfinished run that may still grow."""
        before = self.read_fields().get(EPOCHS)
        if num_epochs == before:
            return
        if self.is_finished():
            found = self.read_json("result.json")
            try:
                files.remove(self.path / files.SUMS)
            except OSError as error:
                raise UserError(f"{self.path / files.SUMS} cannot be removed: {error}") from error
            if TESTED not in found and any(name.startswith("test_") for name in found):
                self.write_json("result.json", found | {TESTED: [before]})  # Of an older version.
        content = self.read_json("config.json")
        content["train"]["num_epochs"] = num_epochs
        self.write_json("config.json", content)

    def close(self) -> None:
        """Lets others use the folder; removes it if the run never began."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            if not any(self.path.iterdir()):
                self.path.rmdir()

    def _take(self) -> None:
        """Locks the folder for this process; the system unlocks it however that ends."""
        if fcntl is None:
            return
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            raise InUse(
                f"another process is at work in --workdir={self.path}. Wait for it to end, or name "
                "another folder."
            ) from None

    def _compare(self, config: ConfigDict) -> None:
        """Compares a config with that of the existing run, if there is one."""
        if self.is_finished():
            self.check()
        if not self.is_begun():
            # A kill in `begin` may have left a copy of a file, or parts of others.
            names = {path.name for path in self.path.iterdir() if not path.name.startswith(".")}
            if names - set(OWN_FILES.values()):
                raise UserError(
                    f"--workdir={self.path} is not empty, and not the folder of a run. Name a new "
                    "folder, or leave --workdir out."
                )
            return
        before, now = (fixed_fields(c) for c in (self.read_json("config.json"), config.to_dict()))
        own = own_files(config)
        for field, path in own.items():
            copy = self.path / OWN_FILES[field]
            if path == copy:  # The run was started with its folder alone.
                now[field] = before.get(field)
            elif copy.is_file() and _content(path) != copy.read_bytes():
                now[field] = f"{path}, which no longer matches {copy}"
        if differing := describe_differences(before, now):
            raise UserError(
                "\n  ".join(
                    [f"--workdir={self.path} has a run in it with another config:", *differing]
                )
                + "\nResume with the config as it was, or name a new folder."
            )

    def read_fields(self) -> dict[str, Any]:
        """The fields, by their paths, of a run begun by any version of this program.

        Raises:
            UserError: they cannot be read.
        """
        return settings.complete(dict(settings.flatten(self.read_json("config.json"))))

    def read_config(self) -> ConfigDict:
        """The config of a run that was begun, with the user's own files as they were then.

        Raises:
            UserError: it cannot be read, or has invalid fields.
        """
        fields = self.read_fields()
        for field, name in OWN_FILES.items():
            if str(fields.get(field, "")).endswith(".py"):
                fields[field] = str(self.path / name)
        return settings.of_fields(fields)

    def is_begun(self) -> bool:
        """Whether it holds a run."""
        return os.path.isfile(self.path / "config.json")  # It raises nothing, whatever the path.

    def _why_not_finished(self) -> str:
        if not os.path.isdir(self.path):
            return "it is a file" if os.path.exists(self.path) else "it does not exist"
        if self.is_begun() and not os.path.isfile(self.path / "result.json"):
            return f"to finish the run, python main.py --workdir={shlex.quote(str(self.path))}"
        return f"it has no {files.SUMS} or no results"

    def is_finished(self) -> bool:
        """Whether the run has ended and reported; a checkpoint's folder has digests too."""
        there = self.is_begun() or os.path.isfile(self.path / "result.json")
        return there and os.path.isfile(self.path / files.SUMS)

    def how_finished(self, config: ConfigDict) -> str:
        """Says that the run has ended; empty: it has not, or it is to have more epochs."""
        if not self.is_finished():
            return ""
        before, now = self.read_fields()[EPOCHS], config.train.num_epochs
        epochs = len(self.read_text("metrics.jsonl").splitlines())
        if now != before and epochs < before:
            return (
                f"is finished: after epoch {epochs} every seed had stopped, so that "
                f"config.train.num_epochs = {now} instead of {before} changes nothing"
            )
        return "is finished" if now == before else ""

    def tested_after(self, epochs: int) -> list[int]:
        """The value of `TESTED` once the test examples are evaluated after this many epochs."""
        there = (self.path / "result.json").is_file()
        before = self.read_json("result.json").get(TESTED, []) if there else []
        return sorted({*before, epochs})

    def finish(self, result: dict) -> None:
        """Writes `result.json`, and then the digests of all files."""
        self.write_json("result.json", result)
        if processes.is_first():
            self.write(files.SUMS, files.sums(self.path, self._reports(self._written)))

    def _reports(self, names: Iterable[str]) -> list[pathlib.Path]:
        """The files of these names, and a run's other reports, if they exist."""
        paths = (self.path / name for name in {*REPORTS, *names} - {files.SUMS, CARD})
        return [path for path in paths if path.is_file()]

    def check(self, names: Sequence[str] = ()) -> None:
        """Compares the files of a finished run with their digests.

        Args:
            names: the names of the files that matter; empty: all.

        Raises:
            UserError: they are not as the run wrote them.
        """
        try:
            files.check_sums(self.path, self._reports(files.names_in_sums(self.path)), names)
        except files.Damaged as error:
            again = ""
            if not {"config.json", *OWN_FILES.values()} & error.names:
                again = (
                    f" Or remove {self.path / files.SUMS}: the command that trained the run then "
                    "makes them again."
                )
            raise UserError(
                f"{self.path} is damaged: {error}. Restore a copy of them.{again}"
            ) from error

    def write(self, name: str, content: bytes | str) -> None:
        """Writes a file, whole or not at all.

        Raises:
            UserError: it cannot be written; an old file is untouched.
        """
        if not processes.is_first():
            return
        try:
            files.write(self.path / name, content)
            self._written.add(name)
        except OSError as error:
            raise UserError(
                f"{self.path / name} cannot be written: {error.strerror or error}. An old file "
                "is untouched. Make sure that there is room and that the folder can be written to, "
                "and start the same command again."
            ) from error

    def write_json(self, name: str, content: dict) -> None:
        self.write(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_bytes(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise UserError(f"{self.path / name} cannot be read: {error}") from error

    def read_text(self, name: str) -> str:
        """The text as it was written, with its line ends."""
        try:
            return self.read_bytes(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path / name} cannot be read: {error}") from error

    def read_json(self, name: str) -> dict:
        try:
            content = json.loads(self.read_text(name))
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{self.path / name} is damaged: {error}") from error
        if not isinstance(content, dict):
            raise UserError(f"{self.path / name} is damaged: it is not a JSON object.")
        return content


def own_files(config: ConfigDict) -> dict[str, pathlib.Path]:
    """The user's own files that a config names, by the fields that name them.

    Baselines have no cell.
    """
    fields = dict(settings.flatten(config))
    paths = {field: pathlib.Path(str(fields.get(field, ""))) for field in OWN_FILES}
    return {field: path for field, path in paths.items() if path.suffix == ".py"}


def _why_no_folder(path: pathlib.Path, error: OSError) -> str:
    for file in (path, *path.parents):
        if os.path.isfile(file):
            return f"the run folder cannot be {path}: {file} is a file; name another folder"
    return f"the run folder {path} cannot be used: {error.strerror or error}"


def _content(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
