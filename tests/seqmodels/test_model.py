"""The whole model on tokens: what must not matter, what must, and what it is made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import factory
from seqmodels.pooling import POOLINGS
from seqmodels.recurrence import arrays
from tests.marks import slow

VOCABULARY = 11
ONE_LAYER = {"hidden_sizes": (3,), "dropout_rates": (0.3,)}


def build(**changes):
    arguments = {
        "vocabulary_size": VOCABULARY, "embedding_size": 4, "cell": "lstm", "hidden_sizes": (3, 2),
        "direction": "bidirectional", "dropout_rates": (0.3, 0.2), "pooling": "last", "seed": 0,
    }  # fmt: skip
    return factory.build(**arguments | changes)


def logits_of(model, *arguments, **options):
    return model(*arguments, **options)[:, 0]


def logits_and_gradients(model, tokens_BxT, lengths_B, rows, **arguments):
    """The logits of the first `rows` reviews and the gradient of their losses' sum."""
    tokens_and_lengths = jnp.array(tokens_BxT), jnp.array(lengths_B)
    return _logits_and_gradients(
        *nnx.split(model, nnx.Param), *tokens_and_lengths, rows=rows, **arguments
    )


@functools.partial(jax.jit, static_argnums=0, static_argnames=("rows", "padding_side"))
def _logits_and_gradients(graphdef, params, tokens_BxT, lengths_B, *, rows, **arguments):
    def loss(params):
        logits_B = nnx.merge(graphdef, params)(tokens_BxT, lengths_B, **arguments)[:rows, 0]
        return jnp.sum(jax.nn.softplus(logits_B)), logits_B

    gradients, logits_B = jax.grad(loss, has_aux=True)(params)
    return logits_B, gradients


def lay_out(reviews, width, side, filler):
    """Reviews in rows of `width`; the padding is drawn at random."""
    tokens_BxT = filler.integers(0, VOCABULARY, (len(reviews), width))
    for row, review in zip(tokens_BxT, reviews, strict=True):
        place = slice(width - len(review), width) if side == "pre" else slice(0, len(review))
        row[place] = review
    return tokens_BxT


@pytest.mark.parametrize(
    ("pooling", "training"),
    [
        slow("last", False), ("last", True), slow("mean", True), slow("max", True),
        slow("mean_max", True), slow("attention", True),
    ],
)  # fmt: skip
def test_padding_and_company_never_matter(pooling, training):
    model = build(pooling=pooling, **{} if pooling == "last" else ONE_LAYER)
    rng = np.random.default_rng(0)
    reviews = [rng.integers(0, VOCABULARY, length) for length in (1, 5, 3)]
    company = [rng.integers(0, VOCABULARY, length) for length in (9, 2)]
    keys_B = jax.random.split(jax.random.key(7), 5)

    def run(reviews, width, side):
        return logits_and_gradients(
            model,
            lay_out(reviews, width, side, rng),
            [len(review) for review in reviews],
            rows=3,
            padding_side=side,
            dropout_keys_B=keys_B[: len(reviews)] if training else None,
        )

    expected = run(reviews, 5, "post")
    for width, side, others in [
        (5, "pre", []),
        (8, "pre", []),
        (9, "post", company),
    ]:
        jax.tree.map(
            lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-7),
            run(reviews + others, width, side),
            expected,
        )


@pytest.mark.parametrize(
    "pooling", ["last", slow("mean"), slow("max"), slow("mean_max"), slow("attention")]
)
def test_what_stands_after_the_longest_review_is_never_read(pooling, monkeypatch):
    rng = np.random.default_rng(0)
    reviews = [rng.integers(0, VOCABULARY, length) for length in (1, 5, 3)]
    keys_B = jax.random.split(jax.random.key(7), 3)

    def run(width):
        return logits_and_gradients(
            build(pooling=pooling, engine="loop", **{} if pooling == "last" else ONE_LAYER),
            lay_out(reviews, width, "post", rng),
            [len(review) for review in reviews],
            rows=3,
            dropout_keys_B=keys_B,
        )

    expected = run(5)

    def room_of_nan(arrays, width, first):
        return jax.tree.map(lambda one: jnp.full((width, *one.shape), jnp.nan), arrays)

    monkeypatch.setattr(arrays, "room", room_of_nan)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-7), run(77), expected
    )


