"""Finished runs, read back: checked before they are believed."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from train_lib import settings
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
        UserError: one is not finished or damaged, or they cannot be compared; it says why.
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
    config, result = (_read_object(folder, file) for file in ("config.json", "result.json"))
    where = folder.path / "result.json"
    if "test_accuracy" not in result:
        raise UserError(f"{where} has no test accuracy: that run left the test reviews unseen.")
    for field, kind in (
        ("dataset.name", str), ("dataset.fingerprint", str), ("dataset.test", int),
        ("model.parameters", int), ("seconds.train", float), ("device", str), ("seeds", list),
    ):  # fmt: skip
        _field(result, field, kind, where)
    accuracies = {
        _field(of_seed, "seed", int, where): _field(of_seed, "test_accuracy", float, where)
        for of_seed in result["seeds"]
        if not (isinstance(of_seed, dict) and "diverged_at_step" in of_seed)
    }
    reviews = result["dataset"]["test"]
    if not accuracies or reviews < 2:
        raise UserError(f"{where} is damaged: it needs a seed and two test reviews at least.")

    seeds = sorted(accuracies)
    run = Run(
        name, folder.path, dict(settings.flatten(config)), result, _read_epochs(folder), seeds,
        *_read_predictions(folder, seeds, reviews),
    )  # fmt: skip
    for seed, accuracy in zip(seeds, run.correct_KxN.mean(1), strict=True):
        if abs(accuracy - accuracies[seed]) > 0.5 / reviews:
            raise UserError(
                f"{folder.path} is damaged: the test accuracy of seed {seed} is "
                f"{accuracies[seed]:.5f} in result.json and {accuracy:.5f} in predictions.csv."
            )
    return run


def _read_epochs(folder: RunFolder) -> list[dict[str, Any]]:
    where = folder.path / "metrics.jsonl"
    if not where.exists():
        return []
    try:
        epochs = [json.loads(line) for line in folder.read_text(where.name).splitlines()]
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{where} is damaged: {error}") from error
    for epoch in epochs:
        for field in ("validation_accuracy", "seconds"):
            _field(epoch, field, float, where)
    return epochs


def _read_object(folder: RunFolder, name: str) -> dict[str, Any]:
    content = folder.read_json(name)
    if not isinstance(content, dict):
        raise UserError(f"{folder.path / name} is damaged: it is not a JSON object.")
    return content


def _field(content: Any, name: str, kind: type, where: pathlib.Path) -> Any:
    """What stands under a path such as `dataset.name`, if it is of that kind."""
    value = content
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    is_kind = isinstance(value, (int, float) if kind is float else kind)
    if not is_kind or isinstance(value, bool) or (kind is float and not math.isfinite(value)):
        found = "is missing" if value is None else f"= {value!r} is not of type {kind.__name__}"
        raise UserError(f"{where} is damaged, or of another version: {name} {found}.")
    return value


def _read_predictions(
    folder: RunFolder, seeds: Sequence[int], reviews: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens `[N]`, labels `[N]` and logits `[K, N]`; the rows of the file may have any order."""
    try:
        rows = _parse(folder.read_text("predictions.csv"), len(seeds) * reviews)
        tokens_KxN, labels_KxN, logits_KxN = _arrange(rows, seeds, reviews)
    except ValueError as error:  # NumPy's among them.
        problem = str(error).rstrip(".")
        raise UserError(f"{folder.path / 'predictions.csv'} is damaged: {problem}.") from error
    return tokens_KxN[0].astype(int), labels_KxN[0].astype(int), logits_KxN


def _parse(text: str, expected: int) -> np.ndarray:
    """So many rows of the columns of `predictions.csv`, whatever the order of either."""
    header, *lines = text.splitlines() or [""]
    columns = header.split(",")
    if missing := [name for name in PREDICTION_COLUMNS if name not in columns]:
        raise ValueError(f"its first line does not name {', '.join(missing)}")
    if len(lines) != expected:
        raise ValueError(
            f"it has {len(lines):,} rows, and seeds times test reviews, as in result.json, are "
            f"{expected:,}"
        )
    places = [columns.index(name) for name in PREDICTION_COLUMNS]
    rows = np.loadtxt(lines, delimiter=",", usecols=places, comments=None, ndmin=2)
    if len(rows) != expected:
        raise ValueError("it has empty rows")
    return rows


def _arrange(rows: np.ndarray, seeds: Sequence[int], reviews: int) -> np.ndarray:
    """Tokens, labels and logits, `[3, K, N]`, of rows that are checked for what they can be."""
    seed, review, tokens, label, logit, probability = rows.T
    fits = np.isin(seed, seeds) & np.isin(review, np.arange(reviews)) & np.isin(label, (0, 1))
    with np.errstate(invalid="ignore"):  # Of infinities.
        fits &= np.isfinite(logit) & (tokens >= 0) & (tokens % 1 == 0)
    fits &= np.abs(expit(logit) - probability) < 1e-4
    if not fits.all():
        number = int(np.argmin(fits))
        found = ", ".join(f"{value:g}" for value in rows[number])
        raise ValueError(f"row {number + 1} cannot be one of this run's: {found}")
    places = np.searchsorted(seeds, seed) * reviews + review.astype(int)
    counts = np.bincount(places)
    if counts.max() > 1:
        number, twice = divmod(int(np.argmax(counts)), reviews)
        raise ValueError(f"seed {seeds[number]}, review {twice} is there twice, another is not")
    columns = rows[np.argsort(places), 2:5].T.reshape(3, len(seeds), reviews)
    if (columns[:2] != columns[:2, :1]).any():
        raise ValueError("seeds differ in the tokens or the label of a review")
    return columns
