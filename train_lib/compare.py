"""Compares finished runs: which is better, by how much, and how sure that is.

python -m train_lib.compare runs/lstm-... runs/bilstm-... [--out=FOLDER]

Reads `config.json`, `result.json` and `predictions.csv` of each run. Prints tables and writes them
to `compare.md`, everything in them and more to `compare.json`, and pictures to `compare.png`.
"""

import argparse
import dataclasses
import datetime
import io
import itertools
import json
import math
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from train_lib import files, report, settings, statistics
from train_lib.errors import UserError, told_to_user
from train_lib.report import RunFolder

LENGTH_BINS = 5

# Fields of the config that change what is learnt from, and not what is tested on.
_TRAINING_DATA = ("data.max_features", "data.split_seed", "data.train_reviews")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run of K seeds, and what each of them says of N test reviews.

    Attributes:
        name: the folder's, for people.
        path: the folder.
        config: every field, as in `{"model.cell": "lstm"}`.
        result: what `result.json` holds.
        seeds: their numbers, ascending.
        tokens_N, labels_N: lengths and classes, 0 or 1, of the reviews.
        logits_KxN: above 0 where a review is said to be positive.
    """

    name: str
    path: pathlib.Path
    config: dict[str, Any]
    result: dict[str, Any]
    seeds: tuple[int, ...]
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
    """Reads runs that can be compared: of different folders, tested on the same reviews.

    Raises:
        UserError: some cannot; the message says what is in the way.
    """
    if len(workdirs) < 2:
        raise UserError("a comparison needs at least two runs: name the folders of two or more.")
    folders = [RunFolder.open_finished(workdir) for workdir in workdirs]
    resolved = [folder.path.resolve() for folder in folders]
    for workdir, path in zip(workdirs, resolved, strict=True):
        if resolved.count(path) > 1:
            raise UserError(f"{workdir} is named twice: a run says nothing beside itself.")
    names = [path.name for path in resolved]
    runs = [
        _read_run(folder, name if names.count(name) == 1 else str(folder.path))
        for folder, name in zip(folders, names, strict=True)
    ]
    for run in runs[1:]:
        _check_same_test(runs[0], run)
    return runs


def _read_run(folder: RunFolder, name: str) -> Run:
    config, result = (_read_object(folder, file) for file in ("config.json", "result.json"))
    where = folder.path / "result.json"
    if "test_accuracy" not in result:
        raise UserError(f"{where} has no test accuracy: that run left the test reviews unseen.")
    for field, kind in (
        ("dataset.name", str), ("dataset.fingerprint", str), ("dataset.test", int),
        ("model.parameters", int), ("seconds.train", float), ("device", str),
    ):  # fmt: skip
        _field(result, field, kind, where)
    accuracies = {
        _field(of_seed, "seed", int, where): _field(of_seed, "test_accuracy", float, where)
        for of_seed in _field(result, "seeds", list, where)
    }
    predictions = _read_predictions(folder, sorted(accuracies), result["dataset"]["test"])
    run = Run(name, folder.path, dict(settings.flatten(config)), result, *predictions)
    for seed, correct_N in zip(run.seeds, run.correct_KxN, strict=True):
        if abs(correct_N.mean() - accuracies[seed]) > 0.5 / len(correct_N):
            raise UserError(
                f"{folder.path} is damaged: seed {seed} has test accuracy {accuracies[seed]:.5f} "
                f"in result.json and {correct_N.mean():.5f} in predictions.csv."
            )
    return run


def _read_object(folder: RunFolder, name: str) -> dict[str, Any]:
    content = folder.read_json(name)
    if not isinstance(content, dict):
        raise UserError(f"{folder.path / name} is damaged: it holds no JSON object.")
    return content


def _field(content: Any, name: str, kind: type, where: pathlib.Path) -> Any:
    """The value at `dataset.name`, say, if it is there and what it should be."""
    value = content
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    kinds = (int, float) if kind is float else kind
    is_kind = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_kind or (isinstance(value, float) and not math.isfinite(value)):
        problem = "is missing" if value is None else f"= {value!r} is no {kind.__name__}"
        raise UserError(f"{where} is damaged: {name} {problem}.")
    return value


def _read_predictions(
    folder: RunFolder, seeds: Sequence[int], reviews: int
) -> tuple[tuple[int, ...], np.ndarray, np.ndarray, np.ndarray]:
    """Seeds, tokens, labels and logits that `predictions.csv` holds, its rows in any order."""
    where = folder.path / "predictions.csv"

    def damaged(problem: str) -> UserError:
        return UserError(f"{where} is damaged: {problem}.")

    header, _, body = folder.read_text("predictions.csv").partition("\n")
    columns = header.strip().split(",")
    if missing := [name for name in report.PREDICTION_COLUMNS if name not in columns]:
        raise damaged(f"it has no column {', '.join(missing)}")
    lines = [line for line in body.splitlines() if line.strip()]
    if len(lines) != len(seeds) * reviews:
        raise damaged(
            f"it has {len(lines):,} rows, and of {len(seeds)} seeds and {reviews:,} test reviews "
            f"in result.json there are {len(seeds) * reviews:,}"
        )
    places = [columns.index(name) for name in report.PREDICTION_COLUMNS]
    try:
        table = np.loadtxt(lines, delimiter=",", usecols=places, comments=None, ndmin=2)
    except ValueError as error:
        raise damaged(str(error)) from error

    with np.errstate(invalid="ignore"):  # Of what is not finite.
        seed, review, tokens, label, logit, probability = table.T
        fits = np.isin(seed, seeds) & np.isin(review, np.arange(reviews)) & np.isin(label, (0, 1))
        fits &= (tokens >= 0) & (tokens % 1 == 0) & (abs(expit(logit) - probability) < 1e-4)
    if not (fits & np.isfinite(logit)).all():
        raise damaged(
            f"the row {lines[int(np.argmin(fits & np.isfinite(logit)))]} is of no seed in "
            "result.json, or no row of these columns"
        )
    places_KN = np.searchsorted(seeds, seed) * reviews + review.astype(int)
    times_KN = np.bincount(places_KN, minlength=len(lines))
    if (times_KN != 1).any():
        which, review = divmod(int(np.argmax(times_KN)), reviews)
        raise damaged(f"it has seed {seeds[which]}, review {review} twice, and lacks another")
    table_KxNxF = table[np.argsort(places_KN)].reshape(len(seeds), reviews, -1)
    tokens_KxN, labels_KxN, logits_KxN = np.moveaxis(table_KxNxF, -1, 0)[2:5]
    if (tokens_KxN != tokens_KxN[0]).any() or (labels_KxN != labels_KxN[0]).any():
        raise damaged("seeds have different tokens or labels for the same review")
    return tuple(seeds), tokens_KxN[0].astype(int), labels_KxN[0].astype(int), logits_KxN


def _check_same_test(first: Run, other: Run) -> None:
    """Raises UserError where two runs were not tested on the same reviews."""
    data = [run.result["dataset"] for run in (first, other)]
    differing = [
        f"dataset.{field}: {data[0][field]} / {data[1][field]}"
        for field in ("name", "fingerprint", "test")
        if data[0][field] != data[1][field]
    ]
    if not differing:
        differs_N = (first.tokens_N != other.tokens_N) | (first.labels_N != other.labels_N)
        if not differs_N.any():
            return
        differing = [f"{int(differs_N.sum()):,} reviews have other tokens or another label"]
    for field, values in _differing_fields([first, other]).items():
        if field.startswith("data."):
            differing.append(f"config.{field}: {values[0]} / {values[1]}")
    raise UserError(
        "\n  ".join([f"{first.name} and {other.name} had different test reviews:", *differing])
        + "\nTrain both with the same config.data, and compare those runs."
    )


def _differing_fields(runs: Sequence[Run]) -> dict[str, list]:
    """The config's fields in which runs differ, with the value in each, or None."""
    fields = dict.fromkeys(field for run in runs for field in run.config)
    values = {field: [run.config.get(field) for run in runs] for field in fields}
    return {field: of_runs for field, of_runs in values.items() if of_runs != of_runs[:1] * len(runs)}


