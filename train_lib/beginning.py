"""Initial parameters taken from a finished run, or an embedding taken from a file of vectors."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from seqmodels import SequenceModel
from train_lib import building
from train_lib.data import word_vectors
from train_lib.data.dataset import Dataset
from train_lib.data.inputs import RESERVED, WORDS, Inputs, Meaning, Text
from train_lib.data.vocabulary import END, PADDING, START
from train_lib.errors import UserError
from train_lib.records import description, weights
from train_lib.records.checkpoint import Checkpoints
from train_lib.records.folder import RunFolder
from train_lib.tasks.base import Task
from train_lib.training import processes
from train_lib.training.transfer import TABLE, Parameters, Part, transfer

NAME = "initial.json"
_ENDS = {(RESERVED, number) for number in (PADDING, START, END)}


@dataclasses.dataclass(frozen=True)
class Beginning:
    """Where a run's initial parameters come from, if they are not all drawn.

    Attributes:
        source: the run's folder, or the file.
        sha256: the digest of all that could be taken from it.
        parts: what became of each part of the model.
    """

    source: str
    sha256: str
    parts: dict[str, str]

    def describe(self) -> str:
        """The same as readable text."""
        width = max(map(len, self.parts))
        lines = [f"  {name:<{width}}  {text}" for name, text in self.parts.items()]
        return "\n".join([f"begins at {self.source}", *lines])


def begin(
    config: ConfigDict,
    folder: RunFolder,
    data: Dataset,
    task: Task,
    models: Sequence[SequenceModel],
) -> Beginning | None:
    """Gives freshly drawn models their initial parameters.

    The k-th model takes those of the other run's k-th seed, modulo its number of seeds; diverged
    seeds do not count. A run that has a checkpoint reads only its own folder.

    Args:
        config: the run's config.
        folder: the run's folder; nothing is written.
        data: the data it trains on.
        task: its task.
        models: one for each seed.

    Returns:
        What was taken; None: the config asks for the models as drawn.

    Raises:
        UserError: nothing can be taken, or the source has changed since the run began.
    """
    field = "init_from" if config.train.init_from else "init_vectors"
    source = config.train[field]
    if not source:
        return None
    is_saved, fields = processes.from_first(lambda: _before(folder))
    before = None if fields is None else Beginning(**fields)
    if before and is_saved:
        return before
    try:
        beginning = _take(config, data, task, models)
        expected = before.sha256 if before else processes.from_first(lambda: beginning.sha256)
        if beginning.sha256 != expected:
            raise UserError(
                f"it is no longer what {folder.path} began with, or not what another process of "
                "the run has. Restore it, or start in a new folder."
            )
    except UserError as error:
        raise UserError(f"config.train.{field} = {source!r} cannot be used: {error}") from error
    return beginning


def write(folder: RunFolder, beginning: Beginning) -> None:
    """Saves it in the run's folder, which then no longer needs the source."""
    folder.write_json(NAME, dataclasses.asdict(beginning))


def _before(folder: RunFolder) -> tuple[bool, dict[str, Any] | None]:
    """Whether the run has a checkpoint, and what its folder says about how it began."""
    is_saved = Checkpoints(folder.path / "checkpoints").newest() is not None
    if not is_saved and not (folder.path / NAME).is_file():
        return False, None
    fields = folder.read_json(NAME)
    if fields.keys() != {field.name for field in dataclasses.fields(Beginning)}:
        raise UserError(f"{folder.path / NAME} is damaged. Start in a new folder.")
    return is_saved, fields


def _take(
    config: ConfigDict, data: Dataset, task: Task, models: Sequence[SequenceModel]
) -> Beginning:
    train, notes = config.train, dict[str, str]()
    if train.init_from:
        old_K = _of_run(train.init_from)
    else:
        old, notes = _of_vectors(train.init_vectors, data.inputs, config.model.embedding_size)
        old_K = [old]
    parts: list[Part] = []
    for number, model in enumerate(models):
        new = _parameters(model, config, data.inputs, task)
        arrays, parts = transfer(old_K[number % len(old_K)], new)
        nnx.update(model, weights.replaced(nnx.state(model, nnx.Param), arrays))
    if train.init_vectors:  # Vectors affect no other part.
        parts = [part for part in parts if part.name == TABLE]
    told = {part.name: part.text for part in parts}
    taken = [part.name for part in parts if part.is_taken]
    if not taken:
        lines = [f"{name}  {text}" for name, text in told.items()]
        raise UserError("\n  ".join(["nothing of it fits this model:", *lines]))
    if TABLE in taken:
        told[TABLE] += f", {100 * _coverage(old_K[0].tokens, data):.1f} % of the training tokens"
    return Beginning(train.init_from or train.init_vectors, _digest(old_K), told | notes)


