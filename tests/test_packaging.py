"""What is installed is what a checkout has, and its commands run from any folder."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import venv

import pytest

from train_lib import command, scripts

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PACKAGE["optional-dependencies"]
PROGRAMS = set("train predict evaluate generate compare sweep baselines export convert".split())
SMALL = (
    "--config=configs/lstm.py", "--config.data.source=generated",
    "--config.data.train_examples=40", "--config.data.validation_examples=20",
    "--config.data.test_examples=20", "--config.data.max_features=200",
    "--config.train.batch_size=8", "--config.train.num_epochs=1",
    "--config.model.embedding_size=4", "--config.model.hidden_sizes=(4,)",
)  # fmt: skip


def requirements(name):
    """The requirements of a file, without comments and without those of other files."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return sorted(line for line in lines if line and not line.startswith("-r"))


def test_requirements_are_those_of_the_package():
    assert requirements("requirements.txt") == sorted(PACKAGE["dependencies"])
    assert requirements("requirements-dev.txt") == sorted(EXTRAS["dev"])
    assert requirements("benchmarks/requirements.txt") == sorted(EXTRAS["bench"])


def test_what_is_optional_is_there_for_the_tests():
    extras = ("data", "tensorboard", "submitit", "convert", "export")
    assert {one for extra in extras for one in EXTRAS[extra]} <= set(EXTRAS["dev"])


def test_jax_for_other_devices_is_as_new_as_that_for_the_cpu():
    (plain,) = [one for one in PACKAGE["dependencies"] if one.startswith("jax")]
    for name in ("cuda", "tpu"):
        (of_device,) = EXTRAS[name]
        assert re.sub(r"\[\w+\]", "", of_device) == plain


def test_every_program_has_a_command():
    assert PACKAGE["scripts"] == {
        f"seqmodels-{name}": f"{scripts.__name__}:{name}" for name in PROGRAMS
    }
    for name in PROGRAMS:
        assert callable(getattr(scripts, name))


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_a_command_is_a_program_of_the_checkout(name):
    spec = importlib.util.find_spec(f"train_lib.{name}")
    assert spec is not None
    assert '\nif __name__ == "__main__":\n' in pathlib.Path(spec.origin).read_text("utf-8")


@pytest.mark.parametrize("name", ["seqmodels", "train_lib"])
def test_types_are_there_for_those_who_check_them(name):
    assert (ROOT / name / "py.typed").is_file()
    folders = {path.parent for path in (ROOT / name).rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_experiments_are_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert command._find("configs/lstm.py:tutorial") == f"{ROOT / 'configs/lstm.py'}:tutorial"
    for name in ("configs/mine.py", "mine.py", "lstm.py", "other/configs/lstm.py", ""):
        assert command._find(name) == name
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/lstm.py").touch()
    assert command._find("configs/lstm.py") == "configs/lstm.py"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ordinary", "editable"])
def test_it_is_installed_and_used_from_another_folder(tmp_path, way):
    """In an environment of its own, which borrows what this one has of other packages."""
    source, environment, elsewhere = (tmp_path / name for name in ("source", "env", "elsewhere"))
    elsewhere.mkdir()
    # A copy, because building leaves files.
    source.mkdir()
    for name in ("seqmodels", "train_lib", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    venv.create(environment, symlinks=True)  # Its own setuptools may be too old.
    packages = [folder for folder in sys.path if folder.endswith("site-packages")]
    own = next(environment.glob("lib*/python*/site-packages"))
    (own / "borrowed.pth").write_text("\n".join(packages), "utf-8")
    variables = {
        name: value for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH")
    }  # fmt: skip

    def run(name, *arguments):
        done = subprocess.run(
            [environment / "bin" / name, *arguments],
            cwd=elsewhere, env=variables, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # With its dependencies: those that are not here would have to be downloaded.
    options = ["--editable"] if way == "editable" else []
    pip = ("-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation")
    run("python", *pip, *options, str(source))

    names = ("seqmodels", "train_lib", "configs")
    where = run(
        "python", "-c", f"import {', '.join(names)}\n"
        f"for one in ({', '.join(names)}): print(one.__file__)",
    )  # fmt: skip
    folder = source if way == "editable" else own
    paths = [pathlib.Path(line).resolve() for line in where.splitlines()]
    assert paths == [(folder / name / "__init__.py").resolve() for name in names]

    assert "--workdir" in run_help(environment, elsewhere, variables)
    run("seqmodels-train", *SMALL, "--workdir=run")
    assert (elsewhere / "run/SHA256SUMS").is_file()
    answer = run("seqmodels-predict", "--workdir=run", "a fine film")
    assert "a fine film" in answer
    assert "is finished" in run("seqmodels-train", "--workdir=run")


def run_help(environment, folder, variables):
    """What training says of its options."""
    done = subprocess.run(
        [environment / "bin/seqmodels-train", "--help"],
        cwd=folder, env=variables, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout
