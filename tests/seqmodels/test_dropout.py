"""What dropout promises: its rate, its expectation, and whom a mask belongs to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import factory
from seqmodels.dropout import Dropout, drop_all, drop_tokens, drop_weights, word_scales
from seqmodels.embedding import embed

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


UNKNOWN = 2
TOKENS_BxT = jnp.array(np.random.default_rng(0).integers(3, 60, (64, 50)))


def assert_rate(dropped, rate):
    """Within five standard errors of independent draws."""
    assert abs(dropped.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / dropped.size) + 1e-9


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.6])
def test_tokens_become_unknown_at_the_rate_and_independently(rate):
    result_BxT = np.array(drop_tokens(TOKENS_BxT, UNKNOWN, rate, KEYS_B))
    dropped_BxT = result_BxT == UNKNOWN
    np.testing.assert_array_equal(result_BxT, np.where(dropped_BxT, UNKNOWN, TOKENS_BxT))
    assert_rate(dropped_BxT, rate)
    if rate:
        for one, other in [
            (dropped_BxT[1:], dropped_BxT[:-1]),
            (dropped_BxT[:, 1:], dropped_BxT[:, :-1]),
            # What is dropped from the first layer's input is drawn apart.
            (dropped_BxT, np.array(dropout(ONES_TxDxB[:, :1], rate, KEYS_B)[:, 0].T) == 0),
        ]:
            correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
            assert abs(correlation) < 5 / np.sqrt(one.size)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.6])
def test_words_are_dropped_at_the_rate_everywhere_or_nowhere(rate):
    all_words_BxV = jnp.tile(jnp.arange(300), (64, 1))
    scales_BxV = np.array(word_scales(all_words_BxV, rate, KEYS_B))
    assert_rate(scales_BxV == 0, rate)
    np.testing.assert_allclose(scales_BxV[scales_BxV != 0], 1 / (1 - rate), rtol=1e-6)
    scales_BxT = word_scales(TOKENS_BxT, rate, KEYS_B)
    np.testing.assert_array_equal(scales_BxT, np.take_along_axis(scales_BxV, TOKENS_BxT, 1))
    if rate:
        assert (scales_BxV[0] != scales_BxV[1]).any()
        # A mean of 64 draws of zero or 1 / (1 - rate), for each of 300 words.
        error = np.sqrt(rate / (1 - rate) / 64)
        assert np.abs(scales_BxV.mean(0) - 1).max() < 5 * error


def test_what_is_dropped_of_words_depends_on_their_own_key_alone():
    for drop in (lambda *own: drop_tokens(own[0], UNKNOWN, 0.5, own[1]),
                 lambda *own: word_scales(own[0], 0.5, own[1])):  # fmt: skip
        whole = drop(TOKENS_BxT, KEYS_B)
        np.testing.assert_array_equal(drop(TOKENS_BxT[:3, :20], KEYS_B[:3]), whole[:3, :20])
        assert (drop(TOKENS_BxT, KEYS_B[::-1]) != whole).any()


def test_a_dropped_word_has_no_vector_and_no_gradient():
    table_VxD = jax.random.normal(jax.random.key(1), (60, 4))
    tokens_BxT, lengths_B = TOKENS_BxT[:5, :45], jnp.array([45, 0, 1, 33, 20])
    scales_BxT = word_scales(tokens_BxT, 0.5, KEYS_B[:5])
    valid_TxB = jnp.arange(45)[:, None] < lengths_B

    def plain(table_VxD):
        return (table_VxD[tokens_BxT] * scales_BxT[..., None]).transpose(1, 2, 0)

    weights_TxDxB = jax.random.normal(jax.random.key(2), (45, 4, 5)) * valid_TxB[:, None]
    (actual, pull_back), (expected, pull_back_expected) = (
        jax.vjp(function, table_VxD)
        for function in (lambda table: embed(table, tokens_BxT, lengths_B, scales_BxT), plain)
    )
    np.testing.assert_allclose(
        actual * valid_TxB[:, None], expected * valid_TxB[:, None], rtol=1e-6
    )
    (gradient_VxD,), (expected_VxD,) = pull_back(weights_TxDxB), pull_back_expected(weights_TxDxB)
    np.testing.assert_allclose(gradient_VxD, expected_VxD, rtol=1e-5, atol=1e-6)
    kept = np.unique(np.array(tokens_BxT)[np.array(valid_TxB.T & (scales_BxT > 0))])
    np.testing.assert_array_equal(np.flatnonzero(np.array(gradient_VxD).any(1)), kept)


def make_layer(cell="lstm", bidirectional=True):
    return factory.build(
        vocabulary_size=9, embedding_size=30, cell=cell, hidden_sizes=(30,),
        bidirectional=bidirectional, dropout_rates=(0.0,), pooling="last", seed=0,
    ).encoder.layers[0]  # fmt: skip


def test_weights_are_dropped_at_the_rate_from_recurrent_matrices_alone():
    layer, rate = make_layer(), 0.4
    dropped = drop_weights(layer, rate, jax.random.key(3))
    masks = []
    for old, new in [(layer.forward, dropped.forward), (layer.backward, dropped.backward)]:
        np.testing.assert_array_equal(new.kernel[...], old.kernel[...])
        np.testing.assert_array_equal(new.bias[...], old.bias[...])
        old, new = np.array(old.recurrent_kernel[...]), np.array(new.recurrent_kernel[...])
        masks.append(new != 0)
        assert_rate(~masks[-1], rate)
        np.testing.assert_allclose(new, np.where(masks[-1], old / (1 - rate), 0), rtol=1e-6)
    correlation = np.corrcoef(masks[0].ravel(), masks[1].ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(masks[0].size)


def test_a_dropped_weight_has_no_gradient():
    graphdef, params = nnx.split(make_layer("gru", bidirectional=False), nnx.Param)
    x_TxDxB, key = jax.random.normal(jax.random.key(1), (4, 30, 3)), jax.random.key(3)

    def loss(params):
        layer = drop_weights(nnx.merge(graphdef, params), 0.5, key)
        (encoded,) = layer([x_TxDxB], jnp.array([4, 2, 3]))
        return jnp.sum(encoded.sequence_TxHxB**2)

    gradient = np.array(jax.grad(loss)(params)["forward"]["recurrent_kernel"][...])
    dropped = drop_weights(nnx.merge(graphdef, params), 0.5, key).forward.recurrent_kernel[...]
    np.testing.assert_array_equal(gradient != 0, np.array(dropped) != 0)
