"""Every cell on the same tasks with the same budget: accuracy, parameters, seconds.

python -m benchmarks.cells
python -m benchmarks.cells --tasks=imdb --cells=lstm,gru

Each run is one of `main.py`, seed 0, in a folder of its own under `--runs`. A run that is finished
is not made again, so the same command goes on where it was interrupted. Writes `cells.md`,
`cells.json` and `cells.png`.
"""

import argparse
import hashlib
import importlib
import json
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.figure

from benchmarks import workload
from benchmarks.peers import chosen
from seqmodels import factory
from train_lib import devices, files, loop
from train_lib.errors import told_to_user


class Task(NamedTuple):
    """What cells are compared on.

    Attributes:
        title: for people.
        config: a module in `configs/`.
        changes: fields that differ from it.
        floor: the accuracy of guessing, where it says more than the accuracy of other cells.
    """

    title: str
    config: str
    changes: dict
    floor: float | None = None


def _order(length: int) -> Task:
    return Task(
        f"temporal order, {length:,} steps",
        "temporal_order",
        {"data.length_tokens": length},
        floor=0.5,
    )


TASKS = {
    "order-100": _order(100),
    "order-500": _order(500),
    "order-1000": _order(1000),
    "generated": Task("generated corpus", "generated", {}, floor=0.5),
    "imdb": Task("IMDB", "lstm", {}),
}


class Entry(NamedTuple):
    """A row of the table."""

    cell: str
    options: str = ""

    def __str__(self) -> str:
        return f"{self.cell}, {self.options}" if self.options else self.cell


def entries(cells: Sequence[str], task: Task) -> list[Entry]:
    """The rows of a task; where memory is all, also the LSTM told how long it is to remember."""
    rows = [Entry(cell) for cell in cells]
    length = task.changes.get("data.length_tokens")
    if length is not None and "lstm" in cells:
        rows.append(Entry("lstm", f"memory_steps={length}"))
    return rows


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cells",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = factory.cell_names()
    parser.add_argument("--tasks", default=",".join(TASKS), help="separated by commas")
    parser.add_argument("--cells", default=",".join(names), help="separated by commas")
    parser.add_argument("--runs", type=pathlib.Path, default="runs/cells")
    parser.add_argument("--out", type=pathlib.Path, default="benchmarks/results")
    options = parser.parse_args(argv)
    tasks = {name: TASKS[name] for name in chosen("tasks", options.tasks, TASKS)}
    cells = chosen("cells", options.cells, names)

    devices.configure()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    for name, task in tasks.items():
        for entry in entries(cells, task):
            rows.append(run(name, task, entry, options.runs))
            content = {"machine": workload.machine(), "rows": rows}
            files.write(options.out / "cells.json", json.dumps(content, indent=1) + "\n")
    files.write(options.out / "cells.md", markdown(rows, tasks))
    draw(rows, tasks).savefig(options.out / "cells.png", dpi=150)
    print(markdown(rows, tasks))


def run(name: str, task: Task, entry: Entry, runs: pathlib.Path) -> dict:
    """What came of one cell on one task, now or before."""
    config = importlib.import_module(f"configs.{task.config}").get_config()
    config.model.cell, config.model.cell_options = entry
    config.update_from_flattened_dict(task.changes)
    config.name = f"{name}-{entry.cell}"
    identity = json.dumps(config.to_dict(), sort_keys=True)
    folder = runs / f"{config.name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    if not (folder / "result.json").exists():
        shutil.rmtree(folder, ignore_errors=True)  # Of a run that was interrupted.
        loop.run(config, str(folder))
    result = json.loads((folder / "result.json").read_text("utf-8"))
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    accuracy = result["test_accuracy"]
    return {
        "task": name,
        "cell": str(entry),
        "parameters": result["model"]["parameters"],
        "test_accuracy": accuracy["mean"],
        "ci95": [accuracy["ci95_low"], accuracy["ci95_high"]],
        "validation_accuracy": [epoch["validation_accuracy"] for epoch in epochs],
        "seconds": result["seconds"]["train"],
    }


def markdown(rows: Sequence[dict], tasks: dict[str, Task]) -> str:
    """The table, the best cell first."""
    titles = [task.title for task in tasks.values()]
    head = ["cell", *(f"{title}: test accuracy [95 %], parameters, s" for title in titles)]
    lines = [head, ["---"] * len(head)]
    for cell in _ranked(rows):
        line = [cell]
        for name in tasks:
            found = [row for row in rows if (row["task"], row["cell"]) == (name, cell)]
            line.append(_summary(found[0]) if found else "")
        lines.append(line)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        "# Every cell with the same budget\n\nMade by `python -m benchmarks.cells` on "
        f"{workload.machine()['device']}: seed 0, one run each, so the interval, over the test\n"
        "sequences of that run (Wilson), says nothing about other seeds. Seconds are of training, "
        "without compiling.\n\n" + table + "\n"
    )


def _summary(row: dict) -> str:
    low, high = row["ci95"]
    return (
        f"{row['test_accuracy']:.4f} [{low:.3f}, {high:.3f}], {row['parameters']:,}, "
        f"{row['seconds']:.0f}"
    )


def _ranked(rows: Sequence[dict]) -> list[str]:
    """The cells, those with the best mean accuracy first."""
    cells = dict.fromkeys(row["cell"] for row in rows)

    def mean(cell):
        accuracies = [row["test_accuracy"] for row in rows if row["cell"] == cell]
        return sum(accuracies) / len(accuracies)

    return sorted(cells, key=mean, reverse=True)


def draw(rows: Sequence[dict], tasks: dict[str, Task]) -> matplotlib.figure.Figure:
    """A panel for each task: the test accuracy of each cell, the best above."""
    ranked = _ranked(rows)[::-1]
    figure = matplotlib.figure.Figure(
        figsize=(2 + 2.7 * len(tasks), 1.2 + 0.28 * len(ranked)), layout="constrained"
    )
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, (name, task) in zip(panels, tasks.items(), strict=True):
        of_task = [row for row in rows if row["task"] == name]
        places = [ranked.index(row["cell"]) for row in of_task]
        accuracies = [row["test_accuracy"] for row in of_task]
        bars = [
            [row["test_accuracy"] - row["ci95"][0] for row in of_task],
            [row["ci95"][1] - row["test_accuracy"] for row in of_task],
        ]
        if task.floor is not None:
            axes.axvline(task.floor, color="0.6", linestyle="--", label="guessing")
            axes.set_xlim(0.45, 1.02)
            axes.legend(loc="lower right")
        axes.errorbar(accuracies, places, xerr=bars, fmt="o")
        axes.set(title=task.title, xlabel="test accuracy")
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(ranked)), ranked)
    return figure


if __name__ == "__main__":
    with told_to_user():
        sys.exit(main(sys.argv[1:]))
