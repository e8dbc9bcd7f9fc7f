"""Reads the vectors of a vocabulary's words from a file, whatever else is in it.

* Text: a word and its D numbers per line, separated by spaces. GloVe's files have this form; those
  of word2vec and fastText (.vec) begin with a line that has the number of words and D. The numbers
  are the last D columns, since words may contain spaces. The file may be compressed, as .gz.
* .npz: the arrays `words` `[N]` and `vectors` `[N, D]`.
* .safetensors: a tensor `vectors` `[N, D]`, or the only tensor. The words are a JSON list in the
  metadata, under `words`, or the lines of the file of the same name that ends in .txt.
"""

import codecs
import gzip
import json
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from train_lib import files
from train_lib.data.readers.base import numbered_lines
from train_lib.errors import UserError

_HEADER = re.compile(rb"(\d+) (\d+)")
_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
_MOST_HEADER_BYTES = 100 << 20  # As in the safetensors library.

Rows = Iterator[tuple[str, str, Any]]
"""The location of a vector, its word, and D numbers."""


class WordVectors(NamedTuple):
    """The vectors of N words of a vocabulary.

    Attributes:
        words: in the order of the vocabulary.
        vectors_NxD: float32, as they are in the file.
        repeated: how many of these are in the file more than once; the first vector counts.
    """

    words: list[str]
    vectors_NxD: np.ndarray
    repeated: int


def read(name: str, words: Sequence[str], size: int) -> WordVectors:
    """Reads the vectors of the words that a file has, looked up as written, else in lower case.

    In a text file, only the number of columns is checked on the lines of other words.

    Args:
        name: of the file.
        words: the vocabulary.
        size: D.

    Raises:
        UserError: the file cannot be read, its vectors are not of that size, or a line is wrong;
            the message says which.
    """
    path = files.local(name)
    if path.suffix.lower() in (".bin", ".zip"):
        raise UserError(
            f"{path} is not a text file. Unpack a .zip, and save a binary word2vec file as text; "
            "text, .txt.gz, .npz and .safetensors can be read."
        )
    wanted = {*words, *(word.lower() for word in words)}
    read_rows = _READERS.get(path.suffix.lower(), _rows_of_text)
    found: dict[str, np.ndarray] = {}
    repeated = set()
    try:
        for where, word, numbers in read_rows(path, size, wanted):
            if word in found:
                repeated.add(word)
                continue
            with np.errstate(over="ignore"):
                found[word] = np.asarray(numbers).astype(np.float32)
            if not np.isfinite(found[word]).all():
                raise UserError(
                    f"{where}: the vector of {word!r} has a number that is NaN, infinite or too "
                    "large for float32."
                )
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    # A vocabulary may have a word in several cases.
    keys = {word: word if word in found else word.lower() for word in words}
    known = [word for word, key in keys.items() if key in found]
    return WordVectors(
        known,
        np.array([found[keys[word]] for word in known], np.float32).reshape(-1, size),
        len(repeated & {keys[word] for word in known}),
    )


def _rows_of_text(path: pathlib.Path, size: int, wanted: set[str]) -> Rows:
    is_packed = path.suffix.lower() == ".gz"
    promised, rows = None, 0
    with gzip.open(path, "rb") if is_packed else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            line = line.strip().replace(b"\t", b" ")
            if b"  " in line:
                line = re.sub(rb" +", b" ", line)
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8).lstrip()
                if header := _HEADER.fullmatch(line):
                    promised = int(header[1])
                    _check_size(path, int(header[2]), size)
                    continue
            if not line:
                continue
            rows += 1
            name, _, rest = line.partition(b" ")
            columns = rest.count(b" ") + 1 if rest else 0
            if columns > size:  # A word with spaces, or too many numbers.
                name, *numbers = line.rsplit(b" ", size)
                rest = b" ".join(numbers)
            if columns < size or (columns > size and _is_number(name.rpartition(b" ")[2])):
                if rows == 1 and promised is None and columns:
                    _check_size(path, columns, size)
                raise UserError(
                    f"{where}: there are {columns} numbers after the word, where there should be "
                    f"{size}."
                )
            word = _decoded(name, where)
            if rows == 1 or word in wanted:
                try:
                    vector = [float(one) for one in rest.split(b" ")]
                except ValueError as error:
                    raise UserError(f"{where}, the vector of {word!r}: {error}.") from error
                if word in wanted:
                    yield where, word, vector
    if not rows:
        raise UserError(f"{path} has no word vectors: it is empty.")
    if promised not in (None, rows):
        raise UserError(
            f"{path} has {rows:,} words, but its first line says {promised:,}: it is damaged or "
            "incomplete."
        )


