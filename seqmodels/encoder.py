"""A stack of recurrent layers, with dropout on the input of each and on recurrent weights."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import arguments, dropout, recurrence
from seqmodels.bidirectional import Bidirectional, Unidirectional
from seqmodels.cells import base
from seqmodels.dropout import Dropout, Rates
from seqmodels.recurrence import Encoded, LookedUp, engines


class Encoding(NamedTuple):
    """The outputs of an encoder; the directions of its top layer are concatenated.

    Attributes:
        sequence_BxTxH: the output of every step; zero in the padding.
        last_BxH: for each direction, the output of the last step it took; zero for a sequence of
            length 0.
    """

    sequence_BxTxH: jax.Array
    last_BxH: jax.Array


class Encoder(nnx.Module):
    """A stack of recurrent layers; returns the outputs of the top one.

    Args:
        layers: from the bottom up; the input of each is as wide as the output of the one below.
        rates: the dropout rates around each layer's cells; None: no dropout.
        residual: every layer above the first adds its input, without any dropout, to its
            output: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
        weight_drop: the rate at which elements of recurrent matrices are dropped, in [0, 1).

    Attributes:
        output_size: H, of all directions of the top layer together.

    Raises:
        ValueError: `rates` does not have one entry for each layer, a residual encoder has only one
            layer or layers of different widths, or a cell has no recurrent matrix to drop from.
    """

    def __init__(
        self,
        layers: Sequence[Unidirectional | Bidirectional],
        rates: Sequence[Rates] | None = None,
        *,
        residual: bool = False,
        weight_drop: float = 0.0,
    ):
        rates = [Rates()] * len(layers) if rates is None else rates
        if len(layers) != len(rates) or not layers:
            raise ValueError(
                f"{len(layers)} layers and {len(rates)} rates; there must be one of each for every "
                "layer, and at least one layer"
            )
        if residual:
            _check_residual(layers)
        if weight_drop > 0:
            _check_matrices(layers)
        self.layers = nnx.List(layers)
        self.rates = tuple(rates)
        self.residual = residual
        self.weight_drop = weight_drop
        self.output_size = layers[-1].output_size

    def __call__(
        self,
        x_BxTxD: jax.Array,
        lengths_B: jax.Array | None = None,
        *,
        dropout_keys_B: jax.Array | None = None,
        step_key: jax.Array | None = None,
    ) -> Encoding:
        """Encodes a batch of sequences, whatever their padding contains.

        Args:
            x_BxTxD: the inputs; sequences start at time 0.
            lengths_B: steps of each sequence, 0 to T; None: all have T. Under `jax.jit`, where a
                length cannot be checked, its sequence's results are NaN if it is out of range.
            dropout_keys_B: a random key for each sequence, which decides what is dropped from it;
                None, as in evaluation, drops nothing.
            step_key: a random key for the training step, which decides which weights are dropped;
                None, as in evaluation, drops none.

        Raises:
            ValueError: an argument has the wrong shape or type, or a length is out of range.
        """
        x_BxTxD = arguments.vectors(x_BxTxD)
        batch_size, width, input_size = x_BxTxD.shape
        self.check_reads(input_size)
        given_B = lengths_B
        if lengths_B is None:
            lengths_B = jnp.full(batch_size, width)
        lengths_B = arguments.lengths(lengths_B, batch_size, width)
        arguments.check_keys(dropout_keys_B, "dropout_keys_B", (batch_size,))
        arguments.check_keys(step_key, "step_key", ())
        valid_TxB = recurrence.valid_steps(lengths_B, width)
        x_TxDxB = jnp.where(valid_TxB[:, None], x_BxTxD.transpose(1, 2, 0), 0)
        encoded = self.encode(x_TxDxB, lengths_B, dropout_keys_B=dropout_keys_B, step_key=step_key)
        sequence_TxHxB = jnp.concatenate([one.sequence_TxHxB for one in encoded], axis=1)
        # It is undefined after the longest sequence.
        sequence_TxHxB = jnp.where(valid_TxB[:, None], sequence_TxHxB, 0)
        last_HxB = jnp.concatenate([one.last_HxB for one in encoded])
        sequence_TxHxB, last_HxB = (
            arguments.nan_where_impossible(result, given_B, width)
            for result in (sequence_TxHxB, last_HxB)
        )
        return Encoding(sequence_TxHxB.transpose(2, 0, 1), last_HxB.T)

    def encode(
        self,
        x: jax.Array | LookedUp,
        lengths_B: jax.Array,
        *,
        dropout_keys_B: jax.Array | None = None,
        step_key: jax.Array | None = None,
    ) -> tuple[Encoded, ...]:
        """Like a call, without its checks: the outputs of each direction of the top layer.

        Inputs are `[T, D, B]`, and finite everywhere; or tokens with the projections that the
        cells of the first layer make of them. Outputs after the longest sequence are undefined.
        """
        return self._encode(x, lengths_B, dropout_keys_B, step_key, None)[0]

    def encode_from(
        self,
        starts: Sequence[base.Carry],
        x: jax.Array | LookedUp,
        lengths_B: jax.Array,
        *,
        dropout_keys_B: jax.Array | None = None,
        step_key: jax.Array | None = None,
    ) -> tuple[tuple[Encoded, ...], list[base.Carry]]:
        """Like `encode`, but starts from given carries and also returns each layer's last carry.

        All layers must run forwards (`check_reads_on`); the loop runs them, whatever the engine.

        Args:
            starts: for each layer, the carry of every sequence; the batch is the last axis.
        """
        return self._encode(x, lengths_B, dropout_keys_B, step_key, starts)

    def initial_carries(self, batch_size: int) -> list[base.Carry]:
        """The carry of each layer before the first step, for every sequence of a batch.

        Raises:
            ValueError: as in `check_reads_on`.
        """
        self.check_reads_on()
        carries = []
        for layer in self.layers:
            assert isinstance(layer, Unidirectional)
            carries.append(layer.initial_carry(batch_size))
        return carries

    def check_reads_on(self) -> None:
        """Checks that the encoder can read a sequence piece by piece.

        Raises:
            ValueError: a layer runs backwards, and so needs the end of a sequence first.
        """
        for number, layer in enumerate(self.layers, 1):
            if not isinstance(layer, Unidirectional) or layer.backwards:
                raise ValueError(
                    f"layer {number} reads from the end of a sequence to its start, so it cannot "
                    "read a sequence piece by piece; make all layers forward"
                )

    def check_reads(self, input_size: int) -> None:
        """Checks that the first layer reads inputs of D = `input_size` features.

        Raises:
            ValueError: it does not.
        """
        for cell in self.layers[0].cells:
            arguments.check_reads(cell, input_size, "the first layer")

    def last_carries(
        self, x_TxDx1: jax.Array, lengths_1: jax.Array, batch_size: int
    ) -> list[base.Carry]:
        """The carry of each layer after one sequence, as the start of every sequence of a batch."""
        _, carries = self.encode_from(self.initial_carries(1), x_TxDx1, lengths_1)
        return jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (*leaf.shape[:-1], batch_size)), carries
        )

    def gives_carries(self) -> bool:
        """Whether all layers run forwards and by the loop, which can start and stop anywhere."""
        return set(self.engine_names()) == {"loop"} and all(
            isinstance(layer, Unidirectional) and not layer.backwards for layer in self.layers
        )

    def engine_names(self) -> list[str]:
        """The name of the engine that runs each layer."""
        return [
            engines.choose(layer.engine, layer.cells[0], rates)
            for layer, rates in zip(self.layers, self.rates, strict=True)
        ]

    @property
    def drops(self) -> bool:
        """Whether anything is dropped in training."""
        return self.weight_drop > 0 or any(rates != Rates() for rates in self.rates)

    def _encode(self, x, lengths_B, dropout_keys_B, step_key, starts):
        """The top layer's outputs and, if `starts` are given, the last carry of each layer."""
        parts = x if isinstance(x, LookedUp) else [x]
        below, carries = None, []
        for number, (layer, rates) in enumerate(zip(self.layers, self.rates, strict=True)):
            keys_B = None if dropout_keys_B is None else dropout.fold_in(dropout_keys_B, number)
            if step_key is not None and self.weight_drop > 0:
                key = jax.random.fold_in(step_key, number)
                layer = dropout.drop_weights(layer, self.weight_drop, key)
            dropped = Dropout(rates, keys_B)
            if starts is None:
                encoded = layer.encode(parts, lengths_B, dropped)
            else:
                assert isinstance(layer, Unidirectional)
                encoded, carry = layer.run_from(starts[number], parts, lengths_B, dropped)
                carries.append(carry)
            if self.residual and below is not None:
                # Direction by direction: both take their last step at the same time.
                encoded = jax.tree.map(jnp.add, encoded, below)
            below = encoded
            parts = [direction.sequence_TxHxB for direction in encoded]
        return encoded, carries


def _check_residual(layers: Sequence[Unidirectional | Bidirectional]) -> None:
    if len(layers) == 1:
        raise ValueError(
            "a residual layer adds its input to its output, and the first layer never does: with "
            "one layer residual changes nothing; set it to False, or add layers"
        )
    for number, (below, layer) in enumerate(itertools.pairwise(layers), 2):
        if layer.output_sizes != below.output_sizes:
            widths = [" + ".join(map(str, one.output_sizes)) for one in (below, layer)]
            raise ValueError(
                f"a residual layer adds its input to its output, but the input of layer {number} "
                f"is {widths[0]} wide and its output {widths[1]}; make all layers equally wide"
            )


def _check_matrices(layers: Sequence[Unidirectional | Bidirectional]) -> None:
    for layer in layers:
        if not dropout.recurrent_matrices(layer):
            raise ValueError(
                f"weight drop has nothing to drop in the cell {type(layer.cells[0]).__name__}: no "
                "parameter of two axes or more has a name that begins with recurrent_; set it to 0"
            )
