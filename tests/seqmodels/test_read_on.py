"""A sequence read piece by piece has the outputs and gradients of one that is read at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import factory, loading
from seqmodels.pooling import POOLINGS
from tests.marks import slow

WIDTH, PIECES = 7, [(0, 3), (3, 4), (4, 7)]
TWO_PIECES = [(0, 4), (4, 7)]  # Compile faster.
LENGTHS = np.array([7, 5, 4, 1, 0])  # Some end inside of a piece, or before it.
QUICK = ("lstm",)


def build(cell="lstm", **changes):
    arguments = {"vocabulary_size": 11, "num_outputs": 3, "per_step": True, "hidden_sizes": (4,)}
    return factory.build_all(seeds=[0], cell=cell, **arguments | changes)[0]


def tokens():
    return jnp.array(np.random.default_rng(0).integers(1, 11, (len(LENGTHS), WIDTH)))


def in_pieces(model, tokens_BxT, lengths_B, pieces=PIECES, **keys):
    """The outputs of every step, read in pieces with the carries handed on."""
    carries, outputs = model.initial_carries(len(tokens_BxT)), []
    for first, end in pieces:
        of_piece, carries = model.read_on(
            carries, tokens_BxT[:, first:end], jnp.clip(lengths_B - first, 0, end - first), **keys
        )
        outputs.append(of_piece)
    return jnp.concatenate(outputs, axis=1)


@pytest.mark.parametrize(
    "cell", [name if name in QUICK else slow(name) for name in loading.cell_names()]
)
def test_pieces_are_the_whole_and_so_are_their_gradients(cell):
    graphdef, params = nnx.split(build(cell), nnx.Param)
    weights = jax.random.normal(jax.random.key(0), (len(LENGTHS), WIDTH, 3))

    def loss(params, read):
        outputs = read(nnx.merge(graphdef, params), tokens(), jnp.array(LENGTHS))
        return jnp.sum(weights * jnp.sin(outputs)), outputs

    gradients = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    whole = gradients(params, lambda model, x, lengths_B: model(x, lengths_B))
    parts = PIECES if cell in QUICK else TWO_PIECES
    pieces = gradients(params, functools.partial(in_pieces, pieces=parts))
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5),
        pieces, whole,
    )  # fmt: skip


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_piece_answers_for_all_that_was_read(pooling):
    """Of sequences that have ended before it too, and of one without a step."""
    model = build(per_step=False, num_outputs=2, learned_initial_state=True, pooling=pooling)
    if pooling == "attention":  # Else all steps weigh the same.
        model.head.pooling.attend.query[...] = jnp.arange(4.0) - 1
    read_on, carries = jax.jit(model.read_on), model.initial_carries(len(LENGTHS))
    for first, end in PIECES:
        lengths_B = jnp.clip(LENGTHS - first, 0, end - first)
        outputs, carries = read_on(carries, tokens()[:, first:end], lengths_B)
        so_far = model(tokens()[:, :end], np.minimum(LENGTHS, end))
        np.testing.assert_allclose(outputs, so_far, rtol=1e-5, atol=1e-6)


def test_carries_end_where_a_sequence_ends():
    model = build()
    carries = model.initial_carries(len(LENGTHS))
    _, after = model.read_on(carries, tokens(), jnp.array(LENGTHS))
    _, again = model.read_on(after, tokens(), jnp.zeros(len(LENGTHS), int))
    jax.tree.map(np.testing.assert_array_equal, again, after)
    jax.tree.map(
        lambda one, other: np.testing.assert_array_equal(one[..., -1], other[..., -1]),
        after, carries,
    )  # fmt: skip


@pytest.mark.parametrize("direction", ["backward", "bidirectional"])
def test_what_reads_backwards_cannot_read_on(direction):
    model = build(direction=direction)
    with pytest.raises(ValueError, match="layer 1 reads from the end of a sequence to its start"):
        model.initial_carries(2)
    with pytest.raises(ValueError, match="make all layers forward"):
        model.read_on([None, None], tokens())
