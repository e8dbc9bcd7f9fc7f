"""What a run tells: on the screen, and in its folder."""

import contextlib
import csv
import datetime
import io
import json
import os
import pathlib
import platform
from importlib import metadata

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from seqmodels import engines
from seqmodels.classifier import Classifier
from train_lib import files, statistics
from train_lib.data.batches import Layout
from train_lib.data.dataset import SPLITS, Dataset, Split
from train_lib.errors import UserError
from train_lib.metrics import Metrics
from train_lib.progress import Stopwatch

CELL_FILE = "cell.py"
"""In a run's folder: the file with the cell, where it was the user's own."""


class RunFolder:
    """A run's folder, where nothing of another run is ever overwritten.

    `config.json`, `metrics.jsonl`, `vocabulary.txt`, `weights.npz`, `predictions.csv`, `curves.png`
    and, last of all, `result.json`; and `cell.py`, if the cell came from a file.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path

    @classmethod
    def create(cls, workdir: str | None, name: str) -> "RunFolder":
        """Makes the folder: `workdir`, or one named after the experiment and the time.

        Raises:
            UserError: it has files in it already, or cannot be made.
        """
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        path = pathlib.Path(workdir or f"runs/{name}-{now}").expanduser()
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise UserError(
                    f"--workdir={path} is not empty, and a run never overwrites another's "
                    "results. Name a new folder, or leave --workdir out."
                )
            # Creating this file takes the folder: of two runs at once only one can.
            (path / "metrics.jsonl").open("x").close()
        except OSError as error:
            raise UserError(f"the run folder {path} cannot be made: {error}") from error
        return cls(path)

    @classmethod
    def open_finished(cls, workdir: str) -> "RunFolder":
        """The folder of a run that has ended.

        Raises:
            UserError: it is not one.
        """
        path = pathlib.Path(workdir).expanduser()
        if not (path / "result.json").is_file():
            raise UserError(f"{path} is not the folder of a finished run: it has no result.json.")
        return cls(path)

    def write(self, name: str, content: bytes | str) -> None:
        files.write(self.path / name, content)

    def write_json(self, name: str, content: dict) -> None:
        self.write(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_text(self, name: str) -> str:
        try:
            return (self.path / name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path / name} cannot be read: {error}") from error

    def read_json(self, name: str) -> dict:
        try:
            return json.loads(self.read_text(name))
        except json.JSONDecodeError as error:
            raise UserError(f"{self.path / name} is damaged: {error}") from error

    def add_metrics(self, row: dict) -> None:
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def write_weights(self, params: nnx.State) -> None:
        """Writes parameters as plain arrays, each under its path."""
        buffer = io.BytesIO()
        np.savez(buffer, **{path: np.asarray(value) for path, value in named_arrays(params)})  # type: ignore[arg-type]
        self.write("weights.npz", buffer.getvalue())

    def read_weights(self, params: nnx.State) -> nnx.State:
        """Reads parameters of the structure and shapes of `params`."""
        path = self.path / "weights.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                values = [arrays[name] for name, _ in named_arrays(params)]
        except Exception as error:  # Whatever a damaged file makes NumPy raise.
            raise UserError(f"{path} cannot be read: {error}") from error
        for (name, expected), value in zip(named_arrays(params), values, strict=True):
            if (value.shape, value.dtype) != (expected.shape, expected.dtype):
                raise UserError(f"{path}: {name} is not {expected.dtype}{list(expected.shape)}.")
        arrays_on_device = [jax.numpy.asarray(value) for value in values]
        return jax.tree.unflatten(jax.tree.structure(params), arrays_on_device)

    def write_predictions(self, seed: int, test: Split, logits: np.ndarray) -> None:
        """Writes a row a test review: its number among them, tokens, label and prediction."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["seed", "review", "tokens", "label", "logit", "probability"])
        probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
        for review, (logit, probability) in enumerate(zip(logits, probabilities, strict=True)):
            tokens, label = test.lengths[review], test.labels[review]
            writer.writerow([seed, review, tokens, label, f"{logit:.6g}", f"{probability:.6g}"])
        self.write("predictions.csv", buffer.getvalue())

    def plot_curves(self, title: str) -> None:
        """Draws loss and accuracy of training and validation against epochs."""
        import matplotlib.figure  # Slow to import, and needed only here.

        lines = self.read_text("metrics.jsonl").splitlines()
        rows = [json.loads(line) for line in lines]
        epochs = [row["epoch"] for row in rows]
        figure = matplotlib.figure.Figure(figsize=(10, 4), layout="constrained")
        for axes, quantity, label in zip(
            figure.subplots(1, 2), ("loss", "accuracy"), ("loss, nats a review", "accuracy"),
            strict=True,
        ):  # fmt: skip
            for split, style in (("train", "o--"), ("validation", "o-")):
                axes.plot(epochs, [row[f"{split}_{quantity}"] for row in rows], style, label=split)
            axes.set(xlabel="epoch", ylabel=label)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
            axes.legend()
        figure.suptitle(title)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        self.write("curves.png", buffer.getvalue())


