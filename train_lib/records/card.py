"""`README.md`: a run's model card, which makes its folder a repository of the Hugging Face Hub.

At its top is what the Hub reads, in YAML, of which JSON is a subset; the rest is for people. All of
it comes from other files of the folder, so an old run can have a card too.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from train_lib import files, settings
from train_lib.data.dataset import SPLITS
from train_lib.data.inputs import Inputs, Text, Vectors
from train_lib.records import description, weights
from train_lib.records.folder import ANSWERS, CARD, OWN_FILES, RunFolder
from train_lib.records.metrics import ENDS, plain
from train_lib.records.report import describe_task
from train_lib.records.result import diverged_seeds
from train_lib.tasks.base import Task
from train_lib.training import processes

_PIPELINES = {
    "classes": "text-classification", "labels": "text-classification",
    "tags": "token-classification", "next_token": "text-generation",
}  # fmt: skip
"""The Hub's names for tasks on texts."""

_FILES = {
    weights.WEIGHTS: "the parameters as they were tested; the first axis of each is the seeds",
    weights.BEST_WEIGHTS: "those after each seed's best epoch by validation, for `--best`",
    "config.json": "every field of the experiment",
    "cell.py": "the cell",
    "task.py": "the task",
    "data.json": "the inputs and the task",
    "vocabulary.txt": "the words that have a number",
    "result.json": "all figures",
    files.SUMS: "the digests of the files",
}
"""Descriptions of the files that a run answers with."""

_MOST_NAMES = 30
"""With this many classes or more, only `data.json` has their names."""


def write(folder: RunFolder, result: Mapping[str, Any]) -> None:
    """Writes the card of a run that has its weights.

    Args:
        folder: the run's folder.
        result: what `result.json` holds, or will hold.
    """
    if processes.is_first():
        folder.write(CARD, text(folder, result))


def text(folder: RunFolder, result: Mapping[str, Any]) -> str:
    """The text of a run's card."""
    fields = folder.read_fields()
    own = {field: name for field, name in OWN_FILES.items() if str(fields[field]).endswith(".py")}
    fields |= own  # Their names in the folder.
    inputs, task = description.read(folder, folder.read_config().task.name)
    split = "test" if _metrics(result, "test") else "validation"
    lines = [
        "---",
        *(f"{key}: {_json(value)}" for key, value in _head(result, fields, inputs, split).items()),
        "---",
        f"# {result['config']}",
        *_model(result, fields, inputs, task),
        "## Results",
        *_results(result, split),
        "## Data",
        *_data(result),
        "## Files",
        *_files(folder),
        "## Use",
        *_use(list(own.values()), inputs, task),
        "## How it was made",
        *_origin(list(own.values()), fields, result),
    ]
    return re.sub(r"\n+(#+ .*)\n+", r"\n\n\1\n\n", "\n".join(lines)) + "\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _metrics(result: Mapping[str, Any], split: str) -> dict[str, dict]:
    """What is known of each metric of a split."""
    return {
        name.removeprefix(f"{split}_"): of
        for name, of in result.items()
        if name.startswith(f"{split}_") and isinstance(of, dict) and "mean" in of
    }


def _alive(result: Mapping[str, Any]) -> int:
    return len(result["seeds"]) - len(diverged_seeds(result))


def _head(result: Mapping, fields: Mapping, inputs: Inputs, split: str) -> dict[str, Any]:
    """What the Hub reads."""
    pipeline = _PIPELINES.get(fields["task.name"]) if isinstance(inputs, Text) else None
    name, found = result["dataset"]["name"], _metrics(result, split)
    cell = "own-cell" if fields["model.cell"].endswith(".py") else fields["model.cell"]
    evaluated = {
        "task": {"type": pipeline or re.sub(r"[^\w-]", "-", fields["task.name"])},
        # The Hub accepts letters, digits, dots and dashes in a type.
        "dataset": {"name": name, "type": re.sub(r"[^\w.-]", "-", name), "split": split},
        "metrics": [
            {"type": metric, "name": f"{plain(metric)} ({split})", "value": round(of["mean"], 4)}
            for metric, of in found.items()
            if math.isfinite(of["mean"])
        ],
    }
    head = {
        "library_name": "seqmodels",
        "tags": ["jax", "flax", "seqmodels", "recurrent-neural-network", cell.replace("_", "-")],
        "metrics": list(found),
        "model-index": [{"name": result["config"], "results": [evaluated]}],
    }
    return head | ({"pipeline_tag": pipeline} if pipeline else {})


