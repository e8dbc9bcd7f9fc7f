"""Finished runs, read back."""

import csv
import dataclasses
import io
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from train_lib.errors import UserError
from train_lib.records import description, predictions
from train_lib.records.folder import RunFolder
from train_lib.tasks.classes import Classes

_OLD_NAMES = ["negative", "positive"]  # The classes of older versions.


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run of K seeds, and how it answered N test examples.

    Attributes:
        name: the folder's name, or its path if two have the same name.
        folder: its path.
        config: every field, as in `{"model.cell": "lstm"}`.
        result: the contents of `result.json`.
        epochs: the lines of `metrics.jsonl`; none if it is not trained by epochs.
        seeds: their numbers, ascending.
        steps_N: lengths of the examples.
        weights_N: the number of items that each example's score averages.
        targets: the target of each example, as in `predictions.csv`.
        scores_KxN: how well each seed answered each example.
        figures_K: figures of each seed, by their names.
        probabilities_KxN: if there are two classes, those of the second; else None.
    """

    name: str
    folder: pathlib.Path
    config: dict[str, Any]
    result: dict[str, Any]
    epochs: list[dict[str, Any]]
    seeds: list[int]
    steps_N: np.ndarray
    weights_N: np.ndarray
    targets: list[str]
    scores_KxN: np.ndarray
    figures_K: list[dict[str, Any]]
    probabilities_KxN: np.ndarray | None

    def mean_scores(self) -> np.ndarray:
        """The mean score of each seed over all items: `[K]`."""
        return np.average(self.scores_KxN, axis=1, weights=self.weights_N)

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics of each seed's test."""
        of_seeds = [seed for seed in self.result["seeds"] if "diverged_at_step" not in seed]
        return [name.removeprefix("test_") for name in of_seeds[0] if _is_metric(name)]

    def labelled(self) -> "Run":
        """The run without the test examples that have no label."""
        chosen_N = self.weights_N > 0
        if chosen_N.all():
            return self
        probabilities_KxN = self.probabilities_KxN
        return dataclasses.replace(
            self,
            steps_N=self.steps_N[chosen_N],
            weights_N=self.weights_N[chosen_N],
            targets=[self.targets[number] for number in np.flatnonzero(chosen_N)],
            scores_KxN=self.scores_KxN[:, chosen_N],
            probabilities_KxN=None if probabilities_KxN is None else probabilities_KxN[:, chosen_N],
        )

    @property
    def is_second_N(self) -> np.ndarray:
        """If there are two classes: which examples are of the second."""
        return np.array(self.targets) == self.result.get("task", {}).get("names", _OLD_NAMES)[1]

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score is better."""
        return self.result.get("task", {}).get("higher_score_is_better", True)

    @property
    def are_shares(self) -> bool:
        """Whether scores lie in 0 to 1."""
        return self.result.get("task", {}).get("score_is_share", True)

    @property
    def metric(self) -> str:
        """The deciding metric."""
        return description.metric_of(self.result)

    @property
    def score(self) -> str:
        """The name of the examples' score."""
        return self.result.get("task", {}).get("score", "accuracy")


def load(workdirs: Sequence[str]) -> list[Run]:
    """Reads runs in different folders that were tested on the same examples.

    Raises:
        UserError: one is unfinished or damaged, or they cannot be compared; the message says why.
    """
    folders = [RunFolder.open_finished(workdir) for workdir in workdirs]
    paths = [folder.path.resolve() for folder in folders]
    for workdir, path in zip(workdirs, paths, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"{workdir} is named twice; name each run once.")
    names = [path.name for path in paths]
    runs = [
        _read(folder, name if names.count(name) == 1 else str(folder.path))
        for folder, name in zip(folders, names, strict=True)
    ]
    for run in runs[1:]:
        _check_same_test(runs[0], run)
    return runs


def differing_fields(runs: Sequence[Run]) -> dict[str, list]:
    """The fields of the config that differ between runs, with each run's value."""
    fields = dict.fromkeys(field for run in runs for field in run.config)
    values = {field: [run.config.get(field) for run in runs] for field in fields}
    return {
        field: of_field
        for field, of_field in values.items()
        if of_field.count(of_field[0]) < len(runs)
    }


