"""What the table of engines holds of each of them."""

from collections.abc import Callable
from typing import NamedTuple

from seqmodels.cells import base
from seqmodels.recurrence.sequences import Encoded


class Entry(NamedTuple):
    """An engine: one way to run a cell over time.

    Attributes:
        name: by which it is asked for.
        run: `(cell, x_TxDxB, lengths_B, *, reverse=False, start=None) -> Encoded`, as
            `loop.run` computes it; what it returns after the longest sequence is undefined.
        why_not: `(cell) -> str | None`, what keeps a cell from it on this machine; None if nothing
            does.
        is_best: `(cell) -> bool`, whether it is the one to choose for a cell that it can run on the
            default device, before all engines after it in the table.
    """

    name: str
    run: Callable[..., Encoded]
    why_not: Callable[[base.Cell], str | None]
    is_best: Callable[[base.Cell], bool]
