"""Exports a finished run's model as a program that JAX alone can run.

python -m train_lib.export --workdir=runs/stacked-... --to=exported
python -m train_lib.export --workdir=runs/stacked-... --to=exported --seed=3 --best
python -m train_lib.export --workdir=runs/of-an-older-version --card

The folder has the model as a StableHLO program, `model.json`, which describes its inputs and
outputs, and the vocabulary. A model that reads forwards also gets programs for sequences that
arrive a step at a time. docs/export.md has ten lines that run them.

`--card` writes the run's model card, or rewrites it.
"""

import argparse
import importlib.util
import json
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import jax
from jax.export import Exported

from train_lib import files, portable
from train_lib.data.inputs import Text
from train_lib.data.vocabulary import END, FIRST_WORD, START, UNKNOWN
from train_lib.errors import UserError, told_to_user
from train_lib.records import card, description, environment, weights
from train_lib.records.folder import CARD
from train_lib.restored import Restored
from train_lib.training import devices

NAME = "model.json"
PACKAGE = "flatbuffers"
"""JAX writes and reads programs with this package, but does not install it."""


def export(workdir: str, to: str, *, seed: int | None = None, best: bool = False) -> dict[str, Any]:
    """Writes the programs of a run's model and `model.json`; returns the contents of the latter.

    Args:
        workdir: the run's folder.
        to: the folder to write, new or empty.
        seed: the seed of the model; None: the first that has not diverged.
        best: export the model after its best epoch by validation.

    Raises:
        UserError: there is no such run or seed, or the folder cannot be written.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(f"JAX writes programs with {PACKAGE}: pip install {PACKAGE}.")
    # Every device has the loop engine.
    restored = Restored(workdir, best=best, engine="loop")
    number = restored.number_of(seed)
    model: Any = restored.model(number)
    programs = {"model": portable.whole(model, restored.inputs, restored.rows())}
    no_steps = restored.why_no_steps()
    if not no_steps:
        steps = portable.step_by_step(model, restored.inputs)
        programs |= steps._asdict()
    folder = files.new_folder("--to", to, "exported")
    content = {
        "run": restored.folder.path.name,
        "seed": restored.seeds[number],
        "seeds_of_run": len(restored.seeds),
        "parameters": "of the best epoch by validation" if best else "as they were tested",
        "inputs": _describe_inputs(restored),
        "task": type(restored.task).__name__,
        "task_fields": restored.tasks_K[number].to_json(),
        "programs": {name: _describe(name, of) for name, of in programs.items()},
        **({"no_steps": no_steps} if no_steps else {}),
        "platforms": list(portable.PLATFORMS),
        "versions": environment.versions(),
    }
    try:
        for name, of in programs.items():
            files.write(folder / _file_of(name), bytes(of.serialize()))
        if isinstance(restored.inputs, Text):
            shutil.copyfile(
                restored.folder.path / description.VOCABULARY, folder / description.VOCABULARY
            )
        text = json.dumps(content, indent=2, ensure_ascii=False)
        files.write(folder / NAME, text + "\n")  # Last: it marks a complete folder.
    except OSError as error:
        raise UserError(f"--to={folder} cannot be written: {error.strerror or error}.") from error
    return content


def write_card(workdir: str) -> pathlib.Path:
    """Writes a finished run's model card, replacing any old one; returns its path.

    Raises:
        UserError: there is no such run, or it has no weights.
    """
    folder = weights.open_finished(workdir, weights.WEIGHTS)
    if not weights.file_of(folder, weights.WEIGHTS):
        raise UserError(
            f"{folder.path} has no {weights.WEIGHTS}, so there is no model to describe."
        )
    card.write(folder, folder.read_json("result.json"))
    return folder.path / CARD


def _file_of(program: str) -> str:
    return f"{program}.jaxexport"


def _describe(name: str, program: Exported) -> dict[str, Any]:
    """Describes a program's arguments and results."""
    names = {"model": ["x", "lengths"], "start": ["x"], "step": ["carry", "x"]}[name]
    returned = {"model": ["outputs"], "start": ["carry"], "step": ["carry", "outputs"]}[name]
    arguments, _ = jax.tree.unflatten(program.in_tree, map(_shape, program.in_avals))
    results = jax.tree.unflatten(program.out_tree, map(_shape, program.out_avals))
    if len(returned) == 1:
        results = [results]
    return {
        "file": _file_of(name),
        "calling_convention": program.calling_convention_version,
        "arguments": dict(zip(names, arguments, strict=True)),
        "results": dict(zip(returned, results, strict=True)),
    }


def _shape(aval: Any) -> str:
    """An array as text, a leaf of a tree, as in `float32[B, T, 3]`."""
    return f"{aval.dtype}[{', '.join(map(str, aval.shape))}]"


def _describe_inputs(restored: Restored) -> dict[str, Any]:
    """Describes what x holds."""
    inputs = restored.inputs
    if not isinstance(inputs, Text):
        return {"kind": inputs.kind, "size": inputs.size}
    return {
        **inputs.to_json(),
        "vocabulary": description.VOCABULARY,
        "start": START,
        "unknown": UNKNOWN,
        "end": END,
        "first_word": FIRST_WORD,
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train_lib.export",
        description="Exports a finished run's model as a program that JAX alone can run.",
    )
    parser.add_argument("--workdir", required=True, help="the folder of a finished run")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--to", help="the folder to write, new or empty")
    what.add_argument(
        "--card", action="store_true", help="write README.md, the model card, into the run's folder"
    )
    parser.add_argument("--seed", type=int, help="the seed of the model; the first by default")
    parser.add_argument(
        "--best", action="store_true", help="the model after its best epoch by validation"
    )
    arguments = parser.parse_args(argv)
    if arguments.card:
        if arguments.best or arguments.seed is not None:
            parser.error("--card covers all seeds, and the best epochs too")
        print(write_card(arguments.workdir))
        return
    devices.configure()
    content = export(arguments.workdir, arguments.to, seed=arguments.seed, best=arguments.best)
    folder = pathlib.Path(arguments.to)
    for program in content["programs"].values():
        given, returned = (
            ", ".join(f"{one} {_plain(of)}" for one, of in program[what].items())
            for what in ("arguments", "results")
        )
        print(f"{folder / program['file']}: {given} -> {returned}")
    if reason := content.get("no_steps"):
        print(f"no program for a step at a time: {reason}")
    if content["seeds_of_run"] > 1:
        print(
            f"the model is that of seed {content['seed']}; predict averages the answers of "
            f"{content['seeds_of_run']} seeds"
        )


def _plain(shapes: Any) -> str:
    return shapes if isinstance(shapes, str) else f"[{', '.join(shapes)}]"


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
