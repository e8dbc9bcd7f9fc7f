"""Finished runs, read back."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from train_lib.errors import UserError
from train_lib.report import PREDICTION_COLUMNS, RunFolder


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run of K seeds, and what each of them said of N test reviews.

    Attributes:
        name: the folder's, or where two have the same the path, for people.
        folder: where it is.
        config: every field, as in `{"model.cell": "lstm"}`.
        result: what `result.json` holds.
        epochs: what the lines of `metrics.jsonl` hold; none of what is not trained by epochs.
        seeds: their numbers, ascending.
        tokens_N, labels_N: lengths of the reviews, and classes: 0 negative, 1 positive.
        logits_KxN: above 0 where a review was said to be positive.
    """

    name: str
    folder: pathlib.Path
    config: dict[str, Any]
    result: dict[str, Any]
    epochs: list[dict[str, Any]]
    seeds: list[int]
    tokens_N: np.ndarray
    labels_N: np.ndarray
    logits_KxN: np.ndarray

    @property
    def correct_KxN(self) -> np.ndarray:
        return (self.logits_KxN > 0) == (self.labels_N > 0)

    @property
    def probabilities_KxN(self) -> np.ndarray:
        return expit(self.logits_KxN)


def load(workdirs: Sequence[str]) -> list[Run]:
    """Reads runs in different folders that were tested on the same reviews.

    Raises:
        UserError: one is not finished, or damaged, or they cannot be compared; it says why.
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
    """The fields of the config that are not the same in all runs, with each run's value."""
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
    if not problems:
        differs_N = (first.tokens_N != other.tokens_N) | (first.labels_N != other.labels_N)
        if not differs_N.any():
            return
        problems = [f"{differs_N.sum():,} reviews have other tokens or another label"]
    for field, values in differing_fields([first, other]).items():
        if field.startswith("data."):
            problems.append(f"config.{field}: {values[0]} / {values[1]}")
    between = f"{first.name} and {other.name} were not tested on the same reviews:"
    advice = "\nTo compare them, train one again with the other's config.data."
    raise UserError("\n  ".join([between, *problems]) + advice)


def _read(folder: RunFolder, name: str) -> Run:
    result = folder.read_json("result.json")
    if "test_accuracy" not in result:
        raise UserError(
            f"{folder.path} has no test accuracy: that run left the test reviews unseen."
        )
    seeds = [seed["seed"] for seed in result["seeds"] if "diverged_at_step" not in seed]
    return Run(
        name, folder.path, folder.read_fields(), result,
        _read_epochs(folder), seeds, *_read_predictions(folder, len(seeds)),
    )  # fmt: skip


def _read_epochs(folder: RunFolder) -> list[dict[str, Any]]:
    where = folder.path / "metrics.jsonl"
    text = where.read_text("utf-8") if where.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def _read_predictions(folder: RunFolder, seeds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens `[N]`, labels `[N]` and logits `[K, N]`."""
    columns = [PREDICTION_COLUMNS.index(name) for name in ("tokens", "label", "logit")]
    rows = np.loadtxt(folder.path / "predictions.csv", delimiter=",", skiprows=1, usecols=columns)
    tokens_KxN, labels_KxN, logits_KxN = rows.T.reshape(len(columns), seeds, -1)
    return tokens_KxN[0].astype(int), labels_KxN[0].astype(int), logits_KxN
