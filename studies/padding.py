"""Why the tutorial's bidirectional model "went in the wrong direction".

python -m studies.padding --seeds=5 --max_length_tokens=600
python -m studies.padding --seeds=10 --max_length_tokens=0 --poolings=last --paddings=pre

Trains {forward, backward, bidirectional, stacked} x {pre, post: padding on that side, read like a
word; exact: never read} x {last, mean, max pooling} on IMDB, and looks into the trained models: the
gradient that reaches each direction, how the classifier uses each direction's half, and what is
left of a review in the state while padding is read. If padding is never read, its side has no
effect (a test checks that), so `exact` stands for both.

Each run is one of `main.py`, in its own folder in `--runs`; the same command resumes where it was
interrupted. Writes `padding.md`, `padding.png` and `padding.json` to `--out`; results already in
`padding.json` are reused.
"""

import argparse
import hashlib
import importlib
import json
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from benchmarks.peers import chosen
from seqmodels import SequenceModel, Unidirectional
from seqmodels.inputs import embed
from train_lib import building, files, run
from train_lib.data.dataset import Dataset, Split
from train_lib.data.vocabulary import PADDING
from train_lib.errors import told_to_user
from train_lib.records import environment, weights
from train_lib.records.folder import RunFolder
from train_lib.records.metrics import show_interval, summary
from train_lib.tasks.base import Task
from train_lib.training import Program, Treatment, batching, devices, state

ARCHITECTURES = {
    "forward": ("lstm", "forward"),
    "backward": ("lstm", "backward"),
    "bidirectional": ("bilstm", "bidirectional"),
    "stacked": ("stacked", "bidirectional"),
}
"""A module in `configs/`, and the direction of its layers."""

PADDINGS = ("pre", "post", "exact")
POOLINGS = ("last", "mean", "max")
DIRECTIONS = ("forward", "backward")
READS_PADDING_LAST = {"pre": "backward", "post": "forward"}
"""The direction with padding between its last state and the words."""

PADS = (0, 1, 3, 10, 30, 100, 300, 1_000, 2_000)
"""Padding read after a review, in steps, at which states are compared."""

_REVIEWS = 256  # Used for gradients and states: enough for two digits.


