"""`result.json`: the results of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train_lib.data.dataset import SPLITS, Dataset, Split
from train_lib.records import environment, metrics
from train_lib.tasks.base import Task
from train_lib.training.program import Evaluation
from train_lib.training.state import Position


def result(
    name: str,
    data: Dataset,
    task: Task,
    tasks_K: Sequence[Task],
    model: Mapping[str, Any],
    seeds: Sequence[dict[str, Any]],
    evaluations: Mapping[str, Evaluation],
    seconds: Mapping[str, float],
) -> dict:
    """The contents of `result.json`.

    Args:
        name: the experiment's name.
        data: the data it was trained and tested on.
        task: its task.
        tasks_K: the same, with what validation decided for each seed that has not diverged.
        model: its `architecture`, number of `parameters`, and anything else to report.
        seeds: each one's number, and what else is known of it; or the step at which it diverged.
        evaluations: one for each evaluated split, with the seeds that have not diverged.
        seconds: how long each phase took.
    """
    alive = [seed for seed in seeds if "diverged_at_step" not in seed]
    kept_K = each_seed(evaluations["test"].kept) if "test" in evaluations else []
    for number, (seed, decided) in enumerate(zip(alive, tasks_K, strict=True)):
        for split, evaluation in evaluations.items():
            seed |= {f"{split}_{key}": float(of[number]) for key, of in evaluation.metrics.items()}
        if kept_K:
            seed["test_figures"] = decided.figures(kept_K[number], *items_of(data.test))
        if decided is not task:
            seed["task"] = decided.to_json()
    return {
        "config": name,
        "dataset": describe_data(data),
        "task": {
            **task.to_json(),
            "metric": task.metric,
            "higher_is_better": task.higher_is_better,
            "score": task.score_name,
            "higher_score_is_better": task.higher_score_is_better,
            "score_is_share": task.score_is_share,
            "score_unit": task.score_unit,
        },
        "model": dict(model),
        "seeds": list(seeds),
        **{
            f"{split}_{key}": of
            for split, evaluation in evaluations.items()
            for key, of in _summaries(evaluation, getattr(data, split), task, tasks_K).items()
        },
        **_beside(data, task, tasks_K, evaluations),
        "seconds": dict(seconds),
        "device": environment.describe_device(),
        "versions": environment.versions(),
    }


def _summaries(
    evaluation: Evaluation, split: Split, task: Task, tasks_K: Sequence[Task]
) -> dict[str, dict]:
    """The summary of each metric over seeds.

    If a metric is the mean of the examples' scores, its interval is over examples too.
    """
    found = metrics.summaries(evaluation.metrics, evaluation.items, task)
    counts_items = task.metric in task.share_metrics and not task.per_step
    if counts_items or task.metric != task.score_name or task.metric not in found:
        return found
    kept_K, items = each_seed(evaluation.kept), items_of(split)
    scored = [one.example_scores(kept, *items) for one, kept in zip(tasks_K, kept_K, strict=True)]
    of_scores = metrics.summary_of_scores(
        np.stack([of_seed for of_seed, _ in scored]), scored[0][1], are_shares=task.score_is_share
    )
    found[task.metric] = of_scores | {
        "mean": found[task.metric]["mean"],
        "interval": metrics.describe_interval(len(kept_K), counts_items=True),
    }
    return found


def describe_data(data: Dataset) -> dict[str, Any]:
    """The data set in figures."""
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "test_examples_repeated": data.repeated,
        **{split: len(getattr(data, split)) for split in SPLITS},
        "examples_are": examples_are(data.test),
        "longest_steps": {
            split: int(getattr(data, split).lengths.max(initial=0)) for split in SPLITS
        },
    }


def examples_are(split: Split) -> str:
    """The name of a split's examples: those of a stream are its blocks."""
    return "blocks" if split.unit == "block" else "examples"


def _beside(
    data: Dataset, task: Task, tasks_K: Sequence[Task], evaluations: Mapping[str, Evaluation]
) -> dict[str, Any]:
    """What a trivial guess scores on the test examples, and the average of all seeds' answers."""
    if "test" not in evaluations:
        return {}
    beside = {"guess": task.measure(task.guess(data.train.targets), data.test.targets)}
    kept_K = each_seed(evaluations["test"].kept)
    if len(kept_K) > 1:
        together = tasks_K[0]
        if "validation" in evaluations:
            in_validation = task.average(each_seed(evaluations["validation"].kept))
            together = task.decided(in_validation, data.validation.targets)
        kept, items = task.average(kept_K), items_of(data.test)
        scores_N, weights_N = together.example_scores(kept, *items)
        beside["seeds_together"] = {
            task.score_name: float(np.average(scores_N, weights=weights_N)),
            **together.figures(kept, *items),
        }
        if together is not task:
            beside["task_of_seeds_together"] = together.to_json()
    return beside


def decide(
    task: Task,
    data: Dataset,
    evaluations: Mapping[str, Evaluation],
    tasks_K: Sequence[Task] | None = None,
) -> tuple[Sequence[Task], dict[str, Evaluation]]:
    """The task of each seed, with what validation decides, and the evaluations that follow from it.

    Args:
        task: the run's task.
        data: its data.
        evaluations: one for each evaluated split, validation among them.
        tasks_K: what was decided before; None: decide now.
    """
    if tasks_K is None:
        validation = evaluations["validation"].kept
        tasks_K = [task.decided(kept, data.validation.targets) for kept in each_seed(validation)]
    return tasks_K, {
        split: _decided(one, task, tasks_K, getattr(data, split))
        for split, one in evaluations.items()
    }


def _decided(
    evaluation: Evaluation, task: Task, tasks_K: Sequence[Task], split: Split
) -> Evaluation:
    """An evaluation, with what validation decided for each seed's task."""
    if all(one is task for one in tasks_K):
        return evaluation
    measured = [
        one.measure(kept["outputs"], split.targets)
        for one, kept in zip(tasks_K, each_seed(evaluation.kept), strict=True)
    ]
    by_name = {name: np.array([one[name] for one in measured]) for name in measured[0]}
    return evaluation._replace(metrics=by_name)


def items_of(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The targets of the items, and where each example's steps begin, as tasks expect them."""
    return split.targets, split.offsets


def seeds_of(seeds: Sequence[int], position: Position, metric: str) -> list[dict[str, Any]]:
    """What is known of each seed after its training."""
    rows = []
    for number, seed in enumerate(seeds):
        row: dict[str, Any] = {"seed": seed}
        if seed in position.diverged:
            row["diverged_at_step"] = position.diverged[seed]
        elif position.best_epoch[number]:
            row[f"best_validation_{metric}"] = position.best_value[number]
            row["best_epoch"] = position.best_epoch[number]
        rows.append(row)
    return rows


def each_seed(kept: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What was kept, seed by seed."""
    count = len(next(iter(kept.values())))
    return [{name: of_seeds[number] for name, of_seeds in kept.items()} for number in range(count)]


def diverged_seeds(result: Mapping[str, Any]) -> list[int]:
    """The seeds for which a finished run has no figures."""
    return [seed["seed"] for seed in result["seeds"] if "diverged_at_step" in seed]
