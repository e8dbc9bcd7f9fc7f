"""The flow of a run, top to bottom: config, data, model, state, train_step, report."""

import contextlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from seqmodels import factory, loading
from seqmodels.model import SequenceModel
from train_lib import devices, metrics, processes, report, settings, steps
from train_lib import state as state_lib
from train_lib.data import batches, dataset
from train_lib.data.batches import Corpus
from train_lib.data.dataset import Dataset, Split
from train_lib.data.vocabulary import UNKNOWN
from train_lib.errors import UserError
from train_lib.metrics import Metrics
from train_lib.progress import Progress, Stopwatch
from train_lib.resume import Keeper
from train_lib.state import Position, Training
from train_lib.steps import Steps

STEPS_A_CALL = 8
"""Of one seed's, a second or two of work: enough to keep the device busy, not too much to lose."""


def run(config: ConfigDict, workdir: str | None = None, *, evaluate_test: bool = True) -> dict:
    """Trains, evaluates and reports one experiment, or goes on with it where it was saved.

    Args:
        config: as `configs/base.py` describes it.
        workdir: the run's folder; None: a new one under `runs/`. One of the same run goes on from
            its last checkpoint, and if that run has ended, nothing is done.
        evaluate_test: a search, which is to choose by validation alone, leaves the test reviews
            unseen.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: the config, the data or the folder cannot be used; nothing was overwritten.
        Stopped: the run was asked to end, and has been saved.
    """
    settings.check(config)
    stopwatch = Stopwatch()
    models = build_models(config)
    with contextlib.closing(report.RunFolder.open(workdir, config)) as folder:
        if processes.from_first(folder.is_finished):
            result = processes.from_first(lambda: folder.read_json("result.json"))
            print(f"{folder.path} is finished{report.describe_result(result, folder)}", flush=True)
            return result
        return _run(config, models, folder, stopwatch, evaluate_test)


def _run(
    config: ConfigDict,
    models: list[SequenceModel],
    folder: report.RunFolder,
    stopwatch: Stopwatch,
    evaluate_test: bool,
) -> dict:
    seeds, mesh = seeds_of(config), devices.mesh(config.train.seeds)
    print(report.header(folder), flush=True)

    with stopwatch.phase("data"):
        data = dataset.load(config.data)
    folder.write("vocabulary.txt", data.vocabulary.to_text())
    print(report.describe_data(data), flush=True)
    devices.connect(mesh)

    compiled, training = prepare(config, models, mesh)
    print(report.parameter_table(nnx.state(models[0], nnx.Param)), flush=True)
    layout = devices.layout(config.train.batch_size, mesh)
    print(report.describe_engine(models[0], layout, mesh, seeds), flush=True)
    with Keeper(config, seeds, folder, data, mesh, stopwatch) as keeper:
        training, position = keeper.start(training, Position.first(len(seeds)))
        training, validation = fit(
            config, data, compiled, mesh, training, position, folder, keeper, stopwatch
        )

    test = None
    if evaluate_test:
        with stopwatch.phase("evaluate"):
            test, logits_KxN = evaluate(
                config, data, data.test, compiled, mesh, training.state.params
            )
        alive_K = position.alive(seeds)
        folder.write_predictions(np.array(seeds)[alive_K], data.test, logits_KxN[alive_K])
    folder.write_weights(report.WEIGHTS, devices.fetch(training.state.params))
    folder.write_weights(report.BEST_WEIGHTS, devices.fetch(training.best))
    parameters = report.count(training.state.params) // len(seeds)
    result = report.result(config, data, seeds, parameters, position, validation, test, stopwatch)
    folder.plot_curves(f"{config.name} on {data.name}", position.rows)
    folder.finish(result)
    print(report.describe_result(result, folder), flush=True)
    return result


def seeds_of(config: ConfigDict) -> Sequence[int]:
    """The seeds that a config asks for: the first, and those that follow it."""
    return range(config.train.seed, config.train.seed + config.train.seeds)


def build_models(config: ConfigDict) -> list[SequenceModel]:
    """The models that a config describes, one for each seed, freshly initialised.

    Raises:
        UserError: its parts do not fit together, or not this machine.
    """
    try:
        return factory.build_all(
            vocabulary_size=config.data.max_features,
            unknown_token=UNKNOWN,
            seeds=seeds_of(config),
            **config.model.to_dict()
            | {"cell_options": loading.parse_options(config.model.cell_options)},
        )
    except ValueError as error:
        raise UserError(f"config.model cannot be built: {error}.") from error


