"""What dropout promises: its rate, its expectation, and whom a mask belongs to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqmodels.dropout import Dropout, drop_all

KEYS_B = jax.random.split(jax.random.key(0), 64)
ONES_TxDxB = jnp.ones((50, 40, 64))


def dropout(x_TxDxB, rate, keys_B):
    return drop_all(x_TxDxB, Dropout(rate, keys_B))


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.9])
def test_drops_at_its_rate_and_preserves_the_expectation(rate):
    y_TxDxB = np.array(dropout(ONES_TxDxB, rate, KEYS_B))
    # Five standard errors of 128,000 draws.
    assert abs((y_TxDxB == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / y_TxDxB.size) + 1e-9
    np.testing.assert_allclose(y_TxDxB[y_TxDxB != 0], 1 / (1 - rate), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbours_are_independent(axis):
    kept = np.moveaxis(np.array(dropout(ONES_TxDxB, 0.5, KEYS_B)) > 0, axis, 0)
    correlation = np.corrcoef(kept[:-1].ravel(), kept[1:].ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(kept[1:].size)


def test_a_mask_depends_on_its_own_key_alone():
    y_TxDxB = dropout(ONES_TxDxB, 0.5, KEYS_B)
    narrower = dropout(ONES_TxDxB[:20, :, :3], 0.5, KEYS_B[:3])
    np.testing.assert_array_equal(narrower, y_TxDxB[:20, :, :3])
    assert (dropout(ONES_TxDxB, 0.5, KEYS_B[::-1]) != y_TxDxB).any()
