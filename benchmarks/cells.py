"""Every cell on the same tasks with the same budget: accuracy, parameters, seconds.

python -m benchmarks.cells
python -m benchmarks.cells --tasks=temporal_order --lengths=500,1000,2000 --cells=lstm
python -m benchmarks.cells --tasks=imdb --seeds=10

Each run is one of `main.py` in its own folder under `--runs`, named after its config.
If a task has several learning rates, each cell runs with all of them, and the run with the best
last validation accuracy is shown.
The same command resumes where it was interrupted.
Writes `cells.md`, `cells.json` and `cells.png` with what was asked for only.
"""

import argparse
import hashlib
import importlib
import inspect
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.figure

from benchmarks import workload
from benchmarks.peers import chosen
from seqmodels import loading
from train_lib import files
from train_lib import run as train_lib_run
from train_lib.errors import Diverged, UserError, told_to_user
from train_lib.records.result import diverged_seeds
from train_lib.training import devices


class Task(NamedTuple):
    """What cells are compared on.

    Attributes:
        title: a readable title.
        config: a module in `configs/`.
        changes: fields that differ from it.
        learning_rates: each cell takes its best.
    """

    title: str
    config: str
    changes: dict
    learning_rates: tuple[float, ...]


TASKS = {
    # The rates in the papers on cells are a power of ten apart.
    "temporal_order": Task("temporal order", "temporal_order", {}, (3e-3, 3e-4)),
    "generated": Task("generated corpus", "generated", {}, (3e-3, 1e-2)),
    # Nothing may replace IMDB in a table that names it.
    "imdb": Task("IMDB", "lstm", {"data.source": "imdb"}, (1e-3, 1e-2)),
}
_LENGTH = "length_tokens="
CHANCE = 0.5
"""Accuracy of guessing; the classes of every task are balanced."""


def at_lengths(tasks: dict[str, Task], lengths: Sequence[int]) -> dict[str, Task]:
    """The tasks, with one for each length in tokens instead of the temporal-order problem."""
    result = {}
    for name, task in tasks.items():
        if task.config != "temporal_order":
            result[name] = task
            continue
        for length in lengths:
            title = f"{task.title}, T = {length:,}"
            changes = task.changes | {"data.source_options": f"{_LENGTH}{length}"}
            result[f"{name}-{length}"] = task._replace(title=title, changes=changes)
    return result


class Entry(NamedTuple):
    """A row of the table.

    Attributes:
        name: a readable name, the same on every task.
        cell: as in `config.model`.
        cell_options: as in `config.model`.
    """

    name: str
    cell: str
    cell_options: str = ""


def entries(cells: Sequence[str], task: Task) -> list[Entry]:
    """The rows of a task; if only memory matters, some cells are also told how long it lasts."""
    rows = [Entry(cell, cell) for cell in cells]
    _, _, length = task.changes.get("data.source_options", "").partition(_LENGTH)
    if not length:
        return rows
    return rows + [
        Entry(f"{cell}, memory_steps=T", cell, f"memory_steps={length}")
        for cell in cells
        if "memory_steps" in inspect.signature(loading.find_cell(cell).__init__).parameters
    ]


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cells",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = loading.cell_names()
    parser.add_argument("--tasks", default=",".join(TASKS), help="separated by commas")
    parser.add_argument("--cells", default=",".join(names), help="separated by commas")
    parser.add_argument(
        "--lengths", type=_lengths, default="500", help="tokens in temporal_order's sequences"
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds of every run, from 0 on")
    parser.add_argument("--runs", type=files.local, default="runs/cells")
    parser.add_argument("--out", type=files.local, default="benchmarks/results")
    options = parser.parse_args(argv)
    tasks = {name: TASKS[name] for name in chosen("tasks", options.tasks, list(TASKS))}
    tasks = at_lengths(tasks, options.lengths)
    cells = chosen("cells", options.cells, names)

    devices.configure()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    lost: list[str] = []
    for name, task in tasks.items():
        for entry in entries(cells, task):
            of_rates = []
            for rate in task.learning_rates:
                what = f"{entry.name} on {task.title} at {rate:g}"
                try:
                    of_rates.append(run(name, task, entry, rate, options.seeds, options.runs))
                except Diverged as error:
                    print(f"{what}: {error}")
                    lost.append(what)
                else:
                    lost += [f"seed {seed} of {what}" for seed in of_rates[-1]["diverged"]]
            if of_rates:
                rows.append(max(of_rates, key=lambda row: row["validation_accuracy"][-1]))
            content = {"machine": workload.machine(), "rows": rows, "diverged": lost}
            files.write(options.out / "cells.json", json.dumps(content, indent=1) + "\n")
    if not rows:
        raise UserError("every run has diverged, so there is nothing to show")
    tasks = {name: task for name, task in tasks.items() if any(row["task"] == name for row in rows)}
    command = " ".join(["python -m benchmarks.cells", *argv])
    table = markdown(rows, lost, tasks, options.seeds, command)
    files.write(options.out / "cells.md", table)
    draw(rows, tasks).savefig(options.out / "cells.png", dpi=150)
    print(table)


def _lengths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be whole numbers separated by commas, as in 500,1000"
        ) from None


