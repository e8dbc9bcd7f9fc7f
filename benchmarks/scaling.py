"""How the time of a training step grows with T, B and H, compared with PyTorch and Keras, and with
the number of models that are trained at once.

python -m benchmarks.scaling
python -m benchmarks.scaling --cells=gru --axes=B --repeats=3 --out=/tmp

One LSTM or GRU layer over full-length random sequences: each size is varied with the others fixed;
then the extremes of all three are combined. All peers must first agree on logits, gradients and
loss. Then they take turns. For K models, the time is of their gradients on one batch, by
`jax.vmap`. Writes `scaling.md`, `scaling.png` and `scaling.json` with what was asked for only.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Sequence

import jax
import matplotlib.figure
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from benchmarks import workload
from benchmarks.interface import ARRAYS, PEERS, Batch, Training, Weights
from benchmarks.peers import Outcome, chosen, installed, started
from benchmarks.workers import PeerError, Worker
from train_lib import files
from train_lib.errors import told_to_user
from train_lib.training import devices

NAMES = ("ours", "torch-padded", "keras-jax", "keras-tensorflow")
FIXED = {"T": 256, "B": 256, "H": 64}
VARIED = {
    "T": (16, 64, 256, 1024, 4096),
    "B": (1, 8, 32, 128, 512, 2048),
    "H": (8, 16, 32, 64, 128, 256, 512),
}
CORNERS = "corners"
SEEDS = (1, 2, 4, 8, 16)
CHECKED = ({"T": 16, "B": 64, "H": 8}, {"T": 256, "B": 64, "H": 128})  # Multiplied; looked up.
_TITLES = {
    "T": "tokens in a sequence, T",
    "B": "sequences in a batch, B",
    "H": "units, H",
    "K": "models, K",
}
_VOCABULARY = 1000
_FEWEST_STEPS = 4
_MOST_NUMBERS = 2**27  # In the outputs of all steps: libraries keep some sixteen such arrays.


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    axes = (*VARIED, CORNERS, "K")
    parser.add_argument("--cells", default=",".join(ARRAYS), help="separated by commas")
    parser.add_argument("--axes", default=",".join(axes), help="what is varied, likewise")
    parser.add_argument("--peers", default="ours,torch-padded,keras-jax", help="likewise")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each peer at each size")
    parser.add_argument("--out", type=files.local, default="benchmarks/results")
    options = parser.parse_args(argv)
    cells = chosen("cells", options.cells, list(ARRAYS))
    axes = chosen("axes", options.axes, axes)
    peers = installed(chosen("peers", options.peers, NAMES))

    devices.configure()
    results = {"machine": workload.machine(), "fixed": FIXED, "versions": {}, "rows": []}
    for cell in cells:
        with started(peers) as workers:
            for worker in workers.values():
                results["versions"] |= worker.call("versions")
            check(workers, cell)
            for axis in filter(points, axes):
                for sizes in points(axis):
                    seconds = measure(workers, *make(cell, **sizes), options.repeats)
                    row = {"cell": cell, "axis": axis, **sizes, "seconds": seconds}
                    results["rows"].append(row)
                    print(_shown(row), flush=True)
                write(results, options.out)
    for size in SEEDS if "K" in axes else ():
        row = {"cell": "lstm", "axis": "K", **FIXED, "K": size}
        row["seconds"] = {"ours": measure_models(size, options.repeats)}
        results["rows"].append(row)
        print(_shown(row), flush=True)
    write(results, options.out)


def write(results: dict, folder: pathlib.Path) -> None:
    """Writes what there is, as numbers, as a table and as a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / "scaling.json", json.dumps(results, indent=1) + "\n")
    files.write(folder / "scaling.md", table(results))
    draw(results).savefig(folder / "scaling.png", dpi=150)


