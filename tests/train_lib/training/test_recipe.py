"""What a fit does beside its updates: for each its formula, its effect and its absence."""

import types

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from tests.train_lib import cases
from tests.train_lib.cases import Case
from train_lib.training import devices, fitting, optimizers
from train_lib.training.hooks import Hook
from train_lib.training.program import Program
from train_lib.training.recipe import PLAIN, Recipe, RecipeState
from train_lib.training.schedules import Schedule

SEEDS, TWO = (3, 4, 5), Case("two", "tokens")  # Three seeds, each on both devices.
pytestmark = pytest.mark.usefixtures("compiled_once")


def train(case=TWO, recipe=PLAIN, optimizer=None, epochs=2, batch_size=8, hooks=(), seeds=SEEDS):
    optimizer = optimizer or optimizers.make("adam", 1e-2)
    program = Program(
        cases.models_of(case, seeds), cases.task_of(case), optimizer, batch_size=batch_size,
        recipe=recipe,
    )  # fmt: skip
    splits = cases.split_of(case, 48), cases.split_of(case, 12, seed=1)
    return fitting.fit(program, *splits, seeds=seeds, num_epochs=epochs, hooks=hooks)


def host(arrays):
    return [np.array(leaf) for leaf in jax.tree.leaves(arrays)]


def assert_same(one, other, atol=0.0):
    for first, second in zip(host(one), host(other), strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=atol)


class Course(Hook):
    """Keeps the parameters after every call."""

    def __init__(self):
        self.params, self.evaluated = [], []

    def after_call(self, moment, examples):
        self.params.append(host(moment.training.state.params))

    def after_epoch(self, moment):
        self.evaluated.append(host(moment.training.state.evaluated))


# Averaging.


def test_the_average_is_the_sum_of_its_weights_and_parameters():
    """Twenty updates in float64, of weights that are written down one by one."""
    decay, rng = 0.9, np.random.default_rng(0)
    course = rng.normal(size=(20, 4))
    recipe = Recipe(ema_decay=decay)
    with jax.enable_x64(True):
        state = RecipeState(averaged=jnp.full(4, 1e6))  # What was before the first never counts.
        for n, params in enumerate(course, 1):
            state = recipe.after_update(state, jnp.asarray(params), jnp.int32(n))
            weights = np.array([decay ** (n - m) * (1 - decay) for m in range(1, n + 1)])
            expected = (weights / weights.sum()) @ course[:n]
            np.testing.assert_allclose(state.averaged, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_averaged_parameters_are_those_of_every_update_and_are_evaluated(monkeypatch):
    monkeypatch.setattr(fitting, "STEPS_A_CALL", 1)
    watch, recipe = Course(), Recipe(ema_decay=0.8)
    fitted = train(recipe=recipe, hooks=[watch])
    weights = 0.8 ** np.arange(len(watch.params))[::-1]
    for number, leaf in enumerate(host(fitted.training.state.recipe.averaged)):
        course = np.stack([params[number] for params in watch.params]).astype(np.float64)
        expected = np.tensordot(weights / weights.sum(), course, 1)
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=1e-6)
    assert_same(fitted.params_K, fitted.training.state.recipe.averaged)
    plain = train()
    # Up to rounding: it is another program.
    assert_same(fitted.training.state.params, plain.training.state.params, atol=1e-6)
    assert recipe.evaluated == "averaged"
    found, without = (one.validation.metrics["loss"] for one in (fitted, plain))
    assert (found != without).all()
    for number in range(len(SEEDS)):  # The best are averages too.
        best = watch.evaluated[fitted.position.best_epoch[number] - 1]
        for leaf, wanted in zip(host(fitted.training.best), best, strict=True):
            np.testing.assert_array_equal(leaf[number], wanted[number])


# Early stopping and plateaus.

