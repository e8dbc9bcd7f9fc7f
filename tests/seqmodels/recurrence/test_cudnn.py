"""The LSTM through cuDNN: JAX's reference for it against ours, and what a GPU gets of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export
from jax.experimental import rnn

from seqmodels import check_cell, recurrence
from seqmodels.cells import lstm
from seqmodels.recurrence import cudnn, oracle
from tests import accelerators

WIDTH, INPUT, HIDDEN = 5, 3, 7
LENGTHS = [5, 1, 0, 3, 4, 5]
# Most of the time goes into compiling.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture
def cell():
    cell = lstm.LSTM(INPUT, HIDDEN, rngs=nnx.Rngs(0))
    cell.bias[...] = jax.random.normal(jax.random.key(1), cell.bias.shape)
    return cell


@pytest.fixture
def x_TxDxB():
    return jax.random.normal(jax.random.key(2), (WIDTH, INPUT, len(LENGTHS)))


@pytest.fixture
def reference(monkeypatch):
    """JAX's own reference in the place of cuDNN, which takes the same vector of weights."""

    def run(x, h_0, c_0, weights, seq_lengths, precision, **sizes):
        del precision
        layer = (sizes[k] for k in ("input_size", "hidden_size", "num_layers", "bidirectional"))
        unpacked = rnn.unpack_lstm_weights(weights, *layer)
        return rnn.lstm_ref(x, h_0, c_0, *unpacked, seq_lengths, *sizes.values())

    monkeypatch.setattr(rnn, "lstm", run)


def gradients(run, graphdef):
    """A function `(params, x, lengths) -> (d_params, d_x)` of all that `run` gives."""

    def loss(params, x_TxDxB, lengths):
        return sum(
            jnp.vdot(jax.random.normal(jax.random.key(number), array.shape), jnp.sin(array))
            for number, array in enumerate(run(nnx.merge(graphdef, params), x_TxDxB, lengths))
        )

    return jax.grad(loss, argnums=(0, 1))


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("reverse", [False, True])
def test_equals_our_own(cell, x_TxDxB, reverse):
    lengths = jnp.array(LENGTHS)
    expected = jit(lambda x: oracle.run(cell, x, LENGTHS, reverse=reverse))(x_TxDxB)
    actual = cudnn.run(cell, x_TxDxB, lengths, reverse=reverse)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, 1e-5, 1e-6), actual, expected)

    graphdef, params = nnx.split(cell, nnx.Param)
    actual, expected = (
        jit(gradients(functools.partial(run, reverse=reverse), graphdef))(params, x_TxDxB, lengths)
        for run in (cudnn.run, recurrence.run)
    )
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, 1e-4, 1e-5), actual, expected)


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("reverse", [False, True])
def test_begins_at_any_carry(cell, x_TxDxB, reverse):
    start = tuple(jax.random.normal(jax.random.key(number), (HIDDEN,)) for number in (3, 4))
    lengths = jnp.array(LENGTHS)

    def results(run, start):
        encoded = run(cell, x_TxDxB, lengths, reverse=reverse, start=start)
        return check_cell.scalar(encoded), encoded

    actual, expected = (
        jit(jax.grad(functools.partial(results, run), has_aux=True))(start)
        for run in (cudnn.run, recurrence.run)
    )
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, 1e-4, 1e-5), actual, expected)


@pytest.mark.usefixtures("reference")
def test_padding_reaches_no_value_and_no_gradient(cell, x_TxDxB):
    graphdef, params = nnx.split(cell, nnx.Param)
    valid = recurrence.valid_steps(jnp.array(LENGTHS), WIDTH)[:, None]
    gradient = jit(gradients(cudnn.run, graphdef))
    expected = gradient(params, x_TxDxB, jnp.array(LENGTHS))
    actual = gradient(params, jnp.where(valid, x_TxDxB, jnp.nan), jnp.array(LENGTHS))
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    assert not jnp.where(valid, 0, actual[1]).any()


class Other(lstm.LSTM):
    """A cell with the LSTM's parameters and, for all that one can see, other mathematics."""


def test_is_for_that_one_lstm(cell):
    assert cudnn.why_not(cell) is None
    assert "not the LSTM" in cudnn.why_not(Other(INPUT, HIDDEN, rngs=nnx.Rngs(0)))
    assert cudnn.available(cell) == (jax.default_backend() == "gpu")


@pytest.fixture
def lowering(monkeypatch):
    """What JAX asks the CUDA plugin for while it makes code, where that is not installed."""
    accelerators.ask_no_cudnn(monkeypatch)


@pytest.mark.usefixtures("lowering")
@pytest.mark.parametrize("reverse", [False, True])
def test_becomes_calls_of_cudnn_on_a_gpu(cell, x_TxDxB, reverse):
    graphdef, params = nnx.split(cell, nnx.Param)
    names = ["cudnn_rnn_ffi", "cudnn_rnn_bwd_ffi"]
    exported = export.export(
        jax.jit(gradients(functools.partial(cudnn.run, reverse=reverse), graphdef)),
        platforms=["cuda"],
        disabled_checks=[export.DisabledSafetyCheck.custom_call(name) for name in names],
    )(params, x_TxDxB, jnp.array(LENGTHS))
    module = exported.mlir_module()
    assert [module.count(f"@{name}(") for name in names] == [1, 1]
