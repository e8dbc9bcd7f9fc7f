"""Transfers parameters from one model to another: whatever fits, part by part.

All are plain arrays under their paths, so it does not matter where they come from: a run of this
program, a file of word vectors, or another library's model with renamed parameters.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from train_lib.data.inputs import RESERVED, Meaning

TABLE, HEAD = "inputs.table", "head"
_PART = re.compile(r"inputs\.\w+|encoder\.layers\.\d+\.\w+|head")
_MATRICES = ("head.kernel", "head.bias")  # Their last axis is the outputs.


class Parameters(NamedTuple):
    """The parameters of a model, or of parts of it, and what they stand for.

    Attributes:
        arrays: each under its path, as in `encoder.layers.0.forward.kernel`.
        tokens: what each row of `inputs.table` stands for; rows beyond them stand for nothing.
        cells: what each cell computes, under its path, as in `encoder.layers.0.forward`.
        outputs: what each output of the head stands for.
    """

    arrays: Mapping[str, np.ndarray]
    tokens: Sequence[Meaning] = ()
    cells: Mapping[str, str] = {}
    outputs: Sequence[Meaning] = ()


class Part(NamedTuple):
    """What became of a part of a model.

    Attributes:
        name: the path prefix of its parameters.
        is_taken: whether any of it was taken.
        text: how much was taken, or why nothing was.
    """

    name: str
    is_taken: bool
    text: str


def transfer(old: Parameters, new: Parameters) -> tuple[dict[str, np.ndarray], list[Part]]:
    """Replaces the parameters of a new model by those of an old one wherever they fit.

    The table is taken row by row, matched by what the rows stand for. A cell is taken if it
    computes the same function and all its parameters have the same names and shapes, direction by
    direction: a forward layer becomes the forward direction of a bidirectional one. The head is
    taken only if the whole encoder was, output by output, matched by what the outputs stand for.

    Args:
        old: the parameters to take. Parts that the new model lacks are listed as not used.
        new: those of a fresh model, which stay as they are where nothing fits.

    Returns:
        The arrays under their paths, and what became of each part.
    """
    arrays = dict(new.arrays)
    parts: list[Part] = []
    here, there = _by_part(new.arrays), _by_part(old.arrays)
    # The head comes last, because it depends on what lies below it.
    for name in sorted(here, key=lambda name: name == HEAD):
        taken: Taken = {}, "it has none"
        if name == TABLE and name in there:
            taken = _rows(old, new)
        elif name == HEAD and name in there:
            below = [part for part in parts if part.name.startswith("encoder.")]
            taken = _head(old, new, there[name], here[name], below)
        elif name in there:
            taken = _whole(old, new, there[name], here[name], name)
        found, text = taken
        arrays |= found
        parts.append(Part(name, bool(found), text if found else f"fresh: {text}"))
    parts += [
        Part(name, False, "not used: this model has none") for name in there if name not in here
    ]
    return arrays, parts


Taken = tuple[dict[str, np.ndarray], str]
"""New arrays, none if nothing is taken; and how much is taken, or why nothing is."""


def _by_part(arrays: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """The paths of each part's parameters."""
    found: dict[str, list[str]] = {}
    for path in arrays:
        match = _PART.match(path)
        found.setdefault(match[0] if match else path, []).append(path)
    return found


def _rows(old: Parameters, new: Parameters) -> Taken:
    old_VxD, new_VxD = old.arrays[TABLE], np.array(new.arrays[TABLE])
    kinds = [str(one.tokens[-1][0]) if one.tokens else "nothing" for one in (old, new)]
    if kinds[0] != kinds[1]:
        return {}, f"it is of {kinds[0]} there and of {kinds[1]} here"
    if old_VxD.shape[1] != new_VxD.shape[1]:
        return {}, f"vectors have {old_VxD.shape[1]} numbers there and {new_VxD.shape[1]} here"
    to, of = _matched(old.tokens, new.tokens)
    new_VxD[to] = old_VxD[of]
    return _counted({TABLE: new_VxD}, to, new.tokens)


def _whole(
    old: Parameters, new: Parameters, there: Sequence[str], here: Sequence[str], name: str
) -> Taken:
    cells = [one.cells.get(name, "") for one in (old, new)]
    if cells[0] != cells[1]:
        return {}, f"it is {cells[0]} there and {cells[1]} here"
    if problem := _misfit(old, new, there, here):
        return {}, problem
    return {path: old.arrays[path] for path in here}, "all"


def _head(
    old: Parameters,
    new: Parameters,
    there: Sequence[str],
    here: Sequence[str],
    below: Sequence[Part],
) -> Taken:
    to, of = _matched(old.outputs, new.outputs)
    if not len(to):
        return {}, "its outputs mean something else there"
    if problem := _misfit(old, new, there, here):
        return {}, problem
    if not all(part.is_taken for part in below):
        return {}, "it reads an encoder that was not all taken"
    taken = {path: old.arrays[path] for path in here}
    for path in sorted({*_MATRICES} & {*here}):  # A tied head has no kernel.
        taken[path] = np.array(new.arrays[path])
        taken[path][..., to] = old.arrays[path][..., of]
    if len(to) == len(new.outputs):
        return taken, "all"
    return _counted(taken, to, new.outputs)


def _misfit(old: Parameters, new: Parameters, there: Sequence[str], here: Sequence[str]) -> str:
    """Which names or shapes of a part differ; empty if all fit."""
    if differing := sorted({*there} ^ {*here}):
        return f"{differing[0]} is only {'there' if differing[0] in there else 'here'}"
    for path in here:
        shapes = [one.arrays[path].shape for one in (old, new)]
        if path in _MATRICES:
            shapes = [shape[:-1] for shape in shapes]
        if shapes[0] != shapes[1]:
            return f"{path} is {list(shapes[0])} there and {list(shapes[1])} here"
    return ""


def _matched(old: Sequence[Meaning], new: Sequence[Meaning]) -> tuple[np.ndarray, np.ndarray]:
    """The places in `new` of the meanings that both have, and their places in `old`."""
    places = {meaning: place for place, meaning in enumerate(old)}
    pairs = [(place, places[meaning]) for place, meaning in enumerate(new) if meaning in places]
    to, of = np.array(pairs, int).reshape(-1, 2).T
    return to, of


def _counted(taken: dict[str, np.ndarray], to: np.ndarray, meanings: Sequence[Meaning]) -> Taken:
    """Counts the meanings taken, except those that every model has."""
    named = [place for place, (kind, _) in enumerate(meanings) if kind != RESERVED]
    count = len({*to.tolist()} & {*named})
    text = f"{count:,} of {len(named):,} {meanings[-1][0]}"
    return (taken if count else {}), text
