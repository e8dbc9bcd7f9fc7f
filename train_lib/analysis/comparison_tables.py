"""A comparison of runs in readable form: tables, and a picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from train_lib.analysis import pictures
from train_lib.records.metrics import plain, show_interval


def tables(comparison: dict) -> dict[str, list[dict[str, str]]]:
    """The rows of each table of a comparison, by its title; tables without rows are left out."""
    data, runs, pairs = (comparison[name] for name in ("dataset", "runs", "pairs"))
    bins = comparison["length_bins"]
    names = [run["name"] for run in runs]
    score, scale, unit = units(comparison)
    form = ".4f" if unit == "points" else ".4g"

    def shown(of: dict) -> str:
        return show_interval(of, form=form)

    better = "higher" if comparison["score"]["higher_is_better"] else "lower"
    found = {
        _title(data): [
            {
                "run": run["name"],
                "parameters": f"{run['parameters']:,}",
                "seeds": str(len(run["seeds"])),
                f"{score} [95 %]": shown(run["score"]),
                "sd over seeds": _number(run["score_sd"], form),
                **{plain(name): shown(of) for name, of in run["figures"].items()},
                "training s": f"{run['train_seconds']:,.0f}",
            }
            for run in runs
        ],
        f"Differences of {score} ({better} is better)": [
            {
                "second - first": f"{pair['second']} - {pair['first']}",
                f"{unit} [95 %]": show_interval(pair, scale, "+.2f" if unit == "points" else "+.4g")
                + " *" * pair["one_seed"],
                "p": _p(pair["p"]),
                **({"p (Holm)": _p(pair["p_holm"])} if len(pairs) > 1 else {}),
                "Cohen's d": _number(pair["cohens_d"], "+.2f"),
                **(
                    {
                        "Cohen's h": f"{pair['cohens_h']:+.3f}",
                        "McNemar": _mcnemar(pair["mcnemar"]),
                    }
                    if pair["cohens_h"] is not None
                    else {}
                ),
                "seeds for 80 % power": str(pair["seeds_for_80_percent_power"] or "-"),
            }
            for pair in pairs
        ],
        f"{score.capitalize()} by length [95 %]": [
            {"steps": steps(of_bin), "examples": f"{of_bin['examples']:,}"}
            | dict(zip(names, map(shown, of_runs), strict=True))
            for of_bin, *of_runs in zip(bins, *(run["by_length"] for run in runs), strict=True)
            if len(bins) > 1
        ],
        "What differs in config.json": [
            {"field": field} | dict(zip(names, map(str, values), strict=True))
            for field, values in comparison["config"].items()
        ],
    }
    return {title: rows for title, rows in found.items() if rows}


def markdown(comparison: dict) -> str:
    """The tables and the notes as Markdown, which is also readable on a terminal."""
    sections = [f"## {title}\n\n{_table(rows)}" for title, rows in tables(comparison).items()]
    notes = "\n".join(f"* {note}" for note in comparison["notes"])
    return "\n\n".join([*sections, f"## Notes\n\n{notes}\n"])


def _title(data: dict) -> str:
    items = f", {data['items']:,} steps" * (data["items"] != data["test"])
    return (
        f"{data['test']:,} test {data['examples_are']}{items} of {data['name']} "
        f"{data['fingerprint'][:12]}"
    )


def _table(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table whose columns line up, so that it is readable on a terminal too."""
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


def steps(of_bin: dict) -> str:
    """The lengths in a bin."""
    return f"{of_bin['steps_from']:,} to {of_bin['steps_to']:,}"


def units(comparison: dict) -> tuple[str, float, str]:
    """The score's name, and the factor and the unit in which its differences are shown.

    Those of shares are shown in points, others in their own unit.
    """
    name = plain(comparison["score"]["name"])
    if comparison["score"]["is_share"]:
        return name, 100, "points"
    if unit := comparison["score"]["unit"]:
        name = f"{name} in {unit}"
    return name, 1, name


