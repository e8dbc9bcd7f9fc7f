"""Column files for tagging: one token per line, with blank lines between sentences.

`.conll`, `.bio` and `.iob` have the word in the first column and the tag in the last; columns are
separated by tabs, or by spaces if the first line has no tab. `.conllu` is Universal Dependencies:
the word is FORM, the tag UPOS, and multiword tokens and empty nodes are skipped.
`config.data.text_column` and `.target_column` choose other columns, counted from 1.

Comments begin with `#`. Outside `.conllu`, where a token may be a `#`, they stand before a sentence
and contain a `=` or have a different number of columns than the tokens. `-DOCSTART-` sentences,
which mark the beginning of a document, are skipped too.
"""

import pathlib
import sys
from typing import Any

import numpy as np

from train_lib.data.examples import UNLABELLED, Examples
from train_lib.data.readers.base import Files, numbered_lines, options_of
from train_lib.errors import UserError

_START_OF_DOCUMENT = "-DOCSTART-"


class Conll(Files):
    """Sentences as lists of words, and a tag for each word.

    Args:
        path: of a file, or of a folder with one for each split.
        text_column: the number of the word's column, from 1; empty: as above.
        target_column: the number of the tag's column, from 1; empty: as above.
        labelled: False: there are no tags, or they should not be read.
    """

    suffixes = (".conll", ".conllu", ".bio", ".iob")
    bytes_a_byte = 12.0

    def __init__(
        self, path: str, /, text_column: str = "", target_column: str = "", labelled: bool = True
    ):
        super().__init__(path, options_of(Conll.__init__, locals()))
        is_universal = {one.suffix.lower() for one in self.paths.values()} == {".conllu"}
        self._is_universal = is_universal
        self._word = _place("text_column", text_column, 1 if is_universal else 0)
        self._tag = _place("target_column", target_column, 3 if is_universal else -1)
        self._labelled = labelled

    def read_file(self, path: pathlib.Path, split: str) -> Examples:
        labelled = self._labelled and split != UNLABELLED
        sentences: list[list[str]] = []
        tags: list[list[str]] = []
        rows: list[int] = []
        width, delimiter = _form(path)
        begins = True
        for line, text in numbered_lines(path):
            if not text.strip():
                begins = True
                continue
            columns = text.split(delimiter)
            if text.startswith("#") and self._is_comment(text, begins, len(columns), width):
                continue
            if len(columns) != width:
                raise UserError(
                    f"{path}, line {line} has {len(columns)} columns and must have {width}, as the "
                    "first token."
                )
            if self._is_universal and not columns[0].isdigit():
                continue
            word = self._column(self._word, columns, path, line)
            tag = self._column(self._tag, columns, path, line) if labelled else ""
            if labelled and width == 1:
                raise UserError(f"{path}, line {line} has one column; a word and its tag are two.")
            if begins:
                sentences.append([])
                tags.append([])
                rows.append(line)
                begins = False
            # Equal words share their memory.
            sentences[-1].append(sys.intern(word))
            tags[-1].append(sys.intern(tag))
        kept = [number for number, words in enumerate(sentences) if words != [_START_OF_DOCUMENT]]
        if not kept:
            raise UserError(f"{path} has no tokens.")
        return Examples(
            [sentences[number] for number in kept],
            [tags[number] if labelled else None for number in kept],
            np.array(rows, np.int64)[kept],
            str(path),
        )

    def _is_comment(self, text: str, begins: bool, columns: int, width: int) -> bool:
        if self._is_universal:
            return True
        return begins and (columns != width or (text.startswith("# ") and "=" in text))

    def _column(self, place: int, columns: list[str], path: pathlib.Path, line: int) -> str:
        if place >= len(columns):
            raise UserError(f"{path}, line {line} has no column {place + 1}.")
        if not (value := columns[place].strip(" ")):
            raise UserError(f"{path}, line {line}: column {place % len(columns) + 1} is empty.")
        return value


def _form(path: pathlib.Path) -> tuple[int, str | None]:
    """The number of columns in the first line and their separator; None: spaces.

    A line that may be a comment counts only if there are no others.
    """
    first = ""
    for _, text in numbered_lines(path):
        if text.strip() and not (first and text.startswith("#")):
            first = text
            if not text.startswith("#"):
                break
    delimiter = "\t" if "\t" in first else None
    return len(first.split(delimiter)), delimiter


def _place(field: str, number: Any, default: int) -> int:
    """The index of a column, from the number that a user gives."""
    if not number:
        return default
    if not str(number).isdecimal() or not int(number):
        raise UserError(
            f"config.data.{field} = {number!r}: columns of a CoNLL file have no names; give the "
            "number of one, from 1."
        )
    return int(number) - 1
