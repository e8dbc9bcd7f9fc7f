"""The comparison of cells: one command, which goes on where it was interrupted."""

import json

import pytest

from benchmarks import cells
from benchmarks.cells import Entry, Task
from train_lib import loop

SMALL = {
    "data.length_tokens": 20, "data.train_reviews": 32, "data.validation_reviews": 8,
    "data.test_reviews": 8, "train.num_epochs": 1, "model.hidden_sizes": (3,),
}  # fmt: skip


@pytest.fixture
def arguments(monkeypatch, tmp_path):
    monkeypatch.setattr(cells, "TASKS", {"order-20": Task("order", "temporal_order", SMALL, 0.5)})
    return ["--cells=lstm,simple_rnn", f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}"]


def test_interrupted_and_started_again_it_makes_what_is_missing(arguments, monkeypatch, tmp_path):
    run, made = loop.run, []

    def run_and_note(config, workdir):
        made.append(str(Entry(config.model.cell, config.model.cell_options)))
        return run(config, workdir)

    def run_one(config, workdir):
        if made:
            raise KeyboardInterrupt
        return run_and_note(config, workdir)

    monkeypatch.setattr(loop, "run", run_one)
    with pytest.raises(KeyboardInterrupt):
        cells.main(arguments)
    assert made == ["lstm"]
    monkeypatch.setattr(loop, "run", run_and_note)
    for _ in range(2):
        cells.main(arguments)
        assert made == ["lstm", "simple_rnn", "lstm, memory_steps=20"]

    out = tmp_path / "out"
    rows = json.loads((out / "cells.json").read_text())["rows"]
    assert [row["cell"] for row in rows] == made
    table = (out / "cells.md").read_text()
    for row in rows:
        assert f"| {row['cell']} | {row['test_accuracy']:.4f} [" in table
    assert (out / "cells.png").stat().st_size > 1_000


def test_another_budget_is_another_run(arguments, tmp_path):
    task = cells.TASKS["order-20"]
    longer = task._replace(changes=SMALL | {"train.num_epochs": 2})
    for one, epochs in ((task, 1), (longer, 2)):
        row = cells.run("order-20", one, Entry("simple_rnn"), tmp_path)
        assert len(row["validation_accuracy"]) == epochs
