"""Checks the arguments of public functions once, with clear messages, and makes them arrays.

Shapes and types are always known. Values are known only outside `jax.jit`; inside it, a length out
of range makes its sequence's results NaN, so that it does not go unnoticed, and no other's.
"""

from typing import Any

import jax
import jax.numpy as jnp


def lengths(lengths_B: Any, batch_size: int, width: int) -> jax.Array:
    """The length of each sequence, at most `width` steps: int32 `[B]`.

    Under `jax.jit` one out of range becomes 0: how many steps are taken for all sequences depends
    on the lengths of all.

    Raises:
        ValueError: the argument is invalid; the message says why.
    """
    lengths_B = _integers(lengths_B, "lengths_B", (batch_size,))
    _check_range(lengths_B, "lengths_B", 0, width, "the sequences have only so many steps")
    return jnp.where(_are_possible(lengths_B, width), lengths_B, 0)


def nan_where_impossible(
    result: jax.Array, given_B: Any, width: int, batch_axis: int = -1
) -> jax.Array:
    """The result, with NaN for sequences whose length, as it was given, is out of range."""
    if given_B is None:
        return result
    is_possible_B = _are_possible(jnp.asarray(given_B).astype(jnp.int32), width)
    shape = [1] * result.ndim
    shape[batch_axis] = is_possible_B.shape[0]
    # A reshape costs a compiled program nothing, unlike a broadcast.
    return jnp.where(jnp.reshape(is_possible_B, shape), result, jnp.nan)


def _are_possible(lengths_B: jax.Array, width: int) -> jax.Array:
    return (lengths_B >= 0) & (lengths_B <= width)


def tokens(tokens_BxT: Any, vocabulary_size: int) -> jax.Array:
    """The tokens of each sequence, from a vocabulary of V: int32 `[B, T]`.

    Raises:
        ValueError: the argument is invalid; the message says why.
    """
    tokens_BxT = _array(tokens_BxT, "tokens_BxT", "[B, T], a row for each sequence", 2)
    tokens_BxT = _integers(tokens_BxT, "tokens_BxT", tokens_BxT.shape)
    _check_range(tokens_BxT, "tokens_BxT", 0, vocabulary_size - 1, "the vocabulary has no others")
    return tokens_BxT


def vectors(x_BxTxD: Any, size: int | None = None) -> jax.Array:
    """The inputs of each sequence, `[B, T, D]`, in float32 if they are narrower.

    Args:
        x_BxTxD: the inputs.
        size: D, if it is known.

    Raises:
        ValueError: the argument is invalid; the message says why.
    """
    axes = "[B, T, D]: sequences, their steps, the features of a step"
    x_BxTxD = _floats(x_BxTxD, axes)
    if size is not None and x_BxTxD.shape[-1] != size:
        raise ValueError(f"inputs must be {axes}, with D = {size}; their shape is {x_BxTxD.shape}")
    return x_BxTxD


def vectors_over_time(x_TxDxB: Any) -> jax.Array:
    """The inputs of a cell, `[T, D, B]`, in float32 if they are narrower.

    Raises:
        ValueError: the argument is invalid; the message says why.
    """
    return _floats(x_TxDxB, "[T, D, B]: steps, the features of a step, sequences")


def check_reads(cell: Any, input_size: int, what: str) -> None:
    """Checks that a cell accepts inputs of D = `input_size` features.

    Raises:
        ValueError: it does not; the message begins with `what`.
    """

    def step(x_D):
        return cell.step(cell.initial_carry(), cell.project(x_D))

    try:
        jax.eval_shape(step, jax.ShapeDtypeStruct((input_size,), jnp.float32))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{what}, {type(cell).__name__}, does not read inputs with D = {input_size} features: "
            f"{error}"
        ) from error


def check_carry(start: Any, cell: Any) -> None:
    """Checks that a cell can start from a carry of one sequence.

    Raises:
        ValueError: it cannot.
    """
    found, expected = (jax.tree.map(jnp.shape, carry) for carry in (start, cell.initial_carry()))
    if found != expected:
        raise ValueError(
            f"start must be a carry of {type(cell).__name__} for one sequence, with the shapes "
            f"{expected}; it has {found}"
        )


def check_keys(keys: jax.Array | None, name: str, shape: tuple[int, ...]) -> None:
    """Checks that random keys are typed, as from `jax.random.key`, and have the right shape.

    Raises:
        ValueError: the argument is invalid; the message says why.
    """
    if keys is None:
        return
    is_key = jax.dtypes.issubdtype(jnp.result_type(keys), jax.dtypes.prng_key)
    if not is_key or keys.shape != shape:
        raise ValueError(
            f"{name} must be keys of jax.random.key {list(shape)}; it is "
            f"{jnp.result_type(keys)}{list(jnp.shape(keys))}"
        )


def _floats(x, axes: str) -> jax.Array:
    x = _array(x, "inputs", axes, 3)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"inputs must be floating point; they are {x.dtype}")
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _array(array, name: str, expected: str, axes: int) -> jax.Array:
    try:
        array = jnp.asarray(array)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be {expected}: {error}") from error
    if array.ndim != axes or not array.size:
        raise ValueError(f"{name} must be {expected}, and not empty; its shape is {array.shape}")
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
