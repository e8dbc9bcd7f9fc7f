"""Searches over config fields, by validation alone; the test examples are not looked at.

python -m train_lib.sweep --config=configs/lstm.py --workdir=runs/sweep \
    --over=train.learning_rate=1e-3,3e-3,1e-2 --over=model.pooling=last,mean
python -m train_lib.sweep --config=configs/lstm.py --workdir=runs/sweep --trials=20 \
    --over=train.learning_rate=log:1e-4:1e-1 --over=model.hidden_sizes=(16,),(32,)

Without `--trials` it is the grid of all values; with it, so many random draws, of whole numbers
where the field is one, as in `--over=train.batch_size=log:16:256`. Trials are compared by the
metric that decides in their task. The same command goes on where it was interrupted, and with more
`--trials` it adds to those there are. Every trial is a run folder of its own in `--workdir`, beside
`sweep.md`, `sweep.json` and `sweep.png`.
"""

import contextlib
import dataclasses
import json
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from train_lib import building, command, files, settings
from train_lib import run as train
from train_lib.analysis import pictures, search
from train_lib.analysis.axes import Axis, trials
from train_lib.analysis.search import Goal
from train_lib.errors import Diverged, UserError
from train_lib.records.folder import RunFolder
from train_lib.records.result import diverged_seeds
from train_lib.training import processes

flags.adopt_module_key_flags(command)
_OVER = flags.DEFINE_multi_string(
    "over", [], "A field and its values, as in train.learning_rate=1e-3,1e-2, or, for random "
    "draws, the range of a number: log:1e-4:1e-1 or uniform:0:0.5; of a field that is a whole "
    "number, whole ones are drawn."
)  # fmt: skip
_TRIALS = flags.DEFINE_integer("trials", None, "Random draws; by default the grid of all values.")
_SEED = flags.DEFINE_integer("sweep_seed", 0, "Of the random draws.")

_DECIDES = ("task.name", "task.options", "task.metric")
"""Fields of which two values make trials that cannot be compared."""


def configs(base: ConfigDict, changes: Sequence[dict[str, Any]]) -> list[ConfigDict]:
    """The config of each trial.

    Raises:
        UserError: one of them cannot be used; nothing was run.
    """
    result = []
    for change in changes:
        config = ConfigDict(base.to_dict())
        with config.ignore_type():  # What it must be is said by `settings`, with its name.
            config.update_from_flattened_dict(change)
        settings.check(config)
        result.append(config)
    return result


def run(
    base: ConfigDict, axes: Sequence[Axis], count: int | None, seed: int, workdir: str | None
) -> dict:
    """Runs what has not been run yet, and reports on all trials.

    Returns:
        What `sweep.json` holds.

    Raises:
        Diverged: every trial did; the reports are written.
        UserError: the fields, their values, the data or the folder cannot be used.
    """
    _check(axes, count, seed, workdir)
    changes = list(trials([axis.checked() for axis in axes], count, seed))
    all_configs = configs(base, changes)
    over = {
        "config": base.to_dict(),
        "over": [dataclasses.asdict(axis) for axis in axes],
        "random_seed": None if count is None else seed,
    }
    folder = _open(files.local(str(workdir)), over)
    _, task = building.load_data(all_configs[0])
    goal = Goal(task.metric, task.higher_is_better)
    rows = []
    for number, (change, config) in enumerate(zip(changes, all_configs, strict=True), 1):
        print(f"trial {number}/{len(changes)}: {search.show_fields(change)}", flush=True)
        row = _run_trial(config, goal, folder.path / f"trial-{number:04}")
        rows.append({"trial": number, "fields": change} | row)
        print(f"  {goal.name} {search.show_value(row, goal)}", flush=True)
    return _report(folder, over, rows, all_configs, goal)


def _check(axes: Sequence[Axis], count: int | None, seed: int, workdir: str | None) -> None:
    """Raises a UserError where there is nothing that can be searched."""
    if processes.count() > 1:
        raise UserError(
            "a sweep runs in one process: start it without --coordinator or --distributed."
        )
    if not axes:
        raise UserError("there is nothing to search over: name fields with --over.")
    if len({axis.field for axis in axes}) < len(axes):
        raise UserError("a field stands in more than one --over; give all its values in one.")
    for axis in axes:
        if axis.field in _DECIDES:
            raise UserError(
                f"--over={axis.field}: trials are compared by the metric that decides in their "
                f"task, so all must have the same one; set --config.{axis.field} instead."
            )
    if count is not None and count < 1:
        raise UserError(f"--trials={count} must be at least 1.")
    if count is None and seed:
        raise UserError(f"--sweep_seed={seed} is of random draws: ask for them with --trials.")
    if not workdir:
        raise UserError("--workdir is missing: the folder that the same command goes on in.")