def _check_same_test(first: Run, other: Run) -> None:
    data, others = first.result["dataset"], other.result["dataset"]
    problems = [
        f"dataset.{field}: {data[field]} / {others[field]}"
        for field in ("name", "fingerprint", "test")
        if data[field] != others[field]
    ]
    if first.score != other.score:
        problems.append(f"scores: {first.score} / {other.score}")
    # A language model with fewer words has an easier task: it reads more of them as unknown.
    tokens, of_other = (
        {name for name, _ in run.result.get("task", {}).get("tokens", [])} for run in (first, other)
    )
    if tokens != of_other:
        problems.append(
            f"tokens to predict: {len(tokens - of_other):,} / {len(of_other - tokens):,} that the "
            "other one does not know"
        )
    if not problems:
        # The numbers of examples are the same.
        differs_N = first.steps_N != other.steps_N
        differs_N |= np.array(first.targets) != np.array(other.targets)
        if not differs_N.any():
            return
        problems = [f"{differs_N.sum():,} examples differ in steps or target"]
    for field, values in differing_fields([first, other]).items():
        if field.startswith(("data.", "task.")):
            problems.append(f"config.{field}: {values[0]} / {values[1]}")
    between = f"{first.name} and {other.name} were not tested on the same examples:"
    advice = "\nTo compare them, train one again with the other's config.data and config.task."
    raise UserError("\n  ".join([between, *problems]) + advice)


def _read(folder: RunFolder, name: str) -> Run:
    result = folder.read_json("result.json")
    if f"test_{description.metric_of(result)}" not in result:
        raise UserError(
            f"{folder.path} has no test result: that run left the test examples unseen."
        )
    seeds = [seed for seed in result["seeds"] if "diverged_at_step" not in seed]
    return Run(
        name, folder.path, folder.read_fields(), result, _read_epochs(folder),
        [seed["seed"] for seed in seeds], *_read_predictions(folder, seeds),
    )  # fmt: skip


def _read_epochs(folder: RunFolder) -> list[dict[str, Any]]:
    where = folder.path / "metrics.jsonl"
    text = where.read_text("utf-8") if where.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def _read_predictions(folder: RunFolder, seeds: Sequence[dict]) -> tuple:
    """Reads a `Run`'s last six attributes."""
    rows = csv.reader(io.StringIO(folder.read_text(predictions.NAME), newline=""))
    header = next(rows)
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    if "score" not in columns:
        return _read_old_predictions(columns, seeds)

    def numbers(column: str) -> np.ndarray:
        return np.array(columns[column], float).reshape(len(seeds), -1)

    steps_N, weights_N = numbers("steps")[0].astype(int), numbers("weight")[0]
    # One column, several for several numbers, or none if the data are only texts.
    targets = [columns[name] for name in header if re.fullmatch(r"target(_.*)?", name)]
    probabilities_KxN = numbers("probability") if "logit" in columns else None
    return (
        steps_N, weights_N, [";".join(one[n] for one in targets) for n in range(len(steps_N))],
        numbers("score"),
        [_figures(seed) for seed in seeds], probabilities_KxN,
    )  # fmt: skip


def _read_old_predictions(columns: Mapping[str, Sequence[str]], seeds: Sequence[dict]) -> tuple:
    """The same for a run of an older version, which always had two classes."""
    tokens_KxN, labels_KxN, logits_KxN = (
        np.array(columns[name], float).reshape(len(seeds), -1)
        for name in ("tokens", "label", "logit")
    )
    task, labels_N = Classes(["0", "1"], _OLD_NAMES), labels_KxN[0]
    kept_K = [{"outputs": logits_N[:, None]} for logits_N in logits_KxN]
    return (
        tokens_KxN[0].astype(int),
        np.ones(len(labels_N)),
        [task.names[int(label)] for label in labels_N],
        np.stack([task.score(kept, labels_N) for kept in kept_K]),
        [
            _figures(seed | {"test_figures": task.figures(kept, labels_N)})
            for seed, kept in zip(seeds, kept_K, strict=True)
        ],
        expit(logits_KxN),
    )


def _figures(seed: dict[str, Any]) -> dict[str, float]:
    """The figures of a seed that are numbers, with those of `macro` as in `macro_f1`."""
    of_test = seed.get("test_figures", {})
    macro = {f"macro_{name}": value for name, value in of_test.get("macro", {}).items()}
    metrics = {name.removeprefix("test_"): seed[name] for name in seed if _is_metric(name)}
    found = {**macro, **of_test, **metrics}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _is_metric(name: str) -> bool:
    """Whether a field of a seed in `result.json` is a metric of its test."""
    return name.startswith("test_") and name != "test_figures"
