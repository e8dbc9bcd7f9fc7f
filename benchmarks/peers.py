"""Compares training of the tutorial's three models with other libraries, in one run.

python -m benchmarks.peers
python -m benchmarks.peers --architectures=lstm,bilstm --settings=padded --peers=ours,torch-padded

There are three settings, all with batches of 512 reviews of IMDB and Adam:

*   `padded`: one training step; every review is padded before its first word to the longest of the
    training reviews, and padding is read like a word.
*   `exact`: an epoch; batches are bucketed by length and no padding reaches a result.
*   `job`: an epoch of the tutorial's own code in its treatment of length against an epoch of this
    project in its own; and a whole `python main.py`, without caches and with them.

Every peer has its own process. They take turns: only one computes at a time, and each has its turn
before any has the next. Between turns they release memory, and they begin a turn with two updates
that are not counted. Before anything is timed, each peer must agree with the first on logits,
gradients and loss. Times are from NumPy arrays in memory to the loss; first is the time of one
batch of every shape, with nothing compiled before.

All of it takes more than an hour on two cores, a third of that for torch-packed.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks import workload
from benchmarks.interface import PEERS, Batch, Training, Weights
from benchmarks.workers import PeerError, Worker
from train_lib import building, files
from train_lib.data.dataset import Dataset
from train_lib.errors import UserError, told_to_user
from train_lib.training import devices

SETTINGS = {
    "padded": "step, padded to the longest review",
    "exact": "epoch, lengths exact",
    "job": "epoch, each in its own treatment of length",
}
_LOGIT_TOLERANCE = 1e-4  # absolute
_GRADIENT_TOLERANCE = 1e-3  # of an array's norm
_IDLE_SHARE = 0.05  # of a core, above which a sleeping peer is mentioned
_SLOW_S = 60  # A peer that needs longer for one batch of every shape gets one turn.


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, choices in (
        ("architectures", workload.ARCHITECTURES),
        ("settings", SETTINGS),
        ("peers", PEERS),
    ):
        parser.add_argument(f"--{option}", default=",".join(choices), help="separated by commas")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each peer")
    parser.add_argument("--job_repeats", type=int, default=1, help="turns in the setting job")
    parser.add_argument("--out", type=files.local, default="benchmarks/results")
    options = parser.parse_args(argv)
    architectures = chosen("architectures", options.architectures, workload.ARCHITECTURES)
    settings = chosen("settings", options.settings, SETTINGS)
    peers = installed(chosen("peers", options.peers, PEERS))

    devices.configure()
    data, _ = building.load_data(workload.config_of(architectures[0], masked=True))
    results = {
        "machine": workload.machine(),
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "batch_size": workload.BATCH_SIZE,
        "versions": {},
        "rows": [],
        "runs": [],
        "problems": [],
    }
    for architecture in architectures:
        for setting in settings:
            repeats = options.job_repeats if setting == "job" else options.repeats
            taking_part = [peer for peer in peers if setting in PEERS[peer].settings]
            measure(architecture, setting, taking_part, data, repeats, results)
            print(table(results["rows"], architecture, setting), flush=True)
            write(options.out, results)
        if "job" in settings and "ours" in peers:
            results["runs"] += whole_runs(architecture)
            print(table_of_runs(results["runs"], architecture), flush=True)
            write(options.out, results)
    return 1 if results["problems"] else 0


def chosen(option: str, value: str, choices: Sequence[str]) -> list[str]:
    """The named choices, in the order in which they are offered."""
    names = value.split(",")
    if unknown := [name for name in names if name not in choices]:
        raise UserError(
            f"--{option}: there is no {', '.join(unknown)}; choose from {', '.join(choices)}."
        )
    return [choice for choice in choices if choice in names]


def installed(peers: Sequence[str]) -> list[str]:
    """The peers that can be measured; prints how to get the others."""
    for peer in peers:
        if missing := PEERS[peer].missing():
            print(
                f"{peer} is left out: {', '.join(missing)} is not installed. To install it: "
                "pip install -r benchmarks/requirements.txt"
            )
    return [peer for peer in peers if not PEERS[peer].missing()]


@dataclasses.dataclass
class Contestant:
    """A peer in one setting."""

    peer: str
    worker: Worker
    training: Training
    batches: Sequence[Batch]
    first_s: float = 0.0
    compile_s: float | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)

    def compare(self, weights: Weights, reference: "Outcome | None") -> "Outcome":
        """What the peer computes, which must match the reference.

        Raises:
            PeerError: it does not.
        """
        outcome = Outcome.of(self.worker, self.training, weights, self.batches[0])
        tolerance = PEERS[self.peer].loss_tolerance
        if differences := outcome.differences(reference or outcome, tolerance):
            raise PeerError(f"differs from the first peer: {'; '.join(differences)}")
        return outcome

    def warm_up(self, weights: Weights) -> None:
        """Compiles and runs every shape of batch, once or twice."""
        self.worker.call("build", self.training, weights)
        shapes = {batch.tokens_BxT.shape: number for number, batch in enumerate(self.batches)}
        numbers = sorted(shapes.values())
        self.first_s = self.worker.call("epoch", numbers)
        if self.first_s < _SLOW_S:
            self.compile_s = self.first_s - self.worker.call("epoch", numbers)
        self.worker.call("release")
        self.worker.call("idle")

    def turn(self) -> None:
        """Times one epoch; a slow peer's only once, without the updates that are not counted."""
        if self.first_s > _SLOW_S:
            if not self.seconds:
                self.seconds.append(self.worker.call("epoch"))
                self.worker.call("release")
            return
        widths = [batch.tokens_BxT.shape[1] for batch in self.batches]
        self.seconds.append(self.worker.call("turn", int(np.argmax(widths))))

    def row(self) -> dict:
        """The figures to report."""
        before, peak = self.worker.call("memory")
        median = statistics.median(self.seconds)
        return {
            "peer": self.peer,
            "seconds": self.seconds,
            "median_s": median,
            "min_s": min(self.seconds),
            "max_s": max(self.seconds),
            "reviews_per_s": sum(len(batch.labels_B) for batch in self.batches) / median,
            "tokens_per_s": sum(int(batch.lengths_B.sum()) for batch in self.batches) / median,
            "first_s": self.first_s,
            "compile_s": self.compile_s,
            "memory_before_bytes": before,
            "memory_peak_bytes": peak,
            "idle_core_share": self.worker.call("idle"),
        }


