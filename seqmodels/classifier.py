"""Embed, encode, pool, decide."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from seqmodels.embedding import embed
from seqmodels.encoder import Encoder
from seqmodels.pooling import Pooling

PaddingSide = Literal["pre", "post"]


def align_left(tokens_BxT: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """Moves the padding of pre-padded sequences behind them: `[0, 0, 7, 8] -> [7, 8, 0, 0]`."""
    width = tokens_BxT.shape[1]
    times_BxT = (jnp.arange(width) + width - lengths_B[:, None]) % width
    return jnp.take_along_axis(tokens_BxT, times_BxT, axis=1)


class Classifier(nnx.Module):
    """A binary classifier of token sequences.

    The embedding is drawn from U(-0.05, 0.05) and the head is Glorot-uniform with a zero bias, as
    in Keras.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        embedding_size: int,
        encoder: Encoder,
        pooling: Pooling,
        rngs: nnx.Rngs,
    ):
        self.embedding = nnx.Param(
            jax.random.uniform(
                rngs.params(), (vocabulary_size, embedding_size), minval=-0.05, maxval=0.05
            )
        )
        self.encoder = encoder
        self.pooling = pooling
        self.head = nnx.Linear(
            pooling.output_size, 1, kernel_init=initializers.glorot_uniform(), rngs=rngs
        )

    def __call__(
        self,
        tokens_BxT: jax.Array,
        lengths_B: jax.Array | None = None,
        *,
        padding_side: PaddingSide = "post",
        dropout_keys_B: jax.Array | None = None,
    ) -> jax.Array:
        """The logit of the positive class for every sequence: `logits_B`.

        Args:
            tokens_BxT: integers in [0, V).
            lengths_B: tokens of each sequence, the rest of its row being padding that no result
                depends on; None reads every row to its end, padding included.
            padding_side: where in the row the padding stands.
            dropout_keys_B: a random key for each sequence; None, as in evaluation, drops nothing.
        """
        batch_size, width = tokens_BxT.shape
        if lengths_B is None:
            lengths_B = jnp.full(batch_size, width)
        elif padding_side == "pre":
            tokens_BxT = align_left(tokens_BxT, lengths_B)
        x_TxDxB = embed(self.embedding[...], tokens_BxT, lengths_B)
        encoded = self.encoder(x_TxDxB, lengths_B, dropout_keys_B=dropout_keys_B)
        return self.head(self.pooling(encoded, lengths_B).T)[:, 0]
