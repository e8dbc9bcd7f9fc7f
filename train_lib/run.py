"""The flow of a run, top to bottom: config, data, task, model, state, train_step, loop, report."""

import contextlib
import dataclasses
from collections.abc import Sequence

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from train_lib import beginning, building, settings
from train_lib.beginning import Beginning
from train_lib.data.dataset import Dataset
from train_lib.errors import Diverged
from train_lib.records import (
    card,
    curves,
    description,
    loggers,
    predictions,
    profiling,
    report,
    weights,
)
from train_lib.records.folder import TESTED, RunFolder
from train_lib.records.keeper import Keeper
from train_lib.records.loggers import Logger
from train_lib.records.metrics import MetricsFile
from train_lib.records.profiling import Profile
from train_lib.records.progress import Progress
from train_lib.records.result import decide, each_seed, result, seeds_of
from train_lib.tasks.base import Task
from train_lib.training import devices, fitting, memory, processes
from train_lib.training.fitting import Fitted
from train_lib.training.hooks import Hook
from train_lib.training.program import Evaluation, Program
from train_lib.training.stopwatch import Stopwatch


def run(
    config: ConfigDict,
    workdir: str | None = None,
    *,
    evaluate_test: bool = True,
    log: Sequence[str] = (),
    profile_steps: str | None = None,
    hooks: Sequence[Hook] = (),
) -> dict:
    """Trains, evaluates and reports one experiment, or resumes it where it was saved.

    Args:
        config: as `configs/base.py` describes it.
        workdir: the run's folder; None: a new one under `runs/`. A run begun there resumes from
            its last checkpoint; if it has ended, nothing is done, unless more epochs are asked for.
        evaluate_test: whether to evaluate the test examples; a search, which must choose by
            validation alone, does not.
        log: names in `loggers.LOGGERS` of the loggers that show the run, even if it has ended.
        profile_steps: the first and the last update to trace, as in `101:120`.
        hooks: watch the training, after all other hooks; an exception in one ends the run.

    Returns:
        The contents of `result.json`.

    Raises:
        UserError: the config, the data, the folder, a logger or the profiler cannot be used;
            nothing was overwritten.
        Stopped: the run was asked to end, and has been saved.
    """
    settings.check(config)
    found_loggers = loggers.find(log)
    traced = None if profile_steps is None else profiling.parse(profile_steps)
    stopwatch = Stopwatch()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(contextlib.closing(RunFolder.open(workdir, config)))
        seeds = building.seeds_asked(config)
        watching = [
            stack.enter_context(contextlib.closing(logger(folder, config, seeds)))
            for logger in found_loggers
        ]
        if finished := processes.from_first(lambda: folder.how_finished(config)):
            found = processes.from_first(lambda: folder.read_json("result.json"))
            metric = description.metric_of(found)
            closing = report.describe_result(found, metric, folder)
            print(f"{folder.path} {finished}{closing}", flush=True)
            if traced:
                print(f"{profiling.FLAG}: nothing was trained, so nothing is traced", flush=True)
            for one in watching:
                one.replay(found)
            return found
        print(report.header(folder), flush=True)
        with stopwatch.phase("data"):
            data, task = building.load_data(config)
        found = _run(config, data, task, folder, stopwatch, evaluate_test, watching, traced, hooks)
        for one in watching:
            one.finish(found)
        return found


