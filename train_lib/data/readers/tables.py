"""Tables: one example per row, with its input in one column and its target in another.

The columns are given by `config.data.text_column` and `.target_column`; otherwise they are guessed
by their names, and the guesses are printed. Several target columns, separated by commas, give each
row a list of numbers. In JSONL and Parquet an input may also be a list of words, of token numbers
or of vectors, and a target a list of labels, or one for each word.
"""

import json
import math
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from train_lib.data.examples import UNLABELLED, Examples, place
from train_lib.data.readers import rows
from train_lib.data.readers.base import Files, options_of
from train_lib.errors import UserError

TEXT_NAMES = (
    "text", "review", "sentence", "content", "document", "comment", "message", "tweet", "body",
    "tokens", "words", "input", "inputs", "values", "sequence", "x",
)  # fmt: skip
TARGET_NAMES = (
    "label", "labels", "target", "targets", "class", "category", "sentiment", "rating", "stars",
    "score", "tags", "ner_tags", "pos_tags", "output", "y",
)  # fmt: skip
"""Common names of columns, the likelier first."""

NO_COLUMN = "-"
"""As `id_column`: a column called `id` does not identify rows."""

_INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BY_TEXT = (".csv", ".tsv")  # Formats without types.


class Tables(Files):
    """CSV, TSV, JSONL and Parquet files.

    Args:
        path: of a file, or of a folder with one for each split.
        text_column: the column of inputs; empty: guessed.
        target_column: the column of targets, or several separated by commas; empty: guessed.
        group_column: rows with the same value there stay together in a drawn split.
        id_column: no two rows of a file may have the same value there; empty: a column `id`, if
            there is one; `-`: none.
        quotes: whether fields of CSV and TSV may be quoted.
        target_is: the type of targets in CSV and TSV, `text` or `number`; empty: numbers if all
            are.
        labelled: False: there are no targets, or they should not be read.
    """

    suffixes = rows.SUFFIXES

    def __init__(
        self,
        path: str,
        /,
        text_column: str = "",
        target_column: str = "",
        group_column: str = "",
        id_column: str = "",
        quotes: bool = True,
        target_is: str = "",
        labelled: bool = True,
    ):
        super().__init__(path, options_of(Tables.__init__, locals()))
        if target_is not in ("", "text", "number"):
            raise UserError(f"target_is = {target_is!r} must be 'text' or 'number'.")
        self._quotes, self._target_is = quotes, target_is
        first = next(iter(self.paths.values()))
        try:
            columns = rows.header(first, quotes) if first.stat().st_size else []
        except OSError as error:
            raise UserError(f"{first} cannot be read: {error.strerror or error}.") from error
        if not columns:
            raise UserError(f"{first} is empty.")
        self.group_column = group_column
        self.id_column = id_column or next((one for one in columns if one.lower() == "id"), "")
        if not labelled:  # All rows are answered.
            self.group_column = self.id_column = ""
        self._choose(first, columns, text_column, target_column, labelled)
        named = [self.text_column, *self.target_columns, self.group_column, self.id_column]
        rows.check_columns(first, [one for one in named if one not in ("", NO_COLUMN)], columns)

    def _choose(
        self, path: pathlib.Path, columns: list[str], text: str, target: str, labelled: bool
    ) -> None:
        """Chooses the columns to read; prints those that are guessed."""
        targets = [name.strip() for name in target.split(",") if name.strip()]
        free = [
            name for name in columns
            if name not in (text, *targets, self.group_column, self.id_column)
        ]  # fmt: skip
        guessed = []
        if not text:
            text = _guess(free, TEXT_NAMES)
            if not text:  # The one that is left when the target is known.
                others = [
                    name for name in free if name != (targets or [_guess(free, TARGET_NAMES)])[0]
                ]
                text = others[0] if len(others) == 1 and (targets or len(free) == 2) else ""
            guessed.append(f"inputs from column {text!r}")
        if labelled and not targets:
            free = [name for name in free if name != text]
            name = _guess(free, TARGET_NAMES) or (free[0] if len(free) == 1 else "")
            targets = [name] if name else []
            guessed.append(f"targets from column {name!r}")
        for field, found in (("text_column", text), ("target_column", targets or not labelled)):
            if not found:
                names = TEXT_NAMES if field == "text_column" else TARGET_NAMES
                raise UserError(
                    f"{path}: name the column with config.data.{field}; the columns are: "
                    f"{', '.join(columns)}. Or call it one of {', '.join(names)}."
                )
        if guessed:
            print(f"note: {self.path}: {', '.join(guessed)}", file=sys.stderr)
        self.text_column = text
        self.target_columns = targets if labelled else []

    def columns(self, split: str) -> dict[str, list[Any]]:
        path = self.paths[split]
        return rows.read(path, rows.header(path, self._quotes), self._quotes).columns

    def content_bytes(self, path: pathlib.Path) -> int:
        return rows.content_bytes(path)

    def read_file(self, path: pathlib.Path, split: str) -> Examples:
        targets = [] if split == UNLABELLED else self.target_columns
        others = [
            name for name in (self.group_column, self.id_column) if name not in ("", NO_COLUMN)
        ]
        table = rows.read(
            path, [*dict.fromkeys([self.text_column, *targets, *others])], self._quotes
        )
        if not len(table.rows):
            raise UserError(f"{path} has no rows below the names of its columns.")
        reader = _Columns(path, table)
        if self.id_column not in ("", NO_COLUMN):
            reader.check_ids(self.id_column, path)
        is_typed = path.suffix.lower() not in _BY_TEXT
        found: list[Any] = [None] * len(table.rows)
        if len(targets) == 1 and is_typed:
            found = reader.typed(targets[0])
        elif len(targets) == 1:
            found = reader.parsed(targets[0], self._target_is)
        elif targets:
            numbers = [reader.parsed(name, "number") for name in targets]
            found = [list(row) for row in zip(*numbers, strict=True)]
        return Examples(
            reader.inputs(self.text_column), found, table.rows, str(path), table.unit,
            reader.all_there(self.group_column) if self.group_column else None,
            tuple(targets) if len(targets) > 1 else (),
        )  # fmt: skip


