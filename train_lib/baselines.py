"""Classical baselines on an experiment's data: what a recurrent model has to beat.

python -m train_lib.baselines [--config=configs/lstm.py] [--workdir=runs/baselines] [--full]

Each is trained, validated and tested on the same examples and task as `main.py` with the same
config, and leaves the folder of a finished run. Options are chosen on the validation examples.
`--full` then trains on these too, as was done for the published figures.
"""

import contextlib
from collections.abc import Sequence
from importlib import metadata

import jax
from absl import flags
from ml_collections import ConfigDict

from train_lib import command, settings
from train_lib.analysis import baselines
from train_lib.analysis.baselines import Baseline
from train_lib.analysis.ngrams import MAX_FEATURES
from train_lib.building import load_data, seeds_asked
from train_lib.data.dataset import Dataset
from train_lib.data.inputs import Text
from train_lib.data.sources.imdb import Imdb
from train_lib.records import description, predictions, report
from train_lib.records.folder import RunFolder
from train_lib.records.metrics import plain, show_interval
from train_lib.records.result import decide, each_seed, result
from train_lib.tasks.base import Task
from train_lib.training.stopwatch import Stopwatch

Data = tuple[Dataset, Task]


def run(config: ConfigDict, workdir: str | None = None, *, full: bool = False) -> list[dict]:
    """Chooses, trains and tests all baselines of a task, and prints them as a table.

    Args:
        config: as `configs/base.py` describes it; only its data, task and seeds are used.
        workdir: the folder in which each baseline gets a run folder; None: `runs/`. Finished runs
            are left as they are.
        full: train on the validation examples too, once the options are chosen.

    Returns:
        The contents of each baseline's `result.json`.

    Raises:
        UserError: the config, the data or a folder cannot be used, or the task has no baseline;
            nothing was overwritten.
    """
    settings.check(config)
    to_choose = load_data(config)
    everyone = baselines.baselines(to_choose[0].inputs, to_choose[1], config.data.max_features)
    if isinstance(to_choose[0].inputs, Text):  # Keeps all words.
        config = ConfigDict(config.to_dict())
        config.data.max_features = MAX_FEATURES
        to_choose = load_data(config)
    configs = [_describe(baseline, config, full) for baseline in everyone]
    with contextlib.ExitStack() as stack:
        folders = [
            RunFolder.open(workdir and f"{workdir}/{described.name}", described)
            for described in configs
        ]
        for folder in folders:
            stack.callback(folder.close)
        to_train = load_data(config, joined=True) if full else to_choose
        print(report.describe_data(to_train[0]), report.describe_task(to_train[1]), sep="\n")
        results = []
        for baseline, described, folder in zip(everyone, configs, folders, strict=True):
            print(f"{described.name}: {folder.path}", flush=True)
            if not folder.is_finished():
                _run(baseline, described, to_choose, to_train, folder)
            results.append(folder.read_json("result.json"))
    print(f"\n{_table(everyone, results)}", flush=True)
    return results


def _describe(baseline: Baseline, config: ConfigDict, full: bool) -> ConfigDict:
    """The config of one baseline."""
    data = config.data.to_dict()
    if baseline.max_features is not None:
        data["max_features"] = baseline.max_features
    return ConfigDict(
        {
            "name": baseline.name,
            "model": baseline.architecture | {"trained_on_validation_too": full},
            "data": data,
            "task": config.task.to_dict(),
            "train": {
                "seeds": config.train.seeds if baseline.is_random else 1,
                "seed": config.train.seed,
            },
        }
    )


def _run(
    baseline: Baseline, config: ConfigDict, to_choose: Data, to_train: Data, folder: RunFolder
) -> None:
    """Chooses a baseline's options on one data set, and trains and tests it on another."""
    stopwatch, seeds = Stopwatch(), seeds_asked(config)
    folder.begin(config)
    data, task = to_choose
    with stopwatch.phase("data"):
        of_splits = baseline.read(data)
    with stopwatch.phase("train"):
        search = baselines.search(baseline, data, task, of_splits, seeds[0])
        options, _ = baselines.chosen(search, task)
    before_K = None
    if to_train is not to_choose:
        with stopwatch.phase("train"):  # Validation decides before it is trained on.
            models = baselines.train(baseline, data, task, of_splits, options, seeds[:1])
        before = _evaluate(models, to_choose, of_splits)["validation"]
        decides = task.decided(each_seed(before.kept)[0], data.validation.targets)
        is_decided = decides is not task
        data, task = to_train
        before_K = [decides if is_decided else task] * len(seeds)
        with stopwatch.phase("data"):
            of_splits = baseline.read(data)
    with stopwatch.phase("train"):
        models = baselines.train(baseline, data, task, of_splits, options, seeds)
    with stopwatch.phase("evaluate"):
        evaluations = _evaluate(models, (data, task), of_splits)
        tasks_K, evaluations = decide(task, data, evaluations, before_K)
    kept_K = each_seed(evaluations["test"].kept)
    predictions.write(folder, seeds, data.test, tasks_K, kept_K)
    description.write_pictures(folder, data.test, tasks_K, kept_K)
    model = {
        "architecture": config.model.to_dict() | options,
        "parameters": models[0].parameters,
    }
    found = result(
        config.name, data, task, tasks_K, model, [{"seed": seed} for seed in seeds], evaluations,
        stopwatch.report(),
    )  # fmt: skip
    found["versions"]["scikit-learn"] = metadata.version("scikit-learn")
    found["search"] = [one | {f"validation_{task.metric}": value} for one, value in search]
    folder.finish(found)


def _evaluate(models: Sequence, data_and_task: Data, of_splits: dict) -> dict:
    """Evaluates models on the validation and test splits, if they have examples."""
    data, task = data_and_task
    return {
        split: baselines.evaluate(models, task, of_splits[split], getattr(data, split).targets)
        for split in ("validation", "test")
        if len(getattr(data, split))
    }


def _table(everyone: Sequence[Baseline], results: Sequence[dict]) -> str:
    """Formats all baselines, with the published figures if they are for the same examples."""
    data, metric = results[0]["dataset"], results[0]["task"]["metric"]
    sign = 1 if results[0]["task"]["higher_is_better"] else -1
    head = ["baseline", "options", "parameters", f"validation {plain(metric)}"]
    rows = [[*head, "test [95 %]", "seconds", ""]]
    if data["name"] == Imdb.name:
        rows[0][-1] = "published, of 25,000"
    for baseline, found in zip(everyone, results, strict=True):
        options = found["model"]["architecture"]
        values = [one[f"validation_{metric}"] for one in found["search"]]
        best = sign * max(sign * value for value in values if value is not None)
        rows.append(
            [
                baseline.name,
                ", ".join(f"{name} {options[name]}" for name in baseline.grid[0]),
                f"{found['model']['parameters']:,}",
                f"{best:.4f}",
                show_interval(found[f"test_{metric}"]),
                f"{found['seconds']['total']:.0f}",
                baseline.published if rows[0][-1] else "",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    if guess := results[0].get("guess"):
        lines.append(f"a constant guess: {plain(metric)} {guess[metric]:.4f}")
    title = f"{data['name']}, trained on {data['train']:,} examples, tested on {data['test']:,}"
    return "\n".join([title, "", *lines])


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    _FULL = flags.DEFINE_bool(
        "full", False, "Train on the validation examples too, once the options are chosen."
    )
    flags.FLAGS.set_default("config", "configs/lstm.py")
    jax.config.update("jax_platforms", "cpu")  # As scikit-learn does.
    command.run(lambda config, workdir: run(config, workdir, full=_FULL.value))