def config_of(architecture: str, padding: str, pooling: str, options) -> ConfigDict:
    """The config of one condition."""
    name, direction = ARCHITECTURES[architecture]
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config("exact" if padding == "exact" else "tutorial")
    if padding != "exact":
        config.data.padding_side = padding
    config.name = f"{architecture}-{padding}-{pooling}"
    config.model.direction, config.model.pooling = direction, pooling
    config.data.source = "imdb"  # Nothing may replace it here.
    config.data.max_length_tokens = options.max_length_tokens
    config.train.seeds = options.seeds
    return config


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m studies.padding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    parser.add_argument("--paddings", default=",".join(PADDINGS))
    parser.add_argument("--poolings", default=",".join(POOLINGS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--max_length_tokens", type=int, default=0, help="kept of a review; 0: all")
    parser.add_argument("--runs", type=files.local, default="runs/padding")
    parser.add_argument("--out", type=files.local, default="docs/padding")
    options = parser.parse_args(argv)
    conditions = [
        (architecture, padding, pooling)
        for pooling in chosen("poolings", options.poolings, POOLINGS)
        for padding in chosen("paddings", options.paddings, PADDINGS)
        for architecture in chosen("architectures", options.architectures, list(ARCHITECTURES))
    ]
    devices.configure()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "padding.json"
    known = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    rows = {row["config"]: row for row in known}
    shown = []
    for condition in conditions:
        identity = _identity(config_of(*condition, options))
        if identity not in rows:
            rows[identity] = {"config": identity} | look(*condition, options)
        shown.append(rows[identity])
        content = {"rows": list(rows.values())}
        files.write(path, json.dumps(content, indent=1) + "\n")
    command = " ".join(["python -m studies.padding", *argv])
    table = markdown(shown, command)
    files.write(options.out / "padding.md", table)
    draw(shown).savefig(options.out / "padding.png", dpi=150)
    print(table)


def _identity(config: ConfigDict) -> str:
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def look(architecture: str, padding: str, pooling: str, options) -> dict:
    """The results of one condition: its accuracies, and what its models show inside."""
    config = config_of(architecture, padding, pooling, options)
    length = options.max_length_tokens or "all"
    path = options.runs / f"{config.name}-{length}-{options.seeds}"
    result = run.run(config, str(path))
    data, task = building.load_data(config)
    models = building.build_models(config, data.inputs, task, building.seeds_asked(config))
    graphdef, initial_K = state.split(models)
    folder = RunFolder.open_finished(str(path))
    trained_K = weights.read(folder, weights.WEIGHTS, initial_K)
    treatment = building.treatment_of(config)
    program = Program(models, task, batch_size=config.train.batch_size, treatment=treatment)
    accuracies_K = [seed["test_accuracy"] for seed in result["seeds"]]
    seen = DIRECTIONS if ARCHITECTURES[architecture][1] == "bidirectional" else (architecture,)
    late = READS_PADDING_LAST.get(padding, "")
    both = ("first", initial_K), ("last", trained_K)
    return {
        "architecture": architecture,
        "padding": padding,
        "pooling": pooling,
        "test_accuracy": accuracies_K,
        "test_reviews": result["dataset"]["test"],
        "gradients": {
            when: gradient_norms(graphdef, params_K, data.train, task, treatment)
            for when, params_K in both
        },
        "halves": halves(models[0], program, trained_K, data),
        "states": {when: states(graphdef, params_K, data.train, late) for when, params_K in both}
        if late in seen
        else {},
    }


def gradient_norms(
    graphdef, params_K: nnx.State, split: Split, task: Task, treatment: Treatment
) -> dict:
    """The norm of the loss gradient in the parameters of each direction's cells: `[K]` each."""
    reviews = np.random.default_rng(0).choice(len(split), _REVIEWS, replace=False)
    width = int(split.lengths.max())
    side = treatment.padding_side
    on_device = jax.tree.map(jnp.asarray, batching.DeviceSplit.of(split, task))
    batch = batching.gather(on_device, reviews, width, side, per_step=False)
    lengths_B = batch.lengths_B if treatment.mask_padding else None

    @jax.jit
    def gradient(params):
        def loss(params):
            model = nnx.merge(graphdef, params)
            outputs_BxC = model(batch.inputs, lengths_B, padding_side=side)
            return jnp.mean(task.loss(outputs_BxC, batch.targets))

        return jax.grad(loss)(params)

    norms: dict[str, list[float]] = {}
    for params in of_each_seed(params_K):
        named = weights.named(gradient(params))
        for direction in DIRECTIONS:
            squares = [float(jnp.sum(g**2)) for path, g in named if f".{direction}." in path]
            if squares:
                norms.setdefault(direction, []).append(float(np.sqrt(sum(squares))))
    return norms


def halves(model: SequenceModel, program: Program, params_K: nnx.State, data: Dataset) -> dict:
    """How the classifier uses each direction's half of the vector that it reads.

    The logit is the sum of one term from each half. `spread` is the standard deviation of that term
    over the validation reviews, and `accuracy_without` the accuracy when the term is replaced by
    its mean, beside `accuracy` of the whole: `[K]` each.
    """
    if len(model.encoder.layers[-1].cells) < 2:
        return {}
    split = data.validation
    widths = batching.row_widths(data.train, [split, data.test], program.treatment)

    def logits(params_K):
        params_K = devices.spread_seeds(params_K, program.mesh)
        kept = program.evaluate(params_K, split, widths).kept
        return kept["outputs"][..., 0].astype(np.float64)

    full_KxN = logits(params_K)

    def without_backward(keys, leaf_K):
        is_kernel = weights.path_of(keys) == "head.kernel"
        return leaf_K.at[:, leaf_K.shape[1] // 2 :].set(0) if is_kernel else leaf_K

    backward_KxN = full_KxN - logits(jax.tree_util.tree_map_with_path(without_backward, params_K))
    forward_KxN = full_KxN - backward_KxN - dict(weights.named(params_K))["head.bias"]
    found: dict = {"accuracy": ((full_KxN > 0) == split.targets).mean(1).tolist()}
    for direction, term_KxN in (("forward", forward_KxN), ("backward", backward_KxN)):
        ablated_KxN = full_KxN - term_KxN + term_KxN.mean(1, keepdims=True)
        found[direction] = {
            "spread": term_KxN.std(1).tolist(),
            "accuracy_without": ((ablated_KxN > 0) == split.targets).mean(1).tolist(),
        }
    return found


def states(graphdef, params_K: nnx.State, split: Split, direction: str) -> list[list[float]]:
    """What is left of a review in the state of the lowest layer's cell while padding is read.

    Returns:
        For each seed, after each number of `PADS`, how far the states of different reviews are from
        their mean (root mean square), as a share of that before any padding.
    """
    reviews = np.random.default_rng(1).choice(len(split), _REVIEWS, replace=False)
    lengths_B = split.lengths[reviews]
    width = int(lengths_B.max()) + PADS[-1]
    tokens_BxT = np.full((_REVIEWS, width), PADDING, np.int32)
    for row, review in zip(tokens_BxT, reviews, strict=True):
        tokens = split.values[split.offsets[review] : split.offsets[review + 1]]
        row[: len(tokens)] = tokens if direction == "forward" else tokens[::-1]

    @jax.jit
    def spread(params):
        model = nnx.merge(graphdef, params)
        layer = Unidirectional(getattr(model.encoder.layers[0], direction))
        all_B = jnp.full(_REVIEWS, width)
        (encoded,) = layer.encode(
            [embed(model.inputs.table[...], jnp.array(tokens_BxT), all_B)], all_B
        )
        times_PxB = jnp.array(lengths_B)[None] - 1 + jnp.array(PADS)[:, None]
        h_PxHxB = jax.vmap(lambda h_TxH, times_P: h_TxH[times_P], (2, 1), 2)(
            encoded.sequence_TxHxB, times_PxB
        )
        spread_P = jnp.sqrt(jnp.mean(jnp.var(h_PxHxB, axis=2), axis=1))
        return spread_P / spread_P[0]

    return [spread(params).tolist() for params in of_each_seed(params_K)]


def of_each_seed(params_K: nnx.State):
    """Yields the parameters of each seed in turn."""
    for number in range(len(jax.tree.leaves(params_K)[0])):
        yield jax.tree.map(lambda leaf, number=number: leaf[number], params_K)


def markdown(rows: Sequence[dict], command: str) -> str:
    """The tables: accuracies, and what is inside the models."""
    seeds = len(rows[0]["test_accuracy"])
    lines = [
        "# Where the padding stands, and who reads it last",
        "",
        f"Made by `{command}` on {environment.describe_device()}; {seeds} seeds a figure: "
        "mean test accuracy and, in brackets, its 95 % interval, over seeds and reviews.",
        "",
        "| pooling | padding | " + " | ".join(ARCHITECTURES) + " |",
        "|---|---" + "|---" * len(ARCHITECTURES) + "|",
    ]
    accuracies = {_condition(row): show_interval(_accuracy(row)) for row in rows}
    for pooling, padding in dict.fromkeys((row["pooling"], row["padding"]) for row in rows):
        cells = [accuracies.get((name, padding, pooling), "") for name in ARCHITECTURES]
        lines.append(f"| {pooling} | {padding} | " + " | ".join(cells) + " |")
    shown = ", ".join(f"{PADS[number]:,}" for number in _SHOWN_PADS)
    lines += [
        "",
        "Gradient: length of the loss' gradient in the backward cells' parameters as a share of "
        "that in the forward cells', before the first step and after the last one (geometric "
        "means). Spread: standard deviation over reviews of the term of the logit that comes from "
        "each direction. Lost: validation accuracy in points, where that term is replaced by its "
        "mean. States: spread of the state of the direction that reads padding last, after so many "
        "steps of padding, as a share of that before, by the initial model and by the trained one.",
        "",
        "| condition | gradient, first | gradient, last | spread forward / backward "
        f"| lost without forward / backward | states after {shown}, first | the same, last |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        lines.append(f"| {', '.join(_condition(row))} | " + " | ".join(_inside(row)) + " |")
    return "\n".join(lines) + "\n"


_SHOWN_PADS = (3, 5, 7, 8)


def _left(shares_KxP: Sequence[Sequence[float]]) -> np.ndarray:
    """The geometric mean over seeds; below a millionth of a millionth nothing is left."""
    return np.exp(np.mean(np.log(np.maximum(shares_KxP, 1e-12)), axis=0))


def _condition(row: dict) -> tuple[str, str, str]:
    return row["architecture"], row["padding"], row["pooling"]


def _accuracy(row: dict) -> dict:
    return summary(np.array(row["test_accuracy"]), row["test_reviews"])


def _inside(row: dict) -> list[str]:
    cells = []
    for when in ("first", "last"):
        norms = row["gradients"][when]
        cells.append(
            f"{np.exp(np.mean(np.log(np.divide(norms['backward'], norms['forward'])))):.2g}"
            if len(norms) == 2
            else ""
        )
    if row["halves"]:
        of_both = [row["halves"][direction] for direction in DIRECTIONS]
        cells.append(" / ".join(f"{np.mean(half['spread']):.2f}" for half in of_both))
        lost = [np.mean(_points_lost(row, direction)) for direction in DIRECTIONS]
        cells.append(" / ".join(f"{points:.1f}" for points in lost))
    else:
        cells += ["", ""]
    for when in ("first", "last"):
        left_P = _left(row["states"][when])[list(_SHOWN_PADS)] if row["states"] else []
        cells.append(", ".join(f"{share:.1g}" for share in left_P))
    return cells


def _points_lost(row: dict, direction: str) -> np.ndarray:
    """Validation accuracy lost without a direction, in points, for each seed."""
    halves = row["halves"]
    return 100 * np.subtract(halves["accuracy"], halves[direction]["accuracy_without"])


def draw(rows: Sequence[dict]) -> matplotlib.figure.Figure:
    """Accuracies by pooling; what ablation costs; and the states while padding is read."""
    poolings = list(dict.fromkeys(row["pooling"] for row in rows))
    paddings = list(dict.fromkeys(row["padding"] for row in rows))
    figure = matplotlib.figure.Figure(
        figsize=(3.6 * (len(poolings) + 2), 4.2), layout="constrained"
    )
    panels = figure.subplots(1, len(poolings) + 2)
    colours = dict(zip(PADDINGS, ("C3", "C1", "C0"), strict=True))
    first = panels[0]
    for axes, pooling in zip(panels, poolings, strict=False):
        for number, padding in enumerate(paddings):
            of_condition = {
                row["architecture"]: row
                for row in rows
                if (row["padding"], row["pooling"]) == (padding, pooling)
            }
            for place, name in enumerate(ARCHITECTURES):
                if name not in of_condition:
                    continue
                values, of_mean = of_condition[name]["test_accuracy"], _accuracy(of_condition[name])
                x = place + 0.25 * (number - (len(paddings) - 1) / 2)
                axes.plot([x] * len(values), values, ".", color=colours[padding], alpha=0.4)
                mean, low, high = (of_mean[end] for end in ("mean", "ci95_low", "ci95_high"))
                bar = [[mean - low], [high - mean]]
                axes.errorbar([x], [mean], bar, fmt="_", color=colours[padding], capsize=3)
        axes.set_xticks(range(len(ARCHITECTURES)), ARCHITECTURES, rotation=20)
        axes.set(title=f"pooling: {pooling}", ylabel="test accuracy")
        axes.sharey(first)
    handles = [
        first.plot([], [], "o", color=colours[padding], label=_LABELS[padding])[0]
        for padding in paddings
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=3)
    _draw_halves(panels[-2], rows)
    _draw_states(panels[-1], rows, colours)
    for axes in panels:
        axes.grid(alpha=0.3)
    return figure


_LABELS = {
    "pre": "padding read, before the words",
    "post": "padding read, after the words",
    "exact": "padding never read",
}


def _draw_halves(axes, rows: Sequence[dict]) -> None:
    """Accuracy lost without each half of the vector, for the bidirectional model."""
    rows = [row for row in rows if row["architecture"] == "bidirectional"]
    for number, direction in enumerate(DIRECTIONS):
        lost = [np.mean(_points_lost(row, direction)) for row in rows]
        places = np.arange(len(rows)) + 0.2 * (1 - 2 * number)
        axes.barh(places, lost, 0.4, label=f"without the {direction} half", color=f"C{2 * number}")
    axes.set_yticks(range(len(rows)), [f"{row['padding']}, {row['pooling']}" for row in rows])
    axes.set(title="bidirectional, half of it", xlabel="accuracy lost, points")
    axes.legend(fontsize="small")


def _draw_states(axes, rows: Sequence[dict], colours: dict[str, str]) -> None:
    """What is left of a review in the state, against steps of padding."""
    for row in rows:
        for when, style in (("first", "--"), ("last", "-")) if row["states"] else ():
            left_P = _left(row["states"][when])
            axes.plot(PADS, left_P, style, color=colours[row["padding"]], alpha=0.7)
    for style, label in (("--", "before training"), ("-", "trained")):
        axes.plot([], [], style, color="0.3", label=label)
    axes.legend(fontsize="small")
    axes.set(
        title="what is left of a review", xlabel="steps of padding read after it",
        ylabel="spread of states, share", xscale="symlog", yscale="log", ylim=(1e-8, 2),
    )  # fmt: skip


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