def points(axis: str) -> list[dict[str, int]]:
    """The sizes at which one axis is measured; the corners are those that fit into memory."""
    if axis != CORNERS:
        return [FIXED | {axis: size} for size in VARIED.get(axis, ())]
    extremes = [(sizes[0], sizes[-1]) for sizes in VARIED.values()]
    corners = [dict(zip(VARIED, sizes, strict=True)) for sizes in itertools.product(*extremes)]
    return [one for one in corners if one["T"] * one["B"] * one["H"] <= _MOST_NUMBERS]


def _shown(row: dict) -> str:
    sizes = ", ".join(f"{name} = {row[name]:,}" for name in ("T", "B", "H", "K") if name in row)
    milliseconds = {peer: 1e3 * statistics.median(s) for peer, s in row["seconds"].items()}
    shown = ", ".join(f"{peer} {ms:,.4g}" for peer, ms in milliseconds.items())
    return f"{row['cell']}: {sizes}: ms: {shown}"


def check(workers: dict[str, Worker], cell: str) -> None:
    """Checks that all peers compute the same.

    Raises:
        PeerError: they do not.
    """
    for sizes in CHECKED:
        given, reference = make(cell, **sizes), None
        for peer, worker in workers.items():
            training, *others = given
            outcome = Outcome.of(worker, _for(peer, training), *others)
            reference = reference or outcome
            if found := outcome.differences(reference, PEERS[peer].loss_tolerance):
                raise PeerError(f"{peer} differs from the first peer: {'; '.join(found)}")


def _for(peer: str, training: Training) -> Training:
    """Ours has its default setting, `exact`; without padding, the others need no masks."""
    return dataclasses.replace(training, masked=peer == "ours")


