"""What public functions say of arguments that cannot be, and what they leave undefined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import factory, recurrence
from seqmodels.heads import SequenceHead, StepHead
from seqmodels.inputs import Vectors
from seqmodels.model import SequenceModel
from seqmodels.pooling import Last
from seqmodels.recurrence import oracle

WIDTH = BATCH = INPUT = HIDDEN = 4  # Cubic: shapes alone tell no axis from another.
LENGTHS = [2, 0, 1, 2]
ARGUMENTS = {
    "vocabulary_size": 9, "embedding_size": INPUT, "cell": "lstm", "hidden_sizes": (HIDDEN,),
    "direction": "forward", "dropout_rates": (0.0,), "pooling": "last", "seed": 0,
}  # fmt: skip
OF_VECTORS = {"vocabulary_size": None, "input_size": INPUT}
TOKENS_BxT = jnp.array(np.random.default_rng(0).integers(0, 9, (BATCH, WIDTH)))
X_BxTxD = jax.random.normal(jax.random.key(0), (BATCH, WIDTH, INPUT))


@pytest.fixture(scope="module")
def model():
    return factory.build(**ARGUMENTS)


@pytest.fixture(scope="module")
def of_vectors():
    return factory.build(**ARGUMENTS | OF_VECTORS)


def test_an_encoder_reads_batch_time_and_features_in_that_order(model):
    cell = model.encoder.layers[0].forward
    expected = oracle.run(cell, X_BxTxD.transpose(1, 2, 0), LENGTHS)
    sequence, last = jax.tree.leaves(model.encoder(X_BxTxD, jnp.array(LENGTHS)))
    assert sequence.shape == (BATCH, WIDTH, HIDDEN)
    np.testing.assert_allclose(sequence, expected.sequence_TxHxB.transpose(2, 0, 1), atol=1e-6)
    np.testing.assert_allclose(last, expected.last_HxB.T, atol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_an_encoders_outputs_are_zero_in_all_of_the_padding(direction):
    encoder = factory.build(**ARGUMENTS | {"direction": direction}).encoder
    sequence, *_ = jax.tree.leaves(encoder(X_BxTxD, jnp.array(LENGTHS)))
    padding_BxT = np.arange(WIDTH) >= np.array(LENGTHS)[:, None]
    assert not np.array(sequence)[padding_BxT].any()


@pytest.mark.parametrize("lengths", [[5, 1, 1, 1], [-1, 1, 1, 1]])
def test_a_length_out_of_range_is_refused_and_under_jit_makes_nan(model, of_vectors, lengths):
    per_step = factory.build(**ARGUMENTS | OF_VECTORS | {"per_step": True})
    lengths_B = jnp.array(lengths)
    for function, inputs in (
        (model, TOKENS_BxT),
        (model.encoder, X_BxTxD),
        (lambda x, n: recurrence.run(model.encoder.layers[0].forward, x, n), X_BxTxD),
    ):
        assert refused(lambda f=function, x=inputs: f(x, lengths_B)), lengths
    for function, inputs in (
        (model, TOKENS_BxT),
        (model.encoder, X_BxTxD),
        (of_vectors, X_BxTxD),
        (per_step, X_BxTxD),
        (lambda x, n: of_vectors.read_on(of_vectors.initial_carries(BATCH), x, n)[0], X_BxTxD),
    ):
        results = jax.tree.leaves(jax.jit(function)(inputs, lengths_B))
        for result in results:
            assert jnp.isnan(result[0]).all()
            assert jnp.isfinite(result[1:]).all()


@pytest.mark.parametrize("direction", ["forward", "backward", "bidirectional"])
@pytest.mark.parametrize("width", [3, 150])  # One span of steps, and several.
def test_a_length_out_of_range_leaves_the_others_alone(direction, width):
    model = factory.build(**ARGUMENTS | {"direction": direction, "cell": "gru"})
    rng = np.random.default_rng(0)
    tokens_BxT = rng.integers(0, 9, (5, width)).astype(np.int32)
    lengths_B = jnp.array([width, 1, width // 2, width + 1, -1])
    found = jax.jit(model)(tokens_BxT, lengths_B)
    expected = model(tokens_BxT[:3], lengths_B[:3])
    np.testing.assert_allclose(found[:3], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "lengths"),
    [
        (TOKENS_BxT + 9, LENGTHS),
        (TOKENS_BxT - 9, LENGTHS),
        (TOKENS_BxT.astype(float), LENGTHS),
        (TOKENS_BxT[0], LENGTHS),
        (TOKENS_BxT, LENGTHS[:3]),
        (TOKENS_BxT, [[one] for one in LENGTHS]),
        (TOKENS_BxT, [float(one) for one in LENGTHS]),
        (TOKENS_BxT[:, :0], [0] * BATCH),
        (TOKENS_BxT[:0], []),
    ],
)
def test_a_model_refuses_what_is_no_batch_of_tokens(model, tokens, lengths):
    assert refused(lambda: model(tokens, jnp.array(lengths)))


@pytest.mark.parametrize(
    ("x", "lengths"),
    [
        (X_BxTxD[..., :3], LENGTHS),
        (X_BxTxD[0], LENGTHS),
        (X_BxTxD.astype(int), LENGTHS),
        (X_BxTxD[:3], LENGTHS),
        (X_BxTxD[:, :0], [0] * BATCH),
        (X_BxTxD[:0], []),
    ],
)
def test_what_is_no_batch_of_vectors_is_refused(model, of_vectors, x, lengths):
    cell = model.encoder.layers[0].forward
    assert refused(lambda: model.encoder(x, jnp.array(lengths)))
    assert refused(lambda: of_vectors(x, jnp.array(lengths)))
    over_time = x.transpose(1, 2, 0) if x.ndim == 3 else x
    assert refused(lambda: recurrence.run(cell, over_time, jnp.array(lengths)))


@pytest.mark.parametrize("start", [(), (jnp.zeros(HIDDEN),) * 3, (jnp.zeros((HIDDEN, BATCH)),) * 2])
def test_a_cell_refuses_a_carry_that_is_not_one_of_its_own(model, start):
    cell, x_TxDxB = model.encoder.layers[0].forward, X_BxTxD.transpose(1, 2, 0)
    assert refused(lambda: recurrence.run(cell, x_TxDxB, jnp.array(LENGTHS), start=start))


def test_arrays_of_any_width_and_lists_are_read(model):
    expected = jax.tree.leaves(model.encoder(X_BxTxD, jnp.array(LENGTHS)))
    for x, lengths in (
        (np.array(X_BxTxD, np.float64), LENGTHS),
        (X_BxTxD, np.array(LENGTHS, np.uint8)),
        (X_BxTxD.tolist(), LENGTHS),
    ):
        for one, other in zip(jax.tree.leaves(model.encoder(x, lengths)), expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
    assert jnp.isfinite(jax.tree.leaves(model.encoder(X_BxTxD.astype(jnp.bfloat16)))[0]).all()
    outputs = model(TOKENS_BxT, jnp.array(LENGTHS))
    np.testing.assert_array_equal(model(np.array(TOKENS_BxT, np.uint16), LENGTHS), outputs)
    long_BxT, short_B = jnp.tile(TOKENS_BxT, 75), np.array([100, 5, 1, 0], np.uint8)
    assert jnp.isfinite(model(long_BxT, short_B)).all()  # Their type holds no 300.


@pytest.mark.parametrize(
    "keys",
    [
        {"dropout_keys_B": jax.random.split(jax.random.key(0), BATCH - 1)},
        {"dropout_keys_B": jax.random.key(0)},
        {"dropout_keys_B": jax.random.PRNGKey(0)},
        {"step_key": jax.random.split(jax.random.key(0), BATCH)},
    ],
)
def test_keys_that_are_not_one_for_each_are_refused(model, keys):
    assert refused(lambda: model(TOKENS_BxT, jnp.array(LENGTHS), **keys))
    assert refused(lambda: model.encoder(X_BxTxD, jnp.array(LENGTHS), **keys))


@pytest.mark.parametrize("per_step", [False, True])
def test_a_model_refuses_a_head_of_the_wrong_width(per_step):
    model, rngs = factory.build(**ARGUMENTS), nnx.Rngs(0)
    pooling = Last(HIDDEN + 1, rngs=rngs)
    head = StepHead(HIDDEN + 1, 2, rngs=rngs) if per_step else SequenceHead(pooling, rngs=rngs)
    assert refused(lambda: SequenceModel(model.inputs, model.encoder, head))
    model.head = head
    assert refused(lambda: model(TOKENS_BxT, jnp.array(LENGTHS)))


@pytest.mark.parametrize("size", [INPUT - 1, INPUT + 1])
def test_a_model_refuses_inputs_that_its_encoder_does_not_read(model, size):
    assert refused(lambda: SequenceModel(Vectors(size), model.encoder, model.head))


def test_a_head_has_an_output():
    for make in (
        lambda: StepHead(HIDDEN, 0, rngs=nnx.Rngs(0)),
        lambda: SequenceHead(Last(HIDDEN, rngs=nnx.Rngs(0)), 0, rngs=nnx.Rngs(0)),
    ):
        assert refused(make)


def test_a_model_refuses_padding_on_no_side(model):
    assert refused(lambda: model(TOKENS_BxT, jnp.array(LENGTHS), padding_side="left"))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_residual_with_one_layer_is_refused(bidirectional):
    direction = "bidirectional" if bidirectional else "forward"
    assert refused(lambda: factory.build(**ARGUMENTS | {"residual": True, "direction": direction}))


def refused(function) -> bool:
    """Whether it raises a ValueError of ours, which says what must be."""
    try:
        function()
    except ValueError as error:
        return any(word in str(error) for word in ("must", "has one", "does not read", "residual"))
    except Exception:
        return False
    return False
