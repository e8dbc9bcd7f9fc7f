"""A comparison of runs as one HTML page: the tables, and pictures that answer the mouse."""

import html
from collections.abc import Sequence
from typing import Any

from train_lib.analysis.comparison_tables import steps, tables, units
from train_lib.records.metrics import plain

_COLOURS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f",
    "#bcbd22", "#17becf",
)  # fmt: skip

_ENDS = ("ci95_low", "ci95_high")

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto;
       max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
code { background: #f3f3f3; padding: .1rem .3rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
.pictures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem; }
@media (max-width: 60rem) { .pictures { grid-template-columns: minmax(0, 1fr); } }
"""


def page(comparison: dict, command: str) -> str:
    """The page. It needs no other file, and no network.

    Args:
        comparison: what `comparison.compare` returned.
        command: the command that made it.
    """
    from plotly import io  # Slow to import, and needed only here.

    pictures = [
        io.to_html(
            {"data": data, "layout": layout},
            full_html=False,
            include_plotlyjs=number == 0,  # The drawing program, once.
            default_height="26rem",
            config={"displaylogo": False, "responsive": True},
        )
        for number, (data, layout) in enumerate(_pictures(comparison))
    ]
    found = tables(comparison)
    notes = "".join(f"<li>{html.escape(_unmarked(note))}</li>" for note in comparison["notes"])
    parts = [
        "<h1>Comparison of runs</h1>",
        f"<p>Made by <code>{html.escape(command)}</code>.</p>",
        *(f"<h2>{html.escape(title)}</h2>{_table(rows)}" for title, rows in found.items()),
        f'<h2>Pictures</h2><div class="pictures">{"".join(f"<div>{one}</div>" for one in pictures)}'
        "</div>",
        f"<h2>Notes</h2><ul>{notes}</ul>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Comparison of runs</title><style>{_STYLE}</style></head>\n"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _table(rows: Sequence[dict[str, str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(value)}</td>' for value in row.values())}</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>{body}</table></div>'


def _unmarked(note: str) -> str:
    """A note without Markdown's marks."""
    return note.replace("\\*", "*").replace("`", "")


def _pictures(comparison: dict) -> list[tuple[list[dict], dict]]:
    """Plotly's traces and layout of each picture."""
    runs = comparison["runs"]
    score, scale, unit = units(comparison)
    found = [
        (_scores(runs), _layout(f"test {score}, 95 % interval; a stroke is a seed", "", "")),
        (
            _differences(comparison["pairs"], scale),
            _layout(f"difference in {unit}, 95 % interval", "", "")
            | {"xaxis": {"zeroline": True, "zerolinecolor": "#888"}},
        ),
        (
            _courses(runs),
            _layout(f"validation {plain(runs[0]['metric'])} by time", "seconds, all seeds", ""),
        ),
        (_sizes(runs), _layout(f"test {score} by size", "parameters", "")),
    ]
    for data, layout in found[:2]:
        layout["yaxis"] = {"autorange": "reversed", "automargin": True}
        layout["showlegend"] = False
        layout["height"] = 160 + 45 * len({trace["name"] for trace in data})
    for data, layout in found[2:]:
        xs = [x for trace in data for x in trace["x"]]
        if min(xs) > 0 and max(xs) > 10 * min(xs):
            layout["xaxis"] = layout["xaxis"] | {"type": "log"}
    if len(comparison["length_bins"]) > 1:
        layout = _layout(f"test {score} by length", "steps", "")
        found.append((_lengths(runs, comparison["length_bins"]), layout))
    if all(run["reliability"] for run in runs):
        layout = _layout("calibration", "probability of the second class", "share that is of it")
        found.append((_calibration(runs), layout))
    return found


