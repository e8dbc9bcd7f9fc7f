"""Older versions' names for the contents of a run's folder."""

import re
from typing import Any

from train_lib.tasks.classes import Classes

WEIGHTS = {"model.safetensors": "weights.npz", "best_model.safetensors": "best_weights.npz"}
"""Weight files, and their counterparts in older versions."""

_PARAMETERS = {
    r"^embedding$": "inputs.table",
    r"^pooling\.": "head.pooling.",
    r"\.(forward|backward)\.learned_initial_state\.": r".\1_start.",
}


def parameter_path(path: str) -> str:
    """The current path of a parameter, from its path in `weights.npz`."""
    for old, new in _PARAMETERS.items():
        path = re.sub(old, new, path)
    return path


def array_name(name: str) -> str:
    """The current name of an array, from its name in a checkpoint."""
    name = re.sub(r"\['embedding'\]", "['inputs']['table']", name)
    name = re.sub(r"\['pooling'\]", "['head']['pooling']", name)
    learned = r"\['(forward|backward)'\]\['learned_initial_state'\]"
    return re.sub(learned, r"['\1_start']", name)


def position(fields: dict[str, Any]) -> dict[str, Any]:
    """The current fields of a `Position`, from those in a checkpoint."""
    if "best_accuracy" not in fields:
        return fields
    fields = dict(fields)
    best = fields.pop("best_accuracy")
    names = ("loss", "accuracy", "weight")
    return fields | {
        "best_value": [None if value < 0 else value for value in best],
        "sums": [dict(zip(names, of_call, strict=True)) for of_call in fields["sums"]],
    }


def description(fields: dict[str, Any]) -> dict[str, Any]:
    """What `data.json` would hold for a run on texts of two classes, as all were."""
    task = Classes(["0", "1"], ["negative", "positive"])
    return {
        "inputs": {"kind": "text", "rules": fields["data.text_rules"]},
        "task": task.to_json(),
    }