def test_a_batch_is_each_review_alone():
    run = jax.jit(functools.partial(logits_of, build()))
    rng = np.random.default_rng(0)
    for lengths in rng.integers(0, 9, (20, 4)):
        reviews = [rng.integers(0, VOCABULARY, length) for length in lengths]
        logits_B = run(lay_out(reviews, 8, "post", rng), lengths)
        for logit, review in zip(logits_B, reviews, strict=True):
            alone = run(lay_out([review], 8, "post", rng), np.array([len(review)]))
            np.testing.assert_allclose(logit, alone[0], rtol=1e-5, atol=1e-7)


def test_without_lengths_padding_is_read_like_a_word():
    model = build(**ONE_LAYER)
    tokens_BxT = jnp.array([[5, 6, 0, 0]])
    assert model(tokens_BxT)[0] == model(tokens_BxT, jnp.array([4]))[0]
    assert model(tokens_BxT)[0] != model(tokens_BxT, jnp.array([2]))[0]


@pytest.mark.parametrize("pooling", [*map(slow, list(POOLINGS)[:-1]), list(POOLINGS)[-1]])
def test_words_outside_the_batch_get_no_gradient(pooling):
    _, gradients = logits_and_gradients(
        build(pooling=pooling, **ONE_LAYER), [[1, 2, 3, 4]], [3], rows=1
    )
    used = np.array(gradients["inputs"]["table"][...]).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(used), [1, 2, 3])


@pytest.mark.parametrize(
    ("pooling", "engine"),
    [("last", "scan"), slow("last", "fused"), slow("max", "scan"), slow("max", "fused")],
)
@pytest.mark.slow
def test_engines_agree(engine, pooling):
    rng = np.random.default_rng(0)
    tokens_BxT, lengths = rng.integers(0, VOCABULARY, (3, 6)), [6, 0, 3]

    def run(engine):
        model = build(pooling=pooling, engine=engine, hidden_sizes=(6, 5))
        keys_B = jax.random.split(jax.random.key(7), 3)
        return logits_and_gradients(model, tokens_BxT, lengths, rows=3, dropout_keys_B=keys_B)

    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6),
        run(engine),
        run("loop"),
    )


def test_bfloat16_products_leave_state_and_gradients_in_float32():
    rng = np.random.default_rng(0)
    tokens_BxT, lengths = rng.integers(0, VOCABULARY, (3, 6)), [6, 0, 3]

    def run(matrix_dtype):
        model = build(matrix_dtype=matrix_dtype, **ONE_LAYER)
        return logits_and_gradients(model, tokens_BxT, lengths, rows=3)

    (logits_B, gradients), (expected_B, _) = run("bfloat16"), run("float32")
    assert {leaf.dtype for leaf in jax.tree.leaves((logits_B, gradients))} == {jnp.dtype("float32")}
    assert (logits_B != expected_B).any()
    np.testing.assert_allclose(logits_B, expected_B, atol=0.01)


def test_dropout_needs_keys_and_then_differs_from_key_to_key():
    model = build(**ONE_LAYER)
    tokens_BxT, lengths_B = jnp.array([[1, 2, 3]] * 2), jnp.array([3, 3])
    plain = logits_of(model, tokens_BxT, lengths_B)
    assert plain[0] == plain[1]
    dropped = logits_of(
        model, tokens_BxT, lengths_B, dropout_keys_B=jax.random.split(jax.random.key(0), 2)
    )
    assert len({float(logit) for logit in [*dropped, plain[0]]}) == 3


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ({"hidden_sizes": (16,), "dropout_rates": (0,), "direction": "forward"}, 82_129),
        ({"hidden_sizes": (16,), "dropout_rates": (0,)}, 84_257),
        ({"hidden_sizes": (32, 16), "embedding_size": 64}, 355_233),
    ],
)
def test_reference_models_hold_these_parameters_and_nothing_else(sizes, parameters):
    model = build(**{"vocabulary_size": 5_000, "embedding_size": 16} | sizes)
    graphdef, params = nnx.split(model, nnx.Param)  # Raises if there were a third part.
    hash(graphdef)
    assert sum(array.size for array in jax.tree.leaves(params)) == parameters


