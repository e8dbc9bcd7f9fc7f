"""Looking up the projections of tokens changes only the time that a model takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import factory, loading, lookup
from seqmodels.cells import base
from tests.marks import slow

VOCABULARY, BATCH, WIDTH = 7, 5, 6
GATED = [
    name for name in loading.cell_names() if issubclass(loading.find_cell(name), base.GatedCell)
]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    """Small vectors are wide enough."""
    monkeypatch.setattr(lookup, "_WIDE", 1)


def build(**changes):
    arguments = {
        "vocabulary_size": VOCABULARY, "embedding_size": 4, "cell": "lstm", "hidden_sizes": (8,),
        "per_step": True, "num_outputs": 3, "seed": 0,
    }  # fmt: skip
    return factory.build(**arguments | changes)


def batch():
    rng = np.random.default_rng(0)
    tokens_BxT = rng.integers(0, VOCABULARY, (BATCH, WIDTH))
    return jnp.array(tokens_BxT), jnp.array([WIDTH, 0, 3, 1, WIDTH - 1])


def looks_up(model, tokens_BxT, keys_B=None):
    return lookup.looked_up(model.inputs, model.encoder, tokens_BxT, keys_B) is not None


def outputs_and_gradients(model, tokens_BxT, lengths_B, **keys):
    graphdef, params = nnx.split(model, nnx.Param)

    def loss(params):
        outputs = nnx.merge(graphdef, params)(tokens_BxT, lengths_B, **keys)
        return jnp.sum(jnp.sin(outputs)), outputs

    gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(params)
    return outputs, gradients


def check_same(monkeypatch, model, tokens_BxT, lengths_B, **keys):
    """Checks the model against itself where it does not look up."""
    found = outputs_and_gradients(model, tokens_BxT, lengths_B, **keys)
    monkeypatch.setattr(lookup, "_WIDE", 5)
    assert not looks_up(model, tokens_BxT)
    expected = outputs_and_gradients(model, tokens_BxT, lengths_B, **keys)
    assert jnp.abs(expected[0]).max() > 1e-3
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-6)
    for one, other in zip(*map(jax.tree.leaves, (found[1], expected[1])), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cell", GATED)
def test_every_gated_cell(cell, monkeypatch):
    model = build(cell=cell, direction="bidirectional")
    tokens_BxT, lengths_B = batch()
    assert looks_up(model, tokens_BxT)
    check_same(monkeypatch, model, tokens_BxT, lengths_B)


@pytest.mark.parametrize(
    "changes",
    [
        {"direction": "backward", "learned_initial_state": True, "hidden_sizes": (8, 8),
         "residual": True},
        {"num_outputs": VOCABULARY, "projection_size": 4, "tied_head": True},
        {"recurrent_dropout": 0.4, "zoneout": 0.3, "word_dropout": 0.5, "unknown_token": 1},
        slow({"weight_drop": 0.4, "cell": "gru", "output_dropout": 0.2}),
        slow({"direction": "bidirectional", "merge": "sum", "cell": "gru",
              "recurrent_dropout": 0.4}),
    ],
    ids=lambda changes: ",".join(changes),
)  # fmt: skip
def test_every_option(changes, monkeypatch):
    tokens_BxT, lengths_B = batch()
    keys = {
        "dropout_keys_B": jax.random.split(jax.random.key(1), BATCH),
        "step_key": jax.random.key(2),
    }
    model = build(**changes)
    assert looks_up(model, tokens_BxT, keys["dropout_keys_B"])
    check_same(monkeypatch, model, tokens_BxT, lengths_B, **keys)


@pytest.mark.parametrize("rows", [1, 2, 130])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_any_number_of_steps_at_once(cell, rows, monkeypatch):
    """A single sequence takes all steps at once, two take several, many one."""
    width = 100
    rng = np.random.default_rng(1)
    tokens_BxT = jnp.array(rng.integers(0, VOCABULARY, (rows, width)))
    lengths_B = jnp.array(rng.integers(1, width - 10, rows)).at[-1].set(90)
    model = build(cell=cell, direction="bidirectional", per_step=False, num_outputs=1)
    check_same(monkeypatch, model, tokens_BxT, lengths_B)


def test_many_seeds():
    """Each has a table of its own."""
    tokens_BxT, lengths_B = batch()
    models = [nnx.split(build(seed=seed), nnx.Param) for seed in range(3)]
    params_K = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params for _, params in models))

    def gradient(params):
        def loss(params):
            outputs = nnx.merge(models[0][0], params)(tokens_BxT, lengths_B)
            return jnp.sum(jnp.sin(outputs))

        return jax.grad(loss)(params)

    assert looks_up(build(), tokens_BxT)
    found = jax.jit(jax.vmap(gradient))(params_K)
    expected = [jax.jit(gradient)(params) for _, params in models]
    expected_K = jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected)
    for one, other in zip(*map(jax.tree.leaves, (found, expected_K)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_tables_that_are_passed_on(monkeypatch):
    """The gradient of a tied head's rows is added to that of the table."""
    tokens_BxT, lengths_B = batch()
    model = build(num_outputs=VOCABULARY, projection_size=4, tied_head=True)
    model.pass_on_tables()
    assert looks_up(model, tokens_BxT)
    check_same(monkeypatch, model, tokens_BxT, lengths_B)


def test_reading_on(monkeypatch):
    model = build()
    tokens_BxT, lengths_B = batch()

    def read():
        return model.read_on(model.initial_carries(BATCH), tokens_BxT, lengths_B)

    assert looks_up(model, tokens_BxT)
    found = read()
    monkeypatch.setattr(lookup, "_WIDE", 5)
    for one, other in zip(*map(jax.tree.leaves, (found, read())), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "drops"),
    [
        ({"vocabulary_size": BATCH * WIDTH}, False),
        ({"cell": "sru"}, False),
        ({"engine": "scan"}, False),
        ({"matrix_dtype": "bfloat16"}, False),
        ({"segment_steps": 2}, False),
        ({"dropout_rates": (0.5,)}, True),
        ({"embedding_dropout": 0.5}, True),
    ],
    ids=str,
)
def test_not_where_it_is_slower_or_impossible(changes, drops):
    model = build(**changes)
    keys_B = jax.random.split(jax.random.key(0), BATCH) if drops else None
    assert not looks_up(model, batch()[0], keys_B)
    if drops:
        assert looks_up(model, batch()[0])


def test_small_vectors_are_multiplied(monkeypatch):
    monkeypatch.undo()
    assert not looks_up(build(), batch()[0])
    assert looks_up(build(embedding_size=64), batch()[0])


def test_a_model_of_vectors_has_nothing_to_look_up():
    model = build(vocabulary_size=None, input_size=4)
    assert not looks_up(model, jnp.zeros((BATCH, WIDTH, 4)))
