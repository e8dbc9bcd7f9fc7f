"""Our models as Keras has them: layers, and the names of their arrays in a weights file.

Keras' layout of every array is ours, so nothing is computed, and both ways are exact to the bit. A
model is a `Sequential`, or another chain of layers; those that act only in training are skipped.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqmodels import Bidirectional, Embedding, Last, Mean, SequenceHead, loading
from train_lib.errors import UserError
from train_lib.interchange import layout as layouts
from train_lib.interchange.layout import BIAS, KERNEL, PROJECTION, TABLE, Arrays, Layout, Taken

_MERGES = {"concat": "concat", "sum": "sum", "mean": "ave", "product": "mul"}
_TRAINING_ALONE = {
    "InputLayer", "Dropout", "SpatialDropout1D", "GaussianDropout", "GaussianNoise", "AlphaDropout",
    "ActivityRegularization",
}  # fmt: skip
"""Layers that act only in training."""

_LEFT_OUT = re.compile(r"(optimizer|.*/seed_generator)/")
"""Names of what a file may have besides a model's parameters."""


class Layer(NamedTuple):
    """A layer of Keras.

    Attributes:
        kind: its class.
        config: those of its fields that say what it computes; some are layers.
        arrays: our paths, by their names below the layer's own. Two paths are stacked.
    """

    kind: str
    config: dict[str, Any]
    arrays: Mapping[str, tuple[str, ...]] = {}

    def __str__(self) -> str:
        shown = [
            str(value) if isinstance(value, Layer) else f"{name}={value}"
            for name, value in self.config.items()
        ]
        return f"{self.kind}({', '.join(shown)})"


def layers_of(layout: Layout) -> list[Layer]:
    """A model's layers in Keras.

    Raises:
        UserError: it cannot be a model of Keras.
    """
    layouts.check(layout, "keras")
    model, layers = layout.model, []
    fields: dict[str, Any]
    if isinstance(model.inputs, Embedding):
        size, width = model.inputs.table.shape
        fields = {"input_dim": size, "output_dim": width, "mask_zero": layout.masks_zero}
        layers.append(Layer("Embedding", fields, {"vars/0": (TABLE,)}))
    pooling = model.head.pooling if isinstance(model.head, SequenceHead) else None
    for number, layer in enumerate(layout.layers):
        is_top = number == len(layout.layers) - 1
        layers.append(_recurrent(number, layer, not (is_top and isinstance(pooling, Last))))
    if isinstance(pooling, Mean):
        layers.append(Layer("GlobalAveragePooling1D", {"keepdims": False}))
    elif pooling is not None and not isinstance(pooling, Last):
        raise UserError(
            f"the model has no counterpart in Keras: its pooling is {type(pooling).__name__}, and "
            "there padding is not left out of that (config.model.pooling)"
        )
    if model.head.projection is not None:
        fields = {"units": model.head.projection.shape[1], "activation": "linear"}
        layers.append(Layer("Dense", fields | {"use_bias": False}, {"vars/0": (PROJECTION,)}))
    fields = {"units": model.head.num_outputs, "activation": "linear"}
    layers.append(Layer("Dense", fields, {"vars/0": (KERNEL,), "vars/1": (BIAS,)}))
    return layers


def _recurrent(number: int, layer: Any, returns_sequences: bool) -> Layer:
    cells = {}
    for direction, cell in layouts.directions(layer).items():
        found = layouts.counterpart(type(cell), "keras")
        assert found is not None  # It was checked.
        path = f"encoder.layers.{number}.{direction}"
        biases = ("bias", "recurrent_bias") if hasattr(cell, "recurrent_bias") else ("bias",)
        cells[direction] = Layer(
            found.layer,
            {
                "units": cell.hidden_size, **found.options, "return_sequences": returns_sequences,
                "go_backwards": direction == "backward",
            },
            {
                "cell/vars/0": (f"{path}.kernel",),
                "cell/vars/1": (f"{path}.recurrent_kernel",),
                "cell/vars/2": tuple(f"{path}.{bias}" for bias in biases),
            },
        )  # fmt: skip
    if not isinstance(layer, Bidirectional):
        return cells["forward"]
    return Layer(
        "Bidirectional",
        {
            "merge_mode": _MERGES[layer.merge],
            "layer": cells["forward"],
            "backward_layer": cells["backward"],
        },
        {
            f"{direction}_layer/{name}": paths
            for direction, cell in cells.items()
            for name, paths in cell.arrays.items()
        },
    )


def _named(layers: Sequence[Layer]) -> Iterator[tuple[str, Layer]]:
    """Layers with the names that they have in a file: their classes, counted."""
    counts: dict[str, int] = {}
    for layer in layers:
        count = counts.get(layer.kind, 0)
        counts[layer.kind] = count + 1
        name = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", layer.kind))
        yield f"{name.lower()}_{count}" if count else name.lower(), layer


def _paths(layers: Sequence[Layer]) -> dict[str, tuple[str, ...]]:
    """Our paths by the names of arrays in a file."""
    return {
        f"layers/{name}/{below}": paths
        for name, layer in _named(layers)
        for below, paths in layer.arrays.items()
    }


def to_keras(layout: Layout, arrays: Arrays) -> Arrays:
    """The arrays of a weights file.

    Args:
        layout: the model's layout.
        arrays: its parameters.

    Raises:
        UserError: it cannot be a model of Keras.
    """
    return {
        name: np.stack([arrays[path] for path in paths]) if len(paths) > 1 else arrays[paths[0]]
        for name, paths in _paths(layers_of(layout)).items()
    }


