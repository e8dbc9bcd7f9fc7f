"""What public functions ask of their arguments: checked once, with messages, and made arrays.

Shapes and types are always known. Values are known outside of `jax.jit` alone; inside it, a length
out of range makes what is computed of its sequence NaN, so that it does not pass unnoticed.
"""

from typing import Any

import jax
import jax.numpy as jnp


def lengths(lengths_B: Any, batch_size: int, width: int) -> jax.Array:
    """The length of each sequence, at most `width` steps: int32 `[B]`.

    Raises:
        ValueError: it says what is wrong.
    """
    lengths_B = _integers(lengths_B, "lengths_B", (batch_size,))
    _check_range(lengths_B, "lengths_B", 0, width, "the sequences have only so many steps")
    return lengths_B


def nan_where_impossible(result_B: jax.Array, lengths_B: jax.Array, width: int) -> jax.Array:
    """Results `[..., B]`; NaN for a sequence whose length is out of range."""
    return jnp.where((lengths_B >= 0) & (lengths_B <= width), result_B, jnp.nan)


def tokens(tokens_BxT: Any, vocabulary_size: int) -> jax.Array:
    """The tokens of each sequence, of a vocabulary of V: int32 `[B, T]`.

    Raises:
        ValueError: it says what is wrong.
    """
    tokens_BxT = _array(tokens_BxT, "tokens_BxT", "[B, T], a row for each sequence", 2)
    tokens_BxT = _integers(tokens_BxT, "tokens_BxT", tokens_BxT.shape)
    _check_range(tokens_BxT, "tokens_BxT", 0, vocabulary_size - 1, "the vocabulary has no others")
    return tokens_BxT


def vectors(x_BxTxD: Any) -> jax.Array:
    """The inputs of each sequence, `[B, T, D]`, in float32 where they are narrower.

    Raises:
        ValueError: it says what is wrong.
    """
    axes = "[B, T, D]: sequences, their steps, the features of a step"
    x_BxTxD = _array(x_BxTxD, "inputs", axes, 3)
    if not jnp.issubdtype(x_BxTxD.dtype, jnp.floating):
        raise ValueError(f"inputs must be floating point; they are {x_BxTxD.dtype}")
    return x_BxTxD.astype(jnp.promote_types(x_BxTxD.dtype, jnp.float32))


def check_keys(keys: jax.Array | None, name: str, shape: tuple[int, ...]) -> None:
    """Checks that random keys are typed, as of `jax.random.key`, and as many as there must be.

    Raises:
        ValueError: it says what is wrong.
    """
    if keys is None:
        return
    is_key = jax.dtypes.issubdtype(jnp.result_type(keys), jax.dtypes.prng_key)
    if not is_key or keys.shape != shape:
        raise ValueError(
            f"{name} must be keys of jax.random.key {list(shape)}; it is "
            f"{jnp.result_type(keys)}{list(jnp.shape(keys))}"
        )


def _array(array, name: str, expected: str, axes: int) -> jax.Array:
    try:
        array = jnp.asarray(array)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be {expected}: {error}") from error
    if array.ndim != axes or not array.size:
        raise ValueError(
            f"{name} must be {expected}, and hold something; its shape is {array.shape}"
        )
    return array


def _integers(array, name: str, shape: tuple[int, ...]) -> jax.Array:
    array = _array(array, name, f"integers {list(shape)}", len(shape))
    if array.shape != shape or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            f"{name} must be integers {list(shape)}; it is {array.dtype}{list(array.shape)}"
        )
    return array.astype(jnp.int32)


def _check_range(array: jax.Array, name: str, lowest: int, highest: int, why: str) -> None:
    if isinstance(array, jax.core.Tracer):
        return
    values = jax.device_get(array)
    smallest, largest = int(values.min()), int(values.max())
    if smallest < lowest or largest > highest:
        wrong = smallest if smallest < lowest else largest
        raise ValueError(f"{name} must lie in {lowest} to {highest}, and holds {wrong}: {why}")
