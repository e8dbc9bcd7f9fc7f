"""Which parts of a model have a counterpart in another library, and whether arrays fit it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from seqmodels import Attention, Bidirectional, SequenceHead, SequenceModel, Unidirectional
from seqmodels.cells.base import Cell, Counterpart
from train_lib.errors import UserError

TABLE, PROJECTION, KERNEL, BIAS = "inputs.table", "head.projection", "head.kernel", "head.bias"
"""The paths of parameters that belong to no cell."""

Arrays = dict[str, np.ndarray]


class Layout(NamedTuple):
    """A model to convert to another library, or from one.

    Attributes:
        model: a model of this library; its parameters do not matter.
        masks_zero: whether token 0 is padding, which no result depends on.
        activation: turns outputs, which are logits here, into answers: sigmoid, softmax or linear.
    """

    model: SequenceModel
    masks_zero: bool
    activation: str

    @property
    def layers(self) -> list[Unidirectional | Bidirectional]:
        """The recurrent layers, from the bottom up."""
        return list(self.model.encoder.layers)


class Taken(NamedTuple):
    """What was read.

    Attributes:
        arrays: each under our path.
        notes: what a user should know about them.
    """

    arrays: Arrays
    notes: list[str]


def directions(layer: Unidirectional | Bidirectional) -> dict[str, Cell]:
    """The cells of a layer by their direction, `forward` or `backward`."""
    names = ("forward", "backward")
    return {name: getattr(layer, name) for name in names if hasattr(layer, name)}


def counterpart(cell: type[Cell], library: str) -> Counterpart | None:
    """The layer of `keras` or `torch` that computes what a cell does."""
    own = vars(cell).get("counterparts")
    return getattr(own, library) if own else None


def check(layout: Layout, library: str) -> None:
    """Checks that a model has a counterpart.

    Args:
        layout: the model's layout.
        library: `keras` or `torch`.

    Raises:
        UserError: it has none; the message gives each reason.
    """
    problems = []
    if layout.model.encoder.residual:
        problems.append("layers add their input to their output (config.model.residual)")
    if layout.model.head.tied:
        problems.append("the head's kernel is the table of the embedding (config.model.tied_head)")
    if any(rates.zoneout for rates in layout.model.encoder.rates):
        problems.append("zoneout averages two carries in evaluation too (config.model.zoneout)")
    head = layout.model.head
    if isinstance(head, SequenceHead) and isinstance(head.pooling, Attention):
        problems.append("attention pools the steps (config.model.pooling)")
    for layer in layout.layers:
        cells = directions(layer)
        for direction, cell in cells.items():
            if counterpart(type(cell), library) is None:
                problems.append(f"{type(cell).__name__} is not among its cells (config.model.cell)")
            if hasattr(layer, f"{direction}_start"):
                problems.append("the initial state is learned (config.model.learned_initial_state)")
        if [*cells] == ["backward"]:
            problems.append("layers read backwards alone (config.model.direction)")
        merge = layer.merge if isinstance(layer, Bidirectional) else "concat"
        if library == "torch" and merge != "concat":
            problems.append(f"it concatenates directions, and this is their {merge} "
                            "(config.model.merge)")  # fmt: skip
    if problems:
        name = {"keras": "Keras", "torch": "PyTorch"}[library]
        raise UserError(
            "\n  ".join([f"the model has no counterpart in {name}:", *dict.fromkeys(problems)])
        )


def fitted(
    found: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], where: str
) -> tuple[Arrays, list[str]]:
    """The arrays of a file as float32, if they are as expected, and notes on them.

    Args:
        found: the arrays, by their names.
        expected: the shape of each.
        where: the file, for messages.

    Raises:
        UserError: arrays are missing, superfluous, or of another shape or type; the message names
            each.
    """
    problems, notes = [], []
    for name, shape in expected.items():
        if name not in found:
            problems.append(f"{name} {list(shape)} is missing")
        elif found[name].shape != shape:
            problems.append(f"{name} is {list(found[name].shape)} and must be {list(shape)}")
    problems += [
        f"{name} {list(array.shape)} is not used: the model has no place for it"
        for name, array in found.items()
        if name not in expected
    ]
    arrays: Arrays = {}
    for name in [] if problems else expected:
        array, kind = found[name], found[name].dtype
        with np.errstate(over="ignore"):
            arrays[name] = array.astype(np.float32)
        if array.dtype.kind != "f" and kind.name != "bfloat16":
            problems.append(f"{name} is of {kind} and must be of floating point numbers")
        elif not np.isfinite(arrays[name]).all():
            problems.append(f"{name} has numbers that are NaN, infinite or too large for float32")
        elif kind == np.float64 and not np.array_equal(arrays[name], array):
            notes.append(f"{name} was rounded to float32")
    if problems:
        raise UserError("\n  ".join([f"{where} does not fit the config's model:", *problems]))
    return arrays, notes