def measure(
    architecture: str,
    setting: str,
    peers: Sequence[str],
    data: Dataset,
    repeats: int,
    results: dict,
) -> None:
    """Measures the peers of one setting and adds to the results."""
    masked = {peer: setting == "exact" or (setting, peer) == ("job", "ours") for peer in peers}
    configs = {mask: workload.config_of(architecture, mask) for mask in (False, True)}
    trainings = {mask: workload.training_of(config) for mask, config in configs.items()}
    batches = {
        mask: workload.epoch_of(data.train, building.treatment_of(config))[
            : 1 if setting == "padded" else None
        ]
        for mask, config in configs.items()
    }
    weights = workload.draw_weights(trainings[True])

    with started(peers) as workers:
        contestants = {
            peer: Contestant(peer, worker, trainings[masked[peer]], batches[masked[peer]])
            for peer, worker in workers.items()
        }
        reference = None

        def prepare(contestant: Contestant) -> None:
            nonlocal reference
            results["versions"] |= contestant.worker.call("versions")
            contestant.worker.call("load", contestant.batches)
            if setting != "job":  # There the peers do different things.
                outcome = contestant.compare(weights, reference)
                reference = reference or outcome
            contestant.warm_up(weights)

        def finish(contestant: Contestant) -> None:
            row = contestant.row()
            results["rows"].append({"architecture": architecture, "setting": setting, **row})
            if row["idle_core_share"] > _IDLE_SHARE:
                share = f"{row['idle_core_share']:.0%} of a core"
                print(f"note: {contestant.peer} used {share} while others were measured")

        for action in (prepare, *[Contestant.turn] * repeats, finish):
            for peer, contestant in list(contestants.items()):
                try:
                    action(contestant)
                except PeerError as error:
                    problem = f"{architecture}, {setting}: {peer} {error}"
                    results["problems"].append(problem)
                    print(f"error: {problem}", file=sys.stderr, flush=True)
                    contestants.pop(peer).worker.close()


@contextlib.contextmanager
def started(peers: Sequence[str]) -> Iterator[dict[str, Worker]]:
    """A fresh process for every peer, with an empty cache for all that it compiles."""
    with contextlib.ExitStack() as stack:
        cache_dir = stack.enter_context(tempfile.TemporaryDirectory())
        workers = {}
        for peer in peers:
            workers[peer] = Worker(peer, cache_dir)
            stack.callback(workers[peer].close)
        yield workers


@dataclasses.dataclass
class Outcome:
    """What all peers must agree on, without dropout."""

    logits_B: np.ndarray
    gradients: Weights
    loss: float

    @classmethod
    def of(cls, worker: Worker, training: Training, weights: Weights, batch: Batch) -> "Outcome":
        """The logits and gradients at the weights, and the loss two updates later.

        The gradient is the change of the weights in one step of plain gradient descent.
        """
        batch = Batch(*(array[::8] for array in batch))  # A sample of all lengths.
        training = dataclasses.replace(
            training, dropout_rates=tuple(0.0 for _ in training.dropout_rates)
        )
        rate = 1000.0  # So large that the weights' own precision does not matter.
        worker.call(
            "build", dataclasses.replace(training, optimizer="sgd", learning_rate=rate), weights
        )
        logits_B = worker.call("logits", batch)
        worker.call("train", batch)
        moved = worker.call("weights")
        gradients = {
            name: (array.astype(np.float64) - moved[name]) / rate for name, array in weights.items()
        }
        worker.call("build", training, weights)
        losses = [worker.call("train", batch) for _ in range(3)]
        return cls(logits_B, gradients, losses[2])

    def differences(self, other: "Outcome", loss_tolerance: float) -> list[str]:
        """The differences from another peer's outcome, in words."""
        found = {
            "logits": (np.abs(self.logits_B - other.logits_B).max(), _LOGIT_TOLERANCE),
            "loss after two steps": (abs(self.loss / other.loss - 1), loss_tolerance),
        }
        for name, gradient in self.gradients.items():
            difference = np.linalg.norm(gradient - other.gradients[name])
            relative = difference / np.linalg.norm(other.gradients[name])
            found[f"gradient of {name}"] = (relative, _GRADIENT_TOLERANCE)
        return [
            f"{name} by {difference:.2g}, allowed are {tolerance:g}"
            for name, (difference, tolerance) in found.items()
            if not difference <= tolerance
        ]