def prepare(
    config: ConfigDict, models: Sequence[SequenceModel], mesh: Mesh
) -> tuple[Steps, Training]:
    """The steps of a config's models, and where training them begins."""
    train, seeds = config.train, seeds_of(config)
    graphdef, params_K = state_lib.split(models)
    optimizer = state_lib.adam(train.learning_rate, train.adam_epsilon, train.clip_norm)
    training = Training(
        state_lib.create(params_K, optimizer, seeds),
        jax.tree.map(jnp.copy, params_K),  # The state gives its memory away.
    )
    at_once = devices.seeds_at_once(len(seeds), mesh)
    if "cudnn" in models[0].encoder.engine_names():
        at_once = 1  # `jax.experimental.rnn` has no batching rule.
    compiled = steps.make(graphdef, optimizer, mesh, config.data, at_once)
    return compiled, devices.spread_seeds(training, mesh)


def fit(
    config: ConfigDict,
    data: Dataset,
    compiled: Steps,
    mesh: Mesh,
    training: Training,
    position: Position,
    folder: report.RunFolder,
    keeper: Keeper,
    stopwatch: Stopwatch,
) -> tuple[Training, Metrics]:
    """Trains all seeds to the end; returns where they are then, and the last validation."""
    batch_size, num_epochs = config.train.batch_size, config.train.num_epochs
    seeds = seeds_of(config)
    corpus = devices.replicate(Corpus.of(data.train), mesh)
    layout = devices.layout(batch_size, mesh)
    widths = batches.row_widths(data, config.data)
    num_plans = -(-len(data.train) // batch_size)
    # A call of many seeds takes fewer steps, so that it is over as soon.
    steps_a_call = max(1, STEPS_A_CALL * mesh.shape["seed"] // len(seeds))
    progress = Progress(num_plans * num_epochs, num_plans * (position.epoch - 1) + position.steps)
    while position.epoch <= num_epochs:
        epoch = position.epoch
        plans_K = [
            batches.plans(data.train, config.data, batch_size, np.random.default_rng([seed, epoch]))
            for seed in seeds
        ]
        with stopwatch.phase("train"):
            while position.steps < num_plans:
                next_ones = slice(position.steps, position.steps + steps_a_call)
                places = np.stack(
                    [
                        layout.place_all(plans[next_ones], data.train.lengths, steps_a_call)
                        for plans in plans_K
                    ]
                )
                num_steps = len(plans_K[0][next_ones])
                state_K, sums_KxS = compiled.train(
                    training.state, corpus, devices.spread(places, mesh), num_steps, widths
                )
                training = training._replace(state=state_K)
                position.sums.append(devices.whole(sums_KxS))
                position.steps += num_steps
                position.row_steps += batches.steps_taken(places, data.train.lengths, widths)
                step = num_plans * (epoch - 1) + position.steps
                keeper.after_call(step, training, position)
                reviews = int((places != batches.NO_REVIEW).sum())
                progress.steps(num_steps, reviews, f"epoch {epoch}/{num_epochs}")
            train = metrics.mean(position.sums)
        with stopwatch.phase("evaluate"):
            params_K = training.state.params
            validation, _ = evaluate(config, data, data.validation, compiled, mesh, params_K)
        keeper.after_epoch(num_plans * epoch, training, position, validation)
        is_best_K = position.note_best(validation)
        training = training._replace(best=_choose(is_best_K, params_K, training.best))
        padding = 1 - len(seeds) * len(data.train.tokens) / position.row_steps
        row = report.metrics_row(epoch, epoch * num_plans, train, validation, padding, stopwatch)
        position.end_epoch(row)
        folder.write_metrics(position.rows)
        progress.line(f"epoch {epoch}/{num_epochs}: {report.describe_metrics(row)}")
    return training, validation


@jax.jit
def _choose(is_first_K: jax.Array, first, second):
    """Of each seed the arrays of the first or of the second."""

    def choose(one, other):
        return jnp.where(is_first_K.reshape(-1, *[1] * (one.ndim - 1)), one, other)

    return jax.tree.map(choose, first, second)


def evaluate(
    config: ConfigDict,
    data: Dataset,
    split: Split,
    compiled: Steps,
    mesh: Mesh,
    params_K: nnx.State,
) -> tuple[Metrics, np.ndarray]:
    """Of each seed, the metrics of a split and the logits of its reviews, in order: `[K, N]`."""
    plans = batches.plans(split, config.data, config.train.batch_size)
    layout = devices.layout(config.train.batch_size, mesh)
    widths = batches.row_widths(data, config.data)
    return steps.evaluate_plans(compiled, params_K, split, plans, layout, mesh, widths)
