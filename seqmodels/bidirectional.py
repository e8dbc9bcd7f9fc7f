"""A layer: one cell forwards, or the wrapper of two directions with one result."""

from collections.abc import Sequence

import jax
from flax import nnx

from seqmodels import recurrence
from seqmodels.cells import base
from seqmodels.dropout import Dropout


class Unidirectional(nnx.Module):
    """One cell run forwards; outputs are H wide."""

    def __init__(self, forward: base.Cell):
        self.forward = forward
        self.output_size = forward.hidden_size

    def __call__(
        self, parts: Sequence[jax.Array], lengths_B: jax.Array, dropped: Dropout | None = None
    ) -> tuple[recurrence.Encoded, ...]:
        return recurrence.run_all([self.forward], [False], parts, lengths_B, dropped)


class Bidirectional(nnx.Module):
    """Two cells over the same input, one in each direction; side by side they are 2H wide.

    Each direction has its own last step, so both have read the whole sequence by then. Schuster and
    Paliwal, "Bidirectional Recurrent Neural Networks", 1997.
    """

    def __init__(self, forward: base.Cell, backward: base.Cell):
        self.forward = forward
        self.backward = backward
        self.output_size = forward.hidden_size + backward.hidden_size

    def __call__(
        self, parts: Sequence[jax.Array], lengths_B: jax.Array, dropped: Dropout | None = None
    ) -> tuple[recurrence.Encoded, ...]:
        cells = [self.forward, self.backward]
        return recurrence.run_all(cells, [False, True], parts, lengths_B, dropped)