def _run(
    config: ConfigDict,
    data: Dataset,
    task: Task,
    folder: RunFolder,
    stopwatch: Stopwatch,
    evaluate_test: bool,
    watching: Sequence[Logger],
    traced: tuple[int, int] | None,
    others: Sequence[Hook],
) -> dict:
    seeds = building.seeds_asked(config)
    models = building.build_models(config, data.inputs, task, seeds)
    initial = beginning.begin(config, folder, data, task, models)
    train, program = config.train, building.build_program(config, data, task, models)
    print(report.describe_data(data), report.describe_task(task), sep="\n", flush=True)
    devices.connect(program.mesh)
    print(report.parameter_table(nnx.state(models[0], nnx.Param)), flush=True)
    if initial:
        print(f"{initial.describe()}\n", flush=True)
    print(report.describe_engine(models[0], program.layout, program.mesh, seeds), flush=True)

    if note := report.note_few_updates(len(data.train), program.examples_a_step, train.num_epochs):
        print(note, flush=True)

    data, widths = building.lay_out(data, task, program.treatment)
    with contextlib.ExitStack() as stack:
        keeper = stack.enter_context(Keeper(config, folder, data, program, stopwatch))
        progress = Progress(task, train.num_epochs, seeds, train.patience)
        hooks: list[Hook] = [MetricsFile(folder, task), keeper, *watching, progress, *others]
        if traced:  # First, so that a trace ends before a checkpoint is saved.
            profile = Profile(traced, folder, program, len(data.train), train.num_epochs)
            hooks.insert(0, stack.enter_context(profile))
        begin = keeper.resume(fitting.start(program, seeds))
        if begin.position.epoch <= train.num_epochs:  # Else nothing is left to train.
            needed = memory.needed(program, begin.training.state, data.train, widths)
            print(report.describe_memory(needed, memory.room(program.mesh), data), flush=True)
        folder.begin(config)  # Nothing is written before everything is checked.
        description.write(folder, data.inputs, task)
        if initial:
            beginning.write(folder, initial)
        try:
            fitted = fitting.fit(
                program,
                data.train,
                data.validation,
                seeds=seeds,
                num_epochs=train.num_epochs,
                widths=widths,
                begin=begin,
                hooks=hooks,
                stopwatch=stopwatch,
            )
        except Diverged as error:
            raise Diverged(
                f"{error} {keeper.last_saved()}. A lower config.train.learning_rate, or "
                "config.train.clip_norm=1, may prevent it."
            ) from error

    evaluations = {"validation": fitted.validation}
    if evaluate_test:
        with stopwatch.phase("evaluate"):
            evaluations["test"] = program.test(fitted.params_K, data.test, widths)
    return _report(config, data, task, program, initial, fitted, evaluations, folder, stopwatch)


def _report(
    config: ConfigDict,
    data: Dataset,
    task: Task,
    program: Program,
    initial: Beginning | None,
    fitted: Fitted,
    evaluations: dict[str, Evaluation],
    folder: RunFolder,
    stopwatch: Stopwatch,
) -> dict:
    seeds, position = building.seeds_asked(config), fitted.position
    is_alive_K = position.alive(seeds)
    evaluations = {split: one.of_seeds(is_alive_K) for split, one in evaluations.items()}
    tasks_K, evaluations = decide(task, data, evaluations)
    alive = np.array(seeds)[is_alive_K].tolist()
    if "test" in evaluations:
        kept_K = each_seed(evaluations["test"].kept)
        predictions.write(folder, alive, data.test, tasks_K, kept_K)
        description.write_pictures(folder, data.test, tasks_K, kept_K)
    weights.write(folder, weights.WEIGHTS, devices.fetch(fitted.params_K))
    weights.write(folder, weights.BEST_WEIGHTS, devices.fetch(fitted.training.best))
    curves.draw(folder, f"{config.name} on {data.name}", position.rows, task)
    parameters = weights.count(program.params_K) // len(seeds)
    found = result(
        config.name,
        data,
        task,
        tasks_K,
        {
            "architecture": config.model.to_dict(),
            "parameters": parameters,
            "evaluated": program.recipe.evaluated,
            **({"initial": dataclasses.asdict(initial)} if initial else {}),
        },
        seeds_of(seeds, position, task.metric),
        evaluations,
        stopwatch.report(),
    )
    if "test" in evaluations:
        found[TESTED] = processes.from_first(lambda: folder.tested_after(len(position.rows)))
    card.write(folder, found)
    folder.finish(found)
    print(report.describe_result(found, task.metric, folder), flush=True)
    return found
