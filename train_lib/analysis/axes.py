"""The fields of a search and their possible values."""

import ast
import dataclasses
import math
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from train_lib import settings
from train_lib.errors import UserError


@dataclasses.dataclass(frozen=True)
class Axis:
    """The possible values of one field.

    Attributes:
        field: a field of the config, as in `train.learning_rate`.
        values: the values to choose from; empty: a number is drawn from a range.
        scale: `log` or `uniform`, of the range.
        low: its lower end, included.
        high: its upper end, included; if both are whole numbers, so are the draws.
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
        """The same, with whole numbers for its ends if the field is one.

        Raises:
            UserError: there is no such field, or it has no such range, or a value is named twice.
        """
        if self.field not in settings.RULES:
            raise UserError(
                f"--over={self.field}: there is no field config.{self.field}; see configs/base.py."
            )
        if len(set(self.choices)) < len(self.choices):
            raise UserError(
                f"--over={self.field}={','.join(self.choices)} names a value twice, and no trial "
                "is run twice; leave one out."
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

    @property
    def choices(self) -> list[str]:
        """The values as Optuna, which knows no tuples, stores them; none for a range."""
        return [repr(value) for value in self.values]

    def distribution(self) -> BaseDistribution:
        """What Optuna draws from."""
        if self.values:
            return CategoricalDistribution(self.choices)
        is_log = self.scale == "log"
        if isinstance(self.low, int):
            return IntDistribution(self.low, int(self.high), log=is_log)
        return FloatDistribution(self.low, self.high, log=is_log)

    def value(self, drawn: Any) -> Any:
        """The field's value for what Optuna drew."""
        if self.values:
            return self.values[self.choices.index(drawn)]
        if isinstance(self.low, int):
            return drawn
        # Four digits, so that a value is shown in full.
        return min(max(float(f"{drawn:.4g}"), self.low), self.high)


def _values(text: str) -> tuple[Any, ...]:
    """Python literals separated by commas; anything else is a word."""
    try:
        return tuple(ast.literal_eval(f"[{text}]"))
    except (ValueError, SyntaxError):
        return tuple(_literal(word) for word in text.split(",") if word)


def _literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word
