"""What a run prints on the screen."""

from collections.abc import Mapping, Sequence

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from seqmodels import SequenceModel
from train_lib.data.dataset import SPLITS, Dataset
from train_lib.errors import UserError
from train_lib.records import environment, weights
from train_lib.records.folder import TESTED, RunFolder
from train_lib.records.metrics import plain, show_interval
from train_lib.records.result import diverged_seeds, examples_are
from train_lib.tasks.base import Task
from train_lib.training.batching import Layout
from train_lib.training.memory import Room

_FEW_UPDATES = 100


def header(folder: RunFolder) -> str:
    """What opens a run's output."""
    packages = ", ".join(f"{name} {version}" for name, version in environment.versions().items())
    return f"run:    {folder.path}\ndevice: {environment.describe_device()}\n        {packages}"


def describe_data(data: Dataset) -> str:
    """The data set, in one line or two."""
    sizes = ", ".join(f"{len(getattr(data, split)):,} {split}" for split in SPLITS)
    kind = "" if examples_are(data.test) == "examples" else f" {examples_are(data.test)}"
    lengths = data.train.lengths
    lines = [
        f"data:   {data.name} {data.fingerprint[:12]}: {sizes}{kind}",
        f"        of {np.median(lengths):,.0f} steps in the median and {lengths.max():,} at most",
    ]
    if data.repeated:
        lines.append(f"        {data.repeated:,} test examples also occur in the other splits")
    return "\n".join(lines)


def note_few_updates(examples: int, examples_a_step: int, num_epochs: int) -> str:
    """A note if a run has too few updates to learn much; empty: it has enough."""
    updates = -(-examples // examples_a_step) * num_epochs
    if updates >= _FEW_UPDATES:
        return ""
    return (
        f"note:   {updates:,} updates in all ({examples:,} training examples in batches of "
        f"{examples_a_step:,}) teach a model little; a smaller config.train.batch_size or a larger "
        "config.train.num_epochs makes more of them\n"
    )


def describe_memory(needed: int | None, room: Room | None, data: Dataset) -> str:
    """What training needs of the memory there is.

    Raises:
        UserError: it needs more than there is altogether.
    """
    if needed is None or room is None:
        return "memory: unknown"
    takes = f"training takes about {needed / 2**30:.1f} GiB"
    advice = (
        f"The longest sequence has {int(data.train.lengths.max()):,} steps; "
        "config.data.max_length_tokens cuts longer ones. A smaller config.train.batch_size and "
        "fewer config.train.seeds take less, and so may config.model.segment_steps=32"
    )
    if needed > room.total:
        raise UserError(f"{takes}, and there are {room.total / 2**30:.1f} in all. {advice}.")
    line = f"memory: {takes} of {room.available / 2**30:.1f} that are available\n"
    if needed > room.available:
        line += f"note:   that is too much unless other programs end. {advice}\n"
    return line


def parameter_table(params: nnx.State) -> str:
    """The layers and parameters of a model, and their numbers."""
    rows = [(path, str(value.shape), f"{value.size:,}") for path, value in weights.named(params)]
    total = f"{weights.count(params):,}"
    rows = [("parameter", "shape", "count"), *rows, ("total", "", total)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"  {p:<{widths[0]}}  {s:<{widths[1]}}  {c:>{widths[2]}}" for p, s, c in rows]
    rule = "  " + "-" * (sum(widths) + 4)
    return "\n".join(["", lines[0], rule, *lines[1:-1], rule, lines[-1], ""])


def describe_engine(model: SequenceModel, layout: Layout, mesh: Mesh, seeds: Sequence[int]) -> str:
    """What runs the cells, and where seeds and the rows of a batch are computed."""
    names = dict.fromkeys(model.encoder.engine_names())
    dtypes = dict.fromkeys(layer.engine.matrix_dtype for layer in model.encoder.layers)
    of_seeds = f"seed:   {seeds[0]}"
    if len(seeds) > 1:
        groups = mesh.shape["seed"]
        of_seeds = f"seeds:  {seeds[0]} to {seeds[-1]}, in {groups} groups on devices of their own"
    return (
        f"engine: {', '.join(names)}, {', '.join(dtypes)} products; a batch is "
        f"{layout.devices} devices x {layout.blocks} blocks x {layout.rows} rows\n{of_seeds}\n"
    )


def describe_result(result: Mapping, metric: str, folder: RunFolder) -> str:
    """What closes a run's output.

    Args:
        result: the contents of `result.json`.
        metric: the deciding one.
        folder: the run's folder.
    """
    data, lines = result["dataset"], [""]
    if lost := diverged_seeds(result):
        shown = ", ".join(map(str, lost))
        lines.append(f"diverged:   seeds {shown}, which are left out of these figures")
    for split in ("validation", "test"):
        if f"{split}_{metric}" not in result:
            continue
        decides, loss = result[f"{split}_{metric}"], result.get(f"{split}_loss")
        beside = "" if metric == "loss" or not loss else f", loss {show_interval(loss)}"
        lines.append(
            f"{split + ':':<11} {plain(metric)} {decides['mean']:.4f}{beside} on "
            f"{data[split]:,} {data.get('examples_are', 'examples')} of {data['name']}"
        )
        if "ci95_low" in decides:
            lines.append(
                f"{'':<11} 95 % interval {decides['ci95_low']:.4f} to {decides['ci95_high']:.4f} "
                f"({decides['interval']})"
            )
        if "one_seed_low" in decides:
            lines.append(
                f"{'':<11} one more seed lies between {decides['one_seed_low']:.4f} and "
                f"{decides['one_seed_high']:.4f}"
            )
        if split == "test":
            lines += _beside(result, metric)
            if earlier := result.get(TESTED, [])[:-1]:
                lines.append(
                    f"{'':<11} already tested after epoch {' and '.join(map(str, earlier))}: "
                    "to choose between these figures would be to choose by the test examples"
                )
    if evaluated := result["model"].get("evaluated"):  # In older versions, the last ones.
        lines.append(f"{'evaluated:':<11} each seed's {evaluated} parameters")
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in result["seconds"].items())
    lines += [f"{'time:':<11} {seconds} seconds", f"{'folder:':<11} {folder.path}"]
    return "\n".join(lines)


def _beside(result: Mapping, metric: str) -> list[str]:
    """What to compare a test result with: all seeds' answers averaged, and a trivial guess."""
    lines = []
    together = result.get("seeds_together")
    if together and metric in together:
        lines.append(
            f"{'':<11} the average of all seeds' answers: {plain(metric)} {together[metric]:.4f}"
        )
    if metric in (guess := result.get("guess", {})):
        lines.append(f"{'':<11} a constant guess: {plain(metric)} {guess[metric]:.4f}")
    return lines


def describe_task(task: Task) -> str:
    """The task, in one line."""
    items = "step" if task.per_step else "sequence"
    outputs = f"{task.num_outputs} output{'s' * (task.num_outputs > 1)} a {items}"
    better = "higher" if task.higher_is_better else "lower"
    decides = f"{plain(task.metric)} decides ({better} is better)"
    return f"task:   {type(task).__name__}, {outputs}; {decides}"