def compare(runs: Sequence[Run]) -> dict:
    """What `compare.json` holds."""
    bins_N = statistics.equal_count_bins(runs[0].tokens_N, LENGTH_BINS)
    pairs = [_pair(first, second) for first, second in itertools.combinations(runs, 2)]
    adjusted = statistics.holm([pair["difference"]["p"] for pair in pairs])
    for pair, p in zip(pairs, adjusted, strict=True):
        pair["difference"]["p_holm"] = p
    data = runs[0].result["dataset"]
    return {
        "dataset": {field: data[field] for field in ("name", "fingerprint", "test")},
        "length_bins": [
            {
                "tokens": [int(tokens_N.min()), int(tokens_N.max())],
                "reviews": len(tokens_N),
            }
            for tokens_N in (runs[0].tokens_N[bins_N == number] for number in np.unique(bins_N))
        ],
        "runs": [_run_row(run, bins_N) for run in runs],
        "pairs": pairs,
        "config": _differing_fields(runs),
        "notes": _notes(runs, pairs),
    }


def _run_row(run: Run, bins_N: np.ndarray) -> dict:
    """What one run is worth: of all reviews, of those of each length, and of each seed."""
    accuracies_K = run.correct_KxN.mean(1)
    losses_K = np.logaddexp(0, np.where(run.labels_N, -run.logits_KxN, run.logits_KxN)).mean(1)
    errors_K = [
        statistics.reliability(probabilities_N, run.labels_N).calibration_error
        for probabilities_N in run.probabilities_KxN
    ]
    brier_K = ((run.probabilities_KxN - run.labels_N) ** 2).mean(1)
    seeds = len(run.seeds)
    pooled = statistics.reliability(run.probabilities_KxN.ravel(), np.tile(run.labels_N, seeds))
    return {
        "name": run.name,
        "folder": str(run.path),
        "parameters": run.result["model"]["parameters"],
        "test_accuracy": report.summary(accuracies_K, len(run.labels_N)),
        "test_accuracy_sd": float(accuracies_K.std(ddof=1)) if seeds > 1 else None,
        "test_loss": float(losses_K.mean()),
        "ece": float(np.mean(errors_K)),
        "brier": float(brier_K.mean()),
        "train_seconds": run.result["seconds"]["train"],
        "device": run.result["device"],
        "seeds": [
            {"seed": seed, "test_accuracy": accuracy, "test_loss": loss, "ece": ece, "brier": brier}
            for seed, accuracy, loss, ece, brier in zip(
                run.seeds, accuracies_K.tolist(), losses_K.tolist(), errors_K, brier_K.tolist(),
                strict=True,
            )
        ],  # fmt: skip
        "by_length": [
            report.summary(run.correct_KxN[:, bins_N == number].mean(1), int((bins_N == number).sum()))
            for number in np.unique(bins_N)
        ],
        "reliability": {name: values_B.tolist() for name, values_B in pooled._asdict().items()},
    }


