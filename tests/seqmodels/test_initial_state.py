"""A learned initial state begins where the cell did, and every engine runs and trains it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import check_cell, cudnn, engines, factory, initial_state, recurrence

X_TxDxB = jax.random.normal(jax.random.key(5), (5, 3, 4))
LENGTHS_B = jnp.array([5, 1, 0, 3])
CELLS = ["lstm", "slstm", "mlstm", "min_gru"]


def make(name):
    return factory.find_cell(name)(3, 4, rngs=nnx.Rngs(0))


def noisy(name):
    """A cell whose initial state is none of the numbers that it begins with.

    It is positive: a normaliser, as slstm has, that is near zero magnifies rounding.
    """
    cell = check_cell.without_zeros(initial_state.learn(make(name)))
    for leaf in cell.learned_initial_state:
        leaf[...] = jnp.where(leaf[...] < -9, 0.3, jnp.abs(leaf[...]))
    return cell


@pytest.mark.parametrize("name", [*CELLS, "lstm_projected", "qrnn"])
def test_begins_where_the_cell_did(name):
    plain, cell = make(name), initial_state.learn(make(name))
    carries = plain.initial_carry(), cell.initial_carry()
    assert jax.tree.structure(carries[0]) == jax.tree.structure(carries[1])
    outputs = [recurrence.run(one, X_TxDxB, LENGTHS_B).sequence_TxHxB for one in (plain, cell)]
    np.testing.assert_allclose(*outputs, rtol=1e-6, atol=1e-7)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(nnx.state(cell))]
    assert len(set(buffers)) == len(buffers)
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(nnx.split(one, nnx.Param)[1]))
        for one in (plain, cell)
    ]
    assert counts[1] - counts[0] == sum(leaf.size for leaf in jax.tree.leaves(carries[0]))


@pytest.mark.parametrize("name", CELLS)
def test_equals_the_unrolled_loop(name):
    check_cell.equals_the_unrolled_loop(noisy(name))


@pytest.mark.parametrize("name", CELLS)
def test_every_engine_gives_the_same(name):
    cell = noisy(name)
    names = check_cell.qualified(cell)
    assert ("fused" in names, "parallel" in names) == {
        "lstm": (True, False), "slstm": (True, False), "mlstm": (False, False),
        "min_gru": (False, True),
    }[name]  # fmt: skip
    check_cell.every_engine_gives_the_same(cell)
    check_cell.segments_change_nothing(cell)


@pytest.mark.parametrize("name", CELLS)
def test_a_gradient_reaches_all_of_it_and_none_from_an_empty_sequence(name):
    graphdef, params = nnx.split(noisy(name), nnx.Param)

    def loss(params, lengths_B):
        return recurrence.run(nnx.merge(graphdef, params), X_TxDxB, lengths_B).last_HxB.sum()

    gradients = jax.grad(loss)(params, LENGTHS_B)["learned_initial_state"]
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert leaf.any(), path
    nothing = jax.grad(loss)(params, jnp.zeros_like(LENGTHS_B))
    assert not any(leaf.any() for leaf in jax.tree.leaves(nothing))


@pytest.mark.parametrize("name", CELLS)
def test_from_the_start_a_gradient_reaches_some_of_it(name):
    graphdef, params = nnx.split(initial_state.learn(make(name)), nnx.Param)

    def loss(params):
        return recurrence.run(nnx.merge(graphdef, params), X_TxDxB, LENGTHS_B).last_HxB.sum()

    gradients = jax.grad(loss)(params)["learned_initial_state"]
    assert any(leaf.any() for leaf in jax.tree.leaves(gradients))


def test_whole_numbers_cannot_be_learned():
    class Counting(type(make("min_gru"))):
        def initial_carry(self):
            return jnp.zeros(self.hidden_size, int)

    with pytest.raises(ValueError, match="the cell Counting holds whole numbers"):
        initial_state.learn(Counting(3, 4, rngs=nnx.Rngs(0)))


def test_cudnn_is_told_apart_and_models_are_alike():
    cell = initial_state.learn(make("lstm"))
    assert "initial state is learned" in cudnn.why_not(cell)
    with pytest.raises(ValueError, match="cannot run the cell LSTM: its initial state is learned"):
        engines.choose(engines.Engine("cudnn"), cell)
    graphdefs = [nnx.split(initial_state.learn(make("lstm")), nnx.Param)[0] for _ in range(2)]
    assert graphdefs[0] == graphdefs[1]
