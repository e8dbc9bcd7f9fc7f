"""Searches over config fields by validation alone; the test examples are never used.

python -m train_lib.sweep --config=configs/lstm.py --workdir=runs/sweep \
    --over=train.learning_rate=1e-3,3e-3,1e-2 --over=model.pooling=last,mean
python -m train_lib.sweep --config=configs/lstm.py --workdir=runs/sweep --trials=20 \
    --over=train.learning_rate=log:1e-4:1e-1 --over=model.hidden_sizes=(16,),(32,)

Without `--trials` it tries the grid of all values; with it, that many random draws, which are whole
numbers if the field is one, as in `--over=train.batch_size=log:16:256`; or, with `--sampler=tpe`,
draws that learn from earlier ones. With `--pruner=halving`, trials that fall behind end early.
Trials are compared by the deciding metric of their task.

Start the same command once per device, on any hosts that share `--workdir`, for as many workers on
the same trials. If a worker dies, another one resumes its trial. If all were interrupted, the same
command resumes the search; with more `--trials` it extends it. Every trial has its own run folder
in `--workdir`, beside `sweep.md`, `sweep.json` and `sweep.png`. With `--submitit=slurm
--workers=8`, SLURM starts the workers.
"""

import dataclasses
import json
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from seqmodels.loading import parse_options
from train_lib import building, command, files, settings
from train_lib.analysis import pictures, search
from train_lib.analysis.axes import Axis
from train_lib.analysis.search import Goal
from train_lib.errors import Diverged, UserError
from train_lib.records.folder import RunFolder
from train_lib.training import processes
from train_lib.trials import running, workers
from train_lib.trials.draws import SAMPLERS, Draws
from train_lib.trials.study import PRUNERS, Study, locked

flags.adopt_module_key_flags(command)
_OVER = flags.DEFINE_multi_string(
    "over", [], "A field and its values, as in train.learning_rate=1e-3,1e-2, or, for "
    "draws, the range of a number: log:1e-4:1e-1 or uniform:0:0.5; if the field is a whole "
    "number, so are the draws."
)  # fmt: skip
_TRIALS = flags.DEFINE_integer("trials", None, "The number of draws; a grid tries all values.")
_SEED = flags.DEFINE_integer("sweep_seed", 0, "The seed of the draws.", 0)
_SAMPLER = flags.DEFINE_enum(
    "sampler", None, SAMPLERS, "How trials are chosen; by default random with --trials, else grid."
)
_PRUNER = flags.DEFINE_enum(
    "pruner", "none", list(PRUNERS), "Whether trials that fall behind end early: halving ends "
    "those that are not among the best quarter after epoch 1, 4, 16, ..."
)  # fmt: skip
_SUBMITIT = flags.DEFINE_enum(
    "submitit", "none", ["none", *workers.CLUSTERS], "What starts the workers; none: this process "
    "is one. In any case, the command can be started again for more."
)  # fmt: skip
_WORKERS = flags.DEFINE_integer("workers", 1, "The number of --submitit's workers.", 1)
_SUBMITIT_OPTIONS = flags.DEFINE_string(
    "submitit_options", "", "Its jobs' options, as in timeout_min=600, gpus_per_node=1, "
    "slurm_partition='gpu'."
)  # fmt: skip

_DECIDES = ("task.name", "task.options", "task.metric")
"""Fields that must be the same in all trials, which cannot be compared otherwise."""


class Search(NamedTuple):
    """A search that can be run.

    Attributes:
        base: the config, except for the fields searched over.
        draws: the values of those fields.
        total: the number of trials.
        pruner: one of `PRUNERS`.
        folder: the folder with all its files.
        goal: what trials are compared by.
    """

    base: ConfigDict
    draws: Draws
    total: int
    pruner: str
    folder: RunFolder
    goal: Goal


