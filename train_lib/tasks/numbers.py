"""One number or several for each sequence.

Internally, numbers are standardised by the mean and standard deviation of the training targets, so
that a newly initialised model has the right scale whatever their units. The loss is the squared
error of standardised numbers, a mean over numbers. Figures and answers are in the targets' units.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from train_lib.tasks import base
from train_lib.tasks.base import Array, BadTarget, Kept
from train_lib.tasks.common import figures, naming, pictures

_METRICS = ("mse", "mae", "r2", "loss")
_LARGEST = 1e18  # Its square, and sums of such squares, fit into float32.


class Numbers(base.Task):
    """M numbers for each sequence.

    Attributes:
        names: of the numbers.
        means: the mean of each over the training targets, in its unit.
        deviations: the standard deviation of each, likewise.
    """

    outputs_follow = ("means", "deviations")
    examples = (3.5, -1.0, 12.25, 4.0, 4.0)

    def __init__(
        self,
        means: Sequence[float],
        deviations: Sequence[float],
        names: Sequence[str] | None = None,
        *,
        metric: str = "",
    ):
        """As `of_targets`, for a known mean and standard deviation of each number."""
        self.means, self.deviations = list(means), list(deviations)
        self.num_outputs = len(self.means)
        self.names = naming.shown_names(
            names, [str(number) for number in range(1, self.num_outputs + 1)], "numbers"
        )
        # Numbers in different units cannot be added.
        is_one = self.num_outputs == 1
        self.metric = naming.choose("metric", metric or ("mse" if is_one else "r2"), _METRICS)
        self.higher_is_better = self.metric == "r2"
        self.score_name = "mse" if is_one else "loss"

    @classmethod
    def of_targets(  # type: ignore[override]  # It names its options.
        cls, targets: Sequence[Any], *, names: Sequence[str] | None = None, metric: str = ""
    ) -> Self:
        """Makes the task for as many numbers as training targets have.

        Args:
            targets: numbers, or lists of equal length; also as texts; None: no label.
            names: of the numbers; default: 1, 2, and so on.
            metric: the one that decides: mse (mean squared error; the default for one number), r2
                (the share of variance explained; the default for several), mae (mean absolute
                error), or loss. For several numbers they are means over numbers.

        Raises:
            BadTarget: as in `base.Task.of_targets`.
            ValueError: likewise.
        """
        first = next((number for number, one in enumerate(targets) if one is not None), None)
        if first is None:
            raise BadTarget(None, "No training example has a label.")
        is_list = isinstance(targets[first], list | tuple)
        count = len(targets[first]) if is_list else 1
        if not count:
            raise BadTarget(first, "is an empty list, where numbers should be")
        values_NxM = _values(targets, count)
        values_NxM = values_NxM[~np.isnan(values_NxM[:, 0])]
        means_M, deviations_M = values_NxM.mean(0), values_NxM.std(0)
        for number in range(count):
            if np.ptp(values_NxM[:, number]) == 0:
                what = f"number {number + 1}" if count > 1 else "the number"
                raise BadTarget(
                    None,
                    f"In all {len(values_NxM):,} training targets {what} is "
                    f"{values_NxM[0, number]:g}; there is nothing to learn.",
                )
        return cls(means_M.tolist(), deviations_M.tolist(), names, metric=metric)

    def encode(self, targets: Sequence[Any]) -> np.ndarray:
        """The standardised numbers: float64 `[N, M]`, so that `columns` can restore them."""
        return (_values(targets, self.num_outputs) - self.means) / self.deviations

    def loss(self, outputs_NxC: Array, targets_N: Array) -> jax.Array:
        return jnp.mean(jnp.square(outputs_NxC - targets_N), -1)

    def sums(self, outputs_NxC: Array, targets_N: Array, weights_N: Array) -> dict[str, jax.Array]:
        """Sums of standardised numbers, which avoid cancellation."""
        weights_Nx1, errors_NxM = weights_N[:, None], outputs_NxC - targets_N
        return {
            "squared_errors": jnp.sum(jnp.square(errors_NxM) * weights_Nx1, 0),
            "absolute_errors": jnp.sum(jnp.abs(errors_NxM) * weights_Nx1, 0),
            "targets": jnp.sum(targets_N * weights_Nx1, 0),
            "squared_targets": jnp.sum(jnp.square(targets_N) * weights_Nx1, 0),
        }

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        weight, deviations_M = np.float64(sums["weight"]) or np.nan, np.array(self.deviations)
        squares_M = sums["squared_targets"] - sums["targets"] ** 2 / weight
        with np.errstate(divide="ignore", invalid="ignore"):  # One target, or all are equal.
            r2_M = 1 - sums["squared_errors"] / squares_M
        return {
            **super().metrics(sums),
            "mse": float(np.mean(sums["squared_errors"] / weight * deviations_M**2)),
            "mae": float(np.mean(sums["absolute_errors"] / weight * deviations_M)),
            "r2": float(np.mean(np.where(squares_M > 1e-6 * weight, r2_M, np.nan))),
        }

    def _original(self, standardised_NxM: Any) -> np.ndarray:
        return np.asarray(standardised_NxM, np.float64) * self.deviations + self.means

    def support(self, kept: Kept) -> np.ndarray | None:
        """The number, in its unit."""
        standardised_N = super().support(kept)
        return None if standardised_N is None else standardised_N * self.deviations[0]

    def score(self, kept: Kept, targets_N: np.ndarray) -> np.ndarray:
        """The squared error of a single number, in its unit squared; for several, the loss."""
        squares_NxM = np.square(np.asarray(kept["outputs"], np.float64) - targets_N)
        if self.num_outputs == 1:
            squares_NxM = squares_NxM * np.square(self.deviations)
        return squares_NxM.mean(-1)

    def columns(
        self, kept: Kept, targets_N: np.ndarray | None = None, offsets: np.ndarray | None = None
    ) -> dict[str, list]:
        """The numbers; if there are several, each has its own columns, as in `answer_height`."""
        suffixes = [f"_{name}" for name in self.names] if self.num_outputs > 1 else [""]
        answers_NxM = self._original(kept["outputs"])
        columns = {
            f"answer{suffix}": answers_N.tolist()
            for suffix, answers_N in zip(suffixes, answers_NxM.T, strict=True)
        }
        if targets_N is None:
            return columns
        return {
            **{
                f"target{suffix}": [
                    None if np.isnan(target) else _rounded(target) for target in of_number_N
                ]
                for suffix, of_number_N in zip(suffixes, self._original(targets_N).T, strict=True)
            },
            **columns,
        }

    def answer(self, kept: Kept, offsets: np.ndarray | None = None) -> list[str]:
        """The numbers, each after its name if there are several."""
        names = [f"{name} " for name in self.names] if self.num_outputs > 1 else [""]
        # To a ten-thousandth of the targets' spread, whatever their mean.
        places = [max(0, 4 - math.floor(math.log10(one))) for one in self.deviations]
        return [
            "  ".join(
                f"{name}{value:.{place}f}"
                for name, value, place in zip(names, row_M, places, strict=True)
            )
            for row_M in self._original(kept["outputs"])
        ]

    def figures(
        self, kept: Kept, targets_N: np.ndarray, offsets: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Errors, R2 and correlations of each number, in its unit."""
        return {
            "per_number": {
                name: figures.of_numbers(*columns)
                for name, columns in self._pairs(kept, targets_N).items()
            }
        }

    def pictures(
        self, kept: Kept, targets_N: np.ndarray, offsets: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Answers against targets: `scatter`; for several numbers, as in `scatter_height`."""
        drawn = {}
        for name, (known_N, answers_N) in self._pairs(kept, targets_N).items():
            r2 = figures.of_numbers(known_N, answers_N)["r2"]
            is_one = self.num_outputs == 1
            title = "" if is_one else name
            drawn["scatter" if is_one else f"scatter_{name}"] = pictures.scatter(
                known_N, answers_N, title, r2
            )
        return drawn

    def _pairs(self, kept: Kept, targets_N: np.ndarray) -> dict[str, tuple]:
        """The targets and answers of each number, for items with a label."""
        is_known_N = self.labelled(targets_N)
        if not is_known_N.any():
            return {}
        columns = zip(
            self.names,
            self._original(targets_N[is_known_N]).T,
            self._original(kept["outputs"])[is_known_N].T,
            strict=True,
        )
        return {name: (known_N, answers_N) for name, known_N, answers_N in columns}

    def guess(self, targets_N: np.ndarray) -> np.ndarray:
        """The means."""
        return targets_N[self.labelled(targets_N)].mean(0)


def _values(targets: Sequence[Any], count: int) -> np.ndarray:
    """The numbers of targets: float64 `[N, M]`, NaN where there is no label.

    Raises:
        BadTarget: one is neither a number nor a list of M numbers.
    """
    values_NxM = np.full((len(targets), count), np.nan)
    for number, target in enumerate(targets):
        if target is None:
            continue
        several = target if isinstance(target, list | tuple) else [target]
        if len(several) != count:
            raise BadTarget(
                number, f"is {naming.shown(target)}, {_numbers(len(several))} in place of {count}"
            )
        values_NxM[number] = [_value(one, number) for one in several]
    return values_NxM


def _value(target: Any, number: int) -> float:
    try:
        value = np.nan if isinstance(target, bool) else float(target)
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise BadTarget(number, f"is {naming.shown(target)}, which is not a finite number")
    if abs(value) > _LARGEST:
        raise BadTarget(
            number, f"is {naming.shown(target)}; none may be larger than {_LARGEST:g}: scale them"
        )
    return value


def _numbers(count: int) -> str:
    return f"{count} number{'s' * (count != 1)}"


def _rounded(value: float) -> float:
    """Drops the last digits, which standardising may have changed."""
    return float(f"{value:.12g}")
