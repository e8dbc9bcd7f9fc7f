"""The comparison of cells: one command, which goes on where it was interrupted."""

import json

import pytest
from flax import nnx

from benchmarks import cells
from benchmarks.cells import Entry, Task
from seqmodels import loading
from train_lib import run as train_lib_run
from train_lib.errors import Diverged, UserError

SMALL = {
    "data.train_examples": 32, "data.validation_examples": 8,
    "data.test_examples": 8, "train.num_epochs": 1, "model.hidden_sizes": (3,),
}  # fmt: skip


@pytest.fixture
def arguments(monkeypatch, tmp_path):
    monkeypatch.setattr(cells, "TASKS", {"order": Task("order", "temporal_order", SMALL, (1e-3,))})
    folders = [f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}"]
    return ["--cells=lstm,simple_rnn", "--lengths=20", *folders]


@pytest.mark.slow
def test_interrupted_and_started_again_it_makes_what_is_missing(arguments, monkeypatch, tmp_path):
    run, made = train_lib_run.run, []

    def run_and_note(config, workdir):
        made.append((config.model.cell, config.model.cell_options))
        return run(config, workdir)

    def run_one(config, workdir):
        if made:
            raise KeyboardInterrupt
        return run_and_note(config, workdir)

    monkeypatch.setattr(train_lib_run, "run", run_one)
    with pytest.raises(KeyboardInterrupt):
        cells.main(arguments)
    assert made == [("lstm", "")]
    monkeypatch.setattr(train_lib_run, "run", run_and_note)
    cells.main(arguments)
    assert made[1:] == [("lstm", ""), ("simple_rnn", ""), ("lstm", "memory_steps=20")]
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    cells.main(arguments)
    assert len(weights) == 3
    assert {path: path.stat().st_mtime_ns for path in weights} == weights

    out = tmp_path / "out"
    rows = json.loads((out / "cells.json").read_text())["rows"]
    assert [row["cell"] for row in rows] == ["lstm", "simple_rnn", "lstm, memory_steps=T"]
    table = (out / "cells.md").read_text()
    for row in rows:
        assert f"| {row['cell']} | {row['test_accuracy']:.4f} [" in table
    assert (out / "cells.png").stat().st_size > 1_000


@pytest.mark.slow
def test_another_budget_is_another_run(tmp_path):
    for epochs in (1, 2):
        changes = SMALL | {"data.source_options": "length_tokens=20", "train.num_epochs": epochs}
        task = Task("order", "temporal_order", changes, (1e-3,))
        row = cells.run("order-20", task, Entry("simple_rnn", "simple_rnn"), 1e-3, 1, tmp_path)
        assert len(row["validation_accuracy"]) == epochs


def test_of_learning_rates_the_best_in_validation_is_shown(arguments, monkeypatch, tmp_path):
    """Whatever the test reviews say; and those that diverge are named."""
    last = {0.1: 0.6, 1e-3: 0.7, 0.5: 0.8}

    def run(name, task, entry, rate, seeds, runs):
        if rate == 0.5 or entry.cell == "simple_rnn":
            raise Diverged("seed 0: not finite")
        test = 1 - last[rate]
        return {
            "task": name, "cell": entry.name, "parameters": 1, "learning_rate": rate, "seconds": 1,
            "diverged": [1] if rate == 0.1 else [],
            "validation_accuracy": [0.9 - last[rate], last[rate]],
            "test_accuracy": test, "ci95": [test - 0.1, test + 0.1],
        }  # fmt: skip

    monkeypatch.setattr(cells, "run", run)
    task = cells.TASKS["order"]._replace(learning_rates=tuple(last))
    monkeypatch.setitem(cells.TASKS, "order", task)
    cells.main([*arguments, "--seeds=2"])
    rows = json.loads((tmp_path / "out/cells.json").read_text())["rows"]
    assert [row["cell"] for row in rows] == ["lstm", "lstm, memory_steps=T"]
    assert [row["learning_rate"] for row in rows] == [1e-3] * 2
    table = (tmp_path / "out/cells.md").read_text()
    assert table.count("0.3000 [0.200, 0.400], 1, 1, 0.001") == 2
    title = "order, T = 20"
    lost = (
        f"seed 1 of lstm on {title} at 0.1; lstm on {title} at 0.5; simple_rnn on {title} at 0.1;"
    )
    assert f"Diverged: {lost}" in table
    assert "2 seeds; the intervals are of their mean, over seeds and test sequences" in table

    with pytest.raises(UserError, match="every run has diverged"):
        cells.main([*arguments, "--cells=simple_rnn"])


def test_temporal_order_is_a_task_for_each_length_and_other_tasks_stay():
    tasks = cells.at_lengths(cells.TASKS, [500, 2000])
    assert list(tasks) == ["temporal_order-500", "temporal_order-2000", "generated", "imdb"]
    options = [task.changes.get("data.source_options") for task in tasks.values()]
    assert options == ["length_tokens=500", "length_tokens=2000", None, None]
    names = [entry.name for entry in cells.entries(["lstm"], tasks["temporal_order-500"])]
    assert names == [entry.name for entry in cells.entries(["lstm"], tasks["temporal_order-2000"])]
    assert [entry.name for entry in cells.entries(["lstm"], tasks["imdb"])] == ["lstm"]


def test_where_memory_is_all_each_cell_that_can_be_is_told_how_long():
    task = Task("order", "temporal_order", {"data.source_options": "length_tokens=20"}, (1e-3,))
    for name in loading.cell_names():
        _, *told = cells.entries([name], task)
        for entry in told:
            options = loading.parse_options(entry.cell_options)
            loading.find_cell(name)(2, 3, rngs=nnx.Rngs(0), **options)
    assert cells.entries(["simple_rnn"], task) == [Entry("simple_rnn", "simple_rnn")]


def test_nothing_takes_the_place_of_imdb():
    assert cells.TASKS["imdb"].changes["data.source"] == "imdb"


@pytest.mark.parametrize(
    ("argument", "words"),
    [("--lengths=5h", "'5h' must be whole numbers"), ("--lengths=", "'' must be whole numbers")],
)
def test_lengths_that_are_none_are_refused(argument, words, capsys):
    with pytest.raises(SystemExit):
        cells.main([argument])
    assert words in capsys.readouterr().err