def begin(
    base: ConfigDict,
    axes: Sequence[Axis],
    count: int | None,
    seed: int,
    workdir: str | None,
    *,
    sampler: str | None = None,
    pruner: str = "none",
) -> Search:
    """Begins a search, or finds the one already begun.

    Args:
        base: the config, except for the fields searched over.
        axes: the fields and their possible values.
        count: the number of draws; None: all points of a grid.
        seed: the seed of the draws.
        workdir: the search's folder.
        sampler: one of `SAMPLERS`; None: `grid` without a count, `random` with one.
        pruner: one of `PRUNERS`.

    Raises:
        UserError: the fields, their values, the data or the folder cannot be used; nothing was run.
    """
    sampler = sampler or ("grid" if count is None else "random")
    _check(axes, count, seed, sampler, workdir)
    draws = Draws(tuple(axis.checked() for axis in axes), sampler, seed)
    total = draws.points if count is None else count
    configs = [changed(base, fields) for fields in draws.foreseen(total)]
    for config in configs:
        settings.check(config)
    over = {
        "config": base.to_dict(),
        "over": [dataclasses.asdict(axis) for axis in draws.axes],
        "sampler": sampler,
        "sweep_seed": seed,
        "pruner": pruner,
    }
    folder = _open(files.local(str(workdir)), over)
    _, task = building.load_data(configs[0])
    goal = Goal(task.metric, task.higher_is_better)
    return Search(base, draws, total, pruner, folder, goal)


def run(*args, **kwargs) -> dict:
    """Runs the remaining trials and reports on all; takes the arguments of `begin`.

    Returns:
        The contents of `sweep.json`.

    Raises:
        Diverged: every trial diverged; the reports are written.
        UserError: the fields, their values, the data or the folder cannot be used.
    """
    started = begin(*args, **kwargs)
    base, path = started.base, started.folder.path
    study = Study(path, started.draws, started.total, started.goal, started.pruner)
    while trial := study.next():
        with trial.lease:
            print(f"trial {trial.number}: {search.show_fields(trial.fields)}", flush=True)
            config, folder = changed(base, trial.fields), path / f"trial-{trial.number:04}"
            print(f"  {running.run(trial, config, started.goal, folder)}", flush=True)
    return _report(started, study.rows())


def submit(
    *args, command: Sequence[str], cluster: str, count: int, options: str = "", **kwargs
) -> list:
    """Starts workers with submitit; takes the arguments of `begin`.

    Args:
        command: the words of a worker's command.
        cluster: where to start them.
        count: the number of workers.
        options: submitit's options.

    Returns:
        The jobs, as submitit objects.

    Raises:
        UserError: as for `begin`, or the workers cannot be started.
    """
    started = begin(*args, **kwargs)
    try:
        found = parse_options(options, "submitit")
    except ValueError as error:
        raise UserError(f"--submitit_options: {error}") from error
    path = started.folder.path / "workers"
    jobs = workers.submit(path, command, count, cluster, found)
    numbers = ", ".join(job.job_id for job in jobs)
    print(f"{count} worker(s) started, jobs {numbers}; their logs are in {path}", flush=True)
    return jobs


