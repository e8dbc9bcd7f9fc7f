"""Embed, encode, pool, decide."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from seqmodels import arguments, dropout
from seqmodels.embedding import embed
from seqmodels.encoder import Encoder
from seqmodels.pooling import Last, Pooling

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

    Args:
        vocabulary_size: V, distinct tokens.
        embedding_size: width of a token's vector.
        encoder: of the vectors.
        pooling: of what the encoder makes of them.
        rngs: for the parameters.
        word_dropout: the rate at which tokens are replaced by `unknown_token`, in [0, 1).
        unknown_token: the token of unknown words; only word dropout needs it.
        embedding_dropout: the rate at which words are dropped wherever they stand, in [0, 1).

    Raises:
        ValueError: word dropout without an unknown word.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        embedding_size: int,
        encoder: Encoder,
        pooling: Pooling,
        rngs: nnx.Rngs,
        word_dropout: float = 0.0,
        unknown_token: int | None = None,
        embedding_dropout: float = 0.0,
    ):
        if word_dropout > 0 and unknown_token is None:
            raise ValueError(
                "word dropout replaces tokens by that of unknown words, which has to be given as "
                "unknown_token"
            )
        self.word_dropout = word_dropout
        self.unknown_token = unknown_token
        self.embedding_dropout = embedding_dropout
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
        step_key: jax.Array | None = None,
        shared_steps: jax.Array | None = None,
    ) -> jax.Array:
        """The logit of the positive class for every sequence: `logits_B`.

        Args:
            tokens_BxT: integers in [0, V).
            lengths_B: tokens of each sequence, the rest of its row being padding that no result
                depends on; None reads every row to its end, padding included.
            padding_side: where in the row the padding stands.
            dropout_keys_B: a random key for each sequence, which decides what is dropped from it;
                None, as in evaluation: nothing.
            step_key: a random key for the step of training, which decides what weights are dropped;
                None, as in evaluation: none.
            shared_steps: where rows are read to their end, how many tokens at their start are the
                same in all of them, such as padding; fewer than T. They are then read once, if
                nothing is dropped and only a last output of forward layers is asked for.

        Raises:
            ValueError: an argument has the wrong shape or type, a token or length is out of range,
                or the head has not one output. Under `jax.jit` tokens out of range are not noticed,
                and a length out of range makes the logit NaN.
        """
        tokens_BxT = arguments.tokens(tokens_BxT, len(self.embedding))
        if padding_side not in get_args(PaddingSide):
            raise ValueError(f"padding_side is {padding_side!r}; it must be 'pre' or 'post'")
        batch_size, width = tokens_BxT.shape
        arguments.check_keys(dropout_keys_B, "dropout_keys_B", (batch_size,))
        arguments.check_keys(step_key, "step_key", ())
        if lengths_B is not None:
            if shared_steps is not None:
                raise ValueError(
                    "shared_steps goes with rows that are read to their end, not with "
                    "lengths_B; leave one of them out"
                )
            lengths_B = arguments.lengths(lengths_B, batch_size, width)
        starts, given_lengths_B = None, lengths_B
        if lengths_B is None:
            lengths_B = jnp.full(batch_size, width)
            drops = self.drops and not (dropout_keys_B is None and step_key is None)
            if shared_steps is not None and not drops and self._reads_forwards():
                x_TxDx1 = embed(self.embedding[...], tokens_BxT[:1], shared_steps[None])
                starts = self.encoder.last_carries(x_TxDx1, shared_steps[None], batch_size)
                tokens_BxT = jnp.roll(tokens_BxT, -shared_steps, axis=1)
                lengths_B = lengths_B - shared_steps
        elif padding_side == "pre":
            tokens_BxT = align_left(tokens_BxT, lengths_B)
        scales_BxT = None
        if dropout_keys_B is not None and self.word_dropout > 0:
            assert self.unknown_token is not None
            tokens_BxT = dropout.drop_tokens(
                tokens_BxT, self.unknown_token, self.word_dropout, dropout_keys_B
            )
        if dropout_keys_B is not None and self.embedding_dropout > 0:
            scales_BxT = dropout.word_scales(tokens_BxT, self.embedding_dropout, dropout_keys_B)
        x_TxDxB = embed(self.embedding[...], tokens_BxT, lengths_B, scales_BxT)
        encoded = self.encoder.encode(
            x_TxDxB, lengths_B, dropout_keys_B=dropout_keys_B, step_key=step_key, starts=starts
        )
        logits_Bx1 = self.head(self.pooling(encoded, lengths_B).T)
        if logits_Bx1.shape != (batch_size, 1):
            raise ValueError(
                f"the head makes {list(logits_Bx1.shape)} of a batch of {batch_size}; a binary "
                "classifier has one logit for each sequence"
            )
        logits_B = logits_Bx1[:, 0]
        if given_lengths_B is None:
            return logits_B
        return arguments.nan_where_impossible(logits_B, given_lengths_B, width)

    @property
    def drops(self) -> bool:
        """Whether anything is dropped in training."""
        return self.word_dropout > 0 or self.embedding_dropout > 0 or self.encoder.drops

    def _reads_forwards(self) -> bool:
        return isinstance(self.pooling, Last) and self.encoder.gives_carries()