def draw(comparison: dict) -> Any:
    """A Matplotlib figure: scores, differences, by length, time and size, calibration."""
    runs, pairs = comparison["runs"], comparison["pairs"]
    score, scale, unit = units(comparison)
    has_calibration = all(run["reliability"] for run in runs)
    above = 1.5 + 0.4 * max(len(runs), len(pairs))
    figure = pictures.new_figure(19, above + 4.8)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(above, 4.8)).ravel()
    all_scores, differences = upper.subplots(1, 2)
    has_lengths = len(comparison["length_bins"]) > 1
    parts = lower.subplots(1, has_lengths + 2 + has_calibration)
    times, sizes = parts[has_lengths : has_lengths + 2]
    times.sharey(sizes)
    for row, run in enumerate(runs):
        seeds = [seed["score"] for seed in run["seeds"]]
        all_scores.plot(seeds, [row] * len(seeds), "|", color=f"C{row}", ms=16, alpha=0.6)
        _draw_interval(all_scores, row, run["score"], 1, f"C{row}")
    _label_rows(all_scores, [run["name"] for run in runs])
    all_scores.set(title=f"test {score} with 95 % interval; a stroke is a seed")

    differences.axvline(0, color="0.5", ls="--")
    for row, pair in enumerate(pairs):
        _draw_interval(differences, row, pair, scale, "0.2", hollow=pair["one_seed"])
    _label_rows(differences, [f"{pair['second']}\n- {pair['first']}" for pair in pairs])
    differences.set(title=f"difference in {unit} with 95 % interval")
    if any(pair["one_seed"] for pair in pairs):
        differences.set_xlabel("a ring: one seed, so of these trained models alone")

    for number, run in enumerate(runs):
        seconds = [epoch["seconds"] for epoch in run["course"]]
        course = [epoch["value"] for epoch in run["course"]]
        label = f"{run['name']}: {len(run['seeds'])} seed{'s' * (len(run['seeds']) > 1)}"
        times.plot(seconds, course, "o-", ms=4, color=f"C{number}", label=label)
        intervals = [epoch["ci95"] for epoch in run["course"]]
        pictures.draw_band(times, seconds, intervals, f"C{number}")
        label = f"{run['name']}: {run['parameters']:,}"
        sizes.plot([run["parameters"]] * len(course), course, ".", color=f"C{number}", alpha=0.4)
        sizes.plot(
            [run["parameters"]] * len(course[-1:]), course[-1:], "o", color=f"C{number}",
            label=label,
        )  # fmt: skip
    times.set(
        title=f"validation {plain(runs[0]['metric'])} by time",
        xlabel="seconds from the start, all seeds",
    )
    sizes.set(title="by size; points: earlier epochs", xlabel="parameters")
    for axes in (times, sizes):
        pictures.scale_x(axes)

    if has_lengths:
        _draw_lengths(parts[0], comparison)
    if has_calibration:
        _draw_calibration(parts[-1], runs)
    for axes in parts:
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure


def _draw_lengths(axes, comparison: dict) -> None:
    runs, bins = comparison["runs"], comparison["length_bins"]
    for number, run in enumerate(runs):
        places = np.arange(len(bins)) + 0.5 * ((number + 0.5) / len(runs) - 0.5)
        means, lows, highs = (
            [of_bin[name] for of_bin in run["by_length"]]
            for name in ("mean", "ci95_low", "ci95_high")
        )
        axes.vlines(places, lows, highs, color=f"C{number}")
        axes.plot(places, means, "o-", ms=5, lw=1, color=f"C{number}", label=run["name"])
    axes.set_xticks(range(len(bins)), map(steps, bins))
    axes.set(title=f"test {units(comparison)[0]} by length", xlabel="steps")


def _draw_calibration(axes, runs: Sequence[dict]) -> None:
    axes.plot([0, 1], [0, 1], ls="--", color="0.5")
    for number, run in enumerate(runs):
        label = f"{run['name']}: ECE {run['figures']['ece']['mean']:.3f}"
        bars = run["reliability"]
        axes.plot(
            bars["predicted_B"], bars["observed_B"], "o-", ms=4, color=f"C{number}", label=label
        )
    axes.set(
        title="calibration", xlabel="probability of the second class", ylabel="share that is of it"
    )


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