def changed(base: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
    """The config of a trial, unchecked."""
    config = ConfigDict(base.to_dict())
    with config.ignore_type():  # `settings` checks types, and names the field.
        config.update_from_flattened_dict(dict(fields))
    return config


def _check(
    axes: Sequence[Axis], count: int | None, seed: int, sampler: str, workdir: str | None
) -> None:
    """Raises a UserError if nothing can be searched."""
    if processes.count() > 1:
        raise UserError(
            "a worker of a sweep is one process: start it without --coordinator or --distributed."
        )
    if not axes:
        raise UserError("there is nothing to search over: name fields with --over.")
    if len({axis.field for axis in axes}) < len(axes):
        raise UserError("a field is in more than one --over; give all its values in one.")
    for axis in axes:
        if axis.field in _DECIDES:
            raise UserError(
                f"--over={axis.field}: trials are compared by the metric that decides in their "
                f"task, so all must have the same one; set --config.{axis.field} instead."
            )
        if sampler == "grid" and axis.scale:
            raise UserError(
                f"a grid has no values for the range of {axis.field}: name values, or ask for "
                "draws with --trials."
            )
    if count is not None and count < 1:
        raise UserError(f"--trials={count} must be at least 1.")
    if sampler == "grid" and count is not None:
        raise UserError(
            f"--trials={count} is for draws, but --sampler=grid tries all values: omit one of them."
        )
    if sampler != "grid" and count is None:
        raise UserError(f"--sampler={sampler} draws trials: say how many with --trials.")
    if sampler == "grid" and seed:
        raise UserError(f"--sweep_seed={seed} is for draws: ask for them with --trials.")
    if not workdir:
        raise UserError("--workdir is missing: the folder that all workers share.")


def _open(path: pathlib.Path, over: dict) -> RunFolder:
    """The sweep's folder, if it is new, empty, or of the same search."""
    folder, name = RunFolder(path), "search.json"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={path} cannot be used: {error}") from error
    with locked(path):
        if all(file.name.startswith(".") for file in path.iterdir()):
            folder.write_json(name, over)
        elif not (path / name).exists():
            raise UserError(f"--workdir={path} is not empty and not a sweep's folder.")
        found, expected = folder.read_json(name), json.loads(json.dumps(over))
    for one in (found, expected):
        if isinstance(one.get("config"), dict):
            one["config"] = settings.complete(dict(settings.flatten(one["config"])))
    if found != expected:
        differing = ", ".join(sorted(key for key in expected if found.get(key) != expected[key]))
        raise UserError(
            f"--workdir={path} has another search in it: not the same {differing}. Name a new "
            "folder."
        )
    return folder


def _report(started: Search, rows: list[dict]) -> dict:
    """Writes and prints all trials, best first, and what fewer of them would have found."""
    folder, goal, draws = started.folder, started.goal, started.draws
    is_known = draws.sampler == "random" and started.pruner == "none"
    expected = search.expected_best(rows, goal) if is_known else None
    rows = search.ranked(rows, goal)
    best = changed(started.base, rows[0]["fields"]) if search.is_complete(rows[0]) else None
    content = folder.read_json("search.json") | {
        "metric": goal.metric,
        "higher_is_better": goal.higher_is_better,
        "seeds_a_trial": started.base.train.seeds,
        "trials": rows,
        f"expected_best_{goal.field}": expected,
        "command": best and shlex.join(["python", "main.py", *command.words(best)]),
    }
    table = search.markdown(started.base.name, content, goal)
    folder.write_json("sweep.json", content)
    folder.write("sweep.md", table)
    folder.write("sweep.png", pictures.png(search.draw(content, goal)))
    print(f"\n{table}\nfolder: {folder.path}", flush=True)
    if best is None:
        raise Diverged(
            f"{search.why_none(rows)}, so none is recommended; {folder.path} has their logs. "
            "Search in lower learning rates, or with config.train.clip_norm=1."
        )
    return content


def _main(config: ConfigDict, workdir: str | None) -> None:
    axes = [Axis.parse(text) for text in _OVER.value]
    asked = (config, axes, _TRIALS.value, _SEED.value, workdir)
    how = {"sampler": _SAMPLER.value, "pruner": _PRUNER.value}
    if _SUBMITIT.value == "none":
        if _WORKERS.value > 1 or (_SUBMITIT_OPTIONS.value and not _SUBMITIT.present):
            raise UserError(
                "--workers and --submitit_options are for --submitit=local or slurm; without it, "
                "start the same command as often as you want workers."
            )
        run(*asked, **how)
        return
    words = [sys.executable, "-m", "train_lib.sweep", *sys.argv[1:]]
    submit(
        *asked,
        **how,
        command=[*words, "--submitit=none", "--workers=1"],
        cluster=_SUBMITIT.value,
        count=_WORKERS.value,
        options=_SUBMITIT_OPTIONS.value,
    )


if __name__ == "__main__":
    command.run(_main)
