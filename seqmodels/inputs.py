"""A model's inputs: tokens, which are looked up in a table, or vectors, used as they are."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import arguments, dropout
from seqmodels.recurrence import arrays, longest, valid_steps


class Inputs(nnx.Module):
    """Turns what a model is called with into vectors `[T, D, B]`.

    Attributes:
        output_size: D.
    """

    output_size: int

    def check(self, x: Any) -> jax.Array:
        """The inputs as an array, `[B, T]` or `[B, T, D]`.

        Raises:
            ValueError: they are of the wrong kind.
        """
        raise NotImplementedError

    def read(
        self, x: jax.Array, lengths_B: jax.Array, dropout_keys_B: jax.Array | None = None
    ) -> jax.Array:
        """The vectors `[T, D, B]` of inputs that start at time 0.

        They are finite in the padding and undefined after the longest sequence; no gradient comes
        from either.

        Args:
            x: as `check` returns it.
            lengths_B: steps of each sequence, 0 to T.
            dropout_keys_B: a random key for each sequence; None drops nothing.
        """
        raise NotImplementedError

    @property
    def drops(self) -> bool:
        """Whether anything is dropped in training."""
        return False


class Embedding(Inputs):
    """A vector for every token, drawn from U(-0.05, 0.05) as in Keras.

    Args:
        vocabulary_size: V, the number of distinct tokens.
        size: D, the width of a token's vector.
        rngs: for the parameters.
        word_dropout: the rate at which tokens are replaced by `unknown_token`, in [0, 1).
        unknown_token: the token of unknown words; only word dropout needs it.
        embedding_dropout: the rate at which words are dropped from a whole sequence, in [0, 1).

    Attributes:
        table: `[V, D]`.
        passes_on: whether reading replaces the table with the one `embed_and_pass_on` returns.

    Raises:
        ValueError: there is word dropout but no unknown token.
    """

    passes_on = False

    def __init__(
        self,
        vocabulary_size: int,
        size: int,
        *,
        rngs: nnx.Rngs,
        word_dropout: float = 0.0,
        unknown_token: int | None = None,
        embedding_dropout: float = 0.0,
    ):
        if word_dropout > 0 and unknown_token is None:
            raise ValueError(
                "word dropout replaces tokens by that of unknown words, which must be given as "
                "unknown_token"
            )
        self.word_dropout = word_dropout
        self.unknown_token = unknown_token
        self.embedding_dropout = embedding_dropout
        self.output_size = size
        self.table = nnx.Param(
            jax.random.uniform(rngs.params(), (vocabulary_size, size), minval=-0.05, maxval=0.05)
        )

    def check(self, x):
        """The tokens, int32 `[B, T]`.

        Raises:
            ValueError: they are not integers `[B, T]`, or one is not in [0, V). Under `jax.jit`
                tokens out of range go unnoticed.
        """
        return arguments.tokens(x, len(self.table))

    def with_word_dropout(
        self, tokens_BxT: jax.Array, dropout_keys_B: jax.Array | None
    ) -> jax.Array:
        """The tokens, some replaced by that of unknown words."""
        if dropout_keys_B is None or self.word_dropout == 0:
            return tokens_BxT
        assert self.unknown_token is not None
        return dropout.drop_tokens(
            tokens_BxT, self.unknown_token, self.word_dropout, dropout_keys_B
        )

    def read(self, x, lengths_B, dropout_keys_B=None):
        tokens_BxT, scales_BxT = self.with_word_dropout(x, dropout_keys_B), None
        if dropout_keys_B is not None and self.embedding_dropout > 0:
            scales_BxT = dropout.word_scales(tokens_BxT, self.embedding_dropout, dropout_keys_B)
        x_TxDxB, table_VxD = embed_and_pass_on(self.table[...], tokens_BxT, lengths_B, scales_BxT)
        if self.passes_on:
            self.table[...] = table_VxD
        return x_TxDxB

    @property
    def drops(self):
        return self.word_dropout > 0 or self.embedding_dropout > 0


class Vectors(Inputs):
    """Vectors, used as they are, without parameters.

    Args:
        size: D, the width of a step's vector.
    """

    def __init__(self, size: int):
        self.output_size = size

    def check(self, x):
        """The vectors, floating point `[B, T, D]`.

        Raises:
            ValueError: they are anything else.
        """
        return arguments.vectors(x, self.output_size)

    def read(self, x, lengths_B, dropout_keys_B=None):
        del dropout_keys_B
        valid_TxB = valid_steps(lengths_B, x.shape[1])
        # NaN in the padding would reach gradients as zero times NaN.
        return jnp.where(valid_TxB[:, None], x.transpose(1, 2, 0), 0)


# Steps looked up at once: a few thousand vectors, and few more than the longest sequence needs.
_CHUNK = 32


def embed(
    table_VxD: jax.Array,
    tokens_BxT: jax.Array,
    lengths_B: jax.Array,
    scales_BxT: jax.Array | None = None,
) -> jax.Array:
    """The vector of every token: `[T, D, B]`, undefined after the longest sequence.

    Only the first `lengths_B` tokens of each row contribute to the table's gradient.

    Args:
        table_VxD: a vector for each token.
        tokens_BxT: integers in [0, V).
        lengths_B: tokens of each sequence, 0 to T.
        scales_BxT: factors of the vectors, such as `dropout.word_scales`; they get no gradient.
            None leaves the vectors as they are.
    """
    return embed_and_pass_on(table_VxD, tokens_BxT, lengths_B, scales_BxT)[0]


@jax.custom_vjp
def embed_and_pass_on(
    table_VxD: jax.Array,
    tokens_BxT: jax.Array,
    lengths_B: jax.Array,
    scales_BxT: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the result of `embed`, and the table, for whatever reads it next.

    The gradient is then added in place to that of the returned table: it needs no other array as
    large as the table and no pass over it.
    """
    batch_size, width = tokens_BxT.shape
    size = jax.core.min_dim(_CHUNK, width)  # The width may be symbolic.

    def body(number, x_TxDxB):
        start = _start(number, size, width)
        tokens_BxC = jax.lax.dynamic_slice_in_dim(tokens_BxT, start, size, 1)
        x_CxBxD = _scaled(table_VxD.at[tokens_BxC.T].get(mode="clip"), scales_BxT, start)
        return arrays.write(x_TxDxB, x_CxBxD.swapaxes(1, 2), start, 0)

    x_DxB = jax.ShapeDtypeStruct((table_VxD.shape[1], batch_size), table_VxD.dtype)
    x_TxDxB = arrays.room(x_DxB, width, first=30)
    return jax.lax.fori_loop(0, -(-longest(lengths_B) // size), body, x_TxDxB), table_VxD


def _forward(*arguments):
    return embed_and_pass_on(*arguments), arguments[1:]


def _backward(residuals, cotangents):
    tokens_BxT, lengths_B, scales_BxT = residuals
    d_x_TxDxB, d_table_VxD = cotangents
    width = len(d_x_TxDxB)
    size = min(_CHUNK, width)

    def body(number, d_table_VxD):
        start = _start(number, size, width)
        times_Cx1 = start + jnp.arange(size)[:, None]
        # The last chunk may overlap the one before, whose steps are done.
        valid_CxB = (times_Cx1 >= number * size) & (times_Cx1 < lengths_B)
        d_x_CxDxB = jax.lax.dynamic_slice_in_dim(d_x_TxDxB, start, size, 0)
        d_x_CxBxD = jnp.where(valid_CxB[..., None], d_x_CxDxB.swapaxes(1, 2), 0)
        d_x_CxBxD = _scaled(d_x_CxBxD, scales_BxT, start)
        tokens_BxC = jax.lax.dynamic_slice_in_dim(tokens_BxT, start, size, 1)
        return d_table_VxD.at[tokens_BxC.T].add(d_x_CxBxD, mode="clip")

    steps = -(-longest(lengths_B) // size)
    return jax.lax.fori_loop(0, steps, body, d_table_VxD), None, None, None


embed_and_pass_on.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def take_and_pass_on(
    matrix: jax.Array, numbers_N: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array]:
    """Returns rows or columns of a matrix, as the rows of `[N, D]`, and the matrix, as above."""
    rows_NxD = matrix[numbers_N] if axis == 0 else matrix[:, numbers_N].T
    return rows_NxD, matrix


def _take_backward(axis, numbers_N, cotangents):
    d_rows_NxD, d_matrix = cotangents
    if axis == 0:
        return d_matrix.at[numbers_N].add(d_rows_NxD), None
    return d_matrix.at[:, numbers_N].add(d_rows_NxD.T), None


take_and_pass_on.defvjp(
    lambda matrix, numbers_N, axis: (take_and_pass_on(matrix, numbers_N, axis), numbers_N),
    _take_backward,
)


def _scaled(x_CxBxD: jax.Array, scales_BxT: jax.Array | None, start: jax.Array) -> jax.Array:
    if scales_BxT is None:
        return x_CxBxD
    return x_CxBxD * jax.lax.dynamic_slice_in_dim(scales_BxT, start, len(x_CxBxD), 1).T[..., None]


def _start(number: jax.Array, size: int, width: int) -> jax.Array:
    return jnp.minimum(number * size, width - size)
