"""Pictures of answers: Matplotlib figures, drawn without a window."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from train_lib.analysis.pictures import new_figure

MOST_CLASSES = 30
"""The most that a readable confusion matrix has; of more, it shows those confused most often."""

_MOST_NUMBERS = 12  # The most classes with counts in the cells.
_MOST_POINTS = 5_000


def confusion(counts_CxC: np.ndarray, names: Sequence[str]) -> Any:
    """Draws a confusion matrix: colours are shares of a row, with counts in the cells if they fit.

    Args:
        counts_CxC: a row for each right class, a column for each answer.
        names: of the C classes.
    """
    title, shown = "", np.arange(len(names))
    support_C = counts_CxC.sum(1)
    shares_CxC = counts_CxC / np.maximum(support_C, 1)[:, None]
    if len(names) > MOST_CLASSES:
        wrong_C = counts_CxC.sum(0) + support_C - 2 * np.diagonal(counts_CxC)
        shown = np.sort(np.argsort(-wrong_C, kind="stable")[:MOST_CLASSES])
        title = f"the {MOST_CLASSES} of {len(names):,} classes that are confused most"
    size = len(shown)
    side = 2.5 + max(2.0, min(0.75 * size, 0.18 * size + 5))
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    image = axes.imshow(shares_CxC[np.ix_(shown, shown)], cmap="Blues", vmin=0, vmax=1)
    labels = [_short(names[number]) for number in shown.tolist()]
    axes.set_xticks(range(size), labels, rotation=90 if max(map(len, labels)) > 3 else 0)
    axes.set_yticks(range(size), labels)
    axes.tick_params(labelsize=10 if size <= _MOST_NUMBERS else 8)
    axes.set(xlabel="answer", ylabel="target", title=title)
    figure.colorbar(image, ax=axes, label="share of the target", shrink=0.8)
    for row, target in enumerate(shown):
        for column, answer in enumerate(shown):
            count, share = counts_CxC[target, answer], shares_CxC[target, answer]
            if not count:
                continue
            text = f"{100 * share:.0f}"
            if size <= _MOST_NUMBERS:
                text = f"{count:,}\n{100 * share:.1f} %"
            axes.text(
                column, row, text, ha="center", va="center",
                fontsize=9 if size <= _MOST_NUMBERS else 6,
                color="white" if share > 0.55 else "black",
            )  # fmt: skip
    return figure


def scatter(targets_N: np.ndarray, answers_N: np.ndarray, name: str, r2: float | None) -> Any:
    """Plots answers against targets, with the diagonal on which they would be right.

    If there are very many points, a fixed random sample is shown.
    """
    figure = new_figure(6, 5.5)
    axes = figure.subplots()
    shown = np.arange(len(targets_N))
    if len(shown) > _MOST_POINTS:
        shown = np.random.default_rng(0).choice(shown, _MOST_POINTS, replace=False)
    axes.scatter(targets_N[shown], answers_N[shown], s=9, alpha=0.4, lw=0)
    ends = [targets_N.min(), targets_N.max()]
    axes.plot(ends, ends, color="black", lw=1, ls="--")
    how_many = f"{len(shown):,} of {len(targets_N):,}" if len(shown) < len(targets_N) else ""
    title = " ".join(
        part for part in (name, "" if r2 is None else f"R² = {r2:.4f}", how_many) if part
    )
    axes.set(xlabel="target", ylabel="answer", title=title)
    axes.grid(alpha=0.3)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"
