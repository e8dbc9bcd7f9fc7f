"""Compares finished runs: which is better, by how much, and how sure that is.

python -m train_lib.compare runs/lstm-... runs/bilstm-... [--out=FOLDER]

Reads `config.json`, `result.json`, `metrics.jsonl` and `predictions.csv` of each run, and compares
each with each. Prints tables, and writes them to `compare.md`, all figures to `compare.json` and
pictures to `compare.png`.
"""

import argparse
import io
import itertools
import math
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from train_lib import finished, report, statistics
from train_lib.errors import UserError, told_to_user
from train_lib.finished import Run

LENGTH_BINS = 5

# What changes the reviews learnt from, and not those tested on.
_TRAINING_DATA = ("data.max_features", "data.split_seed", "data.train_reviews")


def compare(runs: Sequence[Run]) -> dict:
    """What `compare.json` holds: of each run, of each pair of runs, and what to know of both."""
    tokens_N = runs[0].tokens_N
    bins_N = statistics.equal_count_bins(tokens_N, LENGTH_BINS)
    bins_BxN = [bins_N == number for number in range(bins_N.max() + 1)]
    pairs = [_pair(first, second) for first, second in itertools.combinations(runs, 2)]
    for pair, p in zip(pairs, statistics.holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_holm"] = p
    data = runs[0].result["dataset"]
    return {
        "dataset": {field: data[field] for field in ("name", "fingerprint", "test")},
        "runs": [_run(run, bins_BxN) for run in runs],
        "pairs": pairs,
        "length_bins": [
            {
                "tokens_from": int(tokens_N[bin_N].min()),
                "tokens_to": int(tokens_N[bin_N].max()),
                "reviews": int(bin_N.sum()),
            }
            for bin_N in bins_BxN
        ],
        "config": finished.differing_fields(runs),
        "notes": _notes(runs, pairs),
    }


def _run(run: Run, bins_BxN: Sequence[np.ndarray]) -> dict:
    """How good a run is: on all reviews, on those of each length, and with each seed."""
    labels_N, logits_KxN, correct_KxN = run.labels_N, run.logits_KxN, run.correct_KxN
    probabilities_KxN = run.probabilities_KxN
    each_K = {
        "test_accuracy": correct_KxN.mean(1),
        "test_loss": np.logaddexp(0, np.where(labels_N, -logits_KxN, logits_KxN)).mean(1),
        "ece": np.array([statistics.reliability(p_N, labels_N).ece for p_N in probabilities_KxN]),
        "brier": ((probabilities_KxN - labels_N) ** 2).mean(1),
    }
    seeds = len(run.seeds)
    counted = {"test_accuracy": len(labels_N), "ece": math.inf, "brier": math.inf}
    pooled = statistics.reliability(probabilities_KxN.ravel(), np.tile(labels_N, seeds))
    return {
        "name": run.name,
        "folder": str(run.folder),
        "parameters": run.result["model"]["parameters"],
        **{name: report.summary(values_K, counted.get(name)) for name, values_K in each_K.items()},
        "test_accuracy_sd": float(each_K["test_accuracy"].std(ddof=1)) if seeds > 1 else None,
        "train_seconds": run.result["seconds"]["train"],
        "device": run.result["device"],
        # What is not trained by epochs has one, its end.
        "course": [
            {field: epoch[field] for field in ("epoch", "seconds", "validation_accuracy")}
            | {"ci95": epoch["ci95"] and epoch["ci95"]["validation_accuracy"]}
            for epoch in run.epochs
        ]
        or [
            {
                "epoch": None,
                "seconds": run.result["seconds"]["total"],
                "validation_accuracy": of_end["mean"],
                "ci95": None,
            }
            for of_end in [run.result.get("validation_accuracy")]
            if of_end
        ],
        "diverged": report.diverged_seeds(run.result),
        "seeds": [
            {"seed": seed} | {name: float(values_K[k]) for name, values_K in each_K.items()}
            for k, seed in enumerate(run.seeds)
        ],
        "by_length": [
            report.summary(correct_KxN[:, bin_N].mean(1), int(bin_N.sum())) for bin_N in bins_BxN
        ],
        "reliability": {name: values_B.tolist() for name, values_B in pooled._asdict().items()},
    }


def _pair(first: Run, second: Run) -> dict:
    """How much more accurate the second run is than the first."""
    paired = first.seeds == second.seeds
    first_KxN, second_KxN = first.correct_KxN, second.correct_KxN
    difference = statistics.difference(first_KxN, second_KxN, paired=paired)
    first_K, second_K = first_KxN.mean(1), second_KxN.mean(1)
    d = statistics.cohens_d(first_K, second_K, paired=paired)
    needed = None
    if not math.isnan(d):
        needed = statistics.seeds_needed(d, paired=paired) or f"> {statistics.MOST_SEEDS:,}"
    compared = [(seed, seed) for seed in first.seeds if seed in second.seeds]
    if len(first.seeds) == len(second.seeds) == 1:
        compared = [(first.seeds[0], second.seeds[0])]
    return {
        "first": first.name,
        "second": second.name,
        "mean": difference.mean,
        "ci95_low": difference.low,
        "ci95_high": difference.high,
        "p": difference.p,
        "seeds_are": "paired" if paired else "independent",
        "one_seed": min(len(first.seeds), len(second.seeds)) == 1,
        "cohens_d": d if math.isfinite(d) else None,
        "cohens_h": statistics.cohens_h(float(first_K.mean()), float(second_K.mean())),
        "seeds_for_80_percent_power": needed,
        "mcnemar": [
            {"seeds": [a, b]}
            | statistics.mcnemar(
                first_KxN[first.seeds.index(a)], second_KxN[second.seeds.index(b)]
            )._asdict()
            for a, b in compared
        ],
    }


def _notes(runs: Sequence[Run], pairs: Sequence[dict]) -> list[str]:
    """What has to be known to read the figures that there are."""
    one_seed = {pair["one_seed"] for pair in pairs}
    notes = [
        "An interval of an accuracy holds that of new seeds on new reviews, both drawn at random; "
        "with one seed, that of this trained model on new reviews.",
        "Loss is in nats. ECE is of the probability of the positive class, in "
        f"{statistics.RELIABILITY_BINS} bins of equal counts. Loss, ECE and Brier's score are "
        "means over seeds, and their intervals are of other seeds on these reviews.",
        "Difference: the second run's accuracy less the first's.",
    ]
    for run in runs:
        if lost := report.diverged_seeds(run.result):
            shown = ", ".join(map(str, lost))
            notes.append(f"{run.name}: seeds {shown} diverged and are left out.")
    if False in one_seed:
        notes += [
            "The interval of a difference, and p, are for other seeds and reviews than these: "
            "both count as drawn at random (`difference` in train_lib/statistics.py).",
            "Cohen's d counts standard deviations over seeds. Runs with the same seeds are paired: "
            "d_z counts those of the difference.",
            "Seeds for 80 % power: that many of each run, and a t-test over seeds shows a "
            "difference of the size seen four times in five, at 5 %, on these reviews.",
        ]
    if True in one_seed:
        notes.append(
            r"\* One of the two has a single seed, so the interval and p are over reviews and "
            "speak of these trained models alone. Other seeds may well turn the difference round."
        )
    notes.append(
        "McNemar's test compares two trained models, of the same seed where there are several, and "
        "says nothing of others."
    )
    if len(pairs) > 1:
        notes.append(f"p (Holm) allows for there being {len(pairs)} comparisons.")
    for pair in pairs:
        alone = [test["first_alone"] + test["second_alone"] for test in pair["mcnemar"]]
        if alone and not any(alone):
            notes.append(
                f"{pair['first']} and {pair['second']} are right about the very same reviews with "
                "the same seeds: are they one run, made twice?"
            )
    if learnt := [field for field in finished.differing_fields(runs) if field in _TRAINING_DATA]:
        notes.append(
            f"The runs were trained on different data ({', '.join(learnt)}), so that differences "
            "are not of the models alone."
        )
    if len({run.result["device"] for run in runs}) > 1:
        notes.append("Training seconds are of different devices.")
    if not any("model.ngram_words" in run.config for run in runs):
        notes.append(
            "No baseline is among the runs. `python -m train_lib.baselines` trains what counts "
            "words and groups of words; a recurrent model that does not beat it is no success."
        )
    return notes


def markdown(comparison: dict) -> str:
    """The comparison as tables, for people."""
    data, runs, pairs = (comparison[name] for name in ("dataset", "runs", "pairs"))
    names = [run["name"] for run in runs]
    tables = {
        f"{data['test']:,} test reviews of {data['name']} {data['fingerprint'][:12]}": [
            {
                "run": run["name"],
                "parameters": f"{run['parameters']:,}",
                "seeds": str(len(run["seeds"])),
                "accuracy [95 %]": report.show_interval(run["test_accuracy"]),
                "sd over seeds": _number(run["test_accuracy_sd"], ".4f"),
                "loss": report.show_interval(run["test_loss"]),
                "ECE": report.show_interval(run["ece"]),
                "Brier": report.show_interval(run["brier"]),
                "training s": f"{run['train_seconds']:,.0f}",
            }
            for run in runs
        ],
        "Differences of accuracy": [
            {
                "second minus first": f"{pair['second']} minus {pair['first']}",
                "points [95 %]": report.show_interval(pair, 100, "+.2f") + " *" * pair["one_seed"],
                "p": _p(pair["p"]),
                **({"p (Holm)": _p(pair["p_holm"])} if len(pairs) > 1 else {}),
                "Cohen's d": _number(pair["cohens_d"], "+.2f"),
                "Cohen's h": f"{pair['cohens_h']:+.3f}",
                "McNemar": _mcnemar(pair["mcnemar"]),
                "seeds for 80 % power": str(pair["seeds_for_80_percent_power"] or "-"),
            }
            for pair in pairs
        ],
        "Accuracy by length [95 %]": [
            {"tokens": _tokens(of_bin), "reviews": f"{of_bin['reviews']:,}"}
            | dict(zip(names, map(report.show_interval, of_runs), strict=True))
            for of_bin, *of_runs in zip(
                comparison["length_bins"], *(run["by_length"] for run in runs), strict=True
            )
        ],
        "What differs in config.json": [
            {"field": field} | dict(zip(names, map(str, values), strict=True))
            for field, values in comparison["config"].items()
        ],
    }
    sections = [f"## {title}\n\n{_table(rows)}" for title, rows in tables.items() if rows]
    notes = "\n".join(f"* {note}" for note in comparison["notes"])
    return "\n\n".join([*sections, f"## Notes\n\n{notes}\n"])


def _table(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table whose columns line up, so that it reads as well on a terminal."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _mcnemar(tests: Sequence[dict]) -> str:
    if len(tests) < 2:
        return f"p {_p(tests[0]['p'])}" if tests else "-"
    return f"{sum(test['p'] < 0.05 for test in tests)} of {len(tests)} seeds differ at 5 %"


def _tokens(of_bin: dict) -> str:
    return f"{of_bin['tokens_from']:,} to {of_bin['tokens_to']:,}"


def draw(comparison: dict) -> Any:
    """A Matplotlib figure: accuracies, differences, by length, time and size, calibration."""
    runs, pairs = comparison["runs"], comparison["pairs"]
    above = 1.5 + 0.4 * max(len(runs), len(pairs))
    figure = report.new_figure(19, above + 4.8)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(above, 4.8)).ravel()
    accuracies, differences = upper.subplots(1, 2)
    lengths, times, sizes, calibration = lower.subplots(1, 4)
    times.sharey(sizes)
    for row, run in enumerate(runs):
        seeds = [seed["test_accuracy"] for seed in run["seeds"]]
        accuracies.plot(seeds, [row] * len(seeds), "|", color=f"C{row}", ms=16, alpha=0.6)
        _draw_interval(accuracies, row, run["test_accuracy"], 1, f"C{row}")
    _label_rows(accuracies, [run["name"] for run in runs])
    accuracies.set(title="test accuracy with 95 % interval; a stroke is a seed")

    differences.axvline(0, color="0.5", ls="--")
    for row, pair in enumerate(pairs):
        _draw_interval(differences, row, pair, 100, "0.2", hollow=pair["one_seed"])
    _label_rows(differences, [f"{pair['second']}\nminus {pair['first']}" for pair in pairs])
    differences.set(title="difference in points with 95 % interval")
    if any(pair["one_seed"] for pair in pairs):
        differences.set_xlabel("a ring: one seed, so of these trained models alone")

    bins = comparison["length_bins"]
    for number, run in enumerate(runs):
        places = np.arange(len(bins)) + 0.5 * ((number + 0.5) / len(runs) - 0.5)
        means, lows, highs = (
            [of_bin[name] for of_bin in run["by_length"]]
            for name in ("mean", "ci95_low", "ci95_high")
        )
        lengths.vlines(places, lows, highs, color=f"C{number}")
        lengths.plot(places, means, "o-", ms=5, lw=1, color=f"C{number}", label=run["name"])
    lengths.set_xticks(range(len(bins)), map(_tokens, bins))
    lengths.set(title="test accuracy by length", xlabel="tokens")

    for number, run in enumerate(runs):
        seconds = [epoch["seconds"] for epoch in run["course"]]
        course = [epoch["validation_accuracy"] for epoch in run["course"]]
        label = f"{run['name']}: {len(run['seeds'])} seed{'s' * (len(run['seeds']) > 1)}"
        times.plot(seconds, course, "o-", ms=4, color=f"C{number}", label=label)
        intervals = [epoch["ci95"] for epoch in run["course"]]
        report.draw_band(times, seconds, intervals, f"C{number}")
        label = f"{run['name']}: {run['parameters']:,}"
        sizes.plot([run["parameters"]] * len(course), course, ".", color=f"C{number}", alpha=0.4)
        sizes.plot(
            [run["parameters"]] * len(course[-1:]), course[-1:], "o", color=f"C{number}",
            label=label,
        )  # fmt: skip
    times.set(
        title="validation accuracy by time", xlabel="seconds from the start, all seeds",
        xscale="log",
    )  # fmt: skip
    sizes.set(
        title="by size; points: earlier epochs", xlabel="parameters", xscale="log"
    )  # fmt: skip

    calibration.plot([0, 1], [0, 1], ls="--", color="0.5")
    for number, run in enumerate(runs):
        label = f"{run['name']}: ECE {run['ece']['mean']:.3f}"
        bars = run["reliability"]
        calibration.plot(
            bars["predicted_B"], bars["observed_B"], "o-", ms=4, color=f"C{number}", label=label
        )
    calibration.set(
        title="calibration", xlabel="probability of positive", ylabel="share that is positive"
    )
    for axes in (lengths, times, sizes, calibration):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure


def _draw_interval(
    axes, row: int, of: dict, scale: float, colour: str, *, hollow: bool = False
) -> None:
    mean, low, high = (scale * of[name] for name in ("mean", "ci95_low", "ci95_high"))
    axes.plot([low, high], [row, row], color=colour, lw=2)
    axes.plot([mean], [row], "o", color=colour, mfc="white" if hollow else colour)


def _label_rows(axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(alpha=0.3, axis="x")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train_lib.compare",
        description="Compares finished runs: which is better, by how much, and how sure that is.",
    )
    parser.add_argument("run", nargs="+", help="the folder of a finished run; two or more")
    parser.add_argument("--out", help="a folder, new or empty; by default a new one under runs/")
    arguments = parser.parse_args(argv)
    if len(arguments.run) < 2:
        raise UserError("there is nothing to compare with: name the folders of two runs or more.")
    comparison = compare(finished.load(arguments.run))
    tables = markdown(comparison)
    buffer = io.BytesIO()
    draw(comparison).savefig(buffer, format="png", dpi=150)

    folder = report.RunFolder(report.new_folder("--out", arguments.out, "compare"))
    command = shlex.join(["python", "-m", "train_lib.compare", *argv])
    folder.write("compare.md", f"# Comparison of runs\n\nMade by `{command}`.\n\n{tables}")
    folder.write("compare.png", buffer.getvalue())
    folder.write_json("compare.json", comparison)
    print(f"{tables}\nfolder: {folder.path}")


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