def test_is_initialised_like_keras():
    model = build(
        vocabulary_size=500, embedding_size=20, hidden_sizes=(30,), dropout_rates=(0,),
        direction="forward",
    )  # fmt: skip
    cell = model.encoder.layers[0].forward
    for array, limit in [
        (model.inputs.table, 0.05),
        (cell.kernel, np.sqrt(6 / (20 + 120))),
        (model.head.kernel, np.sqrt(6 / (30 + 1))),
    ]:
        values = np.array(array[...])
        assert np.abs(values).max() <= limit
        # The standard deviation of a uniform distribution, within five standard errors.
        spread = values.std() / (limit / np.sqrt(3))
        assert abs(spread - 1) < 5 * np.sqrt(0.2 / values.size)
    recurrent = np.array(cell.recurrent_kernel[...])
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(30), atol=1e-5)
    np.testing.assert_array_equal(cell.bias[...], np.repeat([0, 1, 0, 0], 30))
    assert not model.head.bias[...].any()


EVERYTHING = {
    "hidden_sizes": (3, 3), "residual": True, "learned_initial_state": True, "word_dropout": 0.3,
    "unknown_token": 2, "embedding_dropout": 0.3, "weight_drop": 0.3, "recurrent_dropout": 0.3,
    "zoneout": 0.2,
}  # fmt: skip


@pytest.mark.parametrize("direction", ["backward", slow("bidirectional")])
@pytest.mark.slow
def test_padding_and_company_do_not_matter_with_everything_switched_on(direction, monkeypatch):
    rng = np.random.default_rng(0)
    reviews = [rng.integers(0, VOCABULARY, length) for length in (1, 5, 3, 9)]
    keys_B = jax.random.split(jax.random.key(7), 4)

    def run(count, width, side):
        return logits_and_gradients(
            build(**EVERYTHING, direction=direction, engine="loop"),
            lay_out(reviews[:count], width, side, rng),
            [len(review) for review in reviews[:count]],
            rows=3,
            padding_side=side,
            dropout_keys_B=keys_B[:count],
            step_key=jax.random.key(8),
        )

    def assert_same(actual):
        jax.tree.map(
            lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-7), actual, expected
        )

    expected = run(3, 5, "post")
    assert_same(run(3, 8, "pre"))
    assert_same(run(4, 9, "post"))
    monkeypatch.setattr(
        arrays,
        "room",
        lambda arrays, width, first: jax.tree.map(
            lambda one: jnp.full((width, *one.shape), jnp.nan), arrays
        ),
    )
    assert_same(run(3, 77, "post"))


@pytest.mark.parametrize(
    ("engine", "cell", "weight_drop"),
    [slow("scan", "gru", 0.3), slow("fused", "lstm", 0.3), ("parallel", "min_gru", 0.0)],
)
@pytest.mark.slow
def test_engines_agree_with_everything_switched_on(engine, cell, weight_drop):
    tokens_BxT = np.random.default_rng(0).integers(0, VOCABULARY, (3, 6))
    results = [
        logits_and_gradients(
            build(
                **EVERYTHING
                | {"cell": cell, "weight_drop": weight_drop, "recurrent_dropout": 0, "zoneout": 0},
                engine=name,
            ),
            tokens_BxT,
            [6, 0, 3],
            rows=3,
            dropout_keys_B=jax.random.split(jax.random.key(7), 3),
            step_key=jax.random.key(8),
        )
        for name in (engine, "loop")
    ]
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6), *results)