def run(
    name: str, task: Task, entry: Entry, learning_rate: float, seeds: int, runs: pathlib.Path
) -> dict:
    """The result of one cell on one task, now or from before."""
    config = importlib.import_module(f"configs.{task.config}").get_config()
    config.model.cell, config.model.cell_options = entry.cell, entry.cell_options
    config.update_from_flattened_dict(task.changes)
    config.train.learning_rate, config.train.seeds = learning_rate, seeds
    config.name = f"{name}-{entry.cell}"
    identity = json.dumps(config.to_dict(), sort_keys=True)
    folder = runs / f"{config.name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    result = train_lib_run.run(config, str(folder))
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    accuracy = result["test_accuracy"]
    return {
        "task": name,
        "cell": entry.name,
        "cell_options": entry.cell_options,
        "learning_rate": learning_rate,
        "diverged": diverged_seeds(result),
        "parameters": result["model"]["parameters"],
        "test_accuracy": accuracy["mean"],
        "ci95": [accuracy["ci95_low"], accuracy["ci95_high"]],
        "validation_accuracy": [epoch["validation_accuracy"] for epoch in epochs],
        "seconds": result["seconds"]["train"],
    }


def markdown(
    rows: Sequence[dict], lost: Sequence[str], tasks: dict[str, Task], seeds: int, command: str
) -> str:
    """The table, sorted by its first task, then by the next, and which runs diverged."""
    found = {(row["task"], row["cell"]): row for row in rows}
    cells = sorted(
        dict.fromkeys(row["cell"] for row in rows),
        key=lambda cell: [
            found[task, cell]["test_accuracy"] if (task, cell) in found else 0 for task in tasks
        ],
        reverse=True,
    )
    titles = [task.title for task in tasks.values()]
    columns = "test accuracy [95 %], parameters, s, learning rate"
    head = ["cell", *(f"{title}: {columns}" for title in titles)]
    lines = [head, ["---"] * len(head)]
    for cell in cells:
        of_cell = [found.get((task, cell)) for task in tasks]
        lines.append([cell, *(_summary(row) if row else "" for row in of_cell)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    interval = (
        f"{seeds} seeds; the intervals are of their mean, over seeds and test sequences."
        if seeds > 1
        else "one run, seed 0, so the interval, over the test sequences of that run\n"
        "alone, says nothing about other seeds."
    )
    return (
        f"# Every cell with the same budget\n\nMade by `{command}` on "
        f"{workload.machine()['device']}: of each {interval} Guessing gets\n"
        f"{CHANCE}. Seconds are of training, without compiling. Of several learning rates the one "
        f"best in validation is shown.\n\n{table}\n"
        + (f"\nDiverged: {'; '.join(lost)}.\n" if lost else "")
    )


def _summary(row: dict) -> str:
    low, high = row["ci95"]
    return (
        f"{row['test_accuracy']:.4f} [{low:.3f}, {high:.3f}], {row['parameters']:,}, "
        f"{row['seconds']:.0f}, {row['learning_rate']:g}"
    )


def draw(rows: Sequence[dict], tasks: dict[str, Task]) -> matplotlib.figure.Figure:
    """A column for each task, its best cell at the top: test accuracy, and validation by epoch."""
    most = max(sum(row["task"] == task for row in rows) for task in tasks)
    figure = matplotlib.figure.Figure(
        figsize=(4.6 * len(tasks), 2.4 + 0.44 * most), layout="constrained"
    )
    panels = figure.subplots(2, len(tasks), squeeze=False)
    colours = None
    for (above, below), (name, task) in zip(panels.T, tasks.items(), strict=True):
        of_task = sorted(
            (row for row in rows if row["task"] == name), key=lambda row: row["test_accuracy"]
        )
        places = range(len(of_task))
        accuracies = [row["test_accuracy"] for row in of_task]
        # For an accuracy near one, rounding may leave the interval's end below it.
        bars = [
            [max(0.0, row["test_accuracy"] - row["ci95"][0]) for row in of_task],
            [max(0.0, row["ci95"][1] - row["test_accuracy"]) for row in of_task],
        ]
        above.axvline(CHANCE, color="0.6", linestyle="--", label="guessing")
        above.errorbar(accuracies, places, xerr=bars, fmt="o")
        above.set(title=task.title, xlabel="test accuracy", xlim=(0.45, 1.02))
        above.grid(alpha=0.3)

        courses = [row["validation_accuracy"] for row in of_task]
        epochs = max(map(len, courses))
        colours = below.imshow(
            courses,
            vmin=CHANCE,
            vmax=1,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            extent=(0.5, epochs + 0.5, -0.5, len(courses) - 0.5),
        )
        below.set(xlabel="epoch")
        below.xaxis.get_major_locator().set_params(integer=True)
        for axes in (above, below):
            axes.set_yticks(places, [row["cell"] for row in of_task])
            axes.set_ylim(-0.5, len(of_task) - 0.5)
    panels[0, 0].legend(loc="lower right")
    figure.colorbar(colours, ax=panels[1], label="validation accuracy", pad=0.01)
    return figure


if __name__ == "__main__":
    with told_to_user():
        sys.exit(main(sys.argv[1:]))
