"""Converts weights from Keras and PyTorch to a run, and the weights of a run for them.

python -m train_lib.convert --config=configs/stacked.py:tutorial --from=model.keras --workdir=runs/k
python -m train_lib.convert --workdir=runs/stacked-... --to=model.safetensors [--best] [--seed=3]

Files end in .keras, .weights.h5, .pt, .pth or .safetensors. Imported weights are validated
and tested on the config's data, as if they had been trained here, and leave the folder of a
finished run. Several files, one for each seed, are separated by commas.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from flax import nnx
from ml_collections import ConfigDict

from seqmodels import SequenceModel
from train_lib import beginning, building, command, files, settings
from train_lib.beginning import Beginning
from train_lib.data.dataset import Dataset
from train_lib.data.inputs import Inputs, Text
from train_lib.data.vocabulary import Vocabulary
from train_lib.errors import UserError
from train_lib.interchange import formats
from train_lib.interchange.layout import Arrays, Layout
from train_lib.records import card, description, predictions, report, weights
from train_lib.records.folder import RunFolder
from train_lib.records.result import decide, each_seed, result
from train_lib.restored import Restored
from train_lib.tasks.base import Task
from train_lib.tasks.classes import Classes
from train_lib.tasks.labels import Labels
from train_lib.tasks.next_token import NextToken
from train_lib.tasks.tags import Tags
from train_lib.training import devices
from train_lib.training.program import Program
from train_lib.training.stopwatch import Stopwatch


def take(
    config: ConfigDict,
    paths: Sequence[str],
    workdir: str | None = None,
    *,
    vocabulary: str | None = None,
) -> dict:
    """Makes a finished run from models that were trained elsewhere.

    Args:
        config: the run's data, task and model.
        paths: the files, one for each seed.
        workdir: the run's folder; None: a new one under `runs/`.
        vocabulary: the file of the words that the models know, as `Vocabulary.read` reads it;
            None: the words come from the config's training examples.

    Returns:
        The contents of `result.json`.

    Raises:
        UserError: the config, the data, the folder or a file cannot be used, or a file does
            not fit the config's model; nothing was written.
    """
    settings.check(config)
    seeds = building.seeds_asked(config)
    if len(seeds) != len(paths):
        raise UserError(
            f"config.train.seeds = {len(seeds)}, and there are {len(paths)} files, one for each "
            f"seed; set it to {len(paths)}."
        )
    for path in paths:
        formats.find(path)
    stopwatch = Stopwatch()
    with contextlib.closing(RunFolder.open(workdir, config)) as folder:
        if folder.is_begun():
            raise UserError(f"--workdir={folder.path} has a run in it already; name a new folder.")
        print(report.header(folder), flush=True)
        with stopwatch.phase("data"):
            words = vocabulary and Vocabulary.read(vocabulary, config.data.max_features)
            data, task = building.load_data(config, vocabulary=words or None)
        models = building.build_models(config, data.inputs, task, seeds)
        begins = _fill(config, models, data.inputs, task, paths)
        print(report.describe_data(data), report.describe_task(task), sep="\n", flush=True)
        print(report.parameter_table(nnx.state(models[0], nnx.Param)), flush=True)
        print(f"{begins.describe()}\n", flush=True)
        return _report(config, data, task, models, begins, folder, stopwatch)


def give(workdir: str, path: str, *, best: bool = False, seed: int | None = None) -> list[str]:
    """Writes the parameters of a finished run for another library.

    Args:
        workdir: the run's folder.
        path: the file, which must be new.
        best: write those after the best epoch by validation.
        seed: the seed of the model; None: the first.

    Returns:
        Notes for the user.

    Raises:
        UserError: it is not the folder of a finished run, there is no such seed, the file cannot be
            written, or the model has no counterpart there.
    """
    formats.find(path)
    restored = Restored(workdir, best=best)
    model: Any = restored.model(restored.number_of(seed))
    layout = _layout(restored.config, model, restored.inputs, restored.task)
    formats.write(path, layout, _arrays(model))
    if restored.config.data.mask_padding and not layout.masks_zero:
        return [
            "It masks nothing: 0 is a number like any other here. Give it sequences of one length "
            "at a time, without padding."
        ]
    return []


def _arrays(model: SequenceModel) -> Arrays:
    return {path: np.asarray(one) for path, one in weights.named(nnx.state(model, nnx.Param))}


def _layout(config: ConfigDict, model: SequenceModel, inputs: Inputs, task: Task) -> Layout:
    """A model's layout in other libraries; if inputs are token numbers, 0 is not masked."""
    activation = "linear"
    if isinstance(task, Classes | Labels | NextToken | Tags):
        is_sigmoid = isinstance(task, Labels) or task.num_outputs == 1
        activation = "sigmoid" if is_sigmoid else "softmax"
    return Layout(model, config.data.mask_padding and isinstance(inputs, Text), activation)