class _Columns:
    """The columns of a table; errors say which line is wrong."""

    def __init__(self, path: pathlib.Path, table: rows.Table):
        self._path, self._table = path, table

    def _error(self, number: int, text: str) -> UserError:
        where = place(str(self._path), self._table.unit, self._table.rows[number])
        return UserError(f"{where}: {text}")

    def all_there(self, name: str) -> list[Any]:
        """A column in which every row must have a value."""
        values = self._table.columns[name]
        for number, value in enumerate(values):
            if value is None or (isinstance(value, str) and not value.strip()):
                raise self._error(number, f"there is nothing in column {name!r}.")
        return values

    def inputs(self, name: str) -> list[Any]:
        """Texts, words, tokens or vectors."""
        return [
            value if isinstance(value, str) else self._sequence(number, name, value)
            for number, value in enumerate(self.all_there(name))
        ]

    def _sequence(self, number: int, name: str, value: Any) -> Any:
        """Words as they are; numbers or lists of them as an array."""
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            return value
        try:
            array = np.array(value) if isinstance(value, list) and value else np.array(None)
        except ValueError:  # Lists of several lengths.
            raise self._error(number, f"vectors in column {name!r} differ in width.") from None
        is_floating = np.issubdtype(array.dtype, np.floating)
        if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
            return array
        if array.ndim == 1 and is_floating:
            return array[:, None]
        if array.ndim == 2 and (is_floating or np.issubdtype(array.dtype, np.integer)):
            return array.astype(np.float64)
        raise self._error(
            number,
            f"{json.dumps(value, default=str)[:60]} in column {name!r} is neither a text nor a "
            "list of words, tokens or vectors.",
        )

    def check_ids(self, name: str, path: pathlib.Path) -> None:
        """Rejects a value that occurs in two rows."""
        first: dict[str, int] = {}
        for number, value in enumerate(self.all_there(name)):
            key = json.dumps(value, default=str)
            if key in first:
                raise self._error(
                    number,
                    f"the {name} {value!r} is that of {self._table.unit} "
                    f"{self._table.rows[first[key]]} too. Remove one; or, if {name!r} does not "
                    f"identify rows, set config.data.source_options=\"id_column='{NO_COLUMN}'\".",
                )
            first[key] = number

    def typed(self, name: str) -> list[Any]:
        """Targets in a format with types, which must all be of one type."""
        values = self.all_there(name)
        first = _type(values[0])
        for number, value in enumerate(values):
            if _type(value) != first or not first:
                raise self._error(
                    number,
                    f"the target {json.dumps(value, default=str)[:60]} in column {name!r} is "
                    f"{_type(value) or 'no text, number or list'}, but that of the first row is "
                    f"{first or 'neither'}.",
                )
        return values

    def parsed(self, name: str, target_is: str) -> list[Any]:
        """Targets in a format without types, or numbers in any format.

        Args:
            name: of the column.
            target_is: the type of targets; empty: numbers if all are, else texts.
        """
        values = [
            value.strip() if isinstance(value, str) else value for value in self.all_there(name)
        ]
        numbers = [_number(value) for value in values]
        wrong = [number for number, value in enumerate(numbers) if value is None]
        if target_is == "text" or (not target_is and 2 * len(wrong) > len(values)):
            return values
        if not wrong:
            return numbers
        hint = "" if target_is else (
            ". If they are names of classes, set config.data.source_options=\"target_is='text'\""
        )  # fmt: skip
        raise self._error(
            wrong[0],
            f"{values[wrong[0]]!r} in column {name!r} is not a number, as "
            f"{len(values) - len(wrong):,} of {len(values):,} there are{hint}.",
        )


def _guess(columns: Sequence[str], names: Sequence[str]) -> str:
    """The column with the likeliest of the names; empty: there is none."""
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), "")


def _type(value: Any) -> str:
    """The type of a target, for people; empty: a target cannot have this type."""
    if isinstance(value, bool):
        return "true or false"
    kinds = ((str, "a text"), (int | float, "a number"), (list, "a list"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "")


def _number(value: Any) -> int | float | None:
    """The number in a field; None: it is not a number."""
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str):
        return None
    if _INTEGER.fullmatch(value):
        return int(value)
    number = float(value) if _NUMBER.fullmatch(value) else math.nan
    is_code = re.match(r"[+-]?0\d", value)  # As in a postal code, whose zero would be lost.
    return number if math.isfinite(number) and not is_code else None
