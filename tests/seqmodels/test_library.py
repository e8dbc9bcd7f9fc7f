"""What a notebook imports, and what it does with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqmodels
from seqmodels import (
    GRU,
    LSTM,
    Attention,
    Bidirectional,
    Cell,
    Embedding,
    Encoder,
    Engine,
    Last,
    Rates,
    SequenceHead,
    SequenceModel,
    StepHead,
    Unidirectional,
    Vectors,
    loading,
    recurrence,
)

LENGTHS_B = jnp.array([5, 2, 3])
X_BxTxD = jax.random.normal(jax.random.key(0), (3, 5, 4))


def test_every_name_is_there_and_every_cell_has_one():
    for name in seqmodels.__all__:
        assert hasattr(seqmodels, name), name
    for name in loading.cell_names():
        cell_class = loading.find_cell(name)
        assert getattr(seqmodels, cell_class.__name__) is cell_class
        assert issubclass(cell_class, Cell)
    assert len(loading.cell_names()) == 18


def test_a_cell_runs_in_a_scan_of_ones_own():
    cell = LSTM(4, 6, rngs=nnx.Rngs(0))

    def step(carry, x_D):
        return cell.step(carry, cell.project(x_D))

    _, y_TxH = jax.jit(lambda x_TxD: jax.lax.scan(step, cell.initial_carry(), x_TxD))(X_BxTxD[0])
    encoded = recurrence.run(cell, X_BxTxD.transpose(1, 2, 0), LENGTHS_B)
    np.testing.assert_allclose(y_TxH, encoded.sequence_TxHxB[..., 0], rtol=1e-5, atol=1e-6)


def test_an_encoder_is_put_together_by_hand():
    rngs = nnx.Rngs(0)
    below = Bidirectional(LSTM(4, 6, rngs=rngs), GRU(4, 6, rngs=rngs), merge="mean")
    above = Unidirectional(GRU(6, 3, rngs=rngs), engine=Engine("loop"), learned_initial_state=True)
    encoding = Encoder([below, above], [Rates(), Rates(inputs=0.1)])(X_BxTxD, LENGTHS_B)
    assert encoding.sequence_BxTxH.shape == (3, 5, 3)
    rows_B = np.arange(3)
    np.testing.assert_array_equal(encoding.last_BxH, encoding.sequence_BxTxH[rows_B, LENGTHS_B - 1])
    assert not np.array(encoding.sequence_BxTxH)[np.arange(5) >= LENGTHS_B[:, None]].any()


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("reads", ["tokens", "vectors"])
def test_a_model_trains_in_a_loop_of_ones_own(reads, per_step):
    rngs = nnx.Rngs(0)
    encoder = Encoder([Unidirectional(LSTM(4, 6, rngs=rngs))])
    inputs = Vectors(4) if reads == "vectors" else Embedding(9, 4, rngs=rngs)
    head = StepHead(6, 2, rngs=rngs) if per_step else SequenceHead(Last(6, rngs=rngs), rngs=rngs)
    model = SequenceModel(inputs, encoder, head)
    x = X_BxTxD if reads == "vectors" else jnp.array(np.arange(15).reshape(3, 5) % 9)
    shape = (3, 5, 2) if per_step else (3, 1)
    targets = jax.random.normal(jax.random.key(1), shape)

    @jax.value_and_grad
    def loss(params):
        return jnp.mean((nnx.merge(graphdef, params)(x, LENGTHS_B) - targets) ** 2)

    graphdef, params = nnx.split(model, nnx.Param)
    step, losses = jax.jit(loss), []
    for _ in range(20):
        value, gradients = step(params)
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, gradients)
        losses.append(float(value))
    assert losses == sorted(losses, reverse=True)


def test_attention_is_a_pooling_like_any_other():
    rngs = nnx.Rngs(0)
    encoder = Encoder([Unidirectional(GRU(4, 6, rngs=rngs))])
    head = SequenceHead(Attention(6, rngs=rngs), 3, rngs=rngs)
    assert SequenceModel(Vectors(4), encoder, head)(X_BxTxD, LENGTHS_B).shape == (3, 3)
