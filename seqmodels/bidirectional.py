"""Layers: one cell in one direction, or a wrapper that combines two directions."""

import operator
from collections.abc import Callable

import jax
from flax import nnx

from seqmodels import initial_state, recurrence
from seqmodels.cells import base
from seqmodels.dropout import NOTHING, Dropout
from seqmodels.recurrence import Encoded, engines

MERGES: dict[str, Callable[[jax.Array, jax.Array], jax.Array] | None] = {
    "concat": None,  # Both outputs are passed on unchanged, side by side.
    "sum": operator.add,
    "mean": lambda forward, backward: (forward + backward) / 2,
    "product": operator.mul,
}
"""How the outputs of a layer's two directions are combined."""


class Unidirectional(nnx.Module):
    """One cell run forwards, or from the last valid step to the first; outputs are H wide.

    Args:
        cell: any cell.
        backwards: run from the last valid step to the first.
        engine: the engine that runs the cell.
        learned_initial_state: make the carry before the first step trainable, initialised to the
            cell's own.

    Attributes:
        forward: the cell, if it runs forwards.
        backward: the cell, if it runs backwards.
        forward_start: the leaves of its learned carry, if it runs forwards.
        backward_start: the leaves of its learned carry, if it runs backwards.
        output_sizes: the width of each direction's output.
        output_size: their sum.
    """

    forward: base.Cell
    backward: base.Cell

    def __init__(
        self,
        cell: base.Cell,
        *,
        backwards: bool = False,
        engine: engines.Engine = engines.AUTO,
        learned_initial_state: bool = False,
    ):
        direction = "backward" if backwards else "forward"
        setattr(self, direction, cell)
        if learned_initial_state:
            setattr(self, f"{direction}_start", initial_state.learn(cell))
        self.backwards = backwards
        self.engine = engine
        self.output_sizes = (cell.hidden_size,)
        self.output_size = cell.hidden_size

    @property
    def cells(self) -> list[base.Cell]:
        """The one cell."""
        return [self.backward if self.backwards else self.forward]

    def encode(
        self, parts: recurrence.Inputs, lengths_B: jax.Array, dropped: Dropout = NOTHING
    ) -> tuple[Encoded, ...]:
        """The cell's outputs, as from `engines.run_all`; undefined after the longest sequence."""
        starts = [self._start()]
        return engines.run_all(
            self.engine, self.cells, [self.backwards], parts, lengths_B, dropped, starts
        )

    def initial_carry(self, batch_size: int) -> base.Carry:
        """The carry of every sequence of a batch before its first step."""
        return recurrence.initial_carry(self.cells[0], batch_size, start=self._start())

    def run_from(
        self, start: base.Carry, parts: recurrence.Inputs, lengths_B: jax.Array, dropped: Dropout
    ) -> tuple[tuple[Encoded, ...], base.Carry]:
        """Runs the cell forwards from any carry by the loop; also returns the last carry."""
        encoded, (carry,) = recurrence.run_from(
            [start], self.cells, [False], parts, lengths_B, dropped, *self.engine[1:]
        )
        return encoded, carry

    def _start(self) -> base.Carry:
        return _start_of(self, "backward" if self.backwards else "forward")


class Bidirectional(nnx.Module):
    """Two cells over the same input, one in each direction.

    Each direction has its own last step, by which it has read the whole sequence. Schuster and
    Paliwal, "Bidirectional Recurrent Neural Networks", 1997.

    Args:
        forward: any cell; it runs from the first step to the last.
        backward: any cell; it runs from the last step to the first. It must be as wide as `forward`
            unless the two are concatenated.
        engine: the engine that runs the cells.
        merge: how the two outputs of a step, and the two last outputs, are combined; one of
            `MERGES`. Concatenated they are 2H wide, otherwise H.
        learned_initial_state: make the carries before the first step trainable, initialised to the
            cells' own.

    Attributes:
        forward_start: the leaves of the forward cell's learned carry.
        backward_start: the leaves of the backward cell's learned carry.
        output_sizes: the widths of what a call returns.
        output_size: their sum.

    Raises:
        ValueError: there is no such merge, or it needs cells of the same width.
    """

    def __init__(
        self,
        forward: base.Cell,
        backward: base.Cell,
        *,
        engine: engines.Engine = engines.AUTO,
        merge: str = "concat",
        learned_initial_state: bool = False,
    ):
        sizes = forward.hidden_size, backward.hidden_size
        if merge not in MERGES:
            raise ValueError(f"unknown merge {merge!r}; choose one of {', '.join(MERGES)}")
        if MERGES[merge] is not None and sizes[0] != sizes[1]:
            raise ValueError(
                f"the directions have {sizes[0]} and {sizes[1]} units, but merging by {merge} "
                "needs the same number; make them equal, or merge by concat"
            )
        self.forward = forward
        self.backward = backward
        if learned_initial_state:
            self.forward_start = initial_state.learn(forward)
            self.backward_start = initial_state.learn(backward)
        self.engine = engine
        self.merge = merge
        self.output_sizes = sizes if MERGES[merge] is None else sizes[:1]
        self.output_size = sum(self.output_sizes)

    @property
    def cells(self) -> list[base.Cell]:
        """The cell of each direction."""
        return [self.forward, self.backward]

    def encode(
        self, parts: recurrence.Inputs, lengths_B: jax.Array, dropped: Dropout = NOTHING
    ) -> tuple[Encoded, ...]:
        """The outputs of each direction, as from `engines.run_all`, or both merged into one.

        Outputs after the longest sequence are undefined.
        """
        starts = [_start_of(self, direction) for direction in ("forward", "backward")]
        encoded = engines.run_all(
            self.engine, self.cells, [False, True], parts, lengths_B, dropped, starts
        )
        merge = MERGES[self.merge]
        return encoded if merge is None else (jax.tree.map(merge, *encoded),)


def _start_of(layer: nnx.Module, direction: str) -> base.Carry:
    """The learned carry of one direction; None if the cell starts from its own."""
    learned = getattr(layer, f"{direction}_start", None)
    return initial_state.carry_of(getattr(layer, direction), learned)
