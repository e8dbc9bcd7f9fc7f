"""The flow of a run, top to bottom: config, data, model, state, train_step, report."""

import pathlib

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


def run(config: ConfigDict, workdir: str | None = None) -> dict:
    """Trains, evaluates and reports one experiment.

    Args:
        config: as `configs/base.py` describes it.
        workdir: the run's folder; None: a new one under `runs/`.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: the config, the data or the folder cannot be used; nothing was overwritten.
    """
    settings.check(config)
    stopwatch = Stopwatch()
    model = build_model(config)
    mesh = devices.mesh()
    folder = report.RunFolder.create(workdir, config.name)
    folder.write_json("config.json", config.to_dict())
    if config.model.cell.endswith(".py"):
        folder.write(report.CELL_FILE, pathlib.Path(config.model.cell).read_text("utf-8"))
    print(report.header(folder), flush=True)

    with stopwatch.phase("data"):
        data = dataset.load(config.data)
    folder.write("vocabulary.txt", "\n".join(data.vocabulary.words) + "\n")
    print(report.describe_data(data), flush=True)

    graphdef, params = nnx.split(model, nnx.Param)
    layout = devices.layout(config.train.batch_size, mesh)
    print(report.parameter_table(params), flush=True)
    print(report.describe_engine(model, layout), flush=True)

    train = config.train
    optimizer = state_lib.adam(train.learning_rate, train.adam_epsilon, train.clip_norm)
    compiled = steps.make(graphdef, optimizer, mesh, config.data)
    state = devices.replicate(state_lib.create(params, optimizer, config.train.seed), mesh)
    state, validation = fit(config, data, compiled, mesh, state, folder, stopwatch)

    with stopwatch.phase("evaluate"):
        test, logits = evaluate(config, data, data.test, compiled, mesh, state.params)
    folder.write_weights(state.params)
    folder.write_predictions(config.train.seed, data.test, logits)
    folder.plot_curves(f"{config.name} on {data.name}: test accuracy {test.accuracy:.4f}")
    result = report.result(config, data, state.params, validation, test, stopwatch)
    folder.write_json("result.json", result)
    print(report.describe_result(result, folder), flush=True)
    return result


def build_model(config: ConfigDict) -> Classifier:
    """The model that a config describes, freshly initialised.

    Raises:
        UserError: its parts do not fit together, or not this machine.
    """
    try:
        return factory.build(
            vocabulary_size=config.data.max_features,
            unknown_token=UNKNOWN,
            seed=config.train.seed,
            **config.model,
        )
    except ValueError as error:
        raise UserError(f"config.model cannot be built: {error}.") from error


def fit(
    config: ConfigDict,
    data: Dataset,
    compiled: Steps,
    mesh: Mesh,
    state: TrainState,
    folder: report.RunFolder,
    stopwatch: Stopwatch,
) -> tuple[TrainState, Metrics]:
    """Trains for all epochs; returns the last state and the last validation."""
    batch_size, num_epochs = config.train.batch_size, config.train.num_epochs
    corpus = devices.replicate(Corpus.of(data.train), mesh)
    layout = devices.layout(batch_size, mesh)
    widths = batches.row_widths(data, data.train, config.data)
    progress = Progress(num_epochs * -(-len(data.train) // batch_size))
    for epoch in range(1, num_epochs + 1):
        rng = np.random.default_rng([config.train.seed, epoch])
        plans = batches.plans(data.train, config.data, batch_size, rng)
        sums: list[metrics.Sums] = []
        steps_taken = 0
        with stopwatch.phase("train"):
            for first in range(0, len(plans), STEPS_A_CALL):
                group = plans[first : first + STEPS_A_CALL]
                places = layout.place_all(group, data.train.lengths, STEPS_A_CALL)
                state, sums_S = compiled.train(
                    state, corpus, devices.spread(places, mesh), len(group), widths
                )
                # The host is one call ahead of the device, and no more.
                if sums:
                    jax.block_until_ready(sums[-1])
                sums.append(sums_S)
                steps_taken += batches.steps_taken(places, data.train.lengths, widths)
                progress.steps(len(group), sum(map(len, group)), f"epoch {epoch}/{num_epochs}")
            train = metrics.mean(sums)
        with stopwatch.phase("evaluate"):
            validation, _ = evaluate(config, data, data.validation, compiled, mesh, state.params)
        padding = 1 - len(data.train.tokens) / steps_taken
        folder.add_metrics(
            report.metrics_row(epoch, int(state.step), train, validation, padding, stopwatch)
        )
        progress.line(
            f"epoch {epoch}/{num_epochs}: train loss {train.loss:.4f}, accuracy "
            f"{train.accuracy:.4f}; validation loss {validation.loss:.4f}, accuracy "
            f"{validation.accuracy:.4f}"
        )
    return state, validation


def evaluate(
    config: ConfigDict,
    data: Dataset,
    split: Split,
    compiled: Steps,
    mesh: Mesh,
    params: nnx.State,
) -> tuple[Metrics, np.ndarray]:
    """The metrics of a split and the logit of each of its reviews, in order."""
    plans = batches.plans(split, config.data, config.train.batch_size)
    layout = devices.layout(config.train.batch_size, mesh)
    widths = batches.row_widths(data, split, config.data)
    return steps.evaluate_plans(compiled, params, split, plans, layout, mesh, widths)
