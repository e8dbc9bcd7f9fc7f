"""A layer: one cell in one direction, or the wrapper of two directions with one result."""

from collections.abc import Sequence

import jax
from flax import nnx

from seqmodels import engines, recurrence
from seqmodels.cells import base
from seqmodels.dropout import NOTHING, Dropout
from seqmodels.recurrence import Encoded


class Unidirectional(nnx.Module):
    """One cell run forwards, or from the last valid step to the first; outputs are H wide."""

    forward: base.Cell
    backward: base.Cell

    def __init__(
        self, cell: base.Cell, *, backwards: bool = False, engine: engines.Engine = engines.AUTO
    ):
        setattr(self, "backward" if backwards else "forward", cell)
        self.backwards = backwards
        self.engine = engine
        self.output_sizes = (cell.hidden_size,)
        self.output_size = cell.hidden_size

    @property
    def cells(self) -> list[base.Cell]:
        """The one cell."""
        return [self.backward if self.backwards else self.forward]

    def __call__(
        self, parts: Sequence[jax.Array], lengths_B: jax.Array, dropped: Dropout = NOTHING
    ) -> tuple[Encoded, ...]:
        return engines.run_all(self.engine, self.cells, [self.backwards], parts, lengths_B, dropped)

    def run_from(
        self, start: base.Carry, parts: Sequence[jax.Array], lengths_B: jax.Array, dropped: Dropout
    ) -> tuple[tuple[Encoded, ...], base.Carry]:
        """Forwards from any carry, and the last one, by the loop of `seqmodels.recurrence`."""
        encoded, (carry,) = recurrence.run_from(
            [start], self.cells, [False], parts, lengths_B, dropped, *self.engine[1:]
        )
        return encoded, carry


class Bidirectional(nnx.Module):
    """Two cells over the same input, one in each direction; side by side they are 2H wide.

    Each direction has its own last step, so both have read the whole sequence by then. Schuster and
    Paliwal, "Bidirectional Recurrent Neural Networks", 1997.
    """

    def __init__(
        self, forward: base.Cell, backward: base.Cell, *, engine: engines.Engine = engines.AUTO
    ):
        self.forward = forward
        self.backward = backward
        self.engine = engine
        self.output_sizes = forward.hidden_size, backward.hidden_size
        self.output_size = sum(self.output_sizes)

    @property
    def cells(self) -> list[base.Cell]:
        """The cell of each direction."""
        return [self.forward, self.backward]

    def __call__(
        self, parts: Sequence[jax.Array], lengths_B: jax.Array, dropped: Dropout = NOTHING
    ) -> tuple[Encoded, ...]:
        return engines.run_all(self.engine, self.cells, [False, True], parts, lengths_B, dropped)
