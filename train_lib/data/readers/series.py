"""Time series in the `.ts` format of the UCR and UEA archives (timeseriesclassification.com).

A header of lines that begin with `@` is followed by one case per line: its dimensions separated by
colons, the values of each by commas, and last its class or, with `@targetlabel true`, its number.
The dimensions of a case have the same length; cases may differ in length.
"""

import math
import pathlib

import numpy as np

from train_lib.data.examples import UNLABELLED, Examples
from train_lib.data.readers.base import Files, numbered_lines, options_of
from train_lib.errors import UserError


class Series(Files):
    """Vectors `[T, D]` and a class or a number for each case.

    Args:
        path: of a file, of `NAME_TRAIN.ts` with `NAME_TEST.ts` beside it, or of a folder with them.
        labelled: False: targets are not read.
    """

    suffixes = (".ts",)
    bytes_a_byte = 3.0

    def __init__(self, path: str, /, labelled: bool = True):
        super().__init__(path, options_of(Series.__init__, locals()))
        self._labelled = labelled

    def read_file(self, path: pathlib.Path, split: str) -> Examples:
        fields: dict[str, str] = {}
        inputs: list[np.ndarray] = []
        targets: list[str | float | None] = []
        rows: list[int] = []
        in_data = False
        for line, text in numbered_lines(path):
            text = text.strip()
            if not text or text.startswith(("#", "%")):
                continue
            if not in_data:
                if not text.startswith("@"):
                    raise UserError(f"{path}, line {line}: there are values before @data.")
                name, _, value = text[1:].partition(" ")
                fields[name.lower()] = value.strip()
                in_data = name.lower() == "data"
                if name.lower() == "timestamps" and value.strip().lower() == "true":
                    raise UserError(
                        f"{path}, line {line}: series with time stamps cannot be read; write only "
                        "their values."
                    )
                continue
            case, target = _case(f"{path}, line {line}", text, fields)
            if inputs and case.shape[1] != inputs[0].shape[1]:
                raise UserError(
                    f"{path}, line {line} has {case.shape[1]} dimensions and the first case has "
                    f"{inputs[0].shape[1]}."
                )
            inputs.append(case)
            targets.append(target if self._labelled and split != UNLABELLED else None)
            rows.append(line)
        if not inputs:
            raise UserError(f"{path} has no cases below a line @data.")
        return Examples(inputs, targets, np.array(rows, np.int64), str(path))


def _case(where: str, text: str, fields: dict[str, str]) -> tuple[np.ndarray, str | float | None]:
    """The values `[T, D]` and the target of a line; None: the file has no targets."""
    *parts, target = text.split(":")
    classes = fields.get("classlabel", "").split()
    is_number = fields.get("targetlabel", "").split()[:1] == ["true"]
    found: str | float | None = target.strip()
    if is_number:
        found = _numbers(where, [target])[0]
    elif classes[:1] != ["true"]:
        parts, found = [*parts, target], None
    elif classes[1:] and found not in classes[1:]:
        raise UserError(
            f"{where}: the class {found!r:.40} is not one of those that @classLabel names: "
            f"{', '.join(classes[1:])}."
        )
    if not parts:
        raise UserError(f"{where} has no dimension before its target; a colon stands between them.")
    dimensions = [_numbers(where, part.split(",")) for part in parts]
    lengths = {len(values) for values in dimensions}
    if len(lengths) > 1:
        shown = ", ".join(map(str, sorted(lengths)))
        raise UserError(f"{where}: its dimensions are of several lengths: {shown}.")
    return np.array(dimensions, np.float64).T, found


def _numbers(where: str, parts: list[str]) -> list[float]:
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = [math.nan]
    if all(map(math.isfinite, numbers)):
        return numbers
    for part in parts:
        try:
            if math.isfinite(float(part)):
                continue
        except ValueError:
            pass
        break
    what = (
        "a value is missing (?)"
        if part.strip() in ("?", "")
        else f"{part.strip()!r:.40} is not a number"
    )
    raise UserError(f"{where}: {what}.")
