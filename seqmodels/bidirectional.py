"""A layer: one cell forwards, or the wrapper of two directions with one result."""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import recurrence
from seqmodels.cells import base


class Unidirectional(nnx.Module):
    """One cell run forwards; outputs are H wide."""

    def __init__(self, forward: base.Cell):
        self.forward = forward
        self.output_size = forward.hidden_size

    def __call__(self, x_TxDxB: jax.Array, lengths_B: jax.Array) -> recurrence.Encoded:
        return recurrence.run(self.forward, x_TxDxB, lengths_B)


class Bidirectional(nnx.Module):
    """Two cells over the same input, one in each direction; outputs are 2H wide, side by side.

    In `last_HxB` each direction contributes its own last step, so both have read the whole
    sequence. Schuster and Paliwal, "Bidirectional Recurrent Neural Networks", 1997.
    """

    def __init__(self, forward: base.Cell, backward: base.Cell):
        self.forward = forward
        self.backward = backward
        self.output_size = forward.hidden_size + backward.hidden_size

    def __call__(self, x_TxDxB: jax.Array, lengths_B: jax.Array) -> recurrence.Encoded:
        forward = recurrence.run(self.forward, x_TxDxB, lengths_B)
        backward = recurrence.run(self.backward, x_TxDxB, lengths_B, reverse=True)
        return recurrence.Encoded(
            *(jnp.concatenate(pair, axis=-2) for pair in zip(forward, backward, strict=True))
        )
