"""Reads the rows of tables in CSV, TSV, JSONL and Parquet files."""

import csv
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from train_lib.data.readers.base import numbered_lines, open_text
from train_lib.errors import UserError


class Table(NamedTuple):
    """Some columns of a file.

    Attributes:
        rows: where each row begins: its line from 1, or its number from 0; `[N]`.
        unit: what `rows` counts.
        columns: values by column name, each `[N]`.
    """

    rows: np.ndarray
    unit: str
    columns: dict[str, list[Any]]


def header(path: pathlib.Path, quotes: bool) -> list[str]:
    """The column names of a file; for JSONL, the fields of the first line."""
    return _FORMATS[path.suffix.lower()][0](path, quotes)


def read(path: pathlib.Path, names: Sequence[str], quotes: bool) -> Table:
    """Reads columns of a file.

    Args:
        path: with a suffix of `SUFFIXES`.
        names: of the columns.
        quotes: whether fields of CSV and TSV may be quoted.

    Raises:
        UserError: the file is damaged or lacks some of them; the message says in which line.
        OSError: from the file system.
    """
    return _FORMATS[path.suffix.lower()][1](path, names, quotes)


def _records(path: pathlib.Path, quotes: bool) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV or TSV file, each with its first line number."""
    csv.field_size_limit(sys.maxsize)  # A field may be a book.
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with open_text(path) as file:
        reader = csv.reader(
            file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
            strict=True,
        )  # fmt: skip
        line = 1
        try:
            for record in reader:
                yield line, record
                line = reader.line_num + 1
        except csv.Error as error:
            hint = (
                ' If quotation marks are text there, set config.data.source_options="quotes=False".'
                if quotes
                else ""
            )
            what = (
                "a quotation mark opens a field and none closes it"
                if "unexpected end" in str(error)
                else f"it is not a row of a table ({error}); an open quotation mark may be "
                "the cause"
            )
            raise UserError(f"{path}, line {line}: {what}.{hint}") from error


def _csv_header(path: pathlib.Path, quotes: bool) -> list[str]:
    for _, names in _records(path, quotes):
        if not any(name.strip() for name in names):
            break
        names = [name.strip() for name in names]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{path}, line 1: two columns are called {repeated[0]!r}.")
        return names
    raise UserError(f"{path}: the first line must have the names of the columns, and it is blank.")


def _read_csv(path: pathlib.Path, names: Sequence[str], quotes: bool) -> Table:
    columns = _csv_header(path, quotes)
    check_columns(path, names, columns)
    places = [columns.index(name) for name in names]
    found: list[list[str]] = [[] for _ in names]
    rows = []
    blank = 0
    for line, record in _records(path, quotes):
        if not record:
            blank = blank or line
            continue
        if blank:
            raise UserError(f"{path}, line {blank} is blank, but rows follow it.")
        if len(record) != len(columns):
            raise UserError(
                f"{path}, line {line} has {len(record)} field{'s' * (len(record) != 1)}, and "
                f"{len(columns)} are expected: {', '.join(columns)}."
            )
        rows.append(line)
        for values, place in zip(found, places, strict=True):
            values.append(record[place])
    return Table(
        np.array(rows[1:], np.int64),
        "line",
        {name: values[1:] for name, values in zip(names, found, strict=True)},
    )


def _objects(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file, each with its line."""
    blank = 0
    for number, line in numbered_lines(path):
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise UserError(f"{path}, line {blank} is blank, but lines follow it.")
        try:
            found = json.loads(line, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number} is not JSON: {error}.") from error
        if not isinstance(found, dict):
            raise UserError(
                f"{path}, line {number} is {line.strip()[:40]} and must be an object, as in "
                '{"text": "...", "label": "..."}.'
            )
        yield number, found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{max(names, key=names.count)!r} is in it twice")
    return found


def _jsonl_header(path: pathlib.Path, quotes: bool) -> list[str]:
    for _, found in _objects(path):
        return list(found)
    raise UserError(f"{path} is empty.")


def _read_jsonl(path: pathlib.Path, names: Sequence[str], _: bool) -> Table:
    check_columns(path, names, _jsonl_header(path, True))
    columns: dict[str, list[Any]] = {name: [] for name in names}
    rows = []
    for line, found in _objects(path):
        rows.append(line)
        for name in names:
            if name not in found:
                raise UserError(
                    f"{path}, line {line} has no field {name!r}; those it has: {', '.join(found)}."
                )
            columns[name].append(found[name])
    return Table(np.array(rows, np.int64), "line", columns)


def _parquet(path: pathlib.Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"reading {path} needs pyarrow: pip install pyarrow.") from error
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}.") from error


def _parquet_header(path: pathlib.Path, _: bool) -> list[str]:
    names = _parquet(path).schema_arrow.names
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: two columns are called {repeated[0]!r}.")
    return names


def _read_parquet(path: pathlib.Path, names: Sequence[str], _: bool) -> Table:
    check_columns(path, names, _parquet_header(path, True))
    import pyarrow

    try:
        table = _parquet(path).read(columns=list(names))
        columns = {name: table.column(name).to_pylist() for name in names}
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}.") from error
    return Table(np.arange(table.num_rows), "row", columns)


def content_bytes(path: pathlib.Path) -> int:
    """The uncompressed size of a file's contents."""
    if path.suffix.lower() != ".parquet":
        return path.stat().st_size
    metadata = _parquet(path).metadata
    return sum(metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups))


def check_columns(path: pathlib.Path, names: Sequence[str], columns: Sequence[str]) -> None:
    """Raises UserError, listing the columns there are, if one is missing."""
    for name in names:
        if name not in columns:
            raise UserError(f"{path} has no column {name!r}; those it has: {', '.join(columns)}.")


_FORMATS: dict[str, tuple[Callable[..., list[str]], Callable[..., Table]]] = {
    ".csv": (_csv_header, _read_csv),
    ".tsv": (_csv_header, _read_csv),
    ".jsonl": (_jsonl_header, _read_jsonl),
    ".parquet": (_parquet_header, _read_parquet),
}
SUFFIXES = tuple(_FORMATS)
