"""Dropout whose mask belongs to its sequence and to nothing else."""

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Rates(NamedTuple):
    """Of what is dropped around a cell; each in [0, 1).

    Attributes:
        inputs: of the elements of each step's input. Srivastava et al., "Dropout", JMLR 15, 2014.
        recurrent: of the units of h that a recurrent matrix sees, the same ones in all of a
            sequence. Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in
            Recurrent Neural Networks", NIPS 2016.
        zoneout: of the elements of the carry that a step leaves as they are; evaluation takes the
            average. Krueger et al., "Zoneout", ICLR 2017.
    """

    inputs: float = 0.0
    recurrent: float = 0.0
    zoneout: float = 0.0


class Dropout(NamedTuple):
    """Dropout around a cell.

    A mask is a function of the sequence's key, the time and the feature: it does not depend on T,
    on the other sequences, nor on how the batch is spread over devices.

    Attributes:
        rates: of what.
        keys_B: a random key for each sequence; None, as in evaluation, drops nothing.
    """

    rates: Rates = Rates()
    keys_B: jax.Array | None = None


NOTHING = Dropout()


def stream(seeds_Bx2: jax.Array, *names: str | int) -> jax.Array:
    """Other seeds, one set for each use that masks are put to beside dropout of the inputs."""
    return seeds_Bx2 ^ jnp.uint32(zlib.crc32(repr(names).encode()))


def dropped(count: int, time: jax.Array | int, rate: float, seeds_Bx2: jax.Array) -> jax.Array:
    """Which of `count` elements of one time step are dropped: `[count, B]`, true at `rate`.

    Args:
        count: elements.
        time: of the step.
        rate: in [0, 1).
        seeds_Bx2: `jax.random.key_data` of each sequence's key.
    """
    element_Dx1 = (time * count + jnp.arange(count)).astype(jnp.uint32)[:, None]
    # jax.random's generator would cost more than the recurrence itself. The keys come from it;
    # a hash of key and position is random enough for a mask.
    hashed_DxB = _hash(_hash(element_Dx1 ^ seeds_Bx2[:, 0]) + seeds_Bx2[:, 1])
    return hashed_DxB < jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def drop(x_DxB: jax.Array, time: jax.Array | int, rate: float, seeds_Bx2: jax.Array) -> jax.Array:
    """Zeroes elements of one time step at `rate` and scales the rest by `1 / (1 - rate)`."""
    return jnp.where(dropped(len(x_DxB), time, rate, seeds_Bx2), 0.0, x_DxB / (1.0 - rate))


def drop_all(x_TxDxB: jax.Array, rate: float, keys_B: jax.Array) -> jax.Array:
    """`drop` at every time."""
    seeds_Bx2 = jax.random.key_data(keys_B)
    times_T = jnp.arange(len(x_TxDxB))
    return jax.vmap(lambda x, time: drop(x, time, rate, seeds_Bx2))(x_TxDxB, times_T)


def _hash(x: jax.Array) -> jax.Array:
    """A bijection of 32-bit integers in which every bit of `x` decides over every other.

    Wellons' two-round multiply-xorshift with the constants of the hash-prospector project.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0xD35A2D97)
    return x ^ (x >> 15)
