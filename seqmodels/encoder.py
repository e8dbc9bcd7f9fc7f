"""Recurrent layers on top of each other, with dropout on the way into each and of weights."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import dropout
from seqmodels.bidirectional import Bidirectional, Unidirectional
from seqmodels.dropout import Dropout, Rates
from seqmodels.recurrence import Encoded


class Encoder(nnx.Module):
    """A stack of recurrent layers; returns what the top one makes of the sequences.

    Args:
        layers: from the bottom up, each as wide on its input as the one below on its output.
        rates: for each layer, what is dropped around its cells.
        residual: every layer above the first adds its input, of which nothing is dropped, to its
            output: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
        weight_drop: the rate at which elements of recurrent matrices are dropped, in [0, 1).

    Raises:
        ValueError: layers of different widths are to be added up, or a cell has no recurrent matrix
            to drop from.
    """

    def __init__(
        self,
        layers: Sequence[Unidirectional | Bidirectional],
        rates: Sequence[Rates],
        *,
        residual: bool = False,
        weight_drop: float = 0.0,
    ):
        if residual:
            _check_widths(layers)
        if weight_drop > 0:
            _check_matrices(layers)
        self.layers = nnx.List(layers)
        self.rates = tuple(rates)
        self.residual = residual
        self.weight_drop = weight_drop
        self.output_size = layers[-1].output_size

    def __call__(
        self,
        x_TxDxB: jax.Array,
        lengths_B: jax.Array,
        *,
        dropout_keys_B: jax.Array | None = None,
        step_key: jax.Array | None = None,
    ) -> tuple[Encoded, ...]:
        """Encodes a batch, in each direction of the top layer.

        Without `dropout_keys_B`, one for each sequence, no input is dropped, and without
        `step_key`, one for the whole batch, no weight.
        """
        parts, below = [x_TxDxB], None
        for number, (layer, rates) in enumerate(zip(self.layers, self.rates, strict=True)):
            keys_B = None if dropout_keys_B is None else dropout.fold_in(dropout_keys_B, number)
            if step_key is not None and self.weight_drop > 0:
                key = jax.random.fold_in(step_key, number)
                layer = dropout.drop_weights(layer, self.weight_drop, key)
            encoded = layer(parts, lengths_B, Dropout(rates, keys_B))
            if self.residual and below is not None:
                # Direction by direction: both take their last step at the same time.
                encoded = jax.tree.map(jnp.add, encoded, below)
            below = encoded
            parts = [direction.sequence_TxHxB for direction in encoded]
        return encoded


def _check_widths(layers: Sequence[Unidirectional | Bidirectional]) -> None:
    for number, (below, layer) in enumerate(itertools.pairwise(layers), 2):
        if layer.output_sizes != below.output_sizes:
            widths = [" + ".join(map(str, one.output_sizes)) for one in (below, layer)]
            raise ValueError(
                f"a residual layer adds its input to its output, but of layer {number} the input "
                f"is {widths[0]} wide and the output {widths[1]}; make all layers equally wide"
            )


def _check_matrices(layers: Sequence[Unidirectional | Bidirectional]) -> None:
    for layer in layers:
        if not dropout.recurrent_matrices(layer):
            raise ValueError(
                f"weight drop has nothing to drop in the cell {type(layer.forward).__name__}: no "
                "parameter of two axes or more has a name that begins with recurrent_; set it to 0"
            )
