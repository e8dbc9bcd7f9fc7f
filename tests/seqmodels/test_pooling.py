"""Pooling against NumPy over each sequence's own steps."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels.pooling import POOLINGS
from seqmodels.recurrence import Encoded

LENGTHS = [4, 1, 2]


@pytest.fixture
def encoded():
    # All below the padding's zeros, so that a maximum that looks at them shows.
    sequence_TxHxB = np.random.default_rng(0).normal(size=(4, 2, 3)) - 9
    for number, length in enumerate(LENGTHS):
        sequence_TxHxB[length:, :, number] = 0
    last_HxB = np.stack([sequence_TxHxB[n - 1, :, b] for b, n in enumerate(LENGTHS)], axis=-1)
    return Encoded(jnp.array(sequence_TxHxB), jnp.array(last_HxB))


QUERY = np.array([0.7, -1.3])


def attend(own_TxH):
    weights_T = np.exp(own_TxH @ QUERY)
    return weights_T @ own_TxH / weights_T.sum()


def make(name):
    pooling = POOLINGS[name](2, rngs=nnx.Rngs(0))
    if name == "attention":
        pooling.attend.query[...] = jnp.array(QUERY)
    return pooling


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("last", lambda own_TxH: own_TxH[-1]),
        ("mean", lambda own_TxH: own_TxH.mean(0)),
        ("max", lambda own_TxH: own_TxH.max(0)),
        ("mean_max", lambda own_TxH: np.concatenate([own_TxH.mean(0), own_TxH.max(0)])),
        ("attention", attend),
    ],
)
def test_pools_the_valid_steps_only(encoded, name, pool):
    pooling = make(name)
    pooled_HxB = pooling([encoded], jnp.array(LENGTHS))
    assert len(pooled_HxB) == pooling.output_size
    for number, length in enumerate(LENGTHS):
        own_TxH = np.array(encoded.sequence_TxHxB[:length, :, number])
        np.testing.assert_allclose(pooled_HxB[:, number], pool(own_TxH), rtol=1e-5)


def test_attention_begins_as_the_mean(encoded):
    attention, mean = (
        POOLINGS[name](2, rngs=nnx.Rngs(0))([encoded], jnp.array(LENGTHS))
        for name in ("attention", "mean")
    )
    np.testing.assert_allclose(attention, mean, rtol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
def test_an_empty_sequence_pools_to_zeros(name):
    empty = Encoded(jnp.zeros((4, 2, 3)), jnp.zeros((2, 3)))
    assert not make(name)([empty], jnp.zeros(3, jnp.int32)).any()
