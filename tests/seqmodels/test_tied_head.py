"""A head that multiplies with the table of the embedding, against one with a kernel of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import check_cell, factory
from seqmodels.recurrence import arrays
from tests.marks import slow
from tests.seqmodels.test_heads import assert_close

TOKENS, SIZE, LENGTHS, WIDTH = 11, 3, (4, 0, 6, 1), 6
TOKENS_BxT = jnp.array(np.random.default_rng(0).integers(0, TOKENS, (len(LENGTHS), WIDTH)))


def build(**changes):
    arguments = {
        "vocabulary_size": TOKENS, "num_outputs": TOKENS, "per_step": True, "tied_head": True,
        "embedding_size": SIZE, "hidden_sizes": (4,), "projection_size": SIZE, "seed": 0,
        "engine": "loop",
    }  # fmt: skip
    return check_cell.without_zeros(factory.build(**arguments | changes))


def untied(model, **changes):
    """A model of the same parameters whose head has a kernel that equals the table."""
    twin = build(tied_head=False, **changes)
    nnx.update(twin, nnx.state(model, nnx.Param))
    twin.head.kernel[...] = model.inputs.table[...].T
    return twin


def run(model):
    """The outputs, and the gradient of a loss that weighs each of them differently."""
    graphdef, params = nnx.split(model, nnx.Param)

    def loss(params):
        outputs_BxTxV = nnx.merge(graphdef, params)(TOKENS_BxT, jnp.array(LENGTHS))
        weights = jnp.arange(1, WIDTH + 1)[:, None] * jnp.arange(1, TOKENS + 1)
        return jnp.sum(jnp.sin(outputs_BxTxV) * weights), outputs_BxTxV

    gradient, outputs = jax.jit(jax.grad(loss, has_aux=True))(params)
    return outputs, gradient


CELLS = ["lstm", slow("mlstm"), slow("min_gru")]


@pytest.mark.parametrize("cell", CELLS)
def test_it_is_an_untied_head_whose_two_gradients_are_added(cell):
    model = build(cell=cell)
    (outputs, gradient), (expected, of_both) = run(model), run(untied(model, cell=cell))
    assert_close(outputs, expected)
    of_kernel = of_both["head"].pop("kernel")
    of_both["inputs"]["table"][...] += of_kernel[...].T
    assert_close(gradient, of_both)


@pytest.mark.parametrize("on_cpu", [True, slow(False)])
@pytest.mark.parametrize("changes", [{}, slow({"projection_size": 0, "hidden_sizes": (SIZE,)})])
def test_outputs_are_a_sum_over_the_table(changes, on_cpu, monkeypatch):
    monkeypatch.setattr(arrays, "on_cpu", lambda: on_cpu)
    model = build(**changes)
    lengths_B = jnp.array(LENGTHS)
    encoded, _, _ = model.encode_from(None, TOKENS_BxT, lengths_B)
    y_BxTxH = encoded[0].sequence_TxHxB.transpose(2, 0, 1)
    if model.head.projection is not None:
        y_BxTxH = jnp.einsum("bth,hq->btq", y_BxTxH, model.head.projection[...])
    expected = jnp.einsum("btq,vq->btv", y_BxTxH, model.inputs.table[...]) + model.head.bias[...]
    is_step = jnp.arange(WIDTH) < lengths_B[:, None]
    assert_close(model(TOKENS_BxT, lengths_B), jnp.where(is_step[..., None], expected, 0))


def test_its_parameters_are_there_once():
    params = nnx.state(build(), nnx.Param)
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    assert shapes.pop("inputs.table") == (TOKENS, SIZE)
    assert {name: shape for name, shape in shapes.items() if not name.startswith("encoder")} == {
        "head.projection": (4, SIZE), "head.bias": (TOKENS,),
    }  # fmt: skip


@pytest.mark.slow
def test_what_is_read_piece_by_piece_is_the_same():
    model, carries, found = build(), build().initial_carries(len(LENGTHS)), []
    for first in range(0, WIDTH, 2):
        outputs, carries = model.read_on(carries, TOKENS_BxT[:, first : first + 2])
        found.append(outputs)
    assert_close(jnp.concatenate(found, axis=1), model(TOKENS_BxT))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"projection_size": 0}, "set projection_size to 3, or embedding_size to 4"),
        ({"num_outputs": 5}, "it has 5 outputs"),
        ({"per_step": False}, "tied_head is for outputs per step"),
        ({"vocabulary_size": None, "input_size": 3}, "but this model reads vectors"),
    ],
)
def test_what_cannot_be_tied_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        build(**changes)


@pytest.mark.slow
def test_a_projection_is_for_a_head_of_a_sequence_too():
    model = build(tied_head=False, per_step=False, num_outputs=2, projection_size=5)
    encoded, _, lengths_B = model.encode_from(None, TOKENS_BxT, jnp.array(LENGTHS))
    expected = encoded[0].last_HxB.T @ model.head.projection[...] @ model.head.kernel[...]
    assert_close(model(TOKENS_BxT, lengths_B), expected + model.head.bias[...])


@pytest.mark.slow
def test_a_table_is_passed_on_with_the_gradient_that_comes_back():
    """The sum of both, as if it had been added afterwards."""
    graphdef, params = nnx.split(build(), nnx.Param)

    def loss(params, passes_on):
        model = nnx.merge(graphdef, params)
        if passes_on:
            model.pass_on_tables()
        value = jnp.sum(jnp.sin(model(TOKENS_BxT, jnp.array(LENGTHS))))
        return value, nnx.state(model, nnx.Param)

    def gradient(passes_on):
        (one, state), pull_back = jax.vjp(lambda params: loss(params, passes_on), params)
        return pull_back((jnp.ones_like(one), jax.tree.map(jnp.ones_like, state)))[0]

    assert_close(gradient(True), gradient(False))
