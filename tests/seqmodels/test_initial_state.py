"""A learned initial state begins where the cell does, and every engine runs and trains it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import check_cell, initial_state, loading, recurrence
from seqmodels.bidirectional import Bidirectional, Unidirectional
from seqmodels.dropout import drop_weights
from seqmodels.recurrence import engines, oracle
from tests.marks import slow

X_TxDxB = jax.random.normal(jax.random.key(5), (5, 3, 4))
LENGTHS = [5, 1, 0, 3]
LENGTHS_B = jnp.array(LENGTHS)
CELLS = ["lstm", slow("slstm"), slow("mlstm"), "min_gru"]


def make(name):
    return loading.find_cell(name)(3, 4, rngs=nnx.Rngs(0))


def layer(name, engine="loop", **options):
    return Unidirectional(
        make(name), engine=engines.Engine(engine), learned_initial_state=True, **options
    )


def noisy(name, engine="loop", **options):
    """A layer whose initial state is none of the numbers that it begins with.

    It is positive: a normaliser, as slstm has, that is near zero magnifies rounding.
    """
    made = check_cell.without_zeros(layer(name, engine, **options))
    for leaf in made.backward_start if made.backwards else made.forward_start:
        leaf[...] = jnp.where(leaf[...] < -9, 0.3, jnp.abs(leaf[...]))
    return made


def results(made, run):
    """What a layer gives by `run(layer, x)`, and the gradients of all its parameters."""
    graphdef, params = nnx.split(made, nnx.Param)

    def loss(params, x_TxDxB):
        encoded = run(nnx.merge(graphdef, params), x_TxDxB)
        return check_cell.scalar(encoded), encoded

    return jax.grad(loss, (0, 1), has_aux=True)(params, X_TxDxB)


def by_layer(made, x_TxDxB):
    valid_Tx1xB = recurrence.valid_steps(LENGTHS_B, len(x_TxDxB))[:, None]
    (encoded,) = made.encode([jnp.where(valid_Tx1xB, x_TxDxB, 0)], LENGTHS_B)
    return encoded._replace(sequence_TxHxB=jnp.where(valid_Tx1xB, encoded.sequence_TxHxB, 0))


def by_hand(made, x_TxDxB):
    leaves = made.backward_start if made.backwards else made.forward_start
    start = initial_state.carry_of(made.cells[0], leaves)
    return oracle.run(made.cells[0], x_TxDxB, LENGTHS, reverse=made.backwards, start=start)


def assert_close(actual, expected):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, 1e-4, 1e-5), actual, expected)


@pytest.mark.parametrize("name", [*CELLS, "lstm_projected", "qrnn"])
def test_begins_where_the_cell_did(name):
    cell, made = make(name), layer(name)
    carries = cell.initial_carry(), initial_state.carry_of(cell, made.forward_start)
    assert jax.tree.structure(carries[0]) == jax.tree.structure(carries[1])
    plain = recurrence.run(cell, X_TxDxB, LENGTHS_B)
    np.testing.assert_allclose(
        by_layer(made, X_TxDxB).sequence_TxHxB, plain.sequence_TxHxB, rtol=1e-6, atol=1e-7
    )
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(nnx.state(made))]
    assert len(set(buffers)) == len(buffers)
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(nnx.split(one, nnx.Param)[1]))
        for one in (cell, made)
    ]
    assert counts[1] - counts[0] == sum(leaf.size for leaf in jax.tree.leaves(carries[0]))


def test_a_cell_stays_what_it_is():
    made = layer("lstm")
    assert type(made.forward) is type(make("lstm"))
    assert nnx.split(made.forward)[0] == nnx.split(make("lstm"))[0]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_equals_the_unrolled_loop(name, backwards):
    made = noisy(name, backwards=backwards)
    assert_close(results(made, by_layer), results(made, by_hand))


@pytest.mark.parametrize("name", CELLS)
def test_every_engine_gives_the_same(name):
    names = check_cell.qualified(make(name))
    assert ("fused" in names, "parallel" in names) == {
        "lstm": (True, False), "slstm": (True, False), "mlstm": (False, False),
        "min_gru": (False, True),
    }[name]  # fmt: skip
    expected = results(noisy(name), by_layer)
    for engine in names:
        assert_close(results(noisy(name, engine), by_layer), expected)


@pytest.mark.parametrize("name", CELLS)
def test_segments_change_nothing(name):
    whole, cut = noisy(name), noisy(name)
    cut.engine = engines.Engine("loop", segment_steps=2)
    assert_close(results(cut, by_layer), results(whole, by_layer))


@pytest.mark.parametrize("name", CELLS)
def test_a_gradient_reaches_all_of_it_and_none_from_an_empty_sequence(name):
    graphdef, params = nnx.split(noisy(name), nnx.Param)

    def loss(params, lengths_B):
        (encoded,) = nnx.merge(graphdef, params).encode([X_TxDxB], lengths_B)
        return encoded.last_HxB.sum()

    gradients = jax.grad(loss)(params, LENGTHS_B)["forward_start"]
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert leaf.any(), path
    nothing = jax.grad(loss)(params, jnp.zeros_like(LENGTHS_B))
    assert not any(leaf.any() for leaf in jax.tree.leaves(nothing))


@pytest.mark.parametrize("name", CELLS)
def test_from_the_start_a_gradient_reaches_some_of_it(name):
    (gradients, _), _ = results(layer(name), by_layer)
    assert any(leaf.any() for leaf in jax.tree.leaves(gradients["forward_start"]))


def test_each_direction_has_its_own():
    made = Bidirectional(make("lstm"), make("lstm"), learned_initial_state=True)
    plain = made.encode([X_TxDxB], LENGTHS_B)
    for leaf in made.backward_start:
        leaf[...] = leaf[...] + 1
    forward, backward = made.encode([X_TxDxB], LENGTHS_B)
    np.testing.assert_array_equal(forward.last_HxB, plain[0].last_HxB)
    assert (backward.last_HxB[:, :2] != plain[1].last_HxB[:, :2]).all()


def test_no_weight_is_dropped_from_it():
    made = noisy("lstm")
    dropped = drop_weights(made, 0.9, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, made.forward_start, dropped.forward_start)


def test_whole_numbers_cannot_be_learned():
    class Counting(type(make("min_gru"))):
        def initial_carry(self):
            return jnp.zeros(self.hidden_size, int)

    with pytest.raises(ValueError, match="the cell Counting holds integers"):
        initial_state.learn(Counting(3, 4, rngs=nnx.Rngs(0)))


def test_models_are_alike():
    graphdefs = [nnx.split(layer("lstm"), nnx.Param)[0] for _ in range(2)]
    assert graphdefs[0] == graphdefs[1]
    hash(graphdefs[0])