def _model(result: Mapping, fields: Mapping, inputs: Inputs, task: Task) -> list[str]:
    sizes = ", ".join(map(str, fields["model.hidden_sizes"]))
    count = len(result["seeds"])
    seeds = "one seed" if count == 1 else f"{count} seeds, each a model of its own"
    read = f"vectors of {inputs.size} numbers" if isinstance(inputs, Vectors) else "token numbers"
    if isinstance(inputs, Text):
        read = f"texts, split by the rules `{inputs.rules}`"
    given = (getattr(task, of, None) for of in ("names", "classes", "labels"))
    names = [str(name) for name in next((one for one in given if isinstance(one, list)), [])]
    named = f" They stand for {', '.join(f'`{name}`' for name in names)}." if names else ""
    asked = describe_task(task).partition(":")[2].strip()
    return [
        f"A recurrent model that reads {read}.",
        "",
        f"* **Model:** the cell `{fields['model.cell']}`, {fields['model.direction']}, "
        f"layers of {sizes} units, {result['model']['parameters']:,} parameters; {seeds}.",
        f"* **Task:** {asked}.{named if len(names) < _MOST_NAMES else ''}",
    ]


def _results(result: Mapping, split: str) -> list[str]:
    data, alive = result["dataset"], _alive(result)
    what = data.get("examples_are", "examples")
    of = "of one seed" if alive == 1 else f"mean of {alive} seeds"
    guess, together = result.get("guess", {}), result.get("seeds_together", {})
    beside = {"all seeds' answers averaged": together, "a constant guess": guess}
    beside = {name: found for name, found in beside.items() if found and split == "test"}
    rows = [["metric", of, "95 % interval", *beside]]
    for name, found in _metrics(result, split).items():
        ends = ", ".join(f"{found[end]:.4f}" for end in ENDS if end in found)
        interval = ", ".join(filter(None, [f"[{ends}]", found.get("interval")])) if ends else ""
        others = (found_of.get(name) for found_of in beside.values())
        shown = (f"{one:.4f}" if isinstance(one, float) else "" for one in others)
        rows.append([plain(name), f"{found['mean']:.4f}", interval, *shown])
    lines = [f"On the {data[split]:,} {split} {what} of {data['name']}:", "", *_table(rows)]
    if lost := diverged_seeds(result):
        lines += ["", f"Seeds {', '.join(map(str, lost))} diverged, and are left out."]
    return lines


def _data(result: Mapping) -> list[str]:
    data = result["dataset"]
    sizes = ", ".join(f"{data[split]:,} {split}" for split in SPLITS)
    lines = [
        f"{data['name']}: {sizes} {data.get('examples_are', 'examples')}. "
        f"Fingerprint: `{data['fingerprint'][:12]}`."
    ]
    if repeated := data.get("test_examples_repeated"):
        lines.append(f"{repeated:,} test examples also occur in the other splits.")
    return lines


def _files(folder: RunFolder) -> list[str]:
    own = {weights.file_of(folder, name) or name: name for name in weights.NAMES}
    there = [
        (name, _FILES[own.get(name, name)])
        for name in (*own, *ANSWERS, files.SUMS)
        if (folder.path / name).is_file() or name in ("result.json", files.SUMS)
    ]
    return [
        "These files hold the model; all others say how the run went:",
        "",
        *_table([["file", "what it holds"], *([f"`{name}`", what] for name, what in there)]),
    ]


def _use(own: list[str], inputs: Inputs, task: Task) -> list[str]:
    writes = task.predicts_inputs and isinstance(inputs, Text)
    asked = '"a text"' if isinstance(inputs, Text) else "--data=FILE --out=answers.csv"
    lines = [
        "In a checkout of seqmodels, with this folder's path in place of `FOLDER`:",
        "",
        "```sh",
        f"python -m train_lib.predict --workdir=FOLDER {asked}",
        *(['python -m train_lib.generate --workdir=FOLDER "a beginning"'] if writes else []),
        "python -m train_lib.export --workdir=FOLDER --to=exported  # for JAX alone",
        "```",
    ]
    if own:
        lines += ["", f"They run {' and '.join(f'`{name}`' for name in own)}: read it first."]
    return lines


def _origin(own: list[str], fields: Mapping, result: Mapping) -> list[str]:
    versions = ", ".join(f"{name} {of}" for name, of in result["versions"].items())
    made = f"With {versions}, on {result['device']}."
    if result["model"].get("evaluated") == "imported":
        initial = result["model"]["initial"]
        return [
            f"Its weights were imported from `{initial['source']}`, and tested here. What was read "
            f"has the SHA-256 `{initial['sha256']}`. {made}"
        ]
    changed = {
        path: value
        for path, value in fields.items()
        if path in settings.DEFAULTS and value != settings.DEFAULTS[path]
    }
    return [
        "To train it again, given the data:",
        "",
        "```sh",
        f"mkdir again && cp {' '.join(f'FOLDER/{name}' for name in ('config.json', *own))} again/",
        "python main.py --workdir=again",
        "```",
        "",
        "Fields that differ from their defaults:",
        "",
        "```text",
        *(f"{path} = {_json(value)}" for path, value in changed.items()),
        "```",
        "",
        made,
    ]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(one.replace('|', chr(92) + '|') for one in row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]
