"""How the time of a training step grows with T, B and H, compared with PyTorch and `nnx.RNN`, and
with the number of models that are trained at once.

python -m benchmarks.scaling

One LSTM layer over full-length random sequences. For K models, the time is of their gradients on
one batch, by `jax.vmap`. Writes `scaling.png` and `scaling.json`.
"""

import argparse
import json
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
from benchmarks.interface import Batch, Training, Weights
from benchmarks.peers import chosen, installed, started
from benchmarks.workers import Worker
from train_lib import files
from train_lib.errors import told_to_user
from train_lib.training import devices

PEERS = ("ours", "torch-padded", "flax-nnx")
FIXED = {"T": 256, "B": 256, "H": 64}
VARIED = {
    "T": (16, 64, 256, 1024, 4096),
    "B": (8, 32, 128, 512, 2048),
    "H": (8, 16, 32, 64, 128, 256),
}
SEEDS = (1, 2, 4, 8, 16)
_NAMES = {
    "T": "tokens in a sequence, T",
    "B": "sequences in a batch, B",
    "H": "units, H",
    "K": "models, K",
}
_VOCABULARY = 1000


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peers", default=",".join(PEERS), help="separated by commas")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each peer at each size")
    parser.add_argument("--out", type=files.local, default="benchmarks/results")
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
    for size in SEEDS:
        seconds = measure_models(size, options.repeats)
        results["rows"].append({"axis": "K", "size": size, "peer": "ours", "seconds": seconds})
        print(f"K = {size}, ms: ours {1e3 * statistics.median(seconds):,.1f}", flush=True)
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
    """Seconds per step in every turn of each peer; short steps are timed many at once."""
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


def measure_models(count: int, repeats: int) -> list[float]:
    """Seconds of the gradients of `count` models at once, in every turn."""
    training, _, batch = make(**FIXED)
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
    """Milliseconds per step against each size, with the others fixed."""
    figure = matplotlib.figure.Figure(figsize=(15, 4.2), layout="constrained")
    varied = VARIED | {"K": SEEDS}
    for axes, (axis, sizes) in zip(
        figure.subplots(1, len(varied), sharey=True), varied.items(), strict=True
    ):
        for peer, marker in zip(peers if axis != "K" else ["ours"], "os^", strict=False):
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
