"""A stream is read on from batch to batch: training and evaluation, against a loop by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType

from seqmodels import factory
from tests.marks import slow
from tests.train_lib.training.test_fitting import Watch, host
from train_lib.data.dataset import Split
from train_lib.tasks.next_token import NextToken
from train_lib.training import devices, fitting, state, steps
from train_lib.training.batching import EXACT, NO_EXAMPLE, DeviceSplit, Treatment, plan_stream
from train_lib.training.fitting import Start
from train_lib.training.program import Program, compile_steps
from train_lib.training.state import Position
from train_lib.training.steps import Learner

TOKENS, STEPS, ROWS, SEEDS, EPOCHS = 9, 5, 6, (0, 1), 2
STREAM = Treatment(reads_on=True)
OPTIMIZER = optax.sgd(0.5)
pytestmark = pytest.mark.usefixtures("compiled_once")


def stream(count, seed=0):
    """Tokens of which each says something of the next, in blocks."""
    rng, values = np.random.default_rng(seed), [1]
    while len(values) < count:
        values.append(1 + (values[-1] * 2 + rng.integers(3)) % (TOKENS - 1))
    split = Split(np.array(values, np.int32), np.array([0, count]), None)
    return split.with_next_tokens(None).in_blocks(STEPS)


TRAIN, VALIDATION = stream(163), stream(47, seed=1)


def models_of(seeds=SEEDS, **changes):
    arguments = {
        "vocabulary_size": TOKENS, "num_outputs": TOKENS, "per_step": True, "embedding_size": 3,
        "hidden_sizes": (4, 3), "dropout_rates": (0.0, 0.0),
    }  # fmt: skip
    return factory.build_all(seeds=seeds, **arguments | changes)


def program_of(models, **changes):
    task = NextToken([(str(token), None) for token in range(TOKENS)])
    arguments = {"batch_size": ROWS, "treatment": STREAM}
    return Program(models, task, OPTIMIZER, **arguments | changes)


def fit(seeds=SEEDS, hooks=(), begin=None, **changes):
    program = program_of(models_of(seeds, **changes))
    return fitting.fit(
        program, TRAIN, VALIDATION, seeds=seeds, num_epochs=EPOCHS, hooks=hooks, begin=begin
    )


def test_every_row_reads_its_part_of_the_stream_and_nothing_is_left_out():
    plans = plan_stream(11, 4)
    np.testing.assert_array_equal(
        np.stack(plans, 1), [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, NO_EXAMPLE]]
    )


def losses_of(model, split):
    """Of every step, read from the first to the last."""
    outputs_TxC = model(split.values[None])[0]
    losses_T = optax.softmax_cross_entropy_with_integer_labels(
        outputs_TxC, jnp.maximum(split.targets, 0)
    )
    return np.where(split.targets < 0, 0, losses_T)


def test_evaluation_in_blocks_is_that_in_one_piece():
    models = models_of()
    program = program_of(models)
    found = program.evaluate(program.params_K, VALIDATION, (STEPS,), 1)
    for number, model in enumerate(models):
        expected_T = losses_of(model, VALIDATION)
        is_known_T = VALIDATION.targets >= 0
        np.testing.assert_allclose(
            found.kept["loss"][number][is_known_T], expected_T[is_known_T], rtol=1e-5, atol=1e-6
        )
        assert found.metrics["loss"][number] == pytest.approx(expected_T[is_known_T].mean(), 1e-5)
    assert found.items == len(VALIDATION.values) - 1


def test_no_device_waits_for_another_that_reads_a_whole_stream():
    """XLA ends a program whose devices wait for each other for 40 seconds."""
    program = program_of(models_of())
    split = DeviceSplit.of(VALIDATION, program.task)
    places = np.zeros((1, jax.device_count(), 1, 1), np.int32)
    lowered = program.compiled.evaluate.lower(program.params_K, split, places, (STEPS,))
    assert "all_reduce" not in lowered.as_text()


@pytest.mark.slow
def test_evaluation_in_rows_begins_each_of_them_anew():
    model = models_of([0])[0]
    program = program_of([model])
    found = program.evaluate(program.params_K, VALIDATION, (STEPS,), 4)
    a_row = -(-len(VALIDATION) // 4) * STEPS
    for first in range(0, len(VALIDATION.values), a_row):
        part = slice(first, first + a_row)
        split = Split(VALIDATION.values[part], None, VALIDATION.targets[part])
        is_known = split.targets >= 0
        np.testing.assert_allclose(
            found.kept["loss"][0][part][is_known], losses_of(model, split)[is_known], rtol=1e-5
        )


def test_a_fit_is_truncated_backpropagation_by_hand():
    """Segment by segment, each beginning with the state after the one before as a constant."""
    fitted = fit()
    graphdef = nnx.split(models_of()[0], nnx.Param)[0]
    a_row = -(-len(TRAIN) // ROWS) * STEPS
    rows = [TRAIN.values[row * a_row : (row + 1) * a_row] for row in range(ROWS)]
    targets = [TRAIN.targets[row * a_row : (row + 1) * a_row] for row in range(ROWS)]

    @jax.jit
    def loss(params, carries, tokens_BxT, lengths_B, targets_BxT):
        outputs, carries = nnx.merge(graphdef, params).read_on(carries, tokens_BxT, lengths_B)
        is_item = (jnp.arange(STEPS) < lengths_B[:, None]) & (targets_BxT >= 0)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            outputs, jnp.maximum(targets_BxT, 0)
        )
        return jnp.sum(jnp.where(is_item, losses, 0)) / jnp.sum(is_item), carries

    for number, model in enumerate(models_of()):
        params = nnx.split(model, nnx.Param)[1]
        opt_state = OPTIMIZER.init(params)
        for _ in range(EPOCHS):
            carries = model.initial_carries(ROWS)
            for first in range(0, a_row, STEPS):
                parts = [[one[first : first + STEPS] for one in of] for of in (rows, targets)]
                lengths_B = np.array([len(part) for part in parts[0]])
                padded = [
                    np.stack([np.pad(part, (0, STEPS - len(part))) for part in of]) for of in parts
                ]
                (_, carries), gradient = jax.value_and_grad(loss, has_aux=True)(
                    params, carries, padded[0], lengths_B, padded[1]
                )
                updates, opt_state = OPTIMIZER.update(gradient, opt_state)
                params = optax.apply_updates(params, updates)
        for one, other in zip(
            host(fitted.training.state.params), jax.tree.leaves(params), strict=True
        ):
            np.testing.assert_allclose(one[number], other, rtol=1e-4, atol=1e-5)


def test_the_state_that_is_kept_matters(monkeypatch):
    """So that the tests above can fail."""
    first = jax.tree.leaves(fit().training.state.params)
    zero = Program.first_carries
    monkeypatch.setattr(
        Program, "first_carries", lambda self: jax.tree.map(lambda one: one + 1.0, zero(self))
    )
    other = jax.tree.leaves(fit().training.state.params)
    assert max(float(abs(one - two).max()) for one, two in zip(first, other, strict=True)) > 1e-3


@pytest.mark.parametrize("stop_at", [slow(2), 6, slow(8)])
def test_it_resumes_bit_for_bit(stop_at, monkeypatch):
    monkeypatch.setattr(fitting, "STEPS_A_CALL", 2)
    whole, watch = fit(dropout_rates=(0.3, 0.2)), Watch(stop_at)
    with pytest.raises(KeyboardInterrupt):
        fit(hooks=[watch], dropout_rates=(0.3, 0.2))
    training, position = watch.kept
    resumed = fit(begin=Start(training, Position.from_json(position)), dropout_rates=(0.3, 0.2))
    for one, other in zip(host(resumed.training), host(whole.training), strict=True):
        np.testing.assert_array_equal(one, other)


def assert_seeds_devices_and_blocks_do_not_matter(fit, monkeypatch):
    """Whether each seed is fitted alone or with others, on one device or several, in small blocks.

    Args:
        fit: fits some seeds, by default `SEEDS`.
    """
    together = host(fit().training.state.params)
    for number, seed in enumerate(SEEDS):
        for one, other in zip(host(fit([seed]).training.state.params), together, strict=True):
            np.testing.assert_allclose(one[0], other[number], rtol=1e-5, atol=1e-6)
    one_device = jax.make_mesh((1, 1), ("seed", "batch"), devices=jax.devices()[:1])
    monkeypatch.setattr(devices, "mesh", lambda *_: one_device)
    monkeypatch.setattr(
        devices, "layout", lambda size, mesh, *_: devices.Layout.of(size, mesh.shape["batch"], 2)
    )
    for one, other in zip(host(fit().training.state.params), together, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_each_seed_and_any_number_of_devices_and_blocks_are_the_same(monkeypatch):
    assert_seeds_devices_and_blocks_do_not_matter(fit, monkeypatch)


@pytest.mark.parametrize("treatment", [slow(STREAM), EXACT], ids=["a stream", "texts"])
@pytest.mark.slow
def test_outputs_of_some_steps_at_a_time_are_those_of_all(treatment, monkeypatch):
    def everything():
        program = program_of(models_of(), treatment=treatment)
        fitted = fitting.fit(program, TRAIN, VALIDATION, seeds=SEEDS, num_epochs=1)
        return host(fitted.training.state.params), fitted.validation

    expected, validation = everything()
    # Two steps of the three rows of a device; a block has five.
    monkeypatch.setattr(steps, "_MOST_OUTPUTS", 2 * 3 * TOKENS)
    found, again = everything()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(again.kept["loss"], validation.kept["loss"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(again.metrics["loss"], validation.metrics["loss"], rtol=1e-5)


@pytest.mark.slow
def test_memory_does_not_grow_with_time_and_vocabulary():
    """50,000 tokens, 128 rows of 512 steps: all outputs would have 13 GB."""
    tokens, rows, width = 50_000, 128, 512
    model = models_of([0], vocabulary_size=tokens, num_outputs=tokens, embedding_size=32)[0]
    task = NextToken([("", None)] * tokens)
    one_device = jax.make_mesh(
        (1, 1), ("seed", "batch"), (AxisType.Auto,) * 2, devices=jax.devices()[:1]
    )
    learner = Learner(nnx.split(model, nnx.Param)[0], task, OPTIMIZER, STREAM)
    compiled = compile_steps(learner, one_device)
    count = rows * width
    arrays = {
        "state": state.create(
            jax.tree.map(lambda leaf: leaf[None], nnx.split(model, nnx.Param)[1]), OPTIMIZER, [0]
        )._replace(
            carries=jax.tree.map(lambda leaf: leaf[None, None], model.initial_carries(rows))
        ),
        "split": DeviceSplit(
            np.zeros(count, np.int32), np.arange(rows, dtype=np.int32) * width,
            np.full(rows, width, np.int32), np.zeros(count, np.int32),
        ),
        "places": np.arange(rows, dtype=np.int32).reshape(1, 1, 1, 1, rows),
    }  # fmt: skip
    lowered = compiled.train.lower(*arrays.values(), 1, (width,))
    memory = lowered.compile().memory_analysis()
    assert 2**20 < memory.temp_size_in_bytes < 2 * 2**30, memory
