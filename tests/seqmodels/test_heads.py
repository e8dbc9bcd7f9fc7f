"""Outputs of every step and of a sequence: what they are, and what must not matter to them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import check_cell, factory
from seqmodels.pooling import POOLINGS
from seqmodels.recurrence import arrays, oracle
from tests.marks import slow

VOCABULARY, SIZE, OUTPUTS = 11, 3, 4
LENGTHS = (1, 5, 0, 3)
WIDTH = max(LENGTHS)


def build(reads="vectors", **changes):
    inputs = {"input_size": SIZE}
    if reads == "tokens":
        inputs = {"vocabulary_size": VOCABULARY, "embedding_size": SIZE}
    arguments = {
        "hidden_sizes": (4,), "direction": "bidirectional", "num_outputs": OUTPUTS, "seed": 0,
        "engine": "loop",
    }  # fmt: skip
    model = factory.build(**inputs | arguments | changes)
    return check_cell.without_zeros(model)  # A bias that reached the padding would show.


def draw(reads, lengths, seed=0):
    rng = np.random.default_rng(seed)
    if reads == "tokens":
        return [rng.integers(0, VOCABULARY, length) for length in lengths]
    return [rng.normal(size=(length, SIZE)).astype(np.float32) for length in lengths]


def lay_out(sequences, width, side, filler):
    """Sequences in rows of `width`; the padding holds a token or a number that it may."""
    rows = np.full((len(sequences), width, *sequences[0].shape[1:]), filler, sequences[0].dtype)
    for row, sequence in zip(rows, sequences, strict=True):
        place = slice(width - len(sequence), width) if side == "pre" else slice(len(sequence))
        row[place] = sequence
    return jnp.array(rows)


def own(outputs, lengths, side):
    """What each sequence got: `[C]`, or `[length, C]` where there are outputs of every step."""
    if outputs.ndim == 2:
        return list(np.array(outputs))
    width = outputs.shape[1]
    starts = [width - length if side == "pre" else 0 for length in lengths]
    return [
        np.array(row[start : start + length])
        for row, start, length in zip(outputs, starts, lengths, strict=True)
    ]


@functools.partial(jax.jit, static_argnums=0, static_argnames=("side", "rows"))
def _run(graphdef, params, x, lengths_B, keys_B, *, side, rows):
    def loss(params, x):
        model = nnx.merge(graphdef, params)
        outputs = model(x, lengths_B, padding_side=side, dropout_keys_B=keys_B)
        # Of a step or a sequence always the same weight, wherever it stands.
        return jnp.sum(jnp.sin(outputs[:rows]) * jnp.arange(1, OUTPUTS + 1)), outputs

    argnums = (0, 1) if jnp.issubdtype(x.dtype, jnp.floating) else 0
    return jax.grad(loss, argnums, has_aux=True)(params, x)


def run(model, x, lengths, side="post", keys_B=None, rows=None):
    """The outputs, the gradients of parameters, and of vectors."""
    graphdef, params = nnx.split(model, nnx.Param)
    lengths_B = jnp.array(lengths, jnp.int32)
    gradients, outputs = _run(
        graphdef, params, x, lengths_B, keys_B, side=side, rows=rows or len(lengths)
    )
    return outputs, *(gradients if isinstance(gradients, tuple) else (gradients, None))


def assert_close(actual, expected):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5), actual, expected
    )


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("direction", ["forward", slow("backward"), "bidirectional"])
@pytest.mark.slow
def test_outputs_of_every_step_equal_the_unrolled_loop(direction, on_cpu, monkeypatch):
    monkeypatch.setattr(arrays, "on_cpu", lambda: on_cpu)
    model = build(direction=direction, per_step=True)
    x_BxTxD = lay_out(draw("vectors", LENGTHS), WIDTH, "post", 0)

    def by_hand(params, x_BxTxD):
        model = nnx.merge(graphdef, params)
        layer = model.encoder.layers[0]
        parts = [
            oracle.run(cell, x_BxTxD.transpose(1, 2, 0), LENGTHS, reverse=cell is backward)[0]
            for backward in [getattr(layer, "backward", None)]
            for cell in layer.cells
        ]
        outputs_BxTxC = jnp.concatenate(parts, 1).transpose(2, 0, 1) @ model.head.kernel[...]
        valid_BxTx1 = (jnp.arange(WIDTH) < jnp.array(LENGTHS)[:, None])[..., None]
        outputs_BxTxC = jnp.where(valid_BxTx1, outputs_BxTxC + model.head.bias[...], 0)
        return jnp.sum(jnp.sin(outputs_BxTxC) * jnp.arange(1, OUTPUTS + 1)), outputs_BxTxC

    graphdef, params = nnx.split(model, nnx.Param)
    gradients, outputs = jax.grad(by_hand, (0, 1), has_aux=True)(params, x_BxTxD)
    assert_close(run(model, x_BxTxD, LENGTHS), (outputs, *gradients))


# For each kind of head, with every pooling: where padding stands, what it holds, and who else is
# there. Outputs of every step are computed in two ways, of which a CPU takes one.
STEPS = {"per_step": True}
DROPPING = {"merge": "product", "dropout_rates": (0.3,)}
CASES = [
    *(slow("vectors", {"pooling": name}, True, "pre") for name in POOLINGS),
    slow("vectors", {"pooling": "last"}, True, "post"), slow("tokens", STEPS, False, "post"),
    slow("vectors", STEPS, True, "post"), ("tokens", STEPS, True, "pre"),
    ("vectors", STEPS | DROPPING, False, "pre"),
    ("vectors", {"pooling": "max"} | DROPPING, True, "pre"),
]  # fmt: skip


@pytest.mark.parametrize(("reads", "changes", "on_cpu", "side"), CASES)
def test_padding_and_company_never_matter(reads, changes, on_cpu, side, monkeypatch):
    monkeypatch.setattr(arrays, "on_cpu", lambda: on_cpu)
    model, sequences = build(reads, **changes), draw(reads, LENGTHS)
    keys_B = jax.random.split(jax.random.key(7), 6) if "dropout_rates" in changes else None

    def of_rows(sequences, width, side, filler, keys_B):
        lengths = [len(sequence) for sequence in sequences]
        x = lay_out(sequences, width, side, filler)
        outputs, d_params, d_x = run(model, x, lengths, side, keys_B, rows=len(LENGTHS))
        answers = own(outputs, lengths, side)[: len(LENGTHS)]
        if model.head.per_step:  # Zero in the padding.
            assert np.count_nonzero(outputs) == sum(
                map(np.count_nonzero, own(outputs, lengths, side))
            )
        if d_x is None:
            return answers, d_params
        d_own = own(d_x, lengths, side)
        assert np.count_nonzero(d_x) == sum(map(np.count_nonzero, d_own))
        assert not any(one.any() for one in d_own[len(LENGTHS) :])
        return answers, d_params, d_own[: len(LENGTHS)]

    def keys(count):
        return None if keys_B is None else keys_B[:count]

    def room_of_nan(tree, width, first):
        return jax.tree.map(lambda one: jnp.full((width, *one.shape), jnp.nan), tree)

    expected = of_rows(sequences, WIDTH, "post", 0, keys(4))
    filler = 7 if reads == "tokens" else np.nan
    company = draw(reads, (WIDTH + 3, 2), seed=1)
    assert_close(of_rows(sequences + company, WIDTH + 4, side, filler, keys(6)), expected)
    # What stands after the longest sequence is undefined.
    monkeypatch.setattr(arrays, "room", room_of_nan)
    assert_close(of_rows(sequences, WIDTH + 40, side, filler, keys(4)), expected)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("reads", ["tokens", "vectors"])
@pytest.mark.slow
def test_a_sequence_alone_gets_what_it_gets_in_company_and_in_any_order(reads, per_step):
    model, sequences = build(reads, per_step=per_step), draw(reads, LENGTHS)
    outputs, d_params, _ = run(model, lay_out(sequences, WIDTH, "post", 0), LENGTHS)
    answers = own(outputs, LENGTHS, "post")
    alone = [
        run(model, lay_out([sequence], WIDTH, "post", 0), [len(sequence)]) for sequence in sequences
    ]
    assert_close(
        [own(one[0], [n], "post")[0] for one, n in zip(alone, LENGTHS, strict=True)], answers
    )
    # The loss is a sum over sequences, and so is its gradient.
    assert_close(jax.tree.map(lambda *leaves: sum(leaves), *(one[1] for one in alone)), d_params)
    order = [2, 0, 3, 1]
    shuffled = lay_out([sequences[row] for row in order], WIDTH, "post", 0)
    lengths = [LENGTHS[row] for row in order]
    again = own(run(model, shuffled, lengths)[0], lengths, "post")
    assert_close(again, [answers[row] for row in order])


def test_rows_that_are_read_to_their_end_have_outputs_at_all_times():
    model = build(per_step=True)
    x_BxTxD = jax.random.normal(jax.random.key(0), (2, WIDTH, SIZE))
    whole = model(x_BxTxD)
    np.testing.assert_array_equal(whole, model(x_BxTxD, [WIDTH, WIDTH]))
    assert (np.array(whole) != 0).all()
    # Where steps that rows share are promised, all outputs are asked for all the same.
    promised = model(x_BxTxD, shared_steps=jnp.array(2), padding_side="pre")
    np.testing.assert_array_equal(promised, whole)


def test_many_models_under_vmap_give_what_each_gives_alone():
    graphdef, params = nnx.split(build(per_step=True), nnx.Param)
    x_BxTxD = lay_out(draw("vectors", LENGTHS), WIDTH, "pre", np.nan)
    params_2 = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2]), params)

    def outputs(params):
        return nnx.merge(graphdef, params)(x_BxTxD, LENGTHS_B, padding_side="pre")

    LENGTHS_B = jnp.array(LENGTHS)
    both = jax.jit(jax.vmap(outputs))(params_2)
    for number in range(2):
        one = jax.tree.map(lambda leaf, number=number: leaf[number], params_2)
        assert_close(both[number], outputs(one))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"per_step": True, "pooling": "mean"}, "pooling is 'mean', but a model with outputs per"),
        ({"vocabulary_size": 9}, "give one of the two"),
        ({"input_size": None}, "give one of the two"),
        ({"word_dropout": 0.1}, "word_dropout is 0.1, but vectors have no words"),
        ({"embedding_dropout": 0.1}, "embedding_dropout is 0.1, but vectors have no words"),
        ({"num_outputs": 0}, "num_outputs must be at least 1"),
    ],
)
def test_arguments_that_do_nothing_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        build(**changes)


def test_vectors_have_no_parameters_and_a_head_has_its_own():
    model = build(per_step=True)
    paths = {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        for path, _ in jax.tree.leaves_with_path(nnx.state(model, nnx.Param))
    }
    of_cells = {
        f"encoder.layers.0.{direction}.{name}"
        for direction in ("forward", "backward")
        for name in ("kernel", "recurrent_kernel", "bias")
    }
    assert paths == of_cells | {"head.kernel", "head.bias"}
    assert model.head.kernel.shape == (8, OUTPUTS)


def test_steps_that_rows_share_are_read_once_of_vectors_too():
    model = build(direction="forward")
    x_BxTxD = np.random.default_rng(0).normal(size=(3, 9, SIZE)).astype(np.float32)
    x_BxTxD[:, :4] = 0
    expected = model(x_BxTxD)
    x_BxTxD[1:, :4] = 7  # Of the first row alone they are read.
    np.testing.assert_allclose(model(x_BxTxD, shared_steps=jnp.array(4)), expected, 1e-5, 1e-6)