def measure(
    workers: dict[str, Worker],
    training: Training,
    weights: Weights,
    batch: Batch,
    repeats: int,
) -> dict[str, list[float]]:
    """Seconds per step in every turn of each peer; short steps are timed many at once.

    Of this project's own, several always are: in training, one call makes eight. Before each turn,
    short steps run untimed: after a pause, the first ones are slow.
    """
    numbers, warming_up = {}, {}
    for peer, worker in workers.items():
        worker.call("load", [batch])
        worker.call("build", _for(peer, training), weights)
        worker.call("epoch", [0, 0, 0])
        least = _FEWEST_STEPS if peer == "ours" else 1
        count = min(round(0.3 / worker.call("epoch")), 100)
        numbers[peer], warming_up[peer] = [0] * max(least, count), [0] * min(count // 4, 8)
    seconds = {peer: [] for peer in workers}
    for _ in range(repeats):
        for peer, worker in workers.items():
            if warming_up[peer]:
                worker.call("epoch", warming_up[peer])
            seconds[peer].append(worker.call("epoch", numbers[peer]) / len(numbers[peer]))
    for worker in workers.values():
        worker.call("release")
    return seconds


def measure_models(count: int, repeats: int) -> list[float]:
    """Seconds of the gradients of `count` models at once, in every turn."""
    training, _, batch = make("lstm", **FIXED)
    graphdef, params = nnx.split(workload.build_model(training), nnx.Param)

    def gradients(params_K, tokens_BxT, labels_B):
        def loss(params):
            logits_B = nnx.merge(graphdef, params)(tokens_BxT)[:, 0]
            return jax.numpy.sum(jax.nn.softplus(logits_B) - labels_B * logits_B)

        return jax.lax.psum(jax.vmap(jax.grad(loss))(params_K), "batch")

    spread = PartitionSpec("batch")
    step = jax.jit(
        jax.shard_map(
            gradients,
            mesh=devices.mesh(),
            in_specs=(PartitionSpec(), spread, spread),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
    )
    arguments = (
        jax.tree.map(lambda one: jax.numpy.stack([one] * count), params),
        batch.tokens_BxT,
        batch.labels_B,
    )
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(step(*arguments))
        seconds.append(time.perf_counter() - start)
    return seconds[1:]  # The first compiles.


def make(cell: str, *, T: int, B: int, H: int) -> tuple[Training, Weights, Batch]:
    """A model whose inputs are as wide as its layer, and a batch for it."""
    training = Training(
        vocabulary_size=_VOCABULARY,
        embedding_size=H,
        hidden_sizes=(H,),
        bidirectional=False,
        dropout_rates=(0.0,),
        masked=False,
        cell=cell,
        batch_size=B,
    )
    rng = np.random.default_rng(0)
    batch = Batch(
        rng.integers(1, _VOCABULARY, (B, T)).astype(np.int32),
        np.full(B, T, np.int32),
        rng.integers(0, 2, B).astype(np.float32),
    )
    return training, workload.draw_weights(training), batch


def table(results: dict) -> str:
    """All points: medians in milliseconds, and the fastest peer's time divided by ours."""
    peers = list(dict.fromkeys(peer for row in results["rows"] for peer in row["seconds"]))
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        "# Time of a training step",
        "",
        f"{results['machine']['device']}; {versions}. Medians in milliseconds, made by `python -m",
        "benchmarks.scaling`. The last column is the fastest peer's time divided by ours: the",
        "median of the ratios of each turn.",
        "",
        f"| cell | T | B | H | {' | '.join(peers)} | ratio |",
        f"|---|---|---|---|{'---|' * len(peers)}---|",
    ]
    for row in results["rows"]:
        if row["axis"] == "K":
            continue
        times = [f"{1e3 * statistics.median(row['seconds'][peer]):,.4g}" for peer in peers]
        sizes = [f"{row[name]:,}" for name in VARIED]
        ratio = f"{ratio_of(row):.2f}"
        lines.append(f"| {' | '.join([row['cell'], *sizes, *times, ratio])} |")
    return "\n".join(lines) + "\n"


def ratio_of(row: dict) -> float:
    """The fastest peer's time divided by ours: the least of the peers' medians over turns."""
    ours = np.array(row["seconds"]["ours"])
    others = [peer for peer in row["seconds"] if peer != "ours"]
    ratios = [float(np.median(np.array(row["seconds"][peer]) / ours)) for peer in others]
    return min(ratios, default=float("nan"))


def draw(results: dict) -> matplotlib.figure.Figure:
    """Milliseconds per step against each size, with the others fixed; a row for each cell."""
    rows = [row for row in results["rows"] if row["axis"] != CORNERS]
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    axes_names = list(dict.fromkeys(row["axis"] for row in rows))
    peers = list(dict.fromkeys(peer for row in rows for peer in row["seconds"]))
    figure = matplotlib.figure.Figure(
        figsize=(3.75 * len(axes_names), 4 * len(cells)), layout="constrained"
    )
    grid = figure.subplots(len(cells), len(axes_names), sharey=True, squeeze=False)
    for cell, row_of_axes in zip(cells, grid, strict=True):
        for axes, axis in zip(row_of_axes, axes_names, strict=True):
            own = [row for row in rows if (row["cell"], row["axis"]) == (cell, axis)]
            if not own:
                axes.set_axis_off()
                continue
            sizes = [row[axis] for row in own]
            for peer, marker in zip(peers, "os^v", strict=False):
                if peer in own[0]["seconds"]:
                    times = [1e3 * statistics.median(row["seconds"][peer]) for row in own]
                    axes.plot(sizes, times, f"{marker}-", label=peer)
            fixed = ", ".join(f"{name} = {size}" for name, size in FIXED.items() if name != axis)
            axes.set(xscale="log", yscale="log", xlabel=_TITLES[axis])
            axes.set_title(f"{cell.upper()}: {fixed}", fontsize=9)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()
            axes.tick_params(labelleft=True)
            axes.grid(alpha=0.3)
        row_of_axes[0].set_ylabel("a training step, ms")
    grid[0, 0].legend()
    figure.suptitle(f"One layer, {results['machine']['device']}")
    return figure


if __name__ == "__main__":
    with told_to_user():
        sys.exit(main(sys.argv[1:]))
