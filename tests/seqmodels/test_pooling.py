"""Pooling against NumPy over each sequence's own steps."""

import jax.numpy as jnp
import numpy as np
import pytest

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


@pytest.mark.parametrize(
    ("name", "pool"), [("last", lambda y: y[-1]), ("mean", np.mean), ("max", np.max)]
)
def test_pools_the_valid_steps_only(encoded, name, pool):
    pooled_HxB = POOLINGS[name]([encoded], jnp.array(LENGTHS))
    for number, length in enumerate(LENGTHS):
        for feature in range(2):
            own = np.array(encoded.sequence_TxHxB[:length, feature, number])
            np.testing.assert_allclose(pooled_HxB[feature, number], pool(own), rtol=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_an_empty_sequence_pools_to_zeros(name):
    empty = Encoded(jnp.zeros((4, 2, 3)), jnp.zeros((2, 3)))
    assert not POOLINGS[name]([empty], jnp.zeros(3, jnp.int32)).any()
