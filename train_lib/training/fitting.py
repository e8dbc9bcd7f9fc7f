"""Training: a function of models, a task, an optimiser and data."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from train_lib.data.dataset import Split
from train_lib.tasks.base import Task
from train_lib.training import batching, devices, metrics
from train_lib.training import state as state_lib
from train_lib.training.batching import DeviceSplit
from train_lib.training.divergence import Divergence
from train_lib.training.hooks import Hook, Moment
from train_lib.training.program import Evaluation, Program
from train_lib.training.recipe import Recipe
from train_lib.training.state import Position, Training
from train_lib.training.steps import NORM, Sums
from train_lib.training.stopwatch import Stopwatch

STEPS_A_CALL = 8
"""For one seed, a second or two of work: enough to keep the device busy, not too much to lose."""


class Start(NamedTuple):
    """Where a fit begins: the arrays, on their devices, and all other state."""

    training: Training
    position: Position


class Fitted(NamedTuple):
    """Where a fit ended.

    Attributes:
        training: the arrays.
        position: all other state.
        params_K: the parameters to use for each seed, chosen by the recipe.
        validation: their evaluation on the validation examples.
    """

    training: Training
    position: Position
    params_K: nnx.State
    validation: Evaluation


def start(program: Program, seeds: Sequence[int]) -> Start:
    """The start of a new fit.

    Args:
        program: of freshly initialised models.
        seeds: one for each model's data order and dropout.
    """

    @jax.jit  # One program; operation by operation there would be dozens.
    def create(params_K):
        state = state_lib.create(params_K, program.optimizer, seeds, program.recipe)
        return Training(state, jax.tree.map(jnp.copy, params_K))  # The state gives its memory away.

    training = devices.spread_seeds(create(program.params_K), program.mesh)
    return Start(_at_start(training, program), Position.first(len(seeds)))


def _at_start(training: Training, program: Program) -> Training:
    """Resets the carries, for the first step of an epoch."""
    return training._replace(state=training.state._replace(carries=program.first_carries()))


def steps_a_call(program: Program) -> int:
    """The most steps in a call; fewer for many seeds, so that calls take no longer."""
    return max(1, STEPS_A_CALL * program.mesh.shape["seed"] // program.num_seeds)


def fit(
    program: Program,
    train: Split,
    validation: Split,
    *,
    seeds: Sequence[int],
    num_epochs: int,
    widths: tuple[int, ...] | None = None,
    begin: Start | None = None,
    hooks: Sequence[Hook] = (),
    stopwatch: Stopwatch | None = None,
) -> Fitted:
    """Trains models, one per seed, to the end.

    Args:
        program: the models, their task, their optimiser and the recipe.
        train: the training examples, with targets encoded by the task.
        validation: the validation examples, likewise.
        seeds: one for each model's data order and dropout.
        num_epochs: passes over the training examples.
        widths: the row widths allowed, in steps, ascending; None: those that these splits need.
        begin: where to begin; None: with the program's models.
        hooks: notified of what happens, in this order.
        stopwatch: measures the time of each phase.

    Raises:
        Diverged: no seed has a finite loss and gradient any more.
    """
    stopwatch = stopwatch or Stopwatch()
    widths = widths or batching.row_widths(train, [validation], program.treatment)
    training, position = begin or start(program, seeds)
    divergence = Divergence(seeds, position)
    on_device = devices.replicate(DeviceSplit.of(train, program.task, training=True), program.mesh)
    examples_a_step, lengths = program.examples_a_step, train.lengths
    sorted_by = None if program.treatment.reads_on else lengths
    num_plans = -(-len(train) // examples_a_step)
    most_steps = steps_a_call(program)
    stopped_K = _stopped(program.recipe, training, len(seeds))
    evaluation = None

    def moment() -> Moment:
        step = num_plans * (position.epoch - 1) + position.steps
        return Moment(step, num_plans * num_epochs, training, position, divergence.settle)

    for hook in hooks:
        hook.before(moment())
    while position.epoch <= num_epochs and not stopped_K.all():
        if position.steps == 0:
            training = _at_start(training, program)
        plans_K = [
            batching.plans(
                lengths,
                program.treatment,
                examples_a_step,
                np.random.default_rng([seed, position.epoch]),
            )
            for seed in seeds
        ]
        with stopwatch.phase("train"):
            while position.steps < num_plans:
                next_ones = slice(position.steps, position.steps + most_steps)
                places = np.stack(
                    [
                        program.layout.place_all(plans[next_ones], sorted_by, most_steps)
                        for plans in plans_K
                    ]
                )
                num_steps = len(plans_K[0][next_ones])
                state_K, sums_KxS = program.compiled.train(
                    training.state, on_device, devices.spread(places, program.mesh), num_steps,
                    widths,
                )  # fmt: skip
                training = training._replace(state=state_K)
                position.sums.append(devices.whole(sums_KxS))
                position.steps += num_steps
                position.row_steps += batching.steps_taken(places, lengths, widths)
                divergence.watch(moment().step, num_steps, position.sums[-1])
                examples = int((places != batching.NO_EXAMPLE).sum())
                for hook in hooks:
                    hook.after_call(moment(), examples)
            sums_K = metrics.add_up(position.sums)
        with stopwatch.phase("evaluate"):
            evaluation = program.evaluate(training.state.evaluated, validation, widths)
        divergence.settle()
        divergence.check_validation(moment().step, evaluation.metrics["loss"])
        is_counted_K = np.isfinite(evaluation.metrics["loss"]) & ~stopped_K
        is_best_K = position.note_best(
            np.where(is_counted_K, evaluation.metrics[program.task.metric], np.nan),
            higher_is_better=program.task.higher_is_better,
        )
        step, row_steps = moment().step, position.row_steps
        position.end_epoch(
            {
                "epoch": position.epoch,
                "step": step,
                "items": {"train": int(sums_K["weight"].max()), "validation": evaluation.items},
                "seeds": {
                    **_of_splits(program.task, sums_K, evaluation, stopped_K),
                    **_of_updates(program.recipe, training, sums_K, step, num_plans, stopped_K),
                },
                "padding_share_of_steps": round(1 - len(seeds) * len(train.values) / row_steps, 4),
                "seconds": stopwatch.report()["total"],
            }
        )
        training = _after_epoch(program.recipe, training, is_best_K)
        stopped_K = _stopped(program.recipe, training, len(seeds))
        for hook in hooks:
            hook.after_epoch(moment())
    params_K = training.best if program.recipe.patience else training.state.evaluated
    # The last evaluation was of other parameters, or the fit was resumed at its end.
    if evaluation is None or program.recipe.patience:
        with stopwatch.phase("evaluate"):
            evaluation = program.evaluate(params_K, validation, widths)
    return Fitted(training, position, params_K, evaluation)


def _of_splits(
    task: Task, sums_K: Sums, validation: Evaluation, stopped_K: np.ndarray
) -> dict[str, list[float | None]]:
    """The metrics of each seed, under names such as `train_loss`.

    None for a seed that has diverged; training metrics also for one that has stopped.
    """
    train = metrics.of_seeds(task, {name: of for name, of in sums_K.items() if name != NORM})
    alive_K = (np.isfinite(train["loss"]) | stopped_K) & np.isfinite(validation.metrics["loss"])
    return {
        f"{split}_{name}": _known(values_K, alive_K)
        for split, of_split in (("train", train), ("validation", validation.metrics))
        for name, values_K in of_split.items()
    }


def _of_updates(
    recipe: Recipe,
    training: Training,
    sums_K: Sums,
    step: int,
    num_plans: int,
    stopped_K: np.ndarray,
) -> dict[str, list[float | None]]:
    """Each seed's mean gradient norm in an epoch, and the learning rate of its last update.

    None for a seed that has stopped; entries that are not known are left out.
    """
    found = {}
    if NORM in sums_K:  # Older versions did not record it.
        found[NORM] = sums_K[NORM] / num_plans
    if recipe.schedule is not None:
        scale = devices.fetch(training.state.recipe.rate_scale)
        rates_K = float(recipe.schedule(step - 1)) * np.ones(len(stopped_K))
        rates_K *= 1.0 if scale is None else scale
        found["learning_rate"] = np.array([float(f"{rate:.6g}") for rate in rates_K])
    return {name: _known(values_K, ~stopped_K) for name, values_K in found.items()}


def _known(values_K: np.ndarray, chosen_K: np.ndarray) -> list[float | None]:
    return [
        float(value) if chosen and np.isfinite(value) else None
        for value, chosen in zip(values_K, chosen_K, strict=True)
    ]


def _stopped(recipe: Recipe, training: Training, num_seeds: int) -> np.ndarray:
    """Which seeds have stopped learning, on the host: `[K]`."""
    state = training.state.recipe._replace(averaged=None)
    return np.broadcast_to(recipe.is_stopped(devices.fetch(state)), num_seeds)


def _after_epoch(recipe: Recipe, training: Training, is_best_K: np.ndarray) -> Training:
    """The arrays after a validation, which was the best so far for some seeds."""
    state = training.state
    best = _choose(is_best_K, state.evaluated, training.best)
    averaged = state.recipe.averaged
    remembered = _remember(recipe, state.recipe._replace(averaged=None), is_best_K)
    return Training(state._replace(recipe=remembered._replace(averaged=averaged)), best)


_remember = jax.jit(Recipe.after_epoch, static_argnums=0)


@jax.jit
def _choose(is_first_K: jax.Array, first, second):
    """Takes each seed's arrays from `first` or from `second`."""

    def choose(one, other):
        return jnp.where(is_first_K.reshape(-1, *[1] * (one.ndim - 1)), one, other)

    return jax.tree.map(choose, first, second)
