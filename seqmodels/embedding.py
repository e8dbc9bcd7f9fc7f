"""Tokens to vectors, as far as there are tokens."""

import jax
import jax.numpy as jnp

from seqmodels import recurrence
from seqmodels.recurrence import arrays

# Steps looked up at once: a few thousand vectors, little more than the longest sequence needs.
_CHUNK = 32


@jax.custom_vjp
def embed(
    table_VxD: jax.Array,
    tokens_BxT: jax.Array,
    lengths_B: jax.Array,
    scales_BxT: jax.Array | None = None,
) -> jax.Array:
    """The vector of every token: `[T, D, B]`, undefined behind the longest sequence.

    The gradient reaches the table from the first `lengths_B` tokens of each row alone.

    Args:
        table_VxD: a vector for each token.
        tokens_BxT: integers in [0, V).
        lengths_B: tokens of each sequence, 0 to T.
        scales_BxT: what to multiply each vector by, such as `dropout.word_scales`; it gets no
            gradient. None leaves them as they are.
    """
    batch_size, width = tokens_BxT.shape
    size = min(_CHUNK, width)

    def body(number, x_TxDxB):
        start = _start(number, size, width)
        tokens_BxC = jax.lax.dynamic_slice_in_dim(tokens_BxT, start, size, 1)
        x_CxBxD = _scaled(table_VxD.at[tokens_BxC.T].get(mode="clip"), scales_BxT, start)
        return jax.lax.dynamic_update_slice_in_dim(x_TxDxB, x_CxBxD.swapaxes(1, 2), start, 0)

    x_DxB = jax.ShapeDtypeStruct((table_VxD.shape[1], batch_size), table_VxD.dtype)
    x_TxDxB = arrays.room(x_DxB, width, first=30)
    return jax.lax.fori_loop(0, -(-recurrence.longest(lengths_B) // size), body, x_TxDxB)


def _forward(*arguments):
    return embed(*arguments), arguments


def _backward(residuals, d_x_TxDxB):
    table_VxD, tokens_BxT, lengths_B, scales_BxT = residuals
    width = len(d_x_TxDxB)
    size = min(_CHUNK, width)

    def body(number, d_table_VxD):
        start = _start(number, size, width)
        times_Cx1 = start + jnp.arange(size)[:, None]
        # The last chunk of an odd width begins in the one before, whose steps are done.
        valid_CxB = (times_Cx1 >= number * size) & (times_Cx1 < lengths_B)
        d_x_CxDxB = jax.lax.dynamic_slice_in_dim(d_x_TxDxB, start, size, 0)
        d_x_CxBxD = jnp.where(valid_CxB[..., None], d_x_CxDxB.swapaxes(1, 2), 0)
        d_x_CxBxD = _scaled(d_x_CxBxD, scales_BxT, start)
        tokens_BxC = jax.lax.dynamic_slice_in_dim(tokens_BxT, start, size, 1)
        return d_table_VxD.at[tokens_BxC.T].add(d_x_CxBxD, mode="clip")

    steps = -(-recurrence.longest(lengths_B) // size)
    return jax.lax.fori_loop(0, steps, body, jnp.zeros_like(table_VxD)), None, None, None


embed.defvjp(_forward, _backward)


def _scaled(x_CxBxD: jax.Array, scales_BxT: jax.Array | None, start: jax.Array) -> jax.Array:
    if scales_BxT is None:
        return x_CxBxD
    return x_CxBxD * jax.lax.dynamic_slice_in_dim(scales_BxT, start, len(x_CxBxD), 1).T[..., None]


def _start(number: jax.Array, size: int, width: int) -> jax.Array:
    return jnp.minimum(number * size, width - size)
