"""An entry in the table of engines."""

from collections.abc import Callable
from typing import NamedTuple

from seqmodels.cells import base
from seqmodels.recurrence.sequences import Encoded


class Entry(NamedTuple):
    """An engine: one way to run a cell over time.

    Attributes:
        name: the name by which it is chosen.
        run: `(cell, x_TxDxB, lengths_B, *, reverse=False, start=None) -> Encoded`, like
            `loop.run`, but its results are undefined after the longest sequence.
        why_not: `(cell) -> str | None`, why it cannot run a cell on this machine; None if it can.
        is_best: `(cell) -> bool`, whether to prefer it, for a cell that it can run on the default
            device, to all engines after it in the table.
        takes_both: whether `reverse` may be an array, so that `directions` can run both as one.
        takes_bfloat16: whether `run` can have the argument `matrix_dtype="bfloat16"`.
    """

    name: str
    run: Callable[..., Encoded]
    why_not: Callable[[base.Cell], str | None]
    is_best: Callable[[base.Cell], bool]
    takes_both: bool = False
    takes_bfloat16: bool = False
