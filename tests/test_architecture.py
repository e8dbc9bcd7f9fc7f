"""Imports go one way: main -> train_lib -> seqmodels, and inside seqmodels from top to bottom."""

import ast
import functools
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# From the top down.
LAYERS = (
    "factory model heads pooling inputs encoder bidirectional recurrence.engines recurrence.fused "
    "recurrence.loop recurrence.derivative recurrence.step recurrence.sequences cells.base"
).split()


@functools.cache
def nodes(path):
    """All of a file's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


@functools.cache
def imported(path):
    """Full names of all modules that a file imports."""
    found = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def files(folder):
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", files("seqmodels"), ids=str)
def test_models_know_nothing_of_training(path):
    roots = {name.partition(".")[0] for name in imported(path)}
    assert roots <= {"seqmodels", "jax", "flax"} | sys.stdlib_module_names


@pytest.mark.parametrize("path", [*files("seqmodels"), *files("train_lib")], ids=str)
def test_a_module_is_no_longer_than_one_can_read(path):
    assert len(path.read_text("utf-8").splitlines()) <= 350


@pytest.mark.parametrize("path", files("seqmodels/recurrence"), ids=str)
def test_the_recurrence_knows_cells_and_nothing_built_of_them(path):
    own = [name for name in imported(path) if name.startswith("seqmodels")]
    below = ("recurrence", "cells", "dropout", "arguments", "precision", "products")
    assert all(name.startswith(tuple(f"seqmodels.{room}" for room in below)) for name in own)


def test_a_new_engine_touches_one_place():
    """Its file and a benchmark of that name apart, the table alone names it."""
    room = ROOT / "seqmodels/recurrence"
    names = [path.stem for path in room.glob("*.py") if "\nENTRY = " in path.read_text("utf-8")]
    assert len(names) == 8
    for path in PROGRAM:
        own = path.parent == room and path.stem in (*names, "engines", "fused_kernels", "__init__")
        measures = path.parent == ROOT / "benchmarks" and path.stem in names
        if not own and not measures:
            engines = {f"seqmodels.recurrence.{name}" for name in names}
            assert not engines & {name.rpartition(".")[0] for name in imported(path)}
            assert not engines & set(imported(path))


@pytest.mark.parametrize("path", files("seqmodels/cells"), ids=str)
def test_a_cell_stands_alone(path):
    if path.stem == "__init__":  # It names all of them.
        return
    roots = {name for name in imported(path) if not name.startswith(("jax", "flax"))}
    assert roots <= {
        "seqmodels.cells.base",
        "seqmodels.products.product",
        "typing.Any",
        "typing.NamedTuple",
    }


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_a_layer_imports_only_what_is_below_it(number):
    path = ROOT / "seqmodels" / f"{LAYERS[number].replace('.', '/')}.py"
    above = [f"seqmodels.{layer}." for layer in LAYERS[: number + 1]]
    assert not [name for name in imported(path) if f"{name}.".startswith(tuple(above))]


LEAVES = {"analysis.statistics", "analysis.scores", "analysis.pictures"}
"""Of the room of analysis, what knows nothing but numbers."""

# What each room may import of the others, whatever has no room of its own beside.
ROOMS = {
    "leaves": set(),
    "tasks": {"leaves"},
    "data": {"tasks"},
    "training": {"data", "tasks"},
    "records": {"training", "data", "tasks", "leaves", "settings"},
    "analysis": {"records", "training", "data", "tasks", "leaves", "settings"},
    "conflicts": {"training", "data"},
    "settings": {"conflicts", "training", "data", "tasks"},
    "building": {"training", "data", "tasks", "settings"},
    "beginning": {"building", "records", "training", "data", "tasks"},
    "streaming": {"training", "data", "tasks"},
    "interchange": set(),
    "run": {"beginning", "building", "records", "training", "data", "tasks", "settings"},
    "explaining": {"restored", "data"},
    "trials": set("run building analysis records training data tasks leaves settings".split()),
    "restored": set("building records portable streaming training data tasks settings".split()),
    "portable": {"data"},
}
COMMON = {"errors", "files", "encoding", "screen"}


def room_of(name):
    """The room of a module of `train_lib`; a file beside the rooms is one of its own."""
    name = name.removeprefix("train_lib.")
    is_leaf = any(f"{name}.".startswith(f"{leaf}.") for leaf in LEAVES)
    return "leaves" if is_leaf else name.partition(".")[0]


@pytest.mark.parametrize("path", files("train_lib"), ids=str)
def test_a_room_imports_only_what_is_below_it(path):
    room = room_of(".".join(path.relative_to(ROOT / "train_lib").with_suffix("").parts))
    found = {room_of(name) for name in imported(path) if name.startswith("train_lib.")}
    if room in COMMON:
        assert found <= COMMON
    elif room in ROOMS:
        assert found <= {room, *COMMON, *ROOMS[room]}
    else:  # A program: a thin command line, which no other one needs.
        assert found <= {"command", "analysis", *COMMON, *ROOMS}


# Where a config is known: it is read, stored, and made objects of.
SEES_CONFIGS = {
    "baselines", "beginning", "building", "command", "conflicts", "convert", "records", "restored",
    "run", "settings", "sweep", "train", "trials",
}  # fmt: skip


@pytest.mark.parametrize("path", files("train_lib"), ids=str)
def test_only_runs_and_records_see_a_config(path):
    room = room_of(".".join(path.relative_to(ROOT / "train_lib").with_suffix("").parts))
    if room not in SEES_CONFIGS:
        assert not [name for name in imported(path) if name.startswith("ml_collections")]
        names = {node.arg for node in nodes(path) if isinstance(node, ast.arg)}
        assert not {"config", "data_config", "model_config", "train_config"} & names


# Beside main.py, what takes an experiment on its command line.
PROGRAMS = {"baselines", "command", "convert", "sweep", "train"}


@pytest.mark.parametrize("path", files("train_lib"), ids=str)
def test_training_does_not_read_flags_or_experiments(path):
    names = list(imported(path))
    fields = ["configs.base"] if path.stem == "settings" else []  # Their defaults.
    assert [name for name in names if name.startswith(("configs", "main"))] == fields
    if path.stem not in PROGRAMS:
        others = tuple(f"{name}." for name in ("absl", *(f"train_lib.{one}" for one in PROGRAMS)))
        assert not [name for name in names if f"{name}.".startswith(others)]


@pytest.mark.parametrize("path", files("train_lib"), ids=str)
def test_a_start_does_not_wait_for_scikit_learn(path):
    at_start = ast.parse(path.read_text("utf-8")).body
    imports = [node for node in at_start if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "sklearn" not in " ".join(map(ast.unparse, imports))


def test_optuna_is_needed_by_searches_alone():
    of_searches = {ROOT / "train_lib/sweep.py", ROOT / "train_lib/analysis/axes.py",
                   *files("train_lib/trials")}  # fmt: skip
    for path in {ROOT / "main.py", *files("train_lib"), *files("seqmodels")} - of_searches:
        names = list(imported(path))
        known = ("optuna", "submitit", "train_lib.trials", "train_lib.analysis.axes")
        assert not [name for name in names if f"{name}.".startswith(tuple(f"{n}." for n in known))]


def test_only_one_file_knows_how_checkpoints_are_stored():
    paths = [ROOT / "main.py", *files("train_lib"), *files("seqmodels"), *files("benchmarks")]
    orbax = [path for path in paths if any(n.startswith("orbax") for n in imported(path))]
    assert orbax == [ROOT / "train_lib" / "records" / "checkpoint.py"]


PROGRAM = [
    ROOT / "main.py",
    *(path for folder in ("seqmodels", "train_lib", "configs", "benchmarks", "studies")
      for path in files(folder)),
]  # fmt: skip


@pytest.mark.parametrize("path", PROGRAM, ids=str)
def test_nothing_is_pickled(path):
    tree = ast.parse(path.read_text("utf-8"))
    allowed = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle"
    ]
    assert all(isinstance(value, ast.Constant) and value.value is False for value in allowed)
    assert not any("pickle" in n for n in imported(path))


@pytest.mark.parametrize("path", sorted((ROOT / "seqmodels/cells").glob("*.py")), ids=str)
def test_a_cell_is_a_small_file(path):
    if path.stem != "base":
        assert len(path.read_text("utf-8").splitlines()) < 100


@pytest.mark.parametrize("path", PROGRAM, ids=str)
def test_only_the_default_cell_is_named_outside_of_the_folder_of_cells(path):
    cells = ROOT / "seqmodels/cells"
    names = {file.stem for file in cells.glob("*.py")} - {"__init__", "base", "lstm"}
    # Benchmarks name other libraries' layers.
    if path.parent not in (cells, ROOT / "benchmarks"):
        source = path.read_text("utf-8")
        constants = {
            node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)
        }
        assert not names & {value for value in constants if isinstance(value, str)}
        assert not re.findall(rf"cells\.(?:{'|'.join(names)})\b", source)
        assert not {f"seqmodels.cells.{name}" for name in names} & set(imported(path))
