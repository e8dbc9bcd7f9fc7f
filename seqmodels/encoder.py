"""Recurrent layers on top of each other, with dropout on the way into each."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.bidirectional import Bidirectional, Unidirectional
from seqmodels.dropout import Dropout
from seqmodels.recurrence import Encoded


class Encoder(nnx.Module):
    """A stack of recurrent layers; returns what the top one makes of the sequences.

    Args:
        layers: from the bottom up, each as wide on its input as the one below on its output.
        dropout_rates: for each layer, the dropout rate on its input, in [0, 1).
        residual: every layer above the first adds its input, of which nothing is dropped, to its
            output: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

    Raises:
        ValueError: layers of different widths are to be added up.
    """

    def __init__(
        self,
        layers: Sequence[Unidirectional | Bidirectional],
        dropout_rates: Sequence[float],
        *,
        residual: bool = False,
    ):
        for number, (below, layer) in enumerate(itertools.pairwise(layers), 2):
            if residual and layer.output_sizes != below.output_sizes:
                widths = [" + ".join(map(str, one.output_sizes)) for one in (below, layer)]
                raise ValueError(
                    f"a residual layer adds its input to its output, but of layer {number} the "
                    f"input is {widths[0]} wide and the output {widths[1]}; make all layers as wide"
                )
        self.layers = nnx.List(layers)
        self.dropout_rates = tuple(dropout_rates)
        self.residual = residual
        self.output_size = layers[-1].output_size

    def __call__(
        self, x_TxDxB: jax.Array, lengths_B: jax.Array, *, dropout_keys_B: jax.Array | None = None
    ) -> tuple[Encoded, ...]:
        """Encodes a batch, in each direction of the top layer.

        Without `dropout_keys_B`, one for each sequence, nothing is dropped.
        """
        parts, below = [x_TxDxB], None
        for number, (layer, rate) in enumerate(zip(self.layers, self.dropout_rates, strict=True)):
            dropped = None
            if dropout_keys_B is not None and rate > 0:
                keys_B = jax.vmap(jax.random.fold_in, (0, None))(dropout_keys_B, number)
                dropped = Dropout(rate, keys_B)
            encoded = layer(parts, lengths_B, dropped)
            if self.residual and below is not None:
                # Direction by direction: both take their last step at the same time.
                encoded = jax.tree.map(jnp.add, encoded, below)
            below = encoded
            parts = [direction.sequence_TxHxB for direction in encoded]
        return encoded