def _decoded(word: bytes, where: str) -> str:
    try:
        if b"\0" not in word:
            return word.decode()
    except UnicodeDecodeError:
        pass
    raise UserError(
        f"{where}: the word {word[:40]!r} is not UTF-8. `iconv -f ENCODING -t UTF-8 OLD > NEW` "
        "converts a text; a binary file has to be saved as one."
    )


def _is_number(text: bytes) -> bool:
    if not re.search(rb"\d", text):  # "nan" and "infinity" may be words.
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_size(path: pathlib.Path, found: int, size: int) -> None:
    if found != size:
        raise UserError(
            f"the vectors of {path} have {found:,} numbers, and config.model.embedding_size = "
            f"{size}; set it to {found}."
        )


def _rows_of_npz(path: pathlib.Path, size: int, wanted: set[str]) -> Rows:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            words, vectors_NxD = arrays["words"], arrays["vectors"]
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read: {error}. It must have the arrays `words`, of texts [N], and "
            "`vectors` [N, D]."
        ) from error
    if words.dtype.kind != "U":
        raise UserError(f"{path}: `words` must be an array of texts, but is of {words.dtype}.")
    return _rows_of_arrays(path, words.tolist(), vectors_NxD, size, wanted)


_UNREADABLE = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip


def _rows_of_safetensors(path: pathlib.Path, size: int, wanted: set[str]) -> Rows:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _MOST_HEADER_BYTES)))
        metadata = header.pop("__metadata__", {})
        tensor = header["vectors"] if len(header) != 1 else next(iter(header.values()))
        vectors_NxD = np.memmap(
            path, _DTYPES[tensor["dtype"]], "r", 8 + length + tensor["data_offsets"][0],
            tuple(tensor["shape"]),
        )  # fmt: skip
        words = json.loads(metadata["words"]) if "words" in metadata else None
    except (
        ArithmeticError,
        LookupError,
        RuntimeError,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}). It must have the tensor "
            f"`vectors` [N, D], or no other, of one of {', '.join(_DTYPES)}."
        ) from error
    if words is None:
        beside = path.with_suffix(".txt")
        if not beside.is_file():
            raise UserError(
                f"{path} does not say which words its vectors are of. Put them into {beside}, one "
                "a line, or into its metadata, as a JSON list under `words`."
            )
        words = [line for _, line in numbered_lines(beside)]
    return _rows_of_arrays(path, words, vectors_NxD, size, wanted)


def _rows_of_arrays(
    path: pathlib.Path, words: Any, vectors_NxD: np.ndarray, size: int, wanted: set[str]
) -> Rows:
    if vectors_NxD.ndim != 2 or vectors_NxD.dtype.kind != "f":
        raise UserError(
            f"{path}: the vectors must be floating point [N, D], but are {vectors_NxD.dtype}"
            f"{list(vectors_NxD.shape)}."
        )
    _check_size(path, vectors_NxD.shape[1], size)
    if not isinstance(words, list) or len(words) != len(vectors_NxD) or not words:
        found = f"{len(words):,} words" if isinstance(words, list) else "no list of words"
        raise UserError(
            f"{path} has {len(vectors_NxD):,} vectors and {found}; there must be a word for each "
            "vector, and at least one."
        )
    for number, word in enumerate(words):
        if not isinstance(word, str):
            raise UserError(f"{path}, row {number}: the word is {word!r:.60}, which is not a text.")
        if word in wanted:
            yield f"{path}, row {number}", word, vectors_NxD[number]


_READERS = {".npz": _rows_of_npz, ".safetensors": _rows_of_safetensors}