def of_keras(layout: Layout, found: Mapping[str, np.ndarray], where: str, like: Arrays) -> Taken:
    """Our arrays from those of a weights file.

    A layer without a bias gets one of zeros here, where every layer has a bias.

    Args:
        layout: the model's layout.
        found: the arrays by their names.
        where: the file, for messages.
        like: arrays of the right shapes by our paths.

    Raises:
        UserError: they do not fit the model.
    """
    paths = _paths(layers_of(layout))
    expected = {name: array.shape for name, array in to_keras(layout, like).items()}
    kept = {name: array for name, array in found.items() if not _LEFT_OUT.match(name)}
    notes = []
    if len(kept) < len(found):
        notes.append("the state of its optimiser and of its random numbers is left out")
    for name, of in paths.items():
        is_bias = of[-1].endswith("bias")
        rest = [one for one in paths if one.rpartition("/")[0] == name.rpartition("/")[0]]
        if is_bias and name not in kept and all(one in kept for one in rest if one != name):
            kept[name] = np.zeros(expected[name], np.float32)
            notes.append(f"{name.rpartition('/vars')[0]} has no bias: here it is zero")
    fitting, rounded = layouts.fitted(kept, expected, where)
    arrays: Arrays = {}
    for name, of in paths.items():
        parts = fitting[name] if len(of) > 1 else [fitting[name]]
        arrays |= dict(zip(of, parts, strict=True))
    return Taken(arrays, notes + rounded)


def config_of(layout: Layout) -> dict[str, Any]:
    """A model in the form of Keras' `config.json`.

    Raises:
        UserError: it cannot be a model of Keras.
    """
    is_tokens = isinstance(layout.model.inputs, Embedding)
    shape = [None, None] if is_tokens else [None, None, layout.model.inputs.output_size]
    inputs = Layer(
        "InputLayer", {"batch_shape": shape, "dtype": "int32" if is_tokens else "float32"}
    )
    layers = [_to_json(layer, name) for name, layer in _named([inputs, *layers_of(layout)])]
    config = {"name": "sequential", "layers": layers, "build_input_shape": shape}
    return _serialized("keras", "Sequential", config)


def _to_json(layer: Layer, name: str) -> dict[str, Any]:
    fields = {
        key: _to_json(value, f"{key}_{name}") if isinstance(value, Layer) else value
        for key, value in layer.config.items()
    }
    return _serialized("keras.layers", layer.kind, {"name": name, **fields})


def _serialized(module: str, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"module": module, "class_name": kind, "config": fields, "registered_name": None}


def check_config(layout: Layout, text: bytes, where: str) -> list[str]:
    """Checks that a file's `config.json` describes the same model; returns notes.

    Raises:
        UserError: it describes another one, or is not such a file.
    """
    expected, notes = layers_of(layout), []
    try:
        found = [
            _of_json(layer)
            for layer in json.loads(text)["config"]["layers"]
            if layer["class_name"] not in _TRAINING_ALONE
        ]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{where}: its config.json is not a model of layers: {error!r}.") from error
    if found and found[-1].kind == "Dense":
        activation = found[-1].config.get("activation")
        if activation == layout.activation != "linear":
            found[-1].config["activation"] = "linear"
            notes.append(f"its {activation} is left to the task: outputs are logits here")
    here, there = (
        [str(_with_fields_of(one, expected)) for one in layers] for layers in (expected, found)
    )
    if here != there:
        lines = [f"here   {one}" for one in here] + [f"there  {one}" for one in there]
        words = (
            shlex.quote(f"--config.{name}={value}") for name, value in _fields_of(found).items()
        )
        lines.append(f"A config of its model has {' '.join(words)}")
        raise UserError("\n  ".join([f"{where} is another model than the config's:", *lines]))
    return notes


def _fields_of(layers: Sequence[Layer]) -> dict[str, Any]:
    """The config fields of a model with these layers, as far as they show them."""
    fields: dict[str, Any] = {"model.hidden_sizes": ()}
    for layer in layers:
        if layer.kind == "Embedding":
            fields["data.max_features"] = layer.config["input_dim"]
            fields["model.embedding_size"] = layer.config["output_dim"]
            fields["data.mask_padding"] = bool(layer.config["mask_zero"])
            continue
        inner = layer.config["layer"] if layer.kind == "Bidirectional" else layer
        cell = next(
            (
                name
                for name in loading.cell_names()
                if (there := layouts.counterpart(loading.find_cell(name), "keras"))
                and there.layer == inner.kind
                and there.options.items() <= inner.config.items()
            ),
            None,
        )
        if cell is None:
            continue
        fields["model.cell"] = cell
        fields["model.hidden_sizes"] += (inner.config["units"],)
        if layer.kind == "Bidirectional":
            merges = {there: here for here, there in _MERGES.items()}
            fields["model.direction"] = "bidirectional"
            fields["model.merge"] = merges.get(layer.config["merge_mode"])
    fields["model.dropout_rates"] = (0.0,) * len(fields["model.hidden_sizes"])
    return fields


def _of_json(layer: Any) -> Layer:
    fields = {
        name: _of_json(value) if isinstance(value, dict) and "class_name" in value else value
        for name, value in layer["config"].items()
    }
    return Layer(layer["class_name"], fields)


def _with_fields_of(layer: Layer, expected: Sequence[Layer]) -> Layer:
    """A layer with only the fields that are expected of its class, in one order.

    Its arrays show whether it has a bias.
    """
    every = [*expected, *(one for of in expected for one in of.config.values())]
    names = {
        name: None
        for one in every
        if isinstance(one, Layer) and one.kind == layer.kind
        for name in one.config
        if name != "use_bias"
    }
    fields = {name: layer.config.get(name) for name in names or ["units"]}
    return Layer(
        layer.kind,
        {
            name: _with_fields_of(value, expected) if isinstance(value, Layer) else value
            for name, value in fields.items()
        },
    )