@pytest.mark.parametrize(
    "name",
    [
        slow("word_dropout"),
        slow("embedding_dropout"),
        "output_dropout",
        "weight_drop",
        slow("recurrent_dropout"),
    ],
)
def test_drops_in_training_alone(name):
    tokens_BxT, lengths_B = jnp.tile(jnp.arange(3, VOCABULARY), (2, 2)), jnp.array([16, 16])
    options = {"unknown_token": 2, "hidden_sizes": (3,), "dropout_rates": (0,)}
    plain, dropping = build(**options), build(**options, **{name: 0.5})
    np.testing.assert_array_equal(dropping(tokens_BxT, lengths_B), plain(tokens_BxT, lengths_B))
    keys = {
        "dropout_keys_B": jax.random.split(jax.random.key(7), 2), "step_key": jax.random.key(8)
    }  # fmt: skip
    np.testing.assert_array_equal(
        plain(tokens_BxT, lengths_B, **keys), plain(tokens_BxT, lengths_B)
    )
    one, other = logits_of(dropping, tokens_BxT, lengths_B, **keys)
    assert one != logits_of(plain, tokens_BxT, lengths_B)[0]
    # A mask of weights is for all sequences, one of words for each.
    assert (one == other) == (name == "weight_drop")
    again = logits_of(dropping, tokens_BxT, lengths_B, **{**keys, "step_key": jax.random.key(9)})
    assert (one == again[0]) == (name != "weight_drop")


@pytest.mark.parametrize("per_step", [False, True])
def test_what_the_head_reads_is_dropped_and_scaled_up(per_step):
    """With a kernel of one and no bias, an output is the sum of what the head reads."""
    options = {"hidden_sizes": (40,), "dropout_rates": (0,), "direction": "forward"}
    model = build(**options, output_dropout=0.25, per_step=per_step)
    model.head.kernel[...] = jnp.eye(40)[:, :1] if per_step else jnp.ones((40, 1))
    tokens_BxT, lengths_B = jnp.tile(jnp.arange(3, VOCABULARY), (400, 2)), jnp.full(400, 16)
    keys_B = jax.random.split(jax.random.key(7), 400)
    found = model(tokens_BxT, lengths_B, dropout_keys_B=keys_B)
    expected = model(tokens_BxT, lengths_B)
    np.testing.assert_allclose(found.mean(0), expected.mean(0), rtol=0.2, atol=0.02)
    if per_step:  # One unit alone: there, or not.
        is_kept = np.array(found != 0)
        np.testing.assert_allclose(found, np.where(is_kept, expected / 0.75, 0), rtol=1e-5)
        assert 0 < is_kept[0].mean() < 1  # From step to step.


def test_replaced_words_get_no_gradient_and_the_unknown_one_does():
    keys_B = jax.random.split(jax.random.key(7), 1)
    tokens_BxT = jnp.arange(3, VOCABULARY)[None]
    _, gradients = logits_and_gradients(
        build(word_dropout=0.5, unknown_token=2, **ONE_LAYER),
        tokens_BxT,
        [8],
        rows=1,
        dropout_keys_B=keys_B,
    )
    used = np.flatnonzero(np.array(gradients["inputs"]["table"][...]).any(axis=1))
    assert used[0] == 2
    assert 1 < len(used) < 9


def test_a_learned_initial_state_begins_as_none_and_is_trained():
    tokens_BxT, lengths_B = [[1, 2, 3], [4, 0, 0]], [3, 1]
    (plain_B, without), (learned_B, gradients) = (
        logits_and_gradients(build(learned_initial_state=learned), tokens_BxT, lengths_B, rows=2)
        for learned in (False, True)
    )
    np.testing.assert_array_equal(plain_B, learned_B)
    counts = [sum(leaf.size for leaf in jax.tree.leaves(one)) for one in (without, gradients)]
    assert counts[1] - counts[0] == 2 * 2 * (3 + 2)  # Directions, c and h, units.
    for layer in gradients["encoder"]["layers"].values():
        for direction in ("forward", "backward"):
            assert all(leaf.any() for leaf in jax.tree.leaves(layer[f"{direction}_start"]))


def test_cell_options_reach_every_cell():
    for layer in build(cell_options={"forget_bias": 3.0}).encoder.layers:
        for cell in (layer.forward, layer.backward):
            forget_H = cell.bias[...][cell.hidden_size : 2 * cell.hidden_size]
            np.testing.assert_array_equal(forget_H, 3.0)


