"""What public functions ask of their arguments, checked once and with messages.

Shapes and types are always known. Values are known outside of `jax.jit` alone; inside it, a length
that cannot be makes what is computed of its sequence NaN, so that it does not pass unnoticed.
"""

import jax
import jax.numpy as jnp


def check_lengths(lengths_B: jax.Array, batch_size: int, width: int) -> None:
    """Checks that there is a length for each sequence, of at most `width` steps.

    Raises:
        ValueError: it says what is wrong.
    """
    _check_integers(lengths_B, "lengths_B", f"[{batch_size}], one for each sequence", (batch_size,))
    _check_range(lengths_B, "lengths_B", 0, width, "the sequences have only so many steps")


def nan_where_impossible(result_B: jax.Array, lengths_B: jax.Array, width: int) -> jax.Array:
    """Results `[..., B]`; NaN for a sequence whose length is out of range."""
    return jnp.where((lengths_B >= 0) & (lengths_B <= width), result_B, jnp.nan)


def check_tokens(tokens_BxT: jax.Array, vocabulary_size: int) -> None:
    """Checks that tokens are integers `[B, T]` of a vocabulary.

    Raises:
        ValueError: it says what is wrong.
    """
    shape = jnp.shape(tokens_BxT)
    if len(shape) != 2:
        raise ValueError(f"tokens_BxT must be [B, T], a row for each sequence; it is {list(shape)}")
    _check_integers(tokens_BxT, "tokens_BxT", "[B, T]", shape)
    _check_range(tokens_BxT, "tokens_BxT", 0, vocabulary_size - 1, "the vocabulary has no others")


def check_vectors(x_BxTxD: jax.Array) -> None:
    """Checks that inputs are `[B, T, D]`, floating point.

    Raises:
        ValueError: it says what is wrong.
    """
    shape = jnp.shape(x_BxTxD)
    if len(shape) != 3:
        raise ValueError(
            f"inputs must be [B, T, D]: sequences, their steps, the features of a step; they are "
            f"{list(shape)}"
        )
    if not jnp.issubdtype(x_BxTxD.dtype, jnp.floating):
        raise ValueError(f"inputs must be floating point; they are {x_BxTxD.dtype}")


def _check_integers(array, name: str, expected: str, shape: tuple[int, ...]) -> None:
    dtype = jnp.result_type(array)
    if jnp.shape(array) != shape or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"{name} must be integers {expected}; it is {dtype}{list(jnp.shape(array))}"
        )


def _check_range(array, name: str, lowest: int, highest: int, why: str) -> None:
    if isinstance(array, jax.core.Tracer) or not array.size:
        return
    values = jax.device_get(array)  # Under `jax.jit` too, since a constant has its values there.
    smallest, largest = int(values.min()), int(values.max())
    if smallest < lowest or largest > highest:
        wrong = smallest if smallest < lowest else largest
        raise ValueError(f"{name} must lie in {lowest} to {highest}, and holds {wrong}: {why}")
