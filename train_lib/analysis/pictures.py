"""What all pictures share."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np


def new_figure(width: float, height: float) -> Any:
    """A Matplotlib figure of this size in inches, where a dollar sign is not mathematics."""
    import matplotlib.figure  # Slow to import, and needed only here.

    matplotlib.rcParams["text.parse_math"] = False
    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def draw_band(axes, xs: Sequence[float], intervals: Sequence, colour) -> None:
    """Shades the intervals that exist over `xs`; if one seed is left, there are none."""
    ends_2xN = np.array([interval or (np.nan, np.nan) for interval in intervals]).reshape(-1, 2).T
    axes.fill_between(xs, *ends_2xN, color=colour, alpha=0.2, lw=0)


def scale_x(axes) -> None:
    """Shows x in plain numbers; on a logarithmic axis if the largest is many times the least."""
    low, high = axes.dataLim.intervalx
    if low > 0 and high > 10 * low:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter("{x:,.4g}")


def png(figure) -> bytes:
    """A figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
