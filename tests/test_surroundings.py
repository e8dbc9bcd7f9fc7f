"""What surrounds a program changes no number, and ends none with a traceback."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from configs import base
from train_lib import settings
from train_lib.errors import UserError
from train_lib.records import curves
from train_lib.records.folder import RunFolder
from train_lib.tasks.classes import Classes

ROOT = pathlib.Path(__file__).parent.parent
FLAGS = (
    "--config=configs/lstm.py", "--config.data.source=generated", "--config.data.train_examples=40",
    "--config.data.validation_examples=20", "--config.data.test_examples=20",
    "--config.data.max_features=200", "--config.train.batch_size=8", "--config.train.num_epochs=1",
    "--config.model.embedding_size=4", "--config.model.hidden_sizes=(4,)",
    "--config.model.dropout_rates=(0.2,)",
)  # fmt: skip
UNUSUAL = {
    "JAX_ENABLE_X64": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0", "JAX_RANDOM_SEED_OFFSET": "5",
    "JAX_TRANSFER_GUARD": "disallow", "JAX_DEFAULT_DEVICE": "gpu", "MPLBACKEND": "nonsense",
    "PYTHONIOENCODING": "ascii",
}  # fmt: skip


def start(line, *arguments, env=None):
    """Starts Python in a line of the shell, where it is `"$@"`: exit code, output, errors."""
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}", "bash", sys.executable, *map(str, arguments)],
        cwd=ROOT, env=os.environ | (env or {}), capture_output=True, text=True,
        encoding="utf-8", errors="replace",
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow  # Two trainings and a prediction.
def test_a_run_does_not_depend_on_the_environment_or_on_its_reader(tmp_path):
    plain = start('"$@"', "main.py", f"--workdir={tmp_path / 'plain'}", *FLAGS)
    assert plain[0] == 0, plain
    code, output, errors = start(
        '"$@" | head -1', "main.py", f"--workdir={tmp_path / 'unusual'}", *FLAGS, env=UNUSUAL
    )
    assert (code, len(output.splitlines())) == (0, 1), errors
    assert "Exception ignored" not in errors
    for variable in UNUSUAL:
        assert not variable.startswith("JAX") or f"note: {variable}=" in errors
    assert (tmp_path / "unusual/SHA256SUMS").exists()
    runs = [tmp_path / name / "model.safetensors" for name in ("plain", "unusual")]
    expected, found = load_file(runs[0]), load_file(runs[1])
    assert all(np.array_equal(expected[name], found[name]) for name in expected)

    predict = ("-m", "train_lib.predict", f"--workdir={tmp_path / 'plain'}", "schön 🙂")
    code, output, errors = start('"$@"', *predict, env=UNUSUAL)
    assert code == 0, errors
    assert r"sch\xf6n \U0001f642" in output


@pytest.mark.parametrize("given", ["", "--xla_cpu_prefer_vector_width=128"])
def test_a_program_has_its_own_flags_for_the_compiler(given):
    """They take effect; what it starts itself, such as another library, does not get them."""
    code = (
        "import os, jax, jax.numpy as jnp; from seqmodels import program; program.configure_jax();"
        "of = jax.jit(lambda x: (jnp.tanh(x[::-1]), jnp.exp(x[::-1]) * x));"
        "print(of.lower(jnp.ones((9, 9))).compile().as_text());"
        "print('given:', os.environ.get('XLA_FLAGS'))"
    )
    code, output, errors = start('"$@"', "-c", code, env={"XLA_FLAGS": given})
    assert code == 0, errors
    assert f"given: {given}\n" in output
    assert any(" = (f32[9,9]" in line and " fusion(" in line for line in output.splitlines())


def test_any_text_is_shown_in_any_encoding():
    check = ("-m", "seqmodels.check_cell", "schön.py")
    code, output, errors = start('"$@"', *check, env={"PYTHONIOENCODING": "ascii"})
    assert (code, errors) == (1, "")
    assert r"sch\xf6n.py" in output


def test_output_that_is_lost_is_told_of():
    code, _, errors = start('"$@" >/dev/full', "main.py", "--help")
    assert (code, len(errors.splitlines())) == (1, 1), errors
    assert "No space left on device" in errors


def test_a_program_goes_on_without_its_streams():
    code, _, errors = start('"$@" <&- >&-', "-m", "train_lib.predict", "--workdir=none", "-")
    assert (code, errors) == (1, "error: there is no text: the input is empty.\n")


@pytest.mark.parametrize(
    ("variable", "value", "program"),
    [
        ("JAX_PLATFORMS", "nonsense", ("seqmodels.check_cell", "lstm")),
        ("JAX_ENABLE_X64", "maybe", ("seqmodels.check_cell", "lstm")),
        ("MPLCONFIGDIR", "gs://bucket/folder", ("train_lib.compare", "one", "other")),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(variable, value, program):
    code, output, errors = start('"$@"', "-m", *program, env={variable: value})
    assert (code, output, len(errors.splitlines())) == (1, "", 1), errors
    assert variable in errors


def test_a_cell_file_may_have_any_encoding(tmp_path):
    cell = tmp_path / "mine.py"
    cell.write_bytes("# coding: latin-1\n# Müller's.\n".encode("latin-1"))
    config = base.get_config("mine", "exact")
    config.model.cell = str(cell)
    for _ in range(2):
        try:
            RunFolder.open(str(tmp_path / "run"), config).close()
        except UnicodeDecodeError as error:
            pytest.fail(f"the cell's file is not read: {error}")


@pytest.mark.parametrize("name", ["\udcff", "a\nb", "\x1b[31m", "..", "x" * 201, "é" * 101])
def test_a_name_is_one_that_a_folder_can_have(name):
    config = base.get_config("mine", "exact")
    config.name = name
    with pytest.raises(UserError, match=r"config\.name"):
        settings.check(config)


@pytest.mark.parametrize("field", ["data.dir", "data.archive", "model.cell"])
def test_a_path_in_a_config_is_utf8(field):
    config = base.get_config("mine", "exact")
    config.update_from_flattened_dict({field: "\udcff.py"})
    with pytest.raises(UserError, match=f"config.{field}"):
        settings.check(config)


def test_a_folder_of_results_has_a_name_in_utf8(tmp_path):
    with pytest.raises(UserError, match="UTF-8"):
        RunFolder.open(f"{tmp_path}/\udcff", base.get_config("mine", "exact"))


def test_a_path_that_is_too_long_is_no_run():
    folder = RunFolder("x" * 300)
    try:
        assert not folder.is_begun()
        assert not folder.is_finished()
    except OSError as error:
        pytest.fail(f"the path is not taken: {error}")


def test_a_name_with_signs_of_mathematics_can_be_drawn(tmp_path):
    folder = RunFolder(tmp_path)
    try:
        curves.draw(folder, "the price, $x^$", [], Classes(["a", "b"]))
    except ValueError as error:
        pytest.fail(f"the title is not drawn: {error}")
    assert (tmp_path / "curves.png").exists()
