"""What dropout promises: its rate, its expectation, and whom a mask belongs to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import check_cell, factory, loading, recurrence
from seqmodels.cells import base
from seqmodels.dropout import (
    Dropout,
    Rates,
    drop_all,
    drop_tokens,
    drop_weights,
    dropped,
    recurrent_matrices,
    stream,
    word_scales,
)
from seqmodels.inputs import embed
from seqmodels.recurrence import loop
from tests.marks import slow

KEYS_B = jax.random.split(jax.random.key(0), 64)
ONES_TxDxB = jnp.ones((50, 40, 64))


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.9])
def test_drops_at_its_rate_and_preserves_the_expectation(rate):
    y_TxDxB = np.array(drop_all(ONES_TxDxB, rate, KEYS_B))
    # Five standard errors of 128,000 draws.
    assert abs((y_TxDxB == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / y_TxDxB.size) + 1e-9
    np.testing.assert_allclose(y_TxDxB[y_TxDxB != 0], 1 / (1 - rate), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbours_are_independent(axis):
    kept = np.moveaxis(np.array(drop_all(ONES_TxDxB, 0.5, KEYS_B)) > 0, axis, 0)
    correlation = np.corrcoef(kept[:-1].ravel(), kept[1:].ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(kept[1:].size)


def test_a_mask_depends_on_its_own_key_alone():
    y_TxDxB = drop_all(ONES_TxDxB, 0.5, KEYS_B)
    narrower = drop_all(ONES_TxDxB[:20, :, :3], 0.5, KEYS_B[:3])
    np.testing.assert_array_equal(narrower, y_TxDxB[:20, :, :3])
    assert (drop_all(ONES_TxDxB, 0.5, KEYS_B[::-1]) != y_TxDxB).any()


T, D, H, B = 4, 3, 5, 6
LENGTHS = [4, 1, 0, 3, 2, 4]
LENGTHS_B = jnp.array(LENGTHS)
X_TxDxB = jax.random.normal(jax.random.key(1), (T, D, B))


def make(name):
    return check_cell.without_zeros(loading.find_cell(name)(D, H, rngs=nnx.Rngs(0)))


def run(cell, x_TxDxB, rates, keys_B, *, reverse=False, lengths_B=LENGTHS_B, segment_steps=1):
    (encoded,) = recurrence.run_all(
        [cell], [reverse], [x_TxDxB], lengths_B, Dropout(rates, keys_B), "float32", segment_steps
    )
    return encoded


@functools.partial(jax.jit, static_argnums=0)
def step(graphdef, params, carry, x_D):
    cell = nnx.merge(graphdef, params)
    return cell.step(carry, cell.project(x_D))


def unrolled(cell, x_TxDxB, rates, keys_B, *, reverse=False):
    """The last outputs, one sequence and one step after the other; the carry ends in h."""
    graphdef, params = nnx.split(cell, nnx.Param)
    last = []
    for b, length in enumerate(LENGTHS):
        seeds_1x2 = jax.random.key_data(keys_B[b : b + 1])
        # To drop a unit of h before a product is to drop a row of the matrix.
        leaves, structure = jax.tree.flatten(params)
        matrices = recurrent_matrices(cell)
        assert matrices
        for number in matrices:
            seeds = stream(seeds_1x2, "recurrent", reverse)
            gone_Hx1 = dropped(len(leaves[number]), 0, rates.recurrent, seeds)
            leaves[number] = jnp.where(gone_Hx1, 0, leaves[number] / (1 - rates.recurrent))
        own = jax.tree.unflatten(structure, leaves)
        carry, y_H = nnx.merge(graphdef, own).initial_carry(), jnp.zeros(H)
        for time in reversed(range(length)) if reverse else range(length):
            new, _ = step(graphdef, own, carry, x_TxDxB[time, :, b])
            old_leaves, structure = jax.tree.flatten(carry)
            leaves = [
                jnp.where(
                    dropped(H, time, rates.zoneout, stream(seeds_1x2, "zoneout", reverse, n))[:, 0],
                    *pair,
                )
                for n, pair in enumerate(zip(old_leaves, jax.tree.leaves(new), strict=True))
            ]
            carry, y_H = jax.tree.unflatten(structure, leaves), leaves[-1]
        last.append(y_H)
    return jnp.stack(last, 1)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "lstm", "lstm with separate products", slow("lstm with its products kept"),
        slow("gru"), slow("gru with separate products"), slow("mgu"),
    ],
)  # fmt: skip
def test_around_a_cell_equals_the_unrolled_equations(name, reverse, monkeypatch):
    name, _, how = name.partition(" with ")
    monkeypatch.setattr(loop, "keeps_reads", lambda cell, batch_size: how == "its products kept")
    monkeypatch.setattr(loop, "_LARGE", 0 if how == "separate products" else 2**30)
    monkeypatch.setattr(loop, "_VERY_FEW", 8 if how == "separate products" else 0)
    graphdef, params = nnx.split(make(name), nnx.Param)

    def gradients(runs, **options):
        def loss(params, x_TxDxB):
            arguments = nnx.merge(graphdef, params), x_TxDxB, Rates(0, 0.4, 0.3), KEYS_B[:B]
            last_HxB = runs(*arguments, reverse=reverse, **options)
            return jnp.sum(jnp.sin(last_HxB) * jnp.arange(B)), last_HxB

        gradient = jax.grad(loss, (0, 1), has_aux=True)
        return (gradient if runs is unrolled else jax.jit(gradient))(params, X_TxDxB)

    def engine(*arguments, **options):
        return run(*arguments, **options).last_HxB

    expected = gradients(unrolled)
    for steps in (1, 3):
        (d_params, d_x), last_HxB = gradients(engine, segment_steps=steps)
        np.testing.assert_allclose(last_HxB, expected[1], 1e-5, 1e-6)
        d_x = jnp.where(recurrence.valid_steps(LENGTHS_B, T)[:, None], d_x, 0)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
            (d_params, d_x),
            expected[0],
        )


def test_recurrent_dropout_hides_the_same_units_at_all_times():
    cell = make("simple_rnn")
    graphdef, params = nnx.split(cell, nnx.Param)

    def loss(params, key):
        cell = nnx.merge(graphdef, params)
        x_TxDx1 = jnp.tile(X_TxDxB[..., :1], (8, 1, 1))
        rates, lengths_1 = Rates(recurrent=0.5), jnp.array([8 * T])
        return run(cell, x_TxDx1, rates, key[None], lengths_B=lengths_1).sequence_TxHxB.sum()

    d_params = jax.vmap(jax.grad(loss), (None, 0))(params, KEYS_B)
    hidden_KxH = np.array((d_params["recurrent_kernel"][...] == 0).all(2))
    # Over 31 products, masks of their own would leave no unit without any gradient.
    assert 0.3 < hidden_KxH.mean() < 0.7
    assert len({tuple(hidden_H) for hidden_H in hidden_KxH}) > 10


@pytest.mark.parametrize("name", ["lstm", "slstm", "gru", "min_gru", "indrnn", "sru", "mlstm"])
@pytest.mark.slow
def test_zoneout_keeps_elements_of_the_carry_and_evaluation_takes_the_average(name):
    cell, rates = make(name), Rates(zoneout=0.25)
    many = 4096
    x_1xDxN = jnp.broadcast_to(X_TxDxB[:1, :, :1], (1, D, many))
    lengths_N, keys_N = jnp.ones(many, int), jax.random.split(jax.random.key(2), many)
    plain_H = run(cell, x_1xDxN, Rates(), None, lengths_B=lengths_N).last_HxB[:, 0]
    trained_HxN = run(cell, x_1xDxN, rates, keys_N, lengths_B=lengths_N).last_HxB
    average_H = run(cell, x_1xDxN, rates, None, lengths_B=lengths_N).last_HxB[:, 0]
    if (trained_HxN == plain_H[:, None]).all():  # An output that is no part of the carry.
        np.testing.assert_array_equal(average_H, plain_H)
        return
    alive_H = np.array(plain_H != 0)  # Behind a rectifier the old zero may be the new one.
    plain_H, trained_HxN, average_H = plain_H[alive_H], trained_HxN[alive_H], average_H[alive_H]
    kept_HxN = np.array(trained_HxN != plain_H[:, None])
    assert (np.array(trained_HxN).std(1, where=kept_HxN) < 1e-6).all()
    np.testing.assert_allclose(kept_HxN.mean(1), 0.25, atol=5 * np.sqrt(0.25 * 0.75 / many))
    np.testing.assert_allclose(trained_HxN.mean(1), average_H, atol=0.05)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_carries_of_different_scales_are_blended_as_what_they_stand_for(share):
    rng = np.random.default_rng(0)
    old, new = (tuple(rng.normal(size=(3, H))) for _ in range(2))
    blended = base.blend_scaled(old, new, jnp.full(H, share))
    for part in range(2):
        one, other, both = (carry[part] * np.exp(carry[-1]) for carry in (old, new, blended))
        np.testing.assert_allclose(both, share * one + (1 - share) * other, rtol=1e-5, atol=1e-6)
    from_the_start = (*old[:-1], jnp.full(H, base.MINUS_INFINITY))
    for pair in ((from_the_start, new), (old, from_the_start)):
        assert all(np.isfinite(part).all() for part in base.blend_scaled(*pair, jnp.full(H, share)))


@pytest.mark.parametrize("name", ["mlstm", "sru", "gru_reset_before"])
def test_zoneout_leaves_some_of_the_carry_as_it_was(name):
    cell, lengths_B = make(name), jnp.ones(B, int)
    start = recurrence.initial_carry(cell, B)
    (_, (new,)), (_, (zoned,)) = (
        recurrence.run_from(
            [start], [cell], [False], [X_TxDxB], lengths_B, Dropout(Rates(zoneout=rate), KEYS_B[:B])
        )
        for rate in (0.0, 0.5)
    )
    for old, changed, part in zip(*map(jax.tree.leaves, (start, new, zoned)), strict=True):
        part = part.reshape(-1, B)
        is_old, is_new = (part == one.reshape(-1, B) for one in (old, changed))
        # What its maximum scales, mlstm leaves as a whole.
        assert (is_old | is_new).all()
        assert is_new.any()
        assert not is_new.all()


@pytest.mark.parametrize("name", ["lstm", "slstm", "mlstm"])
def test_zoneout_stays_finite_over_many_steps(name):
    x_TxDxB = 4 * jax.random.normal(jax.random.key(3), (60, D, B))
    for keys_B in (KEYS_B[:B], None):
        encoded = run(make(name), x_TxDxB, Rates(zoneout=0.5), keys_B, lengths_B=jnp.full(B, 60))
        assert np.isfinite(encoded.sequence_TxHxB).all()


def test_evaluation_drops_nothing_before_the_recurrent_matrix():
    cell = make("lstm")
    with_rate = run(cell, X_TxDxB, Rates(recurrent=0.5), None)
    np.testing.assert_array_equal(with_rate.last_HxB, run(cell, X_TxDxB, Rates(), None).last_HxB)


def test_masks_around_a_cell_do_not_depend_on_company():
    cell, rates = make("lstm"), Rates(0.2, 0.4, 0.3)
    together = run(cell, X_TxDxB, rates, KEYS_B[:B])
    alone = run(cell, X_TxDxB[..., 3:4], rates, KEYS_B[3:4], lengths_B=LENGTHS_B[3:4])
    np.testing.assert_allclose(together.last_HxB[:, 3:4], alone.last_HxB, rtol=1e-6, atol=1e-7)


def test_the_two_directions_have_masks_of_their_own():
    cell = make("simple_rnn")
    x_2xDxB = jnp.stack([X_TxDxB[0]] * 2)  # The same, read from either end.
    lengths_B = jnp.full(B, 2)
    ways = [
        run(cell, x_2xDxB, Rates(0, 0.5), KEYS_B[:B], reverse=reverse, lengths_B=lengths_B)
        for reverse in (False, True)
    ]
    assert (ways[0].last_HxB != ways[1].last_HxB).any()


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
            (dropped_BxT, np.array(drop_all(ONES_TxDxB[:, :1], rate, KEYS_B)[:, 0].T) == 0),
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


def make_layer(cell="lstm", direction="bidirectional"):
    return factory.build(
        vocabulary_size=9, embedding_size=30, cell=cell, hidden_sizes=(30,),
        direction=direction, dropout_rates=(0.0,), pooling="last", seed=0,
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
    graphdef, params = nnx.split(make_layer("gru", direction="forward"), nnx.Param)
    x_TxDxB, key = jax.random.normal(jax.random.key(1), (4, 30, 3)), jax.random.key(3)

    def loss(params):
        layer = drop_weights(nnx.merge(graphdef, params), 0.5, key)
        (encoded,) = layer.encode([x_TxDxB], jnp.array([4, 2, 3]))
        return jnp.sum(encoded.sequence_TxHxB**2)

    gradient = np.array(jax.grad(loss)(params)["forward"]["recurrent_kernel"][...])
    dropped = drop_weights(nnx.merge(graphdef, params), 0.5, key).forward.recurrent_kernel[...]
    np.testing.assert_array_equal(gradient != 0, np.array(dropped) != 0)
