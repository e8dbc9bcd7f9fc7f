"""The fields of a search, the values that they may have, and the trials that these make."""

import ast
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from train_lib import settings
from train_lib.errors import UserError


@dataclasses.dataclass(frozen=True)
class Axis:
    """What one field may be.

    Attributes:
        field: of the config, as in `train.learning_rate`.
        values: to choose from, or
        scale, low, high: `log` or `uniform`, to draw a number from the range, its ends included;
            a whole number if they are.
    """

    field: str
    values: tuple[Any, ...] = ()
    scale: str = ""
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Axis":
        """Reads `field=value,value` or `field=log:low:high`.

        Raises:
            UserError: it is neither.
        """
        field, _, of_field = text.partition("=")
        field = field.removeprefix("config.")
        scale, *limits = of_field.split(":")
        if scale in ("log", "uniform"):
            try:
                low, high = map(float, limits)
            except ValueError:
                low = high = 0.0
            if not (-math.inf < low < high < math.inf and (scale == "uniform" or low > 0)):
                raise UserError(
                    f"--over={text}: a range is {scale}:low:high, with low below high"
                    f"{' and above 0' if scale == 'log' else ''}."
                )
            return cls(field, scale=scale, low=low, high=high)
        values = _values(of_field)
        if not field or not values:
            raise UserError(
                f"--over={text} must be a field and its values, as in "
                "--over=train.learning_rate=1e-3,1e-2 or --over=train.learning_rate=log:1e-4:1e-1."
            )
        return cls(field, values)

    def checked(self) -> "Axis":
        """The same, its ends whole numbers where the field is one.

        Raises:
            UserError: there is no such field, or it has no such range.
        """
        if self.field not in settings.RULES:
            raise UserError(
                f"--over={self.field}: there is no field config.{self.field}; see configs/base.py."
            )
        if not self.scale:
            return self
        rule, ends = settings.RULES[self.field], (self.low, self.high)
        for low, high in (ends, tuple(map(int, ends))):
            if (low, high) == ends and rule.accepts(low) and rule.accepts(high):
                return dataclasses.replace(self, low=low, high=high)
        raise UserError(
            f"--over={self.field}={self.scale}:{self.low:g}:{self.high:g}: both ends of a range "
            f"may be drawn, and config.{self.field} must be {rule.expected}."
        )

    def draw(self, rng: np.random.Generator) -> Any:
        """One value at random that the field may have."""
        if self.values:
            return self.values[rng.integers(len(self.values))]
        while not settings.RULES[self.field].accepts(number := self._number(rng)):
            pass  # Between two even ends there are odd numbers.
        return number

    def _number(self, rng: np.random.Generator) -> float:
        is_whole = isinstance(self.low, int)
        low, high = (self.low - 0.5, self.high + 0.5) if is_whole else (self.low, self.high)
        if self.scale == "log":
            number = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            number = rng.uniform(low, high)
        # Four digits, so that what is shown is all of it.
        rounded = round(number) if is_whole else float(f"{number:.4g}")
        return min(max(rounded, self.low), self.high)


def _values(text: str) -> tuple[Any, ...]:
    """Python literals with commas between them; what is no literal is a word."""
    try:
        return tuple(ast.literal_eval(f"[{text}]"))
    except (ValueError, SyntaxError):
        return tuple(_literal(word) for word in text.split(",") if word)


def _literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def trials(axes: Sequence[Axis], count: int | None, seed: int) -> Iterator[dict[str, Any]]:
    """The fields of each trial: of the whole grid, or of so many random draws.

    A draw depends on its number and the seed alone, so that more of them begin with the same ones.

    Raises:
        UserError: a grid is asked for of a range.
    """
    if count is None:
        for axis in axes:
            if axis.scale:
                raise UserError(
                    f"a grid has no values for the range of {axis.field}: name values, or ask for "
                    "random draws with --trials."
                )
        names = [axis.field for axis in axes]
        for values in itertools.product(*(axis.values for axis in axes)):
            yield dict(zip(names, values, strict=True))
    else:
        for number in range(count):
            rng = np.random.default_rng([seed, number])
            yield {axis.field: axis.draw(rng) for axis in axes}