VALUES = [0.5, 0.4, 0.6, 0.6, 0.55, 0.61, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


def is_best(values):
    return [n == 0 or value > max(values[:n]) for n, value in enumerate(values)]


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_a_seed_stops_when_keras_does(patience):
    of_keras = keras.callbacks.EarlyStopping(monitor="value", mode="max", patience=patience)
    of_keras.set_model(types.SimpleNamespace(stop_training=False))
    of_keras.on_train_begin()
    recipe = Recipe(patience=patience)
    state = recipe.start(jnp.zeros((1, 2)))
    for epoch, (value, best) in enumerate(zip(VALUES, is_best(VALUES), strict=True)):
        of_keras.on_epoch_end(epoch, {"value": value})
        state = recipe.after_epoch(state, jnp.array([best]))
        assert bool(recipe.is_stopped(state)[0]) == of_keras.model.stop_training
        if of_keras.model.stop_training:
            break
    assert recipe.is_stopped(recipe.after_epoch(state, jnp.array([True])))[0], "it stays so"


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_the_rate_is_cut_when_keras_cuts_it(patience):
    of_keras = keras.callbacks.ReduceLROnPlateau(
        monitor="value", mode="max", factor=0.5, patience=patience, min_delta=0
    )
    optimizer = keras.optimizers.SGD(1.0)
    of_keras.set_model(types.SimpleNamespace(optimizer=optimizer))
    of_keras.on_train_begin()
    recipe = Recipe(plateau_patience=patience, plateau_factor=0.5)
    state = recipe.start(jnp.zeros((1, 2)))
    scales = []
    for epoch, (value, best) in enumerate(zip(VALUES, is_best(VALUES), strict=True)):
        of_keras.on_epoch_end(epoch, {"value": value})
        state = recipe.after_epoch(state, jnp.array([best]))
        scales.append(float(state.rate_scale[0]))
        assert scales[-1] == pytest.approx(float(optimizer.learning_rate))
    assert scales[-1] < 1


def steep(patience=2, **rest):
    """A fit whose seeds stop getting better at different times."""
    optimizer = optimizers.make("sgd", 1.0, {"momentum": 0.9})
    watch = Course()
    recipe = Recipe(patience=patience, schedule=Schedule("constant", 1.0, 99), **rest)
    case = Case("tags", "tokens")
    return train(case, recipe, optimizer, epochs=12, hooks=[watch]), watch


@pytest.mark.slow
def test_a_seed_that_has_stopped_changes_no_more_and_the_others_go_on():
    fitted, watch = steep()
    endless, all_epochs = steep(0)
    rows, best = fitted.position.rows, fitted.position.best_epoch
    last_epochs = [epoch + 2 for epoch in best]
    assert len(set(last_epochs)) > 1, "so that there is one that goes on"
    assert len(rows) == max(last_epochs) < 12
    assert fitted.training.state.step.tolist() == [6 * epoch for epoch in last_epochs]
    assert len(endless.position.rows) == 12
    for number, last in enumerate(last_epochs):
        stopped = [leaf[number] for leaf in watch.evaluated[last - 1]]
        # Of another program, whose rounding long steps magnify.
        for leaf, free in zip(stopped, all_epochs.evaluated[last - 1], strict=True):
            np.testing.assert_allclose(leaf, free[number], rtol=0, atol=0.05)
        for later in watch.evaluated[last:]:
            for leaf, was in zip(later, stopped, strict=True):
                np.testing.assert_array_equal(leaf[number], was)
        for epoch, row in enumerate(rows, 1):
            for name, values in row["seeds"].items():
                is_known = epoch <= last or name.startswith("validation_")
                assert (values[number] is not None) == is_known, name
    assert rows[-1]["items"] == rows[0]["items"]


def test_after_stopping_the_best_parameters_are_used():
    fitted, watch = steep()
    assert_same(fitted.params_K, fitted.training.best)
    for number, epoch in enumerate(fitted.position.best_epoch):
        for leaf, wanted in zip(host(fitted.params_K), watch.evaluated[epoch - 1], strict=True):
            np.testing.assert_array_equal(leaf[number], wanted[number])
        value = fitted.validation.metrics["accuracy"][number]
        assert value == pytest.approx(fitted.position.best_value[number])


@pytest.mark.parametrize(
    ("recipe", "evaluated"),
    [
        (PLAIN, "last"), (Recipe(ema_decay=0.5), "averaged"), (Recipe(patience=1), "best"),
        (Recipe(ema_decay=0.5, patience=1), "best averaged"),
        (Recipe(plateau_patience=3), "last"),
    ],
)  # fmt: skip
def test_it_is_said_which_parameters_are_evaluated(recipe, evaluated):
    assert recipe.evaluated == evaluated


@pytest.mark.slow
def test_a_plateau_lowers_the_rate_of_its_own_seed():
    fitted, watch = steep(0, plateau_patience=2, plateau_factor=0.01)
    _, free = steep(0)
    rates = np.array([row["seeds"]["learning_rate"] for row in fitted.position.rows])
    first_cuts = (rates < 1.0).argmax(0)  # The first epoch, from 0, with a lower rate.
    assert len(set(first_cuts)) > 1
    for number, cut in enumerate(first_cuts):
        assert rates[:cut, number].tolist() == [1.0] * cut
        assert rates[cut, number] == pytest.approx(0.01)
        for one, other in zip(watch.evaluated[cut - 1], free.evaluated[cut - 1], strict=True):
            np.testing.assert_allclose(one[number], other[number], rtol=0, atol=0.05)
        moved, free_moved = (
            max(
                np.abs(later[number] - sooner[number]).max()
                for sooner, later in zip(of[cut - 1], of[cut], strict=True)
            )
            for of in (watch.evaluated, free.evaluated)
        )
        assert moved < 0.05 * free_moved


# Accumulation.


@pytest.mark.parametrize("case", [Case("tags", "vectors")], ids=str)
@pytest.mark.slow
def test_k_batches_are_one_that_is_k_times_as_large(case):
    """Also where they have different numbers of items with a label."""
    sgd = optax.sgd(0.1)  # Adam would hide a gradient that is some times as long.
    apart = train(case, Recipe(accumulate_batches=3), sgd, batch_size=6)
    together = train(case, PLAIN, sgd, batch_size=18)
    plain = train(case, PLAIN, sgd, batch_size=6)
    assert apart.training.state.step.tolist() == together.training.state.step.tolist()
    assert_same(apart.training.state.params, together.training.state.params, 1e-6)
    with pytest.raises(AssertionError):
        assert_same(apart.training.state.params, plain.training.state.params, 1e-6)
    for row, other in zip(apart.position.rows, together.position.rows, strict=True):
        assert row["step"] == other["step"]
        np.testing.assert_allclose(
            row["seeds"]["train_loss"], other["seeds"]["train_loss"], rtol=1e-5
        )


def test_batches_that_make_an_update_are_computed_one_after_the_other():
    programs = [
        Program(
            cases.models_of(TWO, SEEDS), cases.task_of(TWO), batch_size=6,
            recipe=Recipe(accumulate_batches=batches),
        )
        for batches in (1, 3)
    ]  # fmt: skip
    assert [program.layout for program in programs] == [(2, 1, 3), (2, 3, 3)]


# What is written down.


@pytest.mark.slow
def test_rates_and_norms_of_gradients_are_those_of_the_updates(monkeypatch):
    monkeypatch.setattr(fitting, "STEPS_A_CALL", 1)
    schedule, watch = Schedule.of("linear", 0.5, 12, 3), Course()
    fitted = train(recipe=Recipe(schedule), optimizer=optimizers.make("sgd", schedule),
                   hooks=[watch])  # fmt: skip
    rates = [0.5 * (n + 1) / 3 if n < 3 else 0.5 * (1 - (n - 3) / 9) for n in range(12)]
    start = host(train(epochs=0).training.state.params)
    course = [start, *watch.params]
    for epoch, row in enumerate(fitted.position.rows):
        np.testing.assert_allclose(
            row["seeds"]["learning_rate"], rates[6 * epoch + 5] * np.ones(3), rtol=1e-6
        )
        norms = [
            [
                np.sqrt(sum(((b[k] - a[k]).astype(float) ** 2).sum() for a, b in
                            zip(course[n], course[n + 1], strict=True))) / rates[n]
                for n in range(6 * epoch, 6 * epoch + 6)
            ]
            for k in range(3)
        ]  # fmt: skip
        found = row["seeds"]["gradient_norm"]
        np.testing.assert_allclose(found, np.mean(norms, 1), rtol=1e-3)


@pytest.mark.slow
def test_without_a_schedule_no_rate_is_written_down():
    seeds = train().position.rows[-1]["seeds"]
    assert "learning_rate" not in seeds
    assert len(seeds["gradient_norm"]) == 3


@pytest.mark.slow
def test_each_of_many_seeds_follows_the_recipe_as_if_it_were_alone(monkeypatch):
    """A device computes them together, and a seed that has stopped waits for the others."""
    monkeypatch.setattr(devices, "seeds_at_once", lambda num_seeds, mesh: num_seeds)
    recipe = Recipe(ema_decay=0.5, patience=2, plateau_patience=1, plateau_factor=0.5)
    optimizer = optimizers.make("sgd", 1.0, {"momentum": 0.9})
    case = Case("tags", "tokens")
    together = train(case, recipe, optimizer, epochs=10)
    epochs = []
    for number, seed in enumerate(SEEDS):
        alone = train(case, recipe, optimizer, epochs=10, seeds=(seed,))
        epochs.append(len(alone.position.rows))
        assert together.position.best_epoch[number] == alone.position.best_epoch[0]
        assert together.training.state.step[number] == alone.training.state.step[0]
        pair = (
            host((fit.params_K, fit.training.state.params, fit.training.state.recipe))
            for fit in (together, alone)
        )
        for one, other in zip(*pair, strict=True):
            np.testing.assert_allclose(one[number], other[0], rtol=0, atol=1e-2)
    assert len(set(epochs)) > 1
    assert len(together.position.rows) == max(epochs)