def _layout(title: str, x: str, y: str) -> dict[str, Any]:
    return {
        "title": {"text": html.escape(title), "font": {"size": 15}},
        "template": "plotly_white",
        "xaxis": {"title": {"text": x}, "tickformat": ",~r"},
        "yaxis": {"title": {"text": y}},
        "legend": {"orientation": "h", "y": -0.25},
        "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
        "hovermode": "closest",
    }


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _error(of: Sequence[dict], scale: float = 1) -> dict:
    """Bars from the lower to the upper end of intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [scale * (one["ci95_high"] - one["mean"]) for one in of],
        "arrayminus": [scale * (one["mean"] - one["ci95_low"]) for one in of],
    }


def _trace(name: str, colour: str, x: Sequence, y: Sequence, **other: Any) -> dict:
    """Points of one run, or of a pair of runs."""
    marker = {"color": colour} | other.pop("marker", {})
    return {
        "type": "scatter",
        "name": html.escape(name),
        "x": list(x),
        "y": list(y),
        "mode": "markers",
        "marker": marker,
        "line": {"color": colour},
    } | other


def _scores(runs: Sequence[dict]) -> list[dict]:
    found = []
    for number, run in enumerate(runs):
        name, seeds = html.escape(run["name"]), run["seeds"]
        found.append(
            _trace(
                run["name"],
                _colour(number),
                [seed["score"] for seed in seeds],
                [name] * len(seeds),
                marker={"symbol": "line-ns-open", "size": 16, "opacity": 0.6},
                text=[f"seed {seed['seed']}" for seed in seeds],
                hovertemplate="%{text}: %{x:.5g}<extra></extra>",
            )
        )
        found.append(
            _trace(
                run["name"],
                _colour(number),
                [run["score"]["mean"]],
                [name],
                marker={"size": 10},
                error_x=_error([run["score"]]),
                hovertemplate="mean %{x:.5g}<extra></extra>",
            )
        )
    return found


def _differences(pairs: Sequence[dict], scale: float) -> list[dict]:
    found = []
    for pair in pairs:
        name = f"{pair['second']} - {pair['first']}"
        note = "one seed: of these trained models alone" if pair["one_seed"] else "of new seeds"
        symbol = "circle-open" if pair["one_seed"] else "circle"
        found.append(
            _trace(
                name,
                "#333",
                [scale * pair["mean"]],
                [html.escape(name)],
                marker={"size": 10, "symbol": symbol},
                error_x=_error([pair], scale),
                text=[f"p {pair['p']:.4f}, {note}"],
                hovertemplate="%{x:+.4g}<br>%{text}<extra></extra>",
            )
        )
    return found


def _courses(runs: Sequence[dict]) -> list[dict]:
    return [
        _trace(
            run["name"],
            _colour(number),
            [epoch["seconds"] for epoch in run["course"]],
            [epoch["value"] for epoch in run["course"]],
            mode="lines+markers",
            error_y=_error(
                [
                    {"mean": one["value"]}
                    | dict(zip(_ENDS, one["ci95"] or [one["value"]] * 2, strict=True))
                    for one in run["course"]
                ]
            ),
            text=[
                "end" if one["epoch"] is None else f"epoch {one['epoch']}" for one in run["course"]
            ],
            hovertemplate="%{text}, %{x:.0f} s: %{y:.5g}",
        )
        for number, run in enumerate(runs)
    ]


def _sizes(runs: Sequence[dict]) -> list[dict]:
    return [
        _trace(
            run["name"],
            _colour(number),
            [run["parameters"]],
            [run["score"]["mean"]],
            marker={"size": 10},
            error_y=_error([run["score"]]),
            hovertemplate="%{x:,} parameters: %{y:.5g}",
        )
        for number, run in enumerate(runs)
    ]


def _lengths(runs: Sequence[dict], bins: Sequence[dict]) -> list[dict]:
    return [
        _trace(
            run["name"],
            _colour(number),
            [steps(of_bin) for of_bin in bins],
            [of_bin["mean"] for of_bin in run["by_length"]],
            mode="lines+markers",
            error_y=_error(run["by_length"]),
            hovertemplate="%{x} steps: %{y:.5g}",
        )
        for number, run in enumerate(runs)
    ]


def _calibration(runs: Sequence[dict]) -> list[dict]:
    diagonal = _trace("perfect", "#888", [0, 1], [0, 1], mode="lines", hoverinfo="skip")
    diagonal["line"]["dash"] = "dash"
    return [diagonal] + [
        _trace(
            run["name"],
            _colour(number),
            run["reliability"]["predicted_B"],
            run["reliability"]["observed_B"],
            mode="lines+markers",
            hovertemplate="said %{x:.3f}, is %{y:.3f}",
        )
        for number, run in enumerate(runs)
    ]
