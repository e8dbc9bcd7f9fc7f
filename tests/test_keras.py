"""The three models beside Keras', an independent implementation, with the same weights."""

import importlib

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from tests.marks import slow
from train_lib import building
from train_lib.data.dataset import Split
from train_lib.data.inputs import Text
from train_lib.data.vocabulary import Vocabulary
from train_lib.tasks.classes import Classes
from train_lib.training import devices, optimizers, state
from train_lib.training.batching import DeviceSplit
from train_lib.training.program import Program

VOCABULARY, WIDTH, BATCH_SIZE = 60, 9, 6
LENGTHS_B = np.array([9, 1, 4, 8, 2, 6], np.int32)
LABELS_B = np.array([0, 1, 1, 0, 1, 0], np.float32)


@pytest.fixture(params=[slow("lstm"), slow("bilstm"), "stacked"])
def name(request):
    return request.param


@pytest.fixture(params=[slow("tutorial"), "exact"])
def treatment(request):
    return request.param


def make_config(name, treatment):
    config = importlib.import_module(f"configs.{name}").get_config(treatment)
    config.data.max_features = VOCABULARY
    config.model.dropout_rates = (0.0,) * len(config.model.hidden_sizes)
    return config


def make_split():
    """Reviews without the number 0, which stands for padding in Keras too."""
    tokens = np.random.default_rng(0).integers(1, VOCABULARY, LENGTHS_B.sum()).astype(np.int32)
    return Split(tokens, np.cumsum([0, *LENGTHS_B], dtype=np.int64), LABELS_B.astype(np.float32))


def rows(split, treatment):
    """The reviews in padded rows, as Keras takes them."""
    tokens_BxT = np.zeros((BATCH_SIZE, WIDTH), np.int32)
    reviews = np.split(split.values, split.offsets[1:-1])
    for row, review in zip(tokens_BxT, reviews, strict=True):
        row[slice(len(review)) if treatment == "exact" else slice(-len(review), None)] = review
    return tokens_BxT


def build_keras(config):
    """The tutorial's model; in the exact treatment it masks padding."""
    model = config.model
    layers = [
        keras.Input((WIDTH,), dtype="int32"),
        keras.layers.Embedding(
            VOCABULARY, model.embedding_size, mask_zero=config.data.mask_padding
        ),
    ]
    for number, hidden_size in enumerate(model.hidden_sizes, 1):
        lstm = keras.layers.LSTM(hidden_size, return_sequences=number < len(model.hidden_sizes))
        layers.append(
            keras.layers.Bidirectional(lstm) if model.direction == "bidirectional" else lstm
        )
    return keras.Sequential([*layers, keras.layers.Dense(1)])


TASK = Classes(["negative", "positive"])


def build_ours(config):
    (model,) = building.build_models(config, Text(Vocabulary([]), "keras"), TASK, [0])
    return model


def in_keras_order(model):
    """Our arrays in the order of Keras' `get_weights`."""
    arrays = [model.inputs.table]
    for layer in model.encoder.layers:
        for cell in layer.cells:
            arrays += [cell.kernel, cell.recurrent_kernel, cell.bias]
    return [np.array(array[...]) for array in [*arrays, model.head.kernel, model.head.bias]]


@pytest.fixture
def ours_and_keras(name, treatment):
    config = make_config(name, treatment)
    graphdef, params = nnx.split(build_ours(config), nnx.Param)
    keys = iter(jax.random.split(jax.random.key(1), 100))
    # No weight at its initial value, biases least of all.
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(next(keys), p.shape), params)
    theirs = build_keras(config)
    theirs.set_weights(in_keras_order(nnx.merge(graphdef, params)))
    return config, graphdef, params, theirs


def test_logits_and_gradients_equal(ours_and_keras, treatment):
    config, graphdef, params, theirs = ours_and_keras
    tokens_BxT = rows(make_split(), treatment)
    lengths_B = LENGTHS_B if config.data.mask_padding else None

    def our_loss(params):
        logits_B = nnx.merge(graphdef, params)(tokens_BxT, lengths_B)[:, 0]
        return jnp.mean(jax.nn.softplus(logits_B) - LABELS_B * logits_B), logits_B

    non_trainable = [variable.value for variable in theirs.non_trainable_variables]

    def their_loss(variables):
        logits_Bx1, _ = theirs.stateless_call(variables, non_trainable, tokens_BxT)
        losses_B = keras.losses.binary_crossentropy(LABELS_B[:, None], logits_Bx1, from_logits=True)
        return jnp.mean(losses_B), logits_Bx1[:, 0]

    our_gradients, our_logits_B = jax.jit(jax.grad(our_loss, has_aux=True))(params)
    variables = [variable.value for variable in theirs.trainable_variables]
    their_gradients, their_logits_B = jax.jit(jax.grad(their_loss, has_aux=True))(variables)
    np.testing.assert_allclose(our_logits_B, their_logits_B, rtol=0, atol=1e-5)
    ours = in_keras_order(nnx.merge(graphdef, our_gradients))
    for our, their in zip(ours, their_gradients, strict=True):
        # Keras' embedding may give padding a gradient of exactly zero, as ours does.
        np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-4 * np.abs(their).max())


@pytest.mark.parametrize(
    ("name", "treatment"),
    [
        ("lstm", "tutorial"), slow("stacked", "exact"), slow("lstm", "exact"),
        slow("bilstm", "tutorial"), slow("bilstm", "exact"), slow("stacked", "tutorial"),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_five_steps_of_adam_stay_together(ours_and_keras, treatment):
    config, graphdef, params, theirs = ours_and_keras
    split = make_split()
    theirs.compile(
        keras.optimizers.Adam(config.train.learning_rate),
        keras.losses.BinaryCrossentropy(from_logits=True),
    )
    optimizer = optimizers.adam(config.train.learning_rate, config.train.adam_epsilon)
    program = Program(
        [nnx.merge(graphdef, params)], TASK, optimizer, batch_size=BATCH_SIZE,
        treatment=building.treatment_of(config),
    )  # fmt: skip
    mesh, train = program.mesh, program.compiled.train
    train_state = devices.spread_seeds(
        state.create(jax.tree.map(lambda leaf: leaf[None], params), optimizer, [0]), mesh
    )
    on_device = devices.replicate(DeviceSplit.of(split, TASK), mesh)
    places = devices.layout(BATCH_SIZE, mesh).place_all(
        [np.arange(BATCH_SIZE)], split.lengths, steps=1
    )
    places = devices.spread(places[None], mesh)
    for _ in range(5):
        train_state, sums = train(train_state, on_device, places, 1, (WIDTH,))
        loss = theirs.train_on_batch(rows(split, treatment), LABELS_B[:, None])
        np.testing.assert_allclose(sums["loss"][0, 0] / sums["weight"][0, 0], loss, rtol=1e-5)
    for our, their in zip(
        in_keras_order(nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[0], train_state.params))),
        theirs.get_weights(),
        strict=True,
    ):
        # A weight moves by up to 1e-3 a step. Adam magnifies the rounding of a gradient near its
        # epsilon: of the stacked model's 355,233 one or two are 2.3e-6 apart by any engine.
        np.testing.assert_allclose(our, their, rtol=0, atol=4e-6)
        assert (np.abs(our - their) > 2e-6).sum() <= 1


def test_parameters_count_as_in_keras(name):
    config = make_config(name, "tutorial")
    assert build_keras(config).count_params() == sum(
        array.size for array in in_keras_order(build_ours(config))
    )
