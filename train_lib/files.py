"""Where files go, and how they are written: whole or not at all."""

import os
import pathlib
import tempfile


def cache_dir() -> pathlib.Path:
    """The folder for what can be made again: `$XDG_CACHE_HOME/seqmodels`."""
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "seqmodels"


def write(path: pathlib.Path, content: bytes | str) -> None:
    """Writes a file so that a reader, or a crash, sees all of it or the old one.

    Raises:
        OSError: as the file system has it; the old file is then untouched.
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


def publish(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Gives a finished folder its name, once all that is in it is on the disk.

    Raises:
        OSError: as the file system has it.
    """
    for part in (*folder.rglob("*"), folder):
        _sync(part)
    folder.rename(path)
    _sync(path.parent)


def _sync(path: pathlib.Path) -> None:
    """Waits until a file, or the list of the files in a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