def _pair(first: Run, second: Run) -> dict:
    """How much better the second run is than the first."""
    paired = first.seeds == second.seeds
    over_seeds = min(len(first.seeds), len(second.seeds)) > 1
    difference = statistics.difference(first.correct_KxN, second.correct_KxN, paired=paired)
    first_K, second_K = first.correct_KxN.mean(1), second.correct_KxN.mean(1)
    d, needed = math.nan, None
    if over_seeds:
        d = statistics.cohens_d(first_K, second_K, paired=paired)
        needed = statistics.seeds_needed(d, paired=paired) or f"> {statistics.MOST_SEEDS:,}"
    shared = sorted(set(first.seeds) & set(second.seeds))
    compared = [(seed, seed) for seed in shared]
    if len(first.seeds) == len(second.seeds) == 1:
        compared = [(first.seeds[0], second.seeds[0])]
    tests = []
    for seeds in compared:
        rights = [
            run.correct_KxN[run.seeds.index(seed)]
            for run, seed in zip((first, second), seeds, strict=True)
        ]
        tests.append({"seeds": seeds, **statistics.mcnemar(*rights)._asdict()})
    return {
        "first": first.name,
        "second": second.name,
        "paired": paired,
        "over_seeds": over_seeds,
        "difference": {
            "mean": difference.mean,
            "ci95_low": difference.low,
            "ci95_high": difference.high,
            "p": difference.p,
        },
        "cohens_d": d if math.isfinite(d) else None,
        "cohens_h": statistics.cohens_h(float(first_K.mean()), float(second_K.mean())),
        "seeds_for_80_percent_power": needed,
        "mcnemar": tests,
    }


