"""Where files go, how they are written (whole or not at all), and whether they are still intact."""

import datetime
import hashlib
import os
import pathlib
import re
import tempfile
from collections.abc import Iterable, Sequence

from seqmodels import program
from train_lib.errors import UserError

SUMS = "SHA256SUMS"
"""Holds the digests of a folder's other files; `sha256sum -c SHA256SUMS` checks them by hand."""

_SUMS_CONTENT = re.compile(rb"([0-9a-f]{64}  .+\n)+")


class Damaged(Exception):
    """Files are not as they were written.

    Attributes:
        names: the files that have changed, if that is what is wrong.
    """

    def __init__(self, text: str, names: Iterable[str] = ()):
        super().__init__(text)
        self.names = set(names)


def local(path: pathlib.Path | str) -> pathlib.Path:
    """The path that a user names, with `~` for the home folder.

    Raises:
        UserError: it is an address, as in `gs://bucket/folder`, which would become a folder called
            `gs:` here; or there is no such home folder; or it is not UTF-8, which reports and
            checkpoints cannot hold.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the name {str(path)!r} is not UTF-8; choose another one.") from error
    if program.is_address(str(path)):
        raise UserError(
            f"{path} is an address, and files are read and written on this machine alone. Copy or "
            "mount what is there, and name the folder."
        )
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error} Name the folder by its full path.") from error


def cache_dir() -> pathlib.Path:
    """The folder for files that can be recreated: `$XDG_CACHE_HOME/seqmodels`.

    Raises:
        UserError: as `local` does, or there is no home folder.
    """
    folder = os.environ.get("XDG_CACHE_HOME")
    if not folder and os.path.expanduser("~") == "~":
        raise UserError("there is no home folder; set XDG_CACHE_HOME to a folder for caches.")
    return local(folder or "~/.cache") / "seqmodels"


def write(path: pathlib.Path, content: bytes | str) -> None:
    """Writes a file so that a reader sees all of it or the old one, even after a crash.

    Raises:
        OSError: the file system reports an error; the old file is then untouched.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def remove(path: pathlib.Path) -> None:
    """Removes a file; once this returns, a crash does not bring it back.

    Raises:
        OSError: the file system reports an error.
    """
    path.unlink()
    _sync(path.parent)


def sums(folder: pathlib.Path, paths: Iterable[pathlib.Path]) -> str:
    """The SHA-256 digests of files in a folder, in the format of `SHA256SUMS`.

    Raises:
        OSError: the file system reports an error.
    """
    lines = []
    for path in sorted(paths):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{digest}  {path.relative_to(folder).as_posix()}\n")
    return "".join(lines)


def names_in_sums(folder: pathlib.Path) -> list[str]:
    """The files that `SHA256SUMS` lists; none if it cannot be read."""
    try:
        content = (folder / SUMS).read_bytes()
    except OSError:
        return []
    if not _SUMS_CONTENT.fullmatch(content):
        return []
    return [_name_in(line) for line in content.splitlines()]


def check_sums(
    folder: pathlib.Path, paths: Iterable[pathlib.Path], names: Sequence[str] = ()
) -> None:
    """Compares the files of a folder with `SHA256SUMS`.

    Args:
        folder: the folder that contains `SHA256SUMS`.
        paths: the files in it that matter, including any that should not be there.
        names: the names of the only files to check; empty: all.

    Raises:
        Damaged: files are changed, missing or unexpected; it has their names.
    """
    if names:
        paths = [path for path in paths if path.name in names]
    try:
        expected, found = (folder / SUMS).read_bytes(), sums(folder, paths).encode()
    except OSError as error:
        raise Damaged(str(error)) from error
    is_read = _SUMS_CONTENT.fullmatch(expected) is not None
    if names and is_read:
        lines = expected.splitlines(keepends=True)
        expected = b"".join(line for line in lines if _name_in(line) in names)
    if expected == found:
        return
    damaged = {SUMS}
    if is_read:
        changed = set(expected.splitlines()) ^ set(found.splitlines())
        damaged = {_name_in(line) for line in changed} or damaged
    raise Damaged(f"changed since they were written: {', '.join(sorted(damaged))}", damaged)


def _name_in(line: bytes) -> str:
    """The file that a line of `SHA256SUMS` names."""
    return line[66:].decode("utf-8", "replace").rstrip("\n")


def publish(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Gives a finished folder its name, once everything in it is on disk.

    Raises:
        OSError: the file system reports an error.
    """
    for part in (*folder.rglob("*"), folder):
        _sync(part)
    folder.rename(path)
    _sync(path.parent)


def _sync(path: pathlib.Path) -> None:
    """Waits until a file, or the list of the files in a folder, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def name_by_time(name: str) -> str:
    """A unique folder under `runs/`, as in `runs/lstm-20260131-235959-123456`."""
    return f"runs/{name}-{datetime.datetime.now():%Y%m%d-%H%M%S-%f}"


def new_folder(option: str, path: str | None, name: str) -> pathlib.Path:
    """Makes the folder that an option names, or one under `runs/` named after the time.

    Raises:
        UserError: it has files in it already, or cannot be made.
    """
    folder = local(path or name_by_time(name))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(
                f"{option}={folder} is not empty, and results are never overwritten. Name a new "
                f"folder, or leave {option} out."
            )
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made: {error}") from error
    return folder