def named_arrays(params: nnx.State) -> list[tuple[str, jax.Array]]:
    """Every parameter with its path, as in `encoder.layers.0.forward.kernel`."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"), value)
        for path, value in jax.tree_util.tree_leaves_with_path(params)
    ]


def header(folder: RunFolder) -> str:
    """What opens a run's output."""
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"run:    {folder.path}\ndevice: {describe_device()}\n        {packages}"


def describe_data(data: Dataset) -> str:
    """The data set in a line."""
    sizes = ", ".join(f"{len(getattr(data, split)):,} {split}" for split in SPLITS)
    return f"data:   {data.name} {data.fingerprint[:12]}: {sizes}"


def parameter_table(params: nnx.State) -> str:
    """The layers and parameters of a model, and how many there are."""
    rows = [(path, str(value.shape), f"{value.size:,}") for path, value in named_arrays(params)]
    rows = [("parameter", "shape", "count"), *rows, ("total", "", f"{count(params):,}")]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"  {p:<{widths[0]}}  {s:<{widths[1]}}  {c:>{widths[2]}}" for p, s, c in rows]
    rule = "  " + "-" * (sum(widths) + 4)
    return "\n".join(["", lines[0], rule, *lines[1:-1], rule, lines[-1], ""])


def describe_engine(model: Classifier, layout: Layout) -> str:
    """What runs the cells, and where the rows of a batch are computed."""
    layers = model.encoder.layers
    names = dict.fromkeys(
        engines.choose(layer.engine, layer.forward, rates)
        for layer, rates in zip(layers, model.encoder.rates, strict=True)
    )
    dtypes = dict.fromkeys(layer.engine.matrix_dtype for layer in layers)
    return (
        f"engine: {', '.join(names)}, {', '.join(dtypes)} products; a batch is "
        f"{layout.devices} devices x {layout.blocks} blocks x {layout.rows} rows\n"
    )


def count(params: nnx.State) -> int:
    """How many numbers the parameters are."""
    return sum(value.size for value in jax.tree.leaves(params))


def metrics_row(
    epoch: int,
    step: int,
    train: Metrics,
    validation: Metrics,
    padding: float,
    stopwatch: Stopwatch,
) -> dict:
    """A line of `metrics.jsonl`."""
    return {
        "epoch": epoch,
        "step": step,
        "train_loss": train.loss,
        "train_accuracy": train.accuracy,
        "validation_loss": validation.loss,
        "validation_accuracy": validation.accuracy,
        "padding_share_of_steps": round(padding, 4),
        "seconds": stopwatch.report()["total"],
    }


def result(
    config: ConfigDict,
    data: Dataset,
    params: nnx.State,
    validation: Metrics,
    test: Metrics,
    stopwatch: Stopwatch,
) -> dict:
    """What `result.json` holds."""
    _, low, high = statistics.wilson_interval(test.accuracy, len(data.test))
    return {
        "config": config.name,
        "dataset": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            **{split: len(getattr(data, split)) for split in SPLITS},
            "longest_tokens": {split: int(getattr(data, split).lengths.max()) for split in SPLITS},
        },
        "model": {"architecture": config.model.to_dict(), "parameters": count(params)},
        "seeds": [
            {
                "seed": config.train.seed,
                "test_accuracy": test.accuracy,
                "test_loss": test.loss,
                "validation_accuracy": validation.accuracy,
                "validation_loss": validation.loss,
            }
        ],
        "test_accuracy": {
            "mean": test.accuracy,
            "ci95_low": low,
            "ci95_high": high,
            "interval": "Wilson, over the test reviews of one seed",
        },
        "seconds": stopwatch.report(),
        "device": describe_device(),
        "versions": versions(),
    }


def describe_result(result: dict, folder: RunFolder) -> str:
    """What closes a run's output."""
    accuracy, data = result["test_accuracy"], result["dataset"]
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in result["seconds"].items())
    return (
        f"\ntest:   accuracy {accuracy['mean']:.4f}, loss {result['seeds'][0]['test_loss']:.4f} "
        f"on {data['test']:,} reviews of {data['name']}\n"
        f"        95 % interval of this seed's accuracy {accuracy['ci95_low']:.4f} to "
        f"{accuracy['ci95_high']:.4f}\n"
        f"time:   {seconds} seconds\n"
        f"folder: {folder.path}"
    )


def describe_device() -> str:
    """What JAX runs on, as in `cpu: AMD EPYC, 2 cores` or `gpu: 1 x NVIDIA H100`."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{device.platform}: {jax.device_count()} x {device.device_kind}"
    names = []
    with contextlib.suppress(OSError):
        cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
        names = [line.partition(":")[2] for line in cpuinfo.splitlines() if "model name" in line]
    name = names[0].strip() if names else platform.machine()
    return f"cpu: {name}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """What the numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version()} | {
        package: metadata.version(package) for package in packages
    }