def _of_run(path: str) -> list[Parameters]:
    """The tested parameters of each seed of a finished run that has not diverged."""
    folder = weights.open_finished(path, weights.WEIGHTS)
    if not weights.file_of(folder, weights.WEIGHTS):
        raise UserError(f"{folder.path} has no {weights.WEIGHTS}; a baseline has no parameters.")
    config = folder.read_config()
    config.model.engine = "auto"  # The run's own may need another machine.
    inputs, task = description.read(folder, config.task.name)
    (model,) = building.build_models(config, inputs, task, [config.train.seed])
    like = _parameters(model, config, inputs, task)
    arrays_K = weights.read_all(folder, weights.WEIGHTS)
    return [
        like._replace(arrays={path: array_K[number] for path, array_K in arrays_K.items()})
        for number, seed in enumerate(folder.read_json("result.json")["seeds"])
        if "diverged_at_step" not in seed
    ]


def _of_vectors(name: str, inputs: Inputs, size: int) -> tuple[Parameters, dict[str, str]]:
    """The vectors of a vocabulary's words, and notes on them."""
    kind = inputs.rules if isinstance(inputs, Text) else inputs.kind
    if not isinstance(inputs, Text) or kind in ("characters", "bytes"):
        raise UserError(f"it has vectors of words, and the inputs are {kind}; leave it empty.")
    found = word_vectors.read(name, inputs.vocabulary.words, size)
    if not found.words:
        raise UserError(f"it has none of the {len(inputs.vocabulary.words):,} words in training.")
    notes = {}
    if found.repeated:
        notes["repeated"] = f"{found.repeated:,} of these words; the first vector counts"
    return Parameters({TABLE: found.vectors_NxD}, [(WORDS, word) for word in found.words]), notes


def _parameters(model: SequenceModel, config: ConfigDict, inputs: Inputs, task: Task) -> Parameters:
    """The parameters of a model, and what they stand for."""
    arrays = {path: np.asarray(one) for path, one in weights.named(nnx.state(model, nnx.Param))}
    cells = {}
    for number, layer in enumerate(model.encoder.layers):
        for direction in ("forward", "backward"):
            if (cell := getattr(layer, direction, None)) is not None:
                path = f"encoder.layers.{number}.{direction}"
                cells[path] = cells[f"{path}_start"] = _describe_cell(config.model.cell, cell)
    return Parameters(arrays, inputs.meanings, cells, _meanings_of_outputs(inputs, task))


def _describe_cell(name: str, cell: Any) -> str:
    """What a cell computes, apart from its parameters, as in `lstm(hidden_size=16)`."""
    if name.endswith(".py"):
        digest = hashlib.sha256(pathlib.Path(name).read_bytes()).hexdigest()
        name = f"{type(cell).__name__} of a file with the SHA-256 {digest[:12]}"
    fields = {
        field: value
        for field, value in sorted(vars(cell).items())
        if isinstance(value, bool | int | float | str) and not field.startswith("_")
    }
    return f"{name}({', '.join(f'{field}={value!r}' for field, value in fields.items())})"


def _meanings_of_outputs(inputs: Inputs, task: Task) -> Sequence[Meaning]:
    if task.predicts_inputs:
        return inputs.meanings
    fields = task.to_json()
    follow = json.dumps({name: fields[name] for name in sorted(task.outputs_follow or fields)})
    kind = f"outputs of {type(task).__name__} {follow}"
    return [(kind, number) for number in range(task.num_outputs)]


def _coverage(tokens: Sequence[Meaning], data: Dataset) -> float:
    """The share of the training tokens that are among these; ends of texts do not count."""
    meanings, known = data.inputs.meanings, set(tokens)
    counts_V = np.bincount(data.train.values, minlength=len(meanings))
    is_word_V = np.array([meaning not in _ENDS for meaning in meanings])
    is_known_V = np.array([one[0] != RESERVED and one in known for one in meanings])
    return counts_V[is_known_V].sum() / max(1, counts_V[is_word_V].sum())


def _digest(old_K: Sequence[Parameters]) -> str:
    """SHA-256 of parameters and of what they stand for."""
    digest = hashlib.sha256()
    for old in old_K:
        digest.update(repr((old.tokens, sorted(old.cells.items()), old.outputs)).encode())
        for path, array in sorted(old.arrays.items()):
            digest.update(f"{path} {array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
