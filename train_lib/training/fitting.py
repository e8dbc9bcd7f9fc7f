"""Training: a function of models, a task, an optimiser and data."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train_lib.data.dataset import Split
from train_lib.training import batching, devices, metrics
from train_lib.training import state as state_lib
from train_lib.training.batching import DeviceSplit
from train_lib.training.divergence import Divergence
from train_lib.training.hooks import Hook, Moment
from train_lib.training.program import Evaluation, Program
from train_lib.training.state import Position, Training
from train_lib.training.stopwatch import Stopwatch

STEPS_A_CALL = 8
"""Of one seed's, a second or two of work: enough to keep the device busy, not too much to lose."""


class Start(NamedTuple):
    """Where a fit begins: the arrays, on their devices, and the rest."""

    training: Training
    position: Position


class Fitted(NamedTuple):
    """Where a fit ended, and the last validation."""

    training: Training
    position: Position
    validation: Evaluation


def start(program: Program, seeds: Sequence[int]) -> Start:
    """The start of a new fit.

    Args:
        program: of freshly initialised models.
        seeds: of each model's data order and dropout.
    """
    training = Training(
        state_lib.create(program.params_K, program.optimizer, seeds),
        jax.tree.map(jnp.copy, program.params_K),  # The state gives its memory away.
    )
    training = devices.spread_seeds(training, program.mesh)
    return Start(_at_start(training, program), Position.first(len(seeds)))


def _at_start(training: Training, program: Program) -> Training:
    """The same before the first step of an epoch: what reads on begins anew."""
    return training._replace(state=training.state._replace(carries=program.first_carries()))


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
    """Trains models, one a seed, to the end.

    Args:
        program: of the models, their task and their optimiser.
        train, validation: the examples, whose targets the task has encoded.
        seeds: of each model's data order and dropout.
        num_epochs: passes over the training examples.
        widths: that rows may have, in steps, ascending; None: what these splits need.
        begin: where to begin; None: at the models as they are.
        hooks: told what happens, in this order.
        stopwatch: that counts what takes how long.

    Raises:
        Diverged: no seed's loss and gradient are finite any more.
    """
    stopwatch = stopwatch or Stopwatch()
    widths = widths or batching.row_widths(train, [validation], program.treatment)
    training, position = begin or start(program, seeds)
    divergence = Divergence(seeds, position)
    on_device = devices.replicate(DeviceSplit.of(train, program.task), program.mesh)
    batch_size, lengths = program.batch_size, train.lengths
    sorted_by = None if program.treatment.reads_on else lengths
    num_plans = -(-len(train) // batch_size)
    # A call of many seeds takes fewer steps, so that it is over as soon.
    steps_a_call = max(1, STEPS_A_CALL * program.mesh.shape["seed"] // len(seeds))
    evaluation = None

    def moment() -> Moment:
        step = num_plans * (position.epoch - 1) + position.steps
        return Moment(step, num_plans * num_epochs, training, position, divergence.settle)

    for hook in hooks:
        hook.before(moment())
    while position.epoch <= num_epochs:
        epoch = position.epoch
        if position.steps == 0:
            training = _at_start(training, program)
        plans_K = [
            batching.plans(
                lengths, program.treatment, batch_size, np.random.default_rng([seed, epoch])
            )
            for seed in seeds
        ]
        with stopwatch.phase("train"):
            while position.steps < num_plans:
                next_ones = slice(position.steps, position.steps + steps_a_call)
                places = np.stack(
                    [
                        program.layout.place_all(plans[next_ones], sorted_by, steps_a_call)
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
            train_metrics = metrics.of_seeds(program.task, sums_K)
        with stopwatch.phase("evaluate"):
            params_K = training.state.params
            evaluation = program.evaluate(params_K, validation, widths)
        divergence.settle()
        divergence.check_validation(moment().step, evaluation.metrics["loss"])
        is_finite_K = np.isfinite(evaluation.metrics["loss"])
        is_best_K = position.note_best(
            np.where(is_finite_K, evaluation.metrics[program.task.metric], np.nan),
            higher_is_better=program.task.higher_is_better,
        )
        training = training._replace(best=_choose(is_best_K, params_K, training.best))
        position.end_epoch(
            {
                "epoch": epoch,
                "step": epoch * num_plans,
                "items": {"train": int(sums_K["weight"][0]), "validation": evaluation.items},
                "seeds": _of_splits(train_metrics, evaluation.metrics),
                "padding_share_of_steps": round(
                    1 - len(seeds) * len(train.values) / position.row_steps, 4
                ),
                "seconds": stopwatch.report()["total"],
            }
        )
        for hook in hooks:
            hook.after_epoch(moment())
    if evaluation is None:  # It was saved after its last epoch.
        with stopwatch.phase("evaluate"):
            evaluation = program.evaluate(training.state.params, validation, widths)
    return Fitted(training, position, evaluation)


def _of_splits(train: dict, validation: dict) -> dict[str, list[float | None]]:
    """The metrics of each seed, as in `train_loss`; None for a seed that has diverged."""
    alive_K = np.isfinite(train["loss"]) & np.isfinite(validation["loss"])
    return {
        f"{split}_{name}": [
            float(value) if alive and np.isfinite(value) else None
            for value, alive in zip(values_K, alive_K, strict=True)
        ]
        for split, of_split in (("train", train), ("validation", validation))
        for name, values_K in of_split.items()
    }


@jax.jit
def _choose(is_first_K: jax.Array, first, second):
    """Of each seed the arrays of the first or of the second."""

    def choose(one, other):
        return jnp.where(is_first_K.reshape(-1, *[1] * (one.ndim - 1)), one, other)

    return jax.tree.map(choose, first, second)