def whole_runs(architecture: str) -> list[dict]:
    """Two runs of this project's command: with empty caches, and with those of the first one."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for caches in ("empty", "filled"):
            workdir = pathlib.Path(folder) / caches
            start = time.perf_counter()
            flags = (f"--config=configs/{architecture}.py", f"--workdir={workdir}")
            subprocess.run(
                [sys.executable, "main.py", *flags],
                env=os.environ | {"XDG_CACHE_HOME": f"{folder}/cache"},
                stdout=subprocess.DEVNULL,
                check=True,
            )
            seconds = time.perf_counter() - start
            result = json.loads((workdir / "result.json").read_text())
            runs.append(
                {
                    "architecture": architecture,
                    "caches": caches,
                    "seconds": seconds,
                    "phases": result["seconds"],
                    "test_accuracy": result["test_accuracy"]["mean"],
                }
            )
    return runs


def table(rows: Sequence[dict], architecture: str, setting: str) -> str:
    """One setting's rows in Markdown."""
    rows = [r for r in rows if (r["architecture"], r["setting"]) == (architecture, setting)]
    ours = {row["peer"]: row["median_s"] for row in rows}.get("ours", float("nan"))
    return markdown(
        f"{architecture}: {SETTINGS[setting]}",
        "peer | seconds, median | min - max | times ours | reviews/s | tokens/s | first, s | "
        "of it compiling, s | memory, MiB",
        [
            f"{row['peer']} | {row['median_s']:.3f} | {row['min_s']:.3f} - {row['max_s']:.3f} | "
            f"{row['median_s'] / ours:.2f} | {row['reviews_per_s']:,.0f} | "
            f"{row['tokens_per_s']:,.0f} | {row['first_s']:.1f} | "
            f"{'?' if row['compile_s'] is None else format(row['compile_s'], '.1f')} | "
            f"{(row['memory_peak_bytes'] - row['memory_before_bytes']) / 2**20:,.0f}"
            for row in rows
        ],
    )


def table_of_runs(runs: Sequence[dict], architecture: str) -> str:
    """The whole runs in Markdown."""
    return markdown(
        f"{architecture}: python main.py",
        "caches | seconds to the end | data | compile | train | evaluate | test accuracy",
        [
            " | ".join(
                [
                    run["caches"],
                    f"{run['seconds']:.1f}",
                    *(f"{run['phases'][p]:.1f}" for p in ("data", "compile", "train", "evaluate")),
                    f"{run['test_accuracy']:.4f}",
                ]
            )
            for run in runs
            if run["architecture"] == architecture
        ],
    )


def markdown(title: str, header: str, lines: Sequence[str]) -> str:
    """A table with its columns aligned, so that it can be read as it is."""
    cells = [[cell.strip() for cell in line.split("|")] for line in [header, *lines]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    aligned = [
        "| " + " | ".join(map(str.ljust, row, widths)) + " |" if row is cells[0] else
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in cells
    ]  # fmt: skip
    rule = "|" + "|".join([":" + "-" * (widths[0] + 1), *("-" * (w + 1) + ":" for w in widths[1:])])
    return "\n".join([f"\n## {title}\n", aligned[0], rule + "|", *aligned[1:]])


def write(folder: pathlib.Path, results: dict) -> None:
    """Writes `results.json` and its tables, `results.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / "results.json", json.dumps(results, indent=1) + "\n")
    done = {(row["architecture"], row["setting"]): None for row in results["rows"]}
    tables = [table(results["rows"], *which) for which in done]
    tables += [
        table_of_runs(results["runs"], architecture)
        for architecture in {run["architecture"]: None for run in results["runs"]}
    ]
    machine, versions = results["machine"], results["versions"]
    text = [
        "# Beside other libraries",
        "",
        f"{machine['device']} ({machine['usable_cores']} usable); Python {machine['python']}, "
        + ", ".join(f"{package} {version}" for package, version in sorted(versions.items()))
        + f". Batches of {results['batch_size']} reviews of {results['data']['name']}. Memory is "
        "what the process held at most, less what it held before it built the model.",
        *tables,
    ]
    files.write(folder / "results.md", "\n".join(text) + "\n")


if __name__ == "__main__":
    with told_to_user():
        sys.exit(main(sys.argv[1:]))
