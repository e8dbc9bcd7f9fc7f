"""Chunks of a matrix memory against the oracle, for mLSTM and a memory of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import recurrence
from seqmodels.cells import base
from seqmodels.cells.lstm import LSTM
from seqmodels.cells.mlstm import MLSTM
from seqmodels.recurrence import chunkwise, engines
from tests import pointwise as shared
from tests.marks import slow
from tests.pointwise import HIDDEN, INPUT, LENGTHS, WIDTH, inputs, make


class Attention(base.MatrixMemoryCell):
    """Linear attention with gates below one, without a normaliser, and with a gain of its own."""

    def __init__(self, input_size, hidden_size, *, rngs):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, 3 * hidden_size + 2)
        self.gain = base.constant(0.7, hidden_size)

    def project(self, x_D):
        x_G = base.product(x_D, self.kernel[...])
        q, k, v = jnp.split(x_G[2:], 3)
        log_i, log_f = jax.nn.log_sigmoid(x_G[0]), jax.nn.log_sigmoid(x_G[1])
        return base.Write(log_i, log_f, q, k, v, ())

    def read(self, memory_H, normalizer, m, rest):
        return self.gain * memory_H * jnp.exp(jnp.minimum(m, 0.0))


class Average(MLSTM):
    """Divides by what is zero in an empty memory, and by the norm of what it reads."""

    def read(self, memory_H, normalizer, m, rest):
        average_H = memory_H / normalizer
        return jax.nn.sigmoid(rest) * average_H / jnp.sqrt(jnp.sum(average_H**2))


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Two chunks in each sequence, the second one shorter."""
    monkeypatch.setattr(chunkwise, "CHUNK", 4)


@pytest.mark.parametrize(
    ("cell_class", "lengths", "reverse"),
    [
        (MLSTM, LENGTHS, True), (MLSTM, [WIDTH] * 4, False), (Attention, LENGTHS, True),
        (Average, LENGTHS, True), slow(Average, LENGTHS, False),
        slow(MLSTM, LENGTHS, False), slow(MLSTM, [0] * 4, False), slow(Attention, LENGTHS, False),
        slow(MLSTM, [4, 4, 3, 0], False), slow(MLSTM, [4, 4, 3, 0], True),
    ],
)  # fmt: skip
def test_equals_the_unrolled_loop(cell_class, lengths, reverse):
    shared.check_equals_the_unrolled_loop(chunkwise.run, make(cell_class), lengths, reverse)


def test_large_gates_do_not_overflow():
    cell = make(MLSTM)
    cell.gate_kernel[...] = 60 * cell.gate_kernel
    arguments = cell, inputs(30, 3), jnp.array([30, 5, 20]), cell.initial_carry()
    actual, expected = (
        shared.results_and_gradients(run, *arguments) for run in (chunkwise.run, recurrence.run)
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(actual))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, 1e-4, 1e-5), actual[0], expected[0])


def test_many_models_at_once_are_each_alone():
    graphdef, params = nnx.split(make(MLSTM), nnx.Param)
    params_2 = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    arrays = inputs(), jnp.array(LENGTHS)
    both = jax.vmap(lambda params: shared.gradient(chunkwise.run, graphdef, params, *arrays))
    actual = shared.jit(both)(params_2)
    for number in range(2):
        one, of_one = (
            jax.tree.map(lambda leaf, n=number: leaf[n], of) for of in (params_2, actual)
        )
        expected = shared.gradient(recurrence.run, graphdef, one, *arrays)
        jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, 1e-4, 1e-4), of_one, expected)


def test_keeps_one_memory_a_chunk():
    """Not one of every step, as a loop does."""
    cell = MLSTM(INPUT, 32, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(cell, nnx.Param)
    arrays = inputs(64, 8), jnp.full(8, 64)
    taken = [
        jax.jit(lambda params, run=run: shared.gradient(run, graphdef, params, *arrays))
        .lower(params).compile().memory_analysis().temp_size_in_bytes
        for run in (chunkwise.run, recurrence.run)
    ]  # fmt: skip
    assert taken[0] < taken[1] / 2


def test_is_for_matrix_memories():
    assert (
        chunkwise.why_not(LSTM(INPUT, HIDDEN, rngs=nnx.Rngs(0))) == "it is not a MatrixMemoryCell"
    )
    assert engines.choose(engines.AUTO, make(MLSTM)) == "chunkwise"
    assert engines.choose(engines.Engine(segment_steps=2), make(MLSTM)) == "loop"
