"""The flow of a run, top to bottom: config, data, model, state, train_step, report."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from seqmodels import factory
from seqmodels.classifier import Classifier
from train_lib import devices, metrics, report, settings, steps
from train_lib import state as state_lib
from train_lib.data import batches, dataset
from train_lib.data.batches import Corpus
from train_lib.data.dataset import Dataset, Split
from train_lib.data.vocabulary import UNKNOWN
from train_lib.errors import UserError
from train_lib.metrics import Metrics
from train_lib.progress import Progress, Stopwatch
from train_lib.state import TrainState
from train_lib.steps import Steps

STEPS_A_CALL = 8
"""A second or two of work: enough to keep the device busy, not too much to lose."""


def run(config: ConfigDict, workdir: str | None = None, *, evaluate_test: bool = True) -> dict:
    """Trains, evaluates and reports one experiment.

    Args:
        config: as `configs/base.py` describes it.
        workdir: the run's folder; None: a new one under `runs/`.
        evaluate_test: a search, which is to choose by validation alone, leaves the test reviews
            unseen.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: the config, the data or the folder cannot be used; nothing was overwritten.
    """
    settings.check(config)
    stopwatch = Stopwatch()
    models, seeds = build_models(config), seeds_of(config)
    mesh = devices.mesh(len(seeds))
    folder = report.RunFolder.create(workdir, config.name)
    folder.write_json("config.json", config.to_dict())
    if config.model.cell.endswith(".py"):
        folder.write(report.CELL_FILE, pathlib.Path(config.model.cell).read_text("utf-8"))
    print(report.header(folder), flush=True)

    with stopwatch.phase("data"):
        data = dataset.load(config.data)
    folder.write("vocabulary.txt", "\n".join(data.vocabulary.words) + "\n")
    print(report.describe_data(data), flush=True)

    graphdef, params_K = state_lib.split(models)
    layout = devices.layout(config.train.batch_size, mesh)
    at_once = devices.seeds_at_once(len(seeds), mesh)
    if "cudnn" in models[0].encoder.engine_names():
        at_once = 1  # `jax.experimental.rnn` has no batching rule.
    print(report.parameter_table(nnx.state(models[0], nnx.Param)), flush=True)
    print(report.describe_engine(models[0], layout, mesh, seeds, at_once), flush=True)

    train = config.train
    optimizer = state_lib.adam(train.learning_rate, train.adam_epsilon, train.clip_norm)
    compiled = steps.make(graphdef, optimizer, mesh, config.data, at_once)
    state_K = devices.spread_seeds(state_lib.create(params_K, optimizer, seeds), mesh)
    state_K, validation = fit(config, data, compiled, mesh, state_K, folder, stopwatch)

    test = None
    if evaluate_test:
        with stopwatch.phase("evaluate"):
            test, logits_KxN = evaluate(config, data, data.test, compiled, mesh, state_K.params)
        folder.write_predictions(seeds, data.test, logits_KxN)
    folder.write_weights(state_K.params)
    parameters = report.count(params_K) // len(seeds)
    result = report.result(config, data, seeds, parameters, validation, test, stopwatch)
    folder.plot_curves(f"{config.name} on {data.name}")
    folder.write_json("result.json", result)
    print(report.describe_result(result, folder), flush=True)
    return result


def seeds_of(config: ConfigDict) -> Sequence[int]:
    """The seeds that a config asks for: the first, and those that follow it."""
    return range(config.train.seed, config.train.seed + config.train.seeds)


def build_models(config: ConfigDict) -> list[Classifier]:
    """The models that a config describes, one for each seed, freshly initialised.

    Raises:
        UserError: its parts do not fit together, or not this machine.
    """
    try:
        return factory.build_all(
            vocabulary_size=config.data.max_features,
            unknown_token=UNKNOWN,
            seeds=seeds_of(config),
            **config.model,
        )
    except ValueError as error:
        raise UserError(f"config.model cannot be built: {error}.") from error


def fit(
    config: ConfigDict,
    data: Dataset,
    compiled: Steps,
    mesh: Mesh,
    state_K: TrainState,
    folder: report.RunFolder,
    stopwatch: Stopwatch,
) -> tuple[TrainState, Metrics]:
    """Trains all seeds for all epochs; returns the last state and the last validation."""
    batch_size, num_epochs, seeds = (
        config.train.batch_size,
        config.train.num_epochs,
        seeds_of(config),
    )
    corpus = devices.replicate(Corpus.of(data.train), mesh)
    layout = devices.layout(batch_size, mesh)
    widths = batches.row_widths(data, data.train, config.data)
    progress = Progress(num_epochs * -(-len(data.train) // batch_size))
    for epoch in range(1, num_epochs + 1):
        plans_K = [
            batches.plans(data.train, config.data, batch_size, np.random.default_rng([seed, epoch]))
            for seed in seeds
        ]
        num_plans = len(plans_K[0])
        sums: list[metrics.Sums] = []
        steps_taken = 0
        with stopwatch.phase("train"):
            for first in range(0, num_plans, STEPS_A_CALL):
                last = min(first + STEPS_A_CALL, num_plans)
                places = np.stack(
                    [
                        layout.place_all(plans[first:last], data.train.lengths, STEPS_A_CALL)
                        for plans in plans_K
                    ]
                )
                state_K, sums_KxS = compiled.train(
                    state_K, corpus, devices.spread(places, mesh), last - first, widths
                )
                # The host is one call ahead of the device, and no more.
                if sums:
                    jax.block_until_ready(sums[-1])
                sums.append(sums_KxS)
                steps_taken += batches.steps_taken(places, data.train.lengths, widths)
                reviews = int((places != batches.NO_REVIEW).sum())
                progress.steps(last - first, reviews, f"epoch {epoch}/{num_epochs}")
            train = metrics.mean(sums)
        with stopwatch.phase("evaluate"):
            validation, _ = evaluate(config, data, data.validation, compiled, mesh, state_K.params)
        padding = 1 - len(seeds) * len(data.train.tokens) / steps_taken
        row = report.metrics_row(epoch, epoch * num_plans, train, validation, padding, stopwatch)
        folder.add_metrics(row)
        progress.line(f"epoch {epoch}/{num_epochs}: {report.describe_metrics(row)}")
    return state_K, validation


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
    widths = batches.row_widths(data, split, config.data)
    return steps.evaluate_plans(compiled, params_K, split, plans, layout, mesh, widths)
