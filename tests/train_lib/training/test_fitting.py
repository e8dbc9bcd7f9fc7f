"""A fit is a function of models, a task, an optimiser and arrays; hooks watch it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train_lib import cases
from tests.train_lib.cases import FEW, ONE, Case
from train_lib.errors import Diverged
from train_lib.training import batching, devices, fitting, optimizers
from train_lib.training.batching import DeviceSplit
from train_lib.training.fitting import Start
from train_lib.training.hooks import Hook
from train_lib.training.program import Program
from train_lib.training.state import Position

SEEDS, EPOCHS, BATCH_SIZE = (3, 4), 2, 5
TWO = Case("two", "tokens")
OPTIMIZER = optimizers.adam(1e-2, 1e-7)
pytestmark = pytest.mark.usefixtures("compiled_once")


def program_of(case, optimizer=OPTIMIZER):
    return Program(
        cases.models_of(case, SEEDS), cases.task_of(case), optimizer, batch_size=BATCH_SIZE
    )


def splits_of(case):
    return cases.split_of(case, 48), cases.split_of(case, 12, seed=1)


def train(case, hooks=(), begin=None, optimizer=OPTIMIZER, epochs=EPOCHS):
    return fitting.fit(
        program_of(case, optimizer), *splits_of(case), seeds=SEEDS, num_epochs=epochs, hooks=hooks,
        begin=begin,
    )  # fmt: skip


def host(arrays):
    leaves = jax.tree.leaves(arrays)
    is_key = [jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [
        np.array(jax.random.key_data(leaf) if of_key else leaf)
        for leaf, of_key in zip(leaves, is_key, strict=True)
    ]


class Watch(Hook):
    """Takes down what it is told."""

    def __init__(self, stop_at=None):
        self.told, self.stop_at = [], stop_at

    def before(self, moment):
        self.told.append(("before", moment.step, moment.total_steps))

    def after_call(self, moment, examples):
        self.told.append(("call", moment.step, examples))
        if moment.step == self.stop_at:
            moment.settle()
            self.kept = jax.tree.map(jnp.copy, moment.training), moment.position.to_json()
            raise KeyboardInterrupt

    def after_epoch(self, moment):
        self.told.append(("epoch", moment.step, moment.position.rows[-1]["epoch"]))


@pytest.mark.parametrize("case", ONE)
def test_a_fit_is_a_loop_over_its_batches(case):
    """Of each epoch and seed in an order of their own; the best is that of its own epoch."""
    fitted, program = train(case), program_of(case)
    train_split, validation = splits_of(case)
    widths = batching.row_widths(train_split, [validation], batching.EXACT)
    on_device = devices.replicate(DeviceSplit.of(train_split, program.task), program.mesh)
    state_K = fitting.start(program, SEEDS).training.state
    course, params = [], []
    for epoch in range(1, EPOCHS + 1):
        plans_K = [
            batching.plan_bucketed(
                train_split.lengths, BATCH_SIZE, np.random.default_rng([seed, epoch])
            )
            for seed in SEEDS
        ]
        for plans in zip(*plans_K, strict=True):
            places = [program.layout.place_all([plan], train_split.lengths, 8) for plan in plans]
            state_K, _ = program.compiled.train(
                state_K, on_device, devices.spread(np.stack(places), program.mesh), 1, widths
            )
        course.append(program.evaluate(state_K.params, validation, widths))
        params.append(host(state_K.params))
    for one, other in zip(host(fitted.training.state), host(state_K), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    for name, of in course[-1].kept.items():
        np.testing.assert_allclose(fitted.validation.kept[name], of, atol=1e-5)
    metric, sign = program.task.metric, 1 if program.task.higher_is_better else -1
    values_ExK = np.array([one.metrics[metric] for one in course])
    for number in range(len(SEEDS)):
        best = int(np.argmax(sign * values_ExK[:, number]))
        assert fitted.position.best_epoch[number] == best + 1
        assert fitted.position.best_value[number] == pytest.approx(values_ExK[best, number])
        for leaf, wanted in zip(host(fitted.training.best), params[best], strict=True):
            np.testing.assert_allclose(leaf[number], wanted[number], rtol=0, atol=1e-5)
    rows = fitted.position.rows
    assert [row["epoch"] for row in rows] == [1, 2]
    for row, one in zip(rows, course, strict=True):
        assert row["seeds"][f"validation_{metric}"] == pytest.approx(one.metrics[metric].tolist())


def test_hooks_are_told_of_every_call_and_epoch_in_their_order():
    first, second = Watch(), Watch()
    train(TWO, [first, second])
    assert first.told == second.told
    calls = [(step, count) for what, step, count in first.told if what == "call"]
    assert sum(count for _, count in calls) == 48 * EPOCHS * len(SEEDS)
    assert first.told[0] == ("before", 0, 20)
    epochs = [(step, epoch) for what, step, epoch in first.told if what == "epoch"]
    assert epochs == [(10, 1), (20, 2)]
    assert [step for step, _ in calls] == sorted({step for step, _ in calls})


@pytest.mark.parametrize("stop_at", [8, 10])
@pytest.mark.parametrize("case", FEW)
def test_a_fit_goes_on_bit_for_bit_from_what_a_hook_kept(case, stop_at):
    watch, whole = Watch(stop_at), train(case)
    with pytest.raises(KeyboardInterrupt):
        train(case, [watch])
    training, position = watch.kept
    resumed = train(case, begin=Start(training, Position.from_json(position)))
    for one, other in zip(host(resumed.training), host(whole.training), strict=True):
        np.testing.assert_array_equal(one, other)
    rows = [resumed.position.rows, whole.position.rows]
    for one, other in zip(*rows, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_what_is_over_is_only_evaluated():
    done = train(TWO)
    again = train(TWO, begin=Start(done.training, done.position))
    np.testing.assert_array_equal(again.validation.kept["outputs"], done.validation.kept["outputs"])


@pytest.mark.slow
def test_any_optimizer_of_optax_trains():
    losses = [
        row["seeds"]["train_loss"]
        for row in train(TWO, optimizer=optax.sgd(0.5, momentum=0.9), epochs=12).position.rows
    ]
    assert (np.array(losses[-1]) < losses[0]).all()


def test_a_fit_of_no_finite_seed_ends():
    with pytest.raises(Diverged, match="seed 4: the loss or its gradient is not finite at step 2"):
        train(Case("numbers", "vectors"), optimizer=optax.sgd(1e38))


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_best_is_the_first_of_equals_and_never_what_is_not_finite(higher_is_better):
    position = Position.first(3)
    values = [[0.5, np.nan, 0.1], [0.5, 0.2, 0.3], [0.4, 0.2, np.inf]]
    chosen = []
    for of_epoch in values:
        is_best = position.note_best(np.array(of_epoch), higher_is_better=higher_is_better)
        chosen.append(is_best.tolist())
        position.end_epoch({})
    if higher_is_better:
        assert chosen == [[True, False, True], [False, True, True], [False, False, False]]
        assert (position.best_epoch, position.best_value) == ([1, 2, 2], [0.5, 0.2, 0.3])
    else:
        assert chosen == [[True, False, True], [False, True, False], [True, False, False]]
        assert (position.best_epoch, position.best_value) == ([3, 2, 1], [0.4, 0.2, 0.1])


def test_a_position_comes_back_from_json_as_it_was():
    position = Position([0.5, None], [2, 0], epoch=3, steps=16, row_steps=99, rows=[{"epoch": 1}])
    position.sums = [{"loss": np.float32([[0.1, 1 / 3]]), "confusion": np.ones((1, 2, 3, 3), "f4")}]
    position.diverged = {7: 12}
    again = Position.from_json(position.to_json())
    np.testing.assert_array_equal(again.sums[0]["loss"], position.sums[0]["loss"])
    np.testing.assert_array_equal(again.sums[0]["confusion"], position.sums[0]["confusion"])
    for one in (again, position):
        one.sums = []
    assert again == position


def test_a_program_without_an_optimizer_evaluates():
    program = Program(cases.models_of(TWO, SEEDS), cases.task_of(TWO), batch_size=BATCH_SIZE)
    found = program.evaluate(program.params_K, splits_of(TWO)[1], (cases.LONGEST,))
    assert found.kept["outputs"].shape == (2, 12, 1)
    assert found.items == 12