def _open(path: pathlib.Path, over: dict) -> RunFolder:
    """The sweep's folder, if it is new, empty, or of the same search."""
    folder, name = RunFolder(path), "search.json"
    try:
        path.mkdir(parents=True, exist_ok=True)
        is_empty = all(file.name.startswith(".") for file in path.iterdir())
    except OSError as error:
        raise UserError(f"--workdir={path} cannot be used: {error}") from error
    if is_empty:
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


def _run_trial(config: ConfigDict, goal: Goal, path: pathlib.Path) -> dict[str, Any]:
    """What came of a trial, now or before; what the run printed is in a file beside its folder."""
    with contextlib.ExitStack() as stack:
        try:
            log = stack.enter_context(open(path.with_suffix(".log"), "a", encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path.with_suffix('.log')} cannot be written: {error}") from error
        stack.enter_context(contextlib.redirect_stdout(log))
        try:
            result = train.run(config, str(path), evaluate_test=False)
        except Diverged as error:
            print(error, file=log)
            guess = _guess(config, goal)
            return {goal.field: guess, "ci95": None, "seeds_diverged": config.train.seeds}
        if goal.field not in result:
            raise UserError(
                f"{path}: {goal.name} is not a number, so this trial cannot be compared. See "
                f"{path / 'metrics.jsonl'}, or choose another config.task.metric."
            )
        found, lost = result[goal.field], len(diverged_seeds(result))
        row: dict[str, Any] = {
            goal.field: found["mean"],
            "ci95": [found["ci95_low"], found["ci95_high"]] if "ci95_low" in found else None,
            "seeds_diverged": lost,
        }
        if lost:
            share, guess = lost / config.train.seeds, _guess(config, goal)
            row |= {
                goal.field: share * guess + (1 - share) * found["mean"],
                "ci95": None,
                "a_seed_that_diverged_counts_as": guess,
            }
    return {
        "validation_loss": result["validation_loss"]["mean"],
        **row,
        "parameters": result["model"]["parameters"],
        "seconds": result["seconds"]["total"],
    }


def _guess(config: ConfigDict, goal: Goal) -> float:
    """What a seed that diverged is worth: the best guess that is the same for all examples.

    It is made by the training examples and measured on the validation examples.
    """
    data, task = building.load_data(config)
    guess = task.measure(task.guess(data.train.targets), data.validation.targets)[goal.metric]
    return guess


def _report(
    folder: RunFolder,
    over: dict[str, Any],
    rows: list[dict],
    all_configs: Sequence[ConfigDict],
    goal: Goal,
) -> dict:
    """Writes and prints all trials, best first, and what fewer of them would have found."""
    expected = search.expected_best(rows, goal)
    rows = search.ranked(rows, goal)
    best = all_configs[rows[0]["trial"] - 1] if search.is_evaluated(rows[0]) else None
    content = over | {
        "metric": goal.metric,
        "higher_is_better": goal.higher_is_better,
        "seeds_a_trial": over["config"]["train"]["seeds"],
        "trials": rows,
        f"expected_best_{goal.field}": expected,
        "command": best and shlex.join(["python", "main.py", *command.words(best)]),
    }
    table = search.markdown(over["config"]["name"], content, goal)
    folder.write_json("sweep.json", content)
    folder.write("sweep.md", table)
    folder.write("sweep.png", pictures.png(search.draw(content, goal)))
    print(f"\n{table}\nfolder: {folder.path}", flush=True)
    if best is None:
        raise Diverged(
            f"every trial diverged, so none is recommended; {folder.path} has their logs. Search "
            "in lower learning rates, or with config.train.clip_norm=1."
        )
    return content


if __name__ == "__main__":
    command.run(
        lambda config, workdir: run(
            config, [Axis.parse(text) for text in _OVER.value], _TRIALS.value, _SEED.value, workdir
        )
    )  # fmt: skip
