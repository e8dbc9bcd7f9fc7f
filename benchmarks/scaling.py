"""How the time of a training step grows with T, B and H, beside PyTorch and `nnx.RNN`.

python -m benchmarks.scaling

One LSTM layer over full-length random sequences. Writes `scaling.png` and `scaling.json`.
"""

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Sequence

import matplotlib.figure
import numpy as np

from benchmarks import workload
from benchmarks.interface import Batch, Training, Weights
from benchmarks.peers import chosen, installed, started
from benchmarks.workers import Worker
from train_lib import devices, files
from train_lib.errors import told_to_user

PEERS = ("ours", "torch-padded", "flax-nnx")
FIXED = {"T": 256, "B": 256, "H": 64}
VARIED = {
    "T": (16, 64, 256, 1024, 4096),
    "B": (8, 32, 128, 512, 2048),
    "H": (8, 16, 32, 64, 128, 256),
}
_NAMES = {"T": "tokens in a sequence, T", "B": "sequences in a batch, B", "H": "units, H"}
_VOCABULARY = 1000


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peers", default=",".join(PEERS), help="separated by commas")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each peer at each size")
    parser.add_argument("--out", type=pathlib.Path, default="benchmarks/results")
    options = parser.parse_args(argv)

    devices.configure()
    peers = installed(chosen("peers", options.peers, PEERS))
    results = {"machine": workload.machine(), "fixed": FIXED, "versions": {}, "rows": []}
    with started(peers) as workers:
        for worker in workers.values():
            results["versions"] |= worker.call("versions")
        for axis, sizes in VARIED.items():
            for size in sizes:
                training, weights, batch = make(**(FIXED | {axis: size}))
                seconds = measure(workers, training, weights, batch, options.repeats)
                for peer in workers:
                    row = {"axis": axis, "size": size, "peer": peer, "seconds": seconds[peer]}
                    results["rows"].append(row)
                shown = (f"{peer} {1e3 * statistics.median(s):,.1f}" for peer, s in seconds.items())
                print(f"{axis} = {size}, ms: {', '.join(shown)}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    files.write(options.out / "scaling.json", json.dumps(results, indent=1) + "\n")
    draw(results, peers).savefig(options.out / "scaling.png", dpi=150)


def measure(
    workers: dict[str, Worker],
    training: Training,
    weights: Weights,
    batch: Batch,
    repeats: int,
) -> dict[str, list[float]]:
    """Seconds of a step in every turn of each peer; short steps are taken many at once."""
    numbers = {}
    for peer, worker in workers.items():
        worker.call("load", [batch])
        worker.call("build", training, weights)
        worker.call("epoch", [0, 0, 0])
        numbers[peer] = [0] * min(max(1, round(0.3 / worker.call("epoch"))), 100)
    seconds = {peer: [] for peer in workers}
    for _ in range(repeats):
        for peer, worker in workers.items():
            seconds[peer].append(worker.call("epoch", numbers[peer]) / len(numbers[peer]))
    for worker in workers.values():
        worker.call("release")
    return seconds


def make(*, T: int, B: int, H: int) -> tuple[Training, Weights, Batch]:
    """A model whose inputs are as wide as its LSTM, and a batch for it."""
    training = Training(
        vocabulary_size=_VOCABULARY,
        embedding_size=H,
        hidden_sizes=(H,),
        bidirectional=False,
        dropout_rates=(0.0,),
        masked=False,
    )
    rng = np.random.default_rng(0)
    batch = Batch(
        rng.integers(1, _VOCABULARY, (B, T)).astype(np.int32),
        np.full(B, T, np.int32),
        rng.integers(0, 2, B).astype(np.float32),
    )
    return training, workload.draw_weights(training), batch


def draw(results: dict, peers: Sequence[str]) -> matplotlib.figure.Figure:
    """Milliseconds of a step against each size, the other two fixed."""
    figure = matplotlib.figure.Figure(figsize=(12, 4.2), layout="constrained")
    for axes, (axis, sizes) in zip(
        figure.subplots(1, len(VARIED), sharey=True), VARIED.items(), strict=True
    ):
        for peer, marker in zip(peers, "os^", strict=False):
            milliseconds = [
                1e3 * statistics.median(row["seconds"])
                for row in results["rows"]
                if (row["axis"], row["peer"]) == (axis, peer)
            ]
            axes.plot(sizes, milliseconds, f"{marker}-", label=peer)
        fixed = ", ".join(f"{name} = {size}" for name, size in FIXED.items() if name != axis)
        axes.set(xscale="log", yscale="log", xlabel=_NAMES[axis], title=fixed)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("a training step, ms")
    figure.axes[0].legend()
    figure.suptitle(f"One LSTM layer, {results['machine']['device']}")
    return figure


if __name__ == "__main__":
    with told_to_user():
        sys.exit(main(sys.argv[1:]))