def _notes(runs: Sequence[Run], pairs: Sequence[dict]) -> list[str]:
    """What a reader has to know of these figures, and no others."""
    notes = [
        "Test accuracy of several seeds: where the mean over all seeds lies, on these reviews "
        "(Student). Of one seed: over reviews (Wilson).",
        "Loss is cross-entropy in nats. ECE, of the probability of the positive class, has "
        f"{statistics.RELIABILITY_BINS} bins of equal counts. These and Brier's score are means "
        "over seeds.",
        "A difference is the second run's accuracy less the first's. Its interval and p say what "
        "to expect of other seeds and other reviews of the same kind.",
    ]
    if any(not pair["over_seeds"] for pair in pairs):
        notes.append(
            "\\*: a run has one seed alone. Interval and p are over reviews and speak of these "
            "trained models only: another seed may turn them round."
        )
    if any(pair["over_seeds"] for pair in pairs):
        notes.append(
            "Cohen's d counts standard deviations over seeds; d_z, those of the difference of "
            "runs with the same seeds, which are taken in pairs. Seeds for 80 % power, of each "
            "run: with so many, a t-test at 5 % over seeds, on these reviews, finds a difference "
            "of this size four times in five."
        )
    notes.append(
        "McNemar's test compares two trained models, here those of the same seed, and knows "
        "nothing of other seeds."
    )
    if len(pairs) > 1:
        notes.append(f"p (Holm) is adjusted for there being {len(pairs)} comparisons.")
    for pair in pairs:
        alone = [test["first_alone"] + test["second_alone"] for test in pair["mcnemar"]]
        if alone and not any(alone):
            notes.append(
                f"{pair['first']} and {pair['second']} are right about exactly the same reviews "
                "with the same seeds: the same run twice?"
            )
    learnt = [f for f in _differing_fields(runs) if f in _TRAINING_DATA]
    if learnt:
        notes.append(
            f"The runs were trained on different data ({', '.join(learnt)}): their differences "
            "are not of the models alone."
        )
    if len({run.result["device"] for run in runs}) > 1:
        notes.append("Training seconds are of different devices.")
    return notes


def markdown(comparison: dict) -> str:
    """The tables, for people."""
    data, runs, pairs = (comparison[name] for name in ("dataset", "runs", "pairs"))
    names = [run["name"] for run in runs]
    several = len(pairs) > 1
    sections = [
        f"{data['test']:,} test reviews of {data['name']} {data['fingerprint'][:12]}",
        _table(
            ["run", "parameters", "seeds", "test accuracy [95 %]", "sd", "loss", "ECE", "Brier",
             "training s"],
            [
                [
                    run["name"],
                    f"{run['parameters']:,}",
                    str(len(run["seeds"])),
                    _interval(run["test_accuracy"]),
                    _number(run["test_accuracy_sd"], ".4f"),
                    f"{run['test_loss']:.4f}",
                    f"{run['ece']:.4f}",
                    f"{run['brier']:.4f}",
                    f"{run['train_seconds']:,.0f}",
                ]
                for run in runs
            ],
        ),
        _table(
            ["second - first", "points [95 %]", "p", *(["p (Holm)"] if several else []),
             "Cohen's d", "Cohen's h", "McNemar", "seeds for 80 % power"],
            [
                [
                    f"{pair['second']} - {pair['first']}",
                    _interval(pair["difference"], 100, "+.2f") + ("" if pair["over_seeds"] else " *"),
                    _p(pair["difference"]["p"]),
                    *([_p(pair["difference"]["p_holm"])] if several else []),
                    _number(pair["cohens_d"], "+.2f")
                    + (" (d_z)" if pair["cohens_d"] is not None and pair["paired"] else ""),
                    f"{pair['cohens_h']:+.3f}",
                    _mcnemar(pair["mcnemar"]),
                    str(pair["seeds_for_80_percent_power"] or "-"),
                ]
                for pair in pairs
            ],
        ),
        _table(
            ["tokens", "reviews", *(f"{name}, accuracy" for name in names)],
            [
                ["{:,} to {:,}".format(*of_bin["tokens"]), f"{of_bin['reviews']:,}", *map(_interval, of_runs)]
                for of_bin, *of_runs in zip(
                    comparison["length_bins"], *(run["by_length"] for run in runs), strict=True
                )
            ],
        ),
    ]  # fmt: skip
    if comparison["config"]:
        rows = [[field, *map(str, values)] for field, values in comparison["config"].items()]
        sections.append(_table(["config", *names], rows))
    sections.append("\n".join(f"* {note}" for note in comparison["notes"]))
    return "\n\n".join(sections) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up, so that it reads well on a terminal too."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines
    )


def _interval(of: dict, scale: float = 1, form: str = ".4f") -> str:
    mean, low, high = (scale * of[name] for name in ("mean", "ci95_low", "ci95_high"))
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _mcnemar(tests: Sequence[dict]) -> str:
    """Of one pair of models its p-value; of several, how many differ."""
    if len(tests) < 2:
        return f"p {_p(tests[0]['p'])}" if tests else "-"
    return f"{sum(test['p'] < 0.05 for test in tests)} of {len(tests)} seeds differ at 5 %"