def _fill(
    config: ConfigDict,
    models: Sequence[SequenceModel],
    inputs: Inputs,
    task: Task,
    paths: Sequence[str],
) -> Beginning:
    """Gives models the parameters of files; returns what was taken."""
    digest, notes = hashlib.sha256(), []
    for model, path in zip(models, paths, strict=True):
        taken = formats.read(path, _layout(config, model, inputs, task), _arrays(model))
        nnx.update(model, weights.replaced(nnx.state(model, nnx.Param), taken.arrays))
        digest.update(files.local(path).read_bytes())
        notes += taken.notes
    parts = dict.fromkeys((path.rpartition(".")[0] for path in taken.arrays), "all")
    parts |= {f"note {number}": text for number, text in enumerate(dict.fromkeys(notes), 1)}
    return Beginning(", ".join(paths), digest.hexdigest(), parts)


def _report(
    config: ConfigDict,
    data: Dataset,
    task: Task,
    models: Sequence[SequenceModel],
    begins: Beginning,
    folder: RunFolder,
    stopwatch: Stopwatch,
) -> dict:
    """Validates and tests models, and writes a run's files."""
    seeds = building.seeds_asked(config)
    program = Program(
        models, task, batch_size=config.train.batch_size, treatment=building.treatment_of(config)
    )
    params_K = devices.spread_seeds(program.params_K, program.mesh)
    data, widths = building.lay_out(data, task, program.treatment)
    with stopwatch.phase("evaluate"):
        evaluations = {
            "validation": program.evaluate(params_K, data.validation, widths),
            "test": program.test(params_K, data.test, widths),
        }
    tasks_K, evaluations = decide(task, data, evaluations)
    folder.begin(config)
    description.write(folder, data.inputs, task)
    beginning.write(folder, begins)
    kept_K = each_seed(evaluations["test"].kept)
    predictions.write(folder, seeds, data.test, tasks_K, kept_K)
    description.write_pictures(folder, data.test, tasks_K, kept_K)
    weights.write(folder, weights.WEIGHTS, devices.fetch(params_K))
    folder.write("metrics.jsonl", "")  # No epoch was trained here.
    found = result(
        config.name,
        data,
        task,
        tasks_K,
        {
            "architecture": config.model.to_dict(),
            "parameters": weights.count(program.params_K) // len(seeds),
            "evaluated": "imported",
            "initial": dataclasses.asdict(begins),
        },
        [{"seed": seed} for seed in seeds],
        evaluations,
        stopwatch.report(),
    )
    card.write(folder, found)
    folder.finish(found)
    print(report.describe_result(found, task.metric, folder), flush=True)
    return found


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    _FROM = flags.DEFINE_list("from", [], "Weight files to make a run from, one for each seed.")
    _VOCABULARY = flags.DEFINE_string(
        "vocabulary", None, "With --from: a file of the words that the model knows, if they are "
        "not those of the config's training texts: one per line, or Keras' JSON of their ranks."
    )  # fmt: skip
    _TO = flags.DEFINE_string("to", None, "A new file for the weights of the run in --workdir.")
    _BEST = flags.DEFINE_bool(
        "best", False, "With --to: the weights after the best epoch by validation."
    )
    _SEED = flags.DEFINE_integer("seed", None, "With --to: the seed; by default the first.")

    def _main(config: ConfigDict, workdir: str | None) -> None:
        has_config = flags.FLAGS["config"].present > 0
        to = _TO.value
        if bool(_FROM.value) == bool(to):
            raise UserError("name what to read by --from, or what to write by --to.")
        if _FROM.value:
            if not has_config or _BEST.value or _SEED.value is not None:
                raise UserError("--from goes with --config, and without --best and --seed.")
            take(config, _FROM.value, workdir, vocabulary=_VOCABULARY.value)
            return
        if not to or not workdir or has_config or _VOCABULARY.value:
            raise UserError(
                "--to goes with --workdir, the folder of a finished run, and without --config and "
                "--vocabulary."
            )
        for note in give(workdir, to, best=_BEST.value, seed=_SEED.value):
            print(note)
        print(f"{to} has the weights of {workdir}")

    command.run(_main)
