"""Sources that are recognised by a file's suffix or a folder's contents."""

from train_lib import files
from train_lib.data.readers import texts
from train_lib.data.readers.arrays import Arrays
from train_lib.data.readers.base import SPLIT_NAMES, Files, split_of
from train_lib.data.readers.conll import Conll
from train_lib.data.readers.prepared import PREFIX, Prepared
from train_lib.data.readers.running import RunningText
from train_lib.data.readers.series import Series
from train_lib.data.readers.tables import Tables
from train_lib.data.readers.texts import Texts
from train_lib.errors import UserError

READERS: tuple[type[Files], ...] = (Tables, Conll, Series, Arrays, RunningText)
"""Readers of files; add new formats here."""

SUFFIXES = tuple(suffix for reader in READERS for suffix in reader.suffixes)

KINDS = (
    f"a file ({', '.join(SUFFIXES)}), a folder with train.*, validation.* and test.* of one of "
    f"these, a folder of texts by class (pos/1.txt), or {PREFIX}NAME"
)
"""The kinds of data that can be read, for people."""


def reader_of(source: str) -> type | None:
    """The class that reads a file or folder of data, taking its path first; None: there is none.

    Raises:
        UserError: it is a folder with no data or several kinds of data, or a file of an unknown
            kind.
    """
    if source.startswith(PREFIX):
        return Prepared
    path = files.local(source)
    if path.is_dir() and source:
        found = {
            reader
            for one in path.iterdir()
            for reader in READERS
            if split_of(one, reader.suffixes) is not None
        }
        if len(found) == 1:
            return found.pop()
        if not found and texts.is_by_class(path):
            return Texts
        what = "files of several kinds for its splits" if found else "no data that can be read"
        names = ", ".join(SPLIT_NAMES)
        raise UserError(
            f"{path} is a folder with {what}. It must have one file for each split, called "
            f"{names} (train.csv), or a folder for each class with its texts (pos/1.txt, or "
            "train/pos/1.txt and test/pos/1.txt)."
        )
    for reader in READERS:
        if path.suffix.lower() in reader.suffixes:
            return reader
    if path.is_file():
        raise UserError(f"{path} is not of a kind that can be read. A source is {KINDS}.")
    return None
