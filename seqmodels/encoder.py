"""Recurrent layers on top of each other, with dropout on the way into each."""

from collections.abc import Sequence

import jax
from flax import nnx

from seqmodels.bidirectional import Bidirectional, Unidirectional
from seqmodels.dropout import Dropout
from seqmodels.recurrence import Encoded


class Encoder(nnx.Module):
    """A stack of recurrent layers; returns what the top one makes of the sequences.

    Args:
        layers: from the bottom up, each as wide on its input as the one below on its output.
        dropout_rates: for each layer, the dropout rate on its input, in [0, 1).
    """

    def __init__(
        self,
        layers: Sequence[Unidirectional | Bidirectional],
        dropout_rates: Sequence[float],
    ):
        self.layers = nnx.List(layers)
        self.dropout_rates = tuple(dropout_rates)
        self.output_size = layers[-1].output_size

    def __call__(
        self, x_TxDxB: jax.Array, lengths_B: jax.Array, *, dropout_keys_B: jax.Array | None = None
    ) -> tuple[Encoded, ...]:
        """Encodes a batch, in each direction of the top layer.

        Without `dropout_keys_B`, one for each sequence, nothing is dropped.
        """
        parts = [x_TxDxB]
        for number, (layer, rate) in enumerate(zip(self.layers, self.dropout_rates, strict=True)):
            dropped = None
            if dropout_keys_B is not None and rate > 0:
                keys_B = jax.vmap(jax.random.fold_in, (0, None))(dropout_keys_B, number)
                dropped = Dropout(rate, keys_B)
            encoded = layer(parts, lengths_B, dropped)
            parts = [direction.sequence_TxHxB for direction in encoded]
        return encoded