def test_seeds_draw_other_parameters_and_the_same_seed_the_same():
    leaves = [jax.tree.leaves(nnx.split(build(seed=seed), nnx.Param)[1]) for seed in (0, 0, 1)]
    jax.tree.map(np.testing.assert_array_equal, leaves[0], leaves[1])
    assert (leaves[0][-1] != leaves[2][-1]).any()  # The table; the first is a bias.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cell": "nope"}, "lstm"),
        ({"pooling": "nope"}, "last, mean, max"),
        ({"direction": "nope"}, "forward, backward, bidirectional"),
        ({"hidden_sizes": ()}, "at least one layer"),
        (
            {"cell_options": {"forget_bais": 3.0}},
            "LSTM has no option 'forget_bais'; it has for",
        ),
        ({"residual": True}, "input of layer 2 is 3 [+] 3 wide and its output 2 [+] 2"),
        ({"word_dropout": 0.1}, "given as unknown_token"),
        ({"weight_drop": 0.1, "cell": "min_gru"}, "weight drop has nothing to drop in the cell Mi"),
        ({"recurrent_dropout": 0.1, "cell": "min_gru"}, "no matrix to hide h from in the cell Min"),
        ({"zoneout": 0.1, "engine": "scan"}, "'scan' .* segments, recurrent dropout or zoneout"),
        ({"engine": "cudnn"}, "there is no NVIDIA GPU"),
        ({"engine": "nope"}, "unknown engine 'nope'; choose one of auto, cudnn, parallel"),
        ({"matrix_dtype": "float16"}, "unknown matrix_dtype 'float16'; choose one of float32"),
        ({"dropout_rates": (0.1,)}, "2 hidden sizes and 1 dropout rates"),
    ],
)
def test_a_bad_argument_is_refused_with_the_choices(change, words):
    with pytest.raises(ValueError, match=words):
        build(**change)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_sizes": (3,), "dropout_rates": (0.0,)},
        {"cell": "gru", "hidden_sizes": (3, 3), "dropout_rates": (0.3, 0.2), "residual": True},
    ],
)
@pytest.mark.slow
def test_tokens_that_all_rows_share_at_the_start_are_read_once(changes):
    model = build(direction="forward", **changes)
    rng = np.random.default_rng(0)
    tokens_BxT = rng.integers(1, VOCABULARY, (4, 9))
    tokens_BxT[:, :5] = 0
    tokens_BxT[1, 5:7] = 0  # One row has more of them.
    graphdef, params = nnx.split(model, nnx.Param)

    @jax.jit
    @jax.value_and_grad
    def loss(params, tokens_BxT, shared_steps):
        model = nnx.merge(graphdef, params)
        logits_B = logits_of(model, tokens_BxT, padding_side="pre", shared_steps=shared_steps)
        return jnp.sum(jnp.sin(logits_B) * jnp.arange(1, 5))

    expected = loss(params, tokens_BxT, None)
    spoilt_BxT = tokens_BxT.copy()
    spoilt_BxT[1:, :5] = 7
    for rows_BxT in (tokens_BxT, spoilt_BxT):
        jax.tree.map(
            lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-7),
            loss(params, rows_BxT, jnp.array(5)),
            expected,
        )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        slow({"direction": "backward", "dropout_rates": (0, 0)}),
        slow({"direction": "forward", "pooling": "mean"}),
        slow({"direction": "forward", "dropout_rates": (0.3, 0.2)}),
        slow({"direction": "forward", "dropout_rates": (0, 0), "weight_drop": 0.3}),
        slow({"direction": "forward", "dropout_rates": (0, 0), "zoneout": 0.3}),
        {
            "direction": "forward", "dropout_rates": (0, 0), "word_dropout": 0.3,
            "unknown_token": 2,
        },
    ],
)  # fmt: skip
@pytest.mark.slow
def test_where_it_cannot_be_they_are_read_in_every_row(changes):
    model = build(**changes)
    tokens_BxT = np.random.default_rng(0).integers(0, VOCABULARY, (4, 9))
    keys_B = jax.random.split(jax.random.key(0), 4)
    with_promise, without = (
        model(tokens_BxT, shared_steps=shared_steps, dropout_keys_B=keys_B, step_key=keys_B[0])
        for shared_steps in (jnp.array(5), None)
    )
    np.testing.assert_array_equal(with_promise, without)
