"""Dropout of inputs, carries and words, with a mask for each sequence, and of weights.

The mask of a sequence is a function of its key and of what is dropped (a time and a feature, a
time, a word): it does not depend on T, on the other sequences, or on how the batch is sharded.
All sequences share the mask of weights.
"""

import zlib
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

_Module = TypeVar("_Module", bound=nnx.Module)


class Rates(NamedTuple):
    """Dropout rates around a cell, each in [0, 1).

    Attributes:
        inputs: for the elements of each step's input. Srivastava et al., "Dropout", JMLR 15, 2014.
        recurrent: for the units of h that a recurrent matrix sees, the same ones at every step of a
            sequence. Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in
            Recurrent Neural Networks", NIPS 2016.
        zoneout: for the elements of the carry that a step leaves unchanged; those that share a
            scale are kept together. Evaluation uses the average. Krueger et al., "Zoneout", ICLR
            2017.
    """

    inputs: float = 0.0
    recurrent: float = 0.0
    zoneout: float = 0.0


class Dropout(NamedTuple):
    """Dropout around a cell.

    Attributes:
        rates: the dropout rates.
        keys_B: a random key for each sequence; None, as in evaluation, drops nothing.
    """

    rates: Rates = Rates()
    keys_B: jax.Array | None = None

    def applied(self) -> Rates:
        """The rates that apply: without keys only zoneout does, on average."""
        return self.rates if self.keys_B is not None else Rates(zoneout=self.rates.zoneout)


NOTHING = Dropout()


def stream(seeds_Bx2: jax.Array, *names: str | int) -> jax.Array:
    """Derives seeds for each use of masks other than dropout of the inputs."""
    return seeds_Bx2 ^ jnp.uint32(zlib.crc32(repr(names).encode()))


def dropped(count: int, time: jax.Array | int, rate: float, seeds_Bx2: jax.Array) -> jax.Array:
    """Which of `count` elements of one time step are dropped: `[count, B]`, true at `rate`.

    Args:
        count: the number of elements.
        time: the time of the step.
        rate: in [0, 1).
        seeds_Bx2: `jax.random.key_data` of each sequence's key.
    """
    elements_Dx1 = (time * count + jnp.arange(count))[:, None]
    return ~_kept(elements_Dx1, rate, seeds_Bx2)


def drop(x_DxB: jax.Array, time: jax.Array | int, rate: float, seeds_Bx2: jax.Array) -> jax.Array:
    """Zeroes elements of one time step at `rate` and scales the rest by `1 / (1 - rate)`."""
    return jnp.where(dropped(len(x_DxB), time, rate, seeds_Bx2), 0.0, x_DxB / (1.0 - rate))


def drop_all(x_TxDxB: jax.Array, rate: float, keys_B: jax.Array) -> jax.Array:
    """Applies `drop` at every time."""
    seeds_Bx2 = jax.random.key_data(keys_B)
    times_T = jnp.arange(len(x_TxDxB))
    return jax.vmap(lambda x, time: drop(x, time, rate, seeds_Bx2))(x_TxDxB, times_T)


def drop_inputs(x_TxDxB: jax.Array, dropout: Dropout) -> tuple[jax.Array, Dropout]:
    """Drops from the inputs at all times; also returns what is yet to be dropped in each step."""
    if dropout.keys_B is not None and dropout.rates.inputs > 0:
        x_TxDxB = drop_all(x_TxDxB, dropout.rates.inputs, dropout.keys_B)
    return x_TxDxB, dropout._replace(rates=dropout.rates._replace(inputs=0.0))


def drop_tokens(
    tokens_BxT: jax.Array, unknown_token: int, rate: float, keys_B: jax.Array
) -> jax.Array:
    """Replaces tokens at `rate` by the token of unknown words.

    Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods for Text Classification", ACL
    2015; Dai and Le, "Semi-supervised Sequence Learning", NIPS 2015.

    Args:
        tokens_BxT: sequences that start at time 0.
        unknown_token: the replacement.
        rate: in [0, 1).
        keys_B: a random key for each sequence.
    """
    times_Tx1 = jnp.arange(tokens_BxT.shape[1])[:, None]
    kept_TxB = _kept(times_Tx1, rate, stream(jax.random.key_data(keys_B), "tokens"))
    return jnp.where(kept_TxB.T, tokens_BxT, unknown_token)


def word_scales(tokens_BxT: jax.Array, rate: float, keys_B: jax.Array) -> jax.Array:
    """A factor for every token's vector: zero at `rate`, else `1 / (1 - rate)`, `[B, T]`.

    A word is dropped everywhere in a sequence or nowhere. Gal and Ghahramani, "A Theoretically
    Grounded Application of Dropout in Recurrent Neural Networks", NIPS 2016: section 4.2.
    """
    seeds_Bx2 = stream(jax.random.key_data(keys_B), "words")
    return jnp.where(_kept(tokens_BxT.T, rate, seeds_Bx2).T, 1.0 / (1.0 - rate), 0.0)


def drop_weights(module: _Module, rate: float, key: jax.Array) -> _Module:
    """Zeroes elements of a module's recurrent matrices; scales the rest by `1 / (1 - rate)`.

    Each matrix has its own mask, for all sequences and times. Merity, Keskar and Socher,
    "Regularizing and Optimizing LSTM Language Models", ICLR 2018, after DropConnect (Wan et al.,
    ICML 2013).

    Args:
        module: elements are dropped from its `recurrent_matrices`.
        rate: in [0, 1).
        key: a random key for this training step.
    """
    graphdef, params = nnx.split(module, nnx.Param)
    leaves, structure = jax.tree.flatten(params)
    for number in recurrent_matrices(module):
        kept = jax.random.bernoulli(
            jax.random.fold_in(key, number), 1.0 - rate, leaves[number].shape
        )
        leaves[number] = jnp.where(kept, leaves[number] / (1.0 - rate), 0.0)
    return nnx.merge(graphdef, jax.tree.unflatten(structure, leaves))


def recurrent_matrices(module: nnx.Module) -> list[int]:
    """The numbers of parameters with at least two axes and a name that begins with `recurrent_`."""
    paths_and_leaves = jax.tree.leaves_with_path(nnx.split(module, nnx.Param)[1])
    return [
        number
        for number, (path, leaf) in enumerate(paths_and_leaves)
        if leaf.ndim > 1
        and ".recurrent_" in f".{jax.tree_util.keystr(path, simple=True, separator='.')}"
    ]


def fold_in(keys_B: jax.Array, number: int) -> jax.Array:
    """`jax.random.fold_in` for each of many keys."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys_B, number)


def _kept(elements: jax.Array, rate: float, seeds_Bx2: jax.Array) -> jax.Array:
    """Whether an element of a sequence is kept: `[..., B]`.

    Args:
        elements: the numbers of the elements, `[..., B]`, or `[..., 1]` if shared by all sequences.
        rate: in [0, 1).
        seeds_Bx2: `jax.random.key_data` of each sequence's key.
    """
    # jax.random's generator would cost more than the recurrence itself. The keys come from it,
    # and a hash of key and position is random enough for a mask.
    hashed = _hash(_hash(elements.astype(jnp.uint32) ^ seeds_Bx2[:, 0]) + seeds_Bx2[:, 1])
    return hashed >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def _hash(x: jax.Array) -> jax.Array:
    """A bijection of 32-bit integers in which every bit of `x` affects every bit of the result.

    Wellons' two-round multiply-xorshift with the constants of the hash-prospector project.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0xD35A2D97)
    return x ^ (x >> 15)
