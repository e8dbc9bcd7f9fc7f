"""Our models as PyTorch has them: the names of their arrays in a `state_dict`.

Matrices are transposed there, the GRU's gates come in another order, and a layer has two
biases, `bias_ih` and `bias_hh`. A cell with one bias reads their sum, and is written with a
`bias_hh` of zeros. The GRU has both, since its reset gate multiplies the one but not the other.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from seqmodels.cells.base import Cell, Counterpart
from train_lib.interchange import layout as layouts
from train_lib.interchange.layout import BIAS, KERNEL, PROJECTION, TABLE, Arrays, Layout, Taken

_OF_LAYER = re.compile(r"(?P<module>.*?)(?P<name>\w+)_l(?P<layer>\d+)(?P<reverse>_reverse)?")
_BIASES = ("bias_ih", "bias_hh")
_SUFFIXES = {"forward": "", "backward": "_reverse"}


class _Direction(NamedTuple):
    """A cell with its path here and its counterpart there."""

    path: str
    cell: Cell
    there: Counterpart


def _directions(layout: Layout) -> dict[str, _Direction]:
    """Every cell by the template of its arrays' names, as in `rnn.{}_l0_reverse`."""
    sizes = {layer.cells[0].hidden_size for layer in layout.layers}
    found = {}
    for number, layer in enumerate(layout.layers):
        # One module has layers of one width.
        name = f"rnn.{{}}_l{number}" if len(sizes) == 1 else f"rnn.{number}.{{}}_l0"
        for direction, cell in layouts.directions(layer).items():
            there = layouts.counterpart(type(cell), "torch")
            assert there is not None  # It was checked.
            path = f"encoder.layers.{number}.{direction}"
            found[name + _SUFFIXES[direction]] = _Direction(path, cell, there)
    return found


def _plain(layout: Layout) -> dict[str, str]:
    """The names of parameters that belong to no cell, by our paths."""
    names = {TABLE: "embedding.weight"} if hasattr(layout.model.inputs, "table") else {}
    if layout.model.head.projection is not None:
        names[PROJECTION] = "projection.weight"
    return names | {KERNEL: "head.weight", BIAS: "head.bias"}


def to_torch(layout: Layout, arrays: Arrays) -> Arrays:
    """The arrays of a `state_dict`.

    Args:
        layout: the model's layout.
        arrays: its parameters.

    Raises:
        UserError: it cannot be a model of PyTorch.
    """
    layouts.check(layout, "torch")
    found = {}
    for path, name in _plain(layout).items():
        found[name] = arrays[path].T if path in (KERNEL, PROJECTION) else arrays[path]
    for name, (path, _, there) in _directions(layout).items():
        bias = _reordered(arrays[f"{path}.bias"], there.gates)
        recurrent = arrays.get(f"{path}.recurrent_bias")
        found |= {
            name.format("weight_ih"): _reordered(arrays[f"{path}.kernel"], there.gates).T,
            name.format("weight_hh"): _reordered(arrays[f"{path}.recurrent_kernel"], there.gates).T,
            name.format("bias_ih"): bias,
            name.format("bias_hh"): np.zeros_like(bias)
            if recurrent is None
            else _reordered(recurrent, there.gates),
        }
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


def of_torch(layout: Layout, found: Mapping[str, np.ndarray], where: str, like: Arrays) -> Taken:
    """Our arrays from those of a `state_dict`, whatever its modules are called.

    Recurrent layers are taken in the order of the file. A layer without biases has zeros here.

    Args:
        layout: the model's layout.
        found: the arrays by their names, in order.
        where: the file, for messages.
        like: arrays of the right shapes by our paths.

    Raises:
        UserError: they do not fit the model.
    """
    expected = {name: array.shape for name, array in to_torch(layout, like).items()}
    written = _as_written(layout, found)
    renamed = {written.get(name, name): array for name, array in found.items()}
    notes = []
    for biases in _sets_of_biases(layout):
        if biases[0].replace("bias", "weight") in renamed and not {*biases} & {*renamed}:
            renamed |= {name: np.zeros(expected[name], np.float32) for name in biases}
            notes.append(f"{' and '.join(biases)} are not there: here they are zero")
    named = {name: of for of, name in written.items()}  # For messages, as the file has it.
    fitting, rounded = layouts.fitted(
        {named.get(name, name): array for name, array in renamed.items()},
        {named.get(name, name): shape for name, shape in expected.items()},
        where,
    )
    fitting = {name: fitting[named.get(name, name)] for name in expected}
    arrays = {}
    for path, name in _plain(layout).items():
        arrays[path] = fitting[name].T if path in (KERNEL, PROJECTION) else fitting[name]
    for name, (path, cell, there) in _directions(layout).items():
        gates = tuple(np.argsort(there.gates))
        kernel, recurrent, bias, other = (
            _reordered(fitting[name.format(one)].T, gates)
            for one in ("weight_ih", "weight_hh", *_BIASES)
        )
        arrays |= {f"{path}.kernel": kernel, f"{path}.recurrent_kernel": recurrent}
        if hasattr(cell, "recurrent_bias"):
            arrays |= {f"{path}.bias": bias, f"{path}.recurrent_bias": other}
        else:
            arrays[f"{path}.bias"] = bias + other
    return Taken({path: np.ascontiguousarray(arrays[path]) for path in arrays}, notes + rounded)


def _as_written(layout: Layout, found: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The names that `to_torch` would write, by those in a file, as far as it has them."""
    cells: dict[tuple[str, int], dict[str, str]] = {}
    matrices = []
    for name, array in found.items():
        if match := _OF_LAYER.fullmatch(name):
            key = match["module"], int(match["layer"])
            cells.setdefault(key, {})[match["name"] + (match["reverse"] or "")] = name
        elif re.fullmatch(r"(.*\.)?weight", name) and array.ndim == 2:
            matrices.append(name)
    modules = list(dict.fromkeys(module for module, _ in cells))
    in_order = sorted(cells, key=lambda key: (modules.index(key[0]), key[1]))
    written = {}
    for template, cell in _directions(layout).items():
        number = int(cell.path.split(".")[2])
        suffix = "_reverse" if template.endswith("_reverse") else ""
        for kind in ("weight_ih", "weight_hh", *_BIASES) if number < len(in_order) else ():
            if (there := cells[in_order[number]].get(kind + suffix)) is not None:
                written[there] = template.format(kind)

    names = _plain(layout)
    alone = [name for name in matrices if _bias_of(name) not in found]
    if TABLE in names and alone:
        table = next((name for name in alone if "emb" in name.lower()), alone[0])
        matrices.remove(table)
        written[table] = names.pop(TABLE)
    names.pop(TABLE, None)
    bias = names.pop(BIAS)
    written |= dict(zip(matrices, names.values(), strict=False))
    if len(matrices) == len(names) and _bias_of(matrices[-1]) in found:
        written[_bias_of(matrices[-1])] = bias
    return written


def _bias_of(name: str) -> str:
    return f"{name.removesuffix('weight')}bias"


def _sets_of_biases(layout: Layout) -> list[list[str]]:
    """The sets of biases of which a module has all or, if made without a bias, none."""
    of_cells = [[name.format(bias) for bias in _BIASES] for name in _directions(layout)]
    return [*of_cells, [_plain(layout)[BIAS]]]


def _reordered(array: np.ndarray, gates: tuple[int, ...]) -> np.ndarray:
    """The same with its last axis, on which gates lie side by side, in another order."""
    if not gates:
        return array
    parts = np.split(array, len(gates), axis=-1)
    return np.concatenate([parts[place] for place in gates], axis=-1)
