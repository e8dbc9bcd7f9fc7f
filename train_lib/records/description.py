"""`data.json`: the inputs and the task of a run's models.

With it, the config and the weights, a finished run answers without the data it was trained on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train_lib import tasks
from train_lib.analysis import pictures
from train_lib.data import inputs as inputs_lib
from train_lib.data.dataset import Split
from train_lib.data.inputs import Inputs
from train_lib.data.vocabulary import Vocabulary
from train_lib.records import legacy
from train_lib.records.folder import RunFolder
from train_lib.records.result import items_of
from train_lib.tasks.base import Task
from train_lib.training import processes

NAME, VOCABULARY = "data.json", "vocabulary.txt"


def write(folder: RunFolder, inputs: Inputs, task: Task) -> None:
    """Writes what the inputs and the task have learnt from the training examples."""
    if isinstance(inputs, inputs_lib.Text):
        folder.write(VOCABULARY, inputs.vocabulary.to_text())
    folder.write_json(NAME, {"inputs": inputs.to_json(), "task": task.to_json()})


def read(folder: RunFolder, task_name: str) -> tuple[Inputs, Task]:
    """Reads what `write` wrote for a run with this `config.task.name`."""
    vocabulary = None
    if (folder.path / VOCABULARY).is_file():
        vocabulary = Vocabulary.from_text(folder.read_text(VOCABULARY))
    if not (folder.path / NAME).is_file():
        content = legacy.description(folder.read_fields())
    else:
        content = folder.read_json(NAME)
    inputs = inputs_lib.from_json(content["inputs"], vocabulary)
    return inputs, tasks.find(task_name).from_json(content["task"])


def metric_of(result: Mapping[str, Any]) -> str:
    """The deciding metric of a finished run of any version."""
    return result.get("task", {}).get("metric", "accuracy")


def longest(result: Mapping[str, Any]) -> dict[str, int]:
    """The steps of each split's longest sequence, for a finished run of any version."""
    data = result["dataset"]
    return data["longest_steps"] if "longest_steps" in data else data["longest_tokens"]


def write_pictures(
    folder: RunFolder,
    test: Split,
    tasks_K: Sequence[Task],
    kept_K: Sequence[Mapping[str, np.ndarray]],
) -> None:
    """Draws the task's pictures of the first seed's answers to the test examples."""
    if not processes.is_first() or not kept_K:
        return
    figures = tasks_K[0].pictures(kept_K[0], *items_of(test))
    for name, figure in figures.items():
        folder.write(f"{name}.png", pictures.png(figure))
