"""Two directions merged, against the unrolled loop and the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import GRU, LSTM, Bidirectional, Encoder, check_cell, factory
from seqmodels.bidirectional import MERGES
from seqmodels.recurrence import arrays, oracle
from tests.marks import slow

LENGTHS = [5, 0, 1, 3]
X_TxDxB = jax.random.normal(jax.random.key(0), (5, 3, 4))
DEFINITIONS = {
    "concat": lambda f, b: jnp.concatenate([f, b], axis=-2),
    "sum": lambda f, b: f + b,
    "mean": lambda f, b: 0.5 * f + 0.5 * b,
    "product": lambda f, b: f * b,
}


def build(merge, **changes):
    arguments = {
        "input_size": 3, "hidden_sizes": (4, 4), "direction": "bidirectional", "seed": 0,
        "merge": merge, "residual": True, "engine": "loop",
    }  # fmt: skip
    return factory.build(**arguments | changes)


def by_hand(encoder, x_TxDxB, merge):
    """Layer on layer by the unrolled loop, with the last outputs merged like those of a step."""
    below = []
    for number, layer in enumerate(encoder.layers):
        forward = oracle.run(layer.forward, x_TxDxB, LENGTHS)
        backward = oracle.run(layer.backward, x_TxDxB, LENGTHS, reverse=True)
        outputs = [DEFINITIONS[merge](*pair) for pair in zip(forward, backward, strict=True)]
        if number:
            outputs = [one + other for one, other in zip(outputs, below, strict=True)]
        below = outputs
        x_TxDxB = outputs[0]
    return outputs


def test_every_merge_is_tested():
    assert set(DEFINITIONS) == set(MERGES)


@pytest.mark.parametrize("merge", [slow("concat"), slow("sum"), slow("mean"), "product"])
def test_equals_the_unrolled_loop(merge, monkeypatch):
    graphdef, params = nnx.split(build(merge).encoder, nnx.Param)

    def gradients(run):
        def loss(params, x_TxDxB):
            results = run(nnx.merge(graphdef, params), x_TxDxB)
            return check_cell.scalar(results), results

        return jax.grad(loss, (0, 1), has_aux=True)

    def by_engine(encoder, x_TxDxB):
        encoding = encoder(x_TxDxB.transpose(2, 0, 1), jnp.array(LENGTHS))
        return [encoding.sequence_BxTxH.transpose(1, 2, 0)[:5], encoding.last_BxH.T]

    def nan_after_the_longest(one, width, first):
        return jax.tree.map(lambda one: jnp.full((width, *one.shape), jnp.nan), one)

    expected = gradients(lambda encoder, x: by_hand(encoder, x, merge))(params, X_TxDxB)
    monkeypatch.setattr(arrays, "room", nan_after_the_longest)
    wider = jnp.pad(X_TxDxB, ((0, 3), (0, 0), (0, 0)), constant_values=jnp.nan)
    for x_TxDxB in (X_TxDxB, wider):
        (d_params, d_x), results = jax.jit(gradients(by_engine))(params, x_TxDxB)
        jax.tree.map(
            lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5),
            ((d_params, d_x[:5]), results),
            expected,
        )
        assert not d_x[5:].any()


@pytest.mark.parametrize("pooling", ["last", "mean", slow("max"), slow("mean_max"), "attention"])
def test_company_does_not_matter_to_any_pooling(pooling):
    model = build("product", pooling=pooling, hidden_sizes=(4,), residual=False, num_outputs=2)
    x_BxTxD, run = X_TxDxB.transpose(2, 0, 1), jax.jit(model)
    together = run(x_BxTxD, jnp.array(LENGTHS))
    for row in range(4):
        alone = run(x_BxTxD[row : row + 1], jnp.array(LENGTHS[row : row + 1]))
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("merge", MERGES)
def test_is_as_wide_as_it_says(merge):
    encoder = build(merge, hidden_sizes=(4,), residual=False).encoder
    width = 8 if merge == "concat" else 4
    assert encoder.output_size == width
    assert encoder(X_TxDxB.transpose(2, 0, 1)).last_BxH.shape == (4, width)


def test_what_cannot_be_merged_is_refused():
    rngs = nnx.Rngs(0)
    cells = LSTM(3, 4, rngs=rngs), GRU(3, 5, rngs=rngs)
    assert Encoder([Bidirectional(*cells)]).output_size == 9
    with pytest.raises(ValueError, match="4 and 5 units, but merging by sum needs the same number"):
        Bidirectional(*cells, merge="sum")
    with pytest.raises(ValueError, match="unknown merge 'max'; choose one of concat, sum, mean"):
        Bidirectional(*cells, merge="max")
    with pytest.raises(ValueError, match="a forward layer has only one direction"):
        build("sum", direction="forward")
