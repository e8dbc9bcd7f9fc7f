"""Recurrent layers on top of each other, with dropout on the way into each."""

from collections.abc import Sequence

import jax
from flax import nnx

from seqmodels.bidirectional import Bidirectional, Unidirectional
from seqmodels.dropout import Dropout, Rates
from seqmodels.recurrence import Encoded


class Encoder(nnx.Module):
    """A stack of recurrent layers; returns what the top one makes of the sequences.

    Args:
        layers: from the bottom up, each as wide on its input as the one below on its output.
        rates: for each layer, what is dropped around its cells.
    """

    def __init__(
        self,
        layers: Sequence[Unidirectional | Bidirectional],
        rates: Sequence[Rates],
    ):
        self.layers = nnx.List(layers)
        self.rates = tuple(rates)
        self.output_size = layers[-1].output_size

    def __call__(
        self, x_TxDxB: jax.Array, lengths_B: jax.Array, *, dropout_keys_B: jax.Array | None = None
    ) -> tuple[Encoded, ...]:
        """Encodes a batch, in each direction of the top layer.

        Without `dropout_keys_B`, one for each sequence, nothing is dropped.
        """
        parts = [x_TxDxB]
        for number, (layer, rates) in enumerate(zip(self.layers, self.rates, strict=True)):
            keys_B = None
            if dropout_keys_B is not None:
                keys_B = jax.vmap(jax.random.fold_in, (0, None))(dropout_keys_B, number)
            encoded = layer(parts, lengths_B, Dropout(rates, keys_B))
            parts = [direction.sequence_TxHxB for direction in encoded]
        return encoded