def draw(comparison: dict) -> Any:
    """Accuracy, differences, accuracy by length, and calibration: a Matplotlib figure."""
    import matplotlib.figure  # Slow to import, and needed only here.

    runs, pairs = comparison["runs"], comparison["pairs"]
    most = max(len(runs), len(pairs))
    figure = matplotlib.figure.Figure(figsize=(12, 7 + 0.3 * most), layout="constrained")
    heights = (2 + 0.45 * most, 5)
    (above, below) = figure.subplots(2, 2, height_ratios=heights)
    colours = [f"C{number}" for number in range(len(runs))]
    _draw_accuracies(above[0], runs, colours)
    _draw_differences(above[1], pairs)
    _draw_lengths(below[0], comparison["length_bins"], runs, colours)
    _draw_reliability(below[1], runs, colours)
    return figure


def _draw_accuracies(axes, runs: Sequence[dict], colours: Sequence[str]) -> None:
    for place, (run, colour) in enumerate(zip(runs, colours, strict=True)):
        accuracies = [seed["test_accuracy"] for seed in run["seeds"]]
        axes.plot(accuracies, [place] * len(accuracies), "|", color=colour, ms=14, alpha=0.6)
        _draw_interval(axes, place, run["test_accuracy"], 1, colour)
    axes.set_yticks(range(len(runs)), [run["name"] for run in runs])
    axes.set(title="test accuracy, 95 %; a stroke is a seed", ylim=(len(runs) - 0.5, -0.5))
    axes.grid(alpha=0.3, axis="x")


def _draw_differences(axes, pairs: Sequence[dict]) -> None:
    axes.axvline(0, color="0.5", linestyle="--")
    for place, pair in enumerate(pairs):
        _draw_interval(axes, place, pair["difference"], 100, "0.2")
    axes.set_yticks(range(len(pairs)), [f"{pair['second']}\n- {pair['first']}" for pair in pairs])
    axes.set(title="difference of test accuracy, points, 95 %", ylim=(len(pairs) - 0.5, -0.5))
    axes.grid(alpha=0.3, axis="x")


def _draw_interval(axes, place: float, of: dict, scale: float, colour: str) -> None:
    mean, low, high = (scale * of[name] for name in ("mean", "ci95_low", "ci95_high"))
    axes.plot([low, high], [place, place], color=colour, lw=2)
    axes.plot([mean], [place], "o", color=colour)


def _draw_lengths(axes, bins: Sequence[dict], runs: Sequence[dict], colours) -> None:
    for number, (run, colour) in enumerate(zip(runs, colours, strict=True)):
        places = np.arange(len(bins)) + 0.12 * (number - (len(runs) - 1) / 2)
        means, lows, highs = (
            [of_bin[name] for of_bin in run["by_length"]]
            for name in ("mean", "ci95_low", "ci95_high")
        )
        axes.vlines(places, lows, highs, color=colour)
        axes.plot(places, means, "o-", color=colour, label=run["name"])
    axes.set_xticks(range(len(bins)), ["{:,} to {:,}".format(*of_bin["tokens"]) for of_bin in bins])
    axes.set(title="by length", xlabel="tokens", ylabel="test accuracy")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_reliability(axes, runs: Sequence[dict], colours) -> None:
    axes.plot([0, 1], [0, 1], "--", color="0.5")
    for run, colour in zip(runs, colours, strict=True):
        reliability = run["reliability"]
        label = f"{run['name']}, ECE {run['ece']:.3f}"
        axes.plot(
            reliability["predicted_B"], reliability["observed_B"], "o-", ms=4, color=colour, label=label
        )
    axes.set(
        title="calibration", xlabel="probability of positive", ylabel="share that is positive"
    )
    axes.grid(alpha=0.3)
    axes.legend()


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train_lib.compare",
        description="Compares finished runs: which is better, by how much, and how sure that is.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--out", help="a folder, new or empty; by default one under runs/")
    arguments = parser.parse_args(argv)
    comparison = compare(load(arguments.runs))
    tables = markdown(comparison)
    buffer = io.BytesIO()
    draw(comparison).savefig(buffer, format="png", dpi=150)
    folder = RunFolder(report.new_folder("--out", arguments.out, "compare"))
    command = shlex.join(["python", "-m", "train_lib.compare", *argv])
    folder.write("compare.png", buffer.getvalue())
    folder.write("compare.md", f"Made by `{command}`.\n\n{tables}")
    folder.write_json("compare.json", comparison)
    print(f"{tables}\nfolder: {folder.path}")


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
