"""What a run tells: on the screen, and in its folder."""

import contextlib
import csv
import datetime
import io
import json
import math
import os
import pathlib
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict
from scipy.special import expit

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

from seqmodels.model import SequenceModel
from train_lib import files, processes, settings, statistics
from train_lib.data.batches import Layout
from train_lib.data.dataset import SPLITS, Dataset, Split
from train_lib.errors import UserError
from train_lib.metrics import Metrics
from train_lib.progress import Stopwatch
from train_lib.state import Position

FREE_FIELDS = {
    "data.dir", "data.archive", "train.checkpoint_every_seconds", "train.checkpoint_every_steps",
    "train.checkpoints_kept",
}  # fmt: skip
"""Where data come from and when a run is saved may change while it goes on; data are compared."""

CELL_FILE = "cell.py"
"""In a run's folder: the file with the cell, where it was the user's own."""

COMPILER_VARIABLES = (
    "XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
)  # fmt: skip
"""Of the environment: what a user may set, and the last bits of numbers depend on."""

WEIGHTS, BEST_WEIGHTS = "weights.npz", "best_weights.npz"

REPORTS = (
    "config.json", CELL_FILE, "vocabulary.txt", "metrics.jsonl", WEIGHTS, BEST_WEIGHTS,
    "predictions.csv", "curves.png", "result.json",
)  # fmt: skip
"""What may be in a run's folder when it has ended, beside its checkpoints."""

PREDICTION_COLUMNS = ("seed", "review", "tokens", "label", "logit", "probability")
"""Of `predictions.csv`."""


def name_by_time(name: str) -> str:
    """A folder under `runs/` that no other has, as in `runs/lstm-20260131-235959-123456`."""
    return f"runs/{name}-{datetime.datetime.now():%Y%m%d-%H%M%S-%f}"


def new_folder(option: str, path: str | None, name: str) -> pathlib.Path:
    """Makes the folder that an option names, or one under `runs/` named after the time.

    Raises:
        UserError: it has files in it already, or cannot be made.
    """
    folder = files.local(path or name_by_time(name))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(
                f"{option}={folder} is not empty, and results are never overwritten. Name a new "
                f"folder, or leave {option} out."
            )
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made: {error}") from error
    return folder


class RunFolder:
    """A run's folder, where nothing of another run is ever overwritten.

    `checkpoints/`, what `REPORTS` names and, last of all, the digests of that, with which the run
    is finished.
    """

    def __init__(self, path: pathlib.Path | str):
        self.path = files.local(path)
        self._lock: int | None = None

    @classmethod
    def open(cls, workdir: str | None, config: ConfigDict) -> "RunFolder":
        """The folder of a new run, or of this one, started before; until it is closed, no other's.

        In all processes but the first it is but a name, and nothing is written.

        Args:
            workdir: the folder; None: a new one, named after the experiment and the time.
            config: of the run.

        Raises:
            UserError: another run's files are in it, or the same run's with another config, or
                those of a finished run are not as it wrote them; another process is at work in it;
                or it cannot be made.
        """
        folder = cls(processes.from_first(lambda: workdir or name_by_time(config.name)))
        if not processes.is_first():
            return folder
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder._take()
            folder._begin(config)
        except OSError as error:
            folder.close()
            raise UserError(f"the run folder {folder.path} cannot be used: {error}") from error
        except BaseException:
            folder.close()
            raise
        return folder

    def _begin(self, config: ConfigDict) -> None:
        """Writes a new run's config, or compares it with that of the run that is there."""
        if self.is_finished():
            self.check()
        if self.is_begun():
            self._compare(config)
            return
        # A kill in the lines below may have left a file of the cell, or parts of others.
        names = {path.name for path in self.path.iterdir() if not path.name.startswith(".")}
        if names - {CELL_FILE}:
            raise UserError(
                f"--workdir={self.path} is not empty, and not the folder of a run. Name a new "
                "folder, or leave --workdir out."
            )
        cell = pathlib.Path(config.model.get("cell", ""))  # Baselines have none.
        if cell.suffix == ".py":
            self.write(CELL_FILE, cell.read_bytes())
        self.write_json("config.json", config.to_dict())

    def _take(self) -> None:
        """Locks the folder for this process; the system unlocks it whatever way that ends."""
        if fcntl is None:
            return
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is at work in --workdir={self.path}. Wait for it to end, or name "
                "another folder."
            ) from None

    def read_fields(self) -> dict[str, Any]:
        """The fields of a run that was begun, by any version of this program, with their paths.

        Raises:
            UserError: they cannot be read.
        """
        return settings.complete(dict(settings.flatten(self.read_json("config.json"))))

    def read_config(self) -> ConfigDict:
        """The config of a run that was begun, with the cell's file as it was then.

        Raises:
            UserError: it cannot be read, or has fields that it cannot have.
        """
        config = settings.of_fields(self.read_fields())
        if config.model.cell.endswith(".py"):
            config.model.cell = str(self.path / CELL_FILE)
        return config

    def is_begun(self) -> bool:
        """Whether there is a run in it."""
        return os.path.isfile(self.path / "config.json")  # Whatever the path: it raises nothing.

    def is_finished(self) -> bool:
        """Whether the run has ended and reported; a checkpoint's folder has digests too."""
        return os.path.isfile(self.path / files.SUMS) and bool(self._reports())

    def finish(self, result: dict) -> None:
        """Writes `result.json`, and then the digests of all that there is."""
        self.write_json("result.json", result)
        if processes.is_first():
            self.write(files.SUMS, files.sums(self.path, self._reports()))

    def _reports(self) -> list[pathlib.Path]:
        return [path for name in REPORTS if (path := self.path / name).is_file()]

    def check(self) -> None:
        """Compares the files of a finished run with their digests.

        Raises:
            UserError: they are not as it wrote them.
        """
        try:
            files.check_sums(self.path, self._reports())
        except files.Damaged as error:
            again = ""
            if not {"config.json", CELL_FILE} & error.names:
                again = (
                    f" Or remove {self.path / files.SUMS}: the command that trained the run makes "
                    "them again then."
                )
            raise UserError(
                f"{self.path} is damaged: {error}. Put back a copy of them.{again}"
            ) from error

    def close(self) -> None:
        """Lets others use the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _compare(self, config: ConfigDict) -> None:
        before, now = (fixed_fields(c) for c in (self.read_json("config.json"), config.to_dict()))
        differing = describe_differences(before, now)
        cell = pathlib.Path(config.model.get("cell", ""))  # Baselines have none.
        if cell == self.path / CELL_FILE:
            differing = [text for text in differing if not text.startswith("config.model.cell ")]
        is_changed = cell.suffix == ".py" and cell.read_bytes() != self.read_bytes(CELL_FILE)
        if is_changed:
            differing.append(f"{cell} is no longer what {self.path / CELL_FILE} is")
        if differing:
            raise UserError(
                "\n  ".join(
                    [f"--workdir={self.path} has a run in it with another config:", *differing]
                )
                + "\nGo on with the config as it was, or name a new folder."
            )

    @classmethod
    def open_finished(cls, workdir: str) -> "RunFolder":
        """The folder of a run that has ended, all of whose files are as it wrote them.

        Raises:
            UserError: it is not one, or they are not.
        """
        folder = cls(workdir)
        if not folder.is_finished():
            raise UserError(
                f"{folder.path} is not the folder of a finished run: it has no {files.SUMS} or no "
                "results."
            )
        folder.check()
        return folder

    def write(self, name: str, content: bytes | str) -> None:
        """Writes a file, whole or not at all.

        Raises:
            UserError: it cannot be written; what was there before is untouched.
        """
        if not processes.is_first():
            return
        try:
            files.write(self.path / name, content)
        except OSError as error:
            raise UserError(
                f"{self.path / name} cannot be written: {error.strerror or error}. What was there "
                "is as it was. See that there is room and that the folder can be written to, and "
                "start the same command again."
            ) from error

    def write_json(self, name: str, content: dict) -> None:
        self.write(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_bytes(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise UserError(f"{self.path / name} cannot be read: {error}") from error

    def read_text(self, name: str) -> str:
        """The text as it was written, with its line ends."""
        try:
            return self.read_bytes(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path / name} cannot be read: {error}") from error

    def read_json(self, name: str) -> dict:
        try:
            content = json.loads(self.read_text(name))
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{self.path / name} is damaged: {error}") from error
        if not isinstance(content, dict):
            raise UserError(f"{self.path / name} is damaged: it is not a JSON object.")
        return content

    def write_metrics(self, rows: Sequence[dict]) -> None:
        """Writes `metrics.jsonl`, a line an epoch."""
        self.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def write_weights(self, name: str, params_K: nnx.State) -> None:
        """Writes the parameters of K seeds as plain arrays, each under its path."""
        buffer = io.BytesIO()
        np.savez(buffer, **{path: np.asarray(value) for path, value in named_arrays(params_K)})  # type: ignore[arg-type]
        self.write(name, buffer.getvalue())

    def read_weights(self, name: str, params_K: nnx.State) -> nnx.State:
        """Reads parameters of the structure and shapes of `params_K`."""
        path = self.path / name
        try:
            with np.load(path, allow_pickle=False) as arrays:
                values = [arrays[name] for name, _ in named_arrays(params_K)]
        except Exception as error:  # Whatever a damaged file makes NumPy raise.
            raise UserError(f"{path} cannot be read: {error}") from error
        for (name, expected), value in zip(named_arrays(params_K), values, strict=True):
            if (value.shape, value.dtype) != (expected.shape, expected.dtype):
                raise UserError(f"{path}: {name} is not {expected.dtype}{list(expected.shape)}.")
        arrays_on_device = [jax.numpy.asarray(value) for value in values]
        return jax.tree.unflatten(jax.tree.structure(params_K), arrays_on_device)

    def write_predictions(self, seeds: Sequence[int], test: Split, logits_KxN: np.ndarray) -> None:
        """Writes a row a seed and test review: its number, tokens, label and prediction."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(PREDICTION_COLUMNS)
        probabilities_KxN = expit(logits_KxN.astype(np.float64))
        for seed, *of_seed in zip(seeds, logits_KxN, probabilities_KxN, strict=True):
            for review, (logit, probability) in enumerate(zip(*of_seed, strict=True)):
                tokens, label = test.lengths[review], test.labels[review]
                writer.writerow([seed, review, tokens, label, f"{logit:.6g}", f"{probability:.6g}"])
        self.write("predictions.csv", buffer.getvalue())

    def plot_curves(self, title: str, rows: Sequence[dict]) -> None:
        """Draws loss and accuracy of training and validation against epochs, intervals as bands.

        Args:
            title: over them.
            rows: lines of `metrics.jsonl`.
        """
        if not processes.is_first():
            return
        epochs = [row["epoch"] for row in rows]
        figure = new_figure(10, 4)
        for axes, quantity, label in zip(
            figure.subplots(1, 2), ("loss", "accuracy"), ("loss, nats a review", "accuracy"),
            strict=True,
        ):  # fmt: skip
            for split, style in (("train", "o--"), ("validation", "o-")):
                name = f"{split}_{quantity}"
                (line,) = axes.plot(epochs, [row[name] for row in rows], style, label=split)
                intervals = [row["ci95"] and row["ci95"][name] for row in rows]
                draw_band(axes, epochs, intervals, line.get_color())
            axes.set(xlabel="epoch", ylabel=label)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
            axes.legend()
        figure.suptitle(title)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        self.write("curves.png", buffer.getvalue())


def fixed_fields(config: dict) -> dict[str, object]:
    """The fields that may not change while a run goes on, with their paths, of types JSON has."""
    fields = dict(settings.flatten(json.loads(json.dumps(config))))
    return {path: value for path, value in fields.items() if path not in FREE_FIELDS}


def describe_differences(before: dict, now: dict) -> list[str]:
    """A line for each field that has changed, with both values."""
    before, now = settings.complete(before), settings.complete(now)

    def shown(fields: dict, path: str) -> str:
        return repr(fields[path]) if path in fields else "no field"

    return [
        f"config.{path} was {shown(before, path)} and is {shown(now, path)}"
        for path in sorted(before.keys() | now.keys())
        if path not in before or path not in now or before[path] != now[path]
    ]


def new_figure(width: float, height: float) -> Any:
    """A Matplotlib figure of so many inches, in which a dollar sign begins no mathematics."""
    import matplotlib.figure  # Slow to import, and needed only here.

    matplotlib.rcParams["text.parse_math"] = False
    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def draw_band(axes, xs: Sequence[float], intervals: Sequence, colour) -> None:
    """Shades intervals over `xs`, those that are there: of one seed that is left there are none."""
    ends_2xN = np.array([interval or (np.nan, np.nan) for interval in intervals]).reshape(-1, 2).T
    axes.fill_between(xs, *ends_2xN, color=colour, alpha=0.2, lw=0)


def named_arrays(params: nnx.State) -> list[tuple[str, jax.Array]]:
    """Every parameter with its path, as in `encoder.layers.0.forward.kernel`."""
    return [(path_of(keys), value) for keys, value in jax.tree_util.tree_leaves_with_path(params)]


def path_of(keys) -> str:
    """The path of a parameter, from the keys that JAX has for it."""
    return jax.tree_util.keystr(keys, simple=True, separator=".").removesuffix(".value")


def header(folder: RunFolder) -> str:
    """What opens a run's output."""
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"run:    {folder.path}\ndevice: {describe_device()}\n        {packages}"


def describe_data(data: Dataset) -> str:
    """The data set in a line."""
    sizes = ", ".join(f"{len(getattr(data, split)):,} {split}" for split in SPLITS)
    lines = [f"data:   {data.name} {data.fingerprint[:12]}: {sizes}"]
    if data.repeated:
        lines.append(f"        {data.repeated:,} test reviews are word for word among the others")
    return "\n".join(lines)


def parameter_table(params: nnx.State) -> str:
    """The layers and parameters of a model, and how many there are."""
    rows = [(path, str(value.shape), f"{value.size:,}") for path, value in named_arrays(params)]
    rows = [("parameter", "shape", "count"), *rows, ("total", "", f"{count(params):,}")]
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
    """A line of `metrics.jsonl`: means over seeds, their intervals, and what each seed has.

    Of seeds whose metrics are NaN nothing goes into the means.
    """
    seeds = _named(train=train, validation=validation)
    alive_K = np.isfinite(train.loss) & np.isfinite(validation.loss)
    summaries = _summaries(alive_K, train=train, validation=validation)
    several = alive_K.sum() > 1
    return {
        "epoch": epoch,
        "step": step,
        **{name: of["mean"] for name, of in summaries.items()},
        "ci95": {name: _ends(of) for name, of in summaries.items()} if several else None,
        "seeds": {
            name: [float(value) if alive_K[k] else None for k, value in enumerate(values_K)]
            for name, values_K in seeds.items()
        },
        "padding_share_of_steps": round(padding, 4),
        "seconds": stopwatch.report()["total"],
    }


def describe_metrics(row: dict) -> str:
    """A line of `metrics.jsonl` for people."""

    def show(name):
        ends = row["ci95"] and row["ci95"][name]
        return show_interval(
            {"mean": row[name]} | (dict(zip(_ENDS, ends, strict=True)) if ends else {})
        )

    return "; ".join(
        f"{split} loss {show(f'{split}_loss')}, accuracy {show(f'{split}_accuracy')}"
        for split in ("train", "validation")
    )


def _named(**metrics: Metrics) -> dict[str, np.ndarray]:
    """The values of metrics with a name for each, as in `test_accuracy`."""
    return {
        f"{split}_{quantity}": values_K
        for split, of_split in metrics.items()
        for quantity, values_K in (("loss", of_split.loss), ("accuracy", of_split.accuracy))
    }


def _summaries(alive_K: np.ndarray, **metrics: Metrics) -> dict[str, dict]:
    """What `summary` says of each, over the seeds that have not diverged."""
    return {
        name: summary(
            values_K[alive_K],
            metrics[name.partition("_")[0]].reviews if name.endswith("_accuracy") else None,
        )
        for name, values_K in _named(**metrics).items()
    }


def result(
    config: ConfigDict,
    data: Dataset,
    seeds: Sequence[int],
    parameters: int,
    position: Position,
    validation: Metrics | None,
    test: Metrics | None,
    stopwatch: Stopwatch,
) -> dict:
    """What `result.json` holds; of a split nothing, where it was not evaluated."""
    evaluated = {"validation": validation, "test": test}
    metrics = {split: of_split for split, of_split in evaluated.items() if of_split}
    alive_K = position.alive(seeds)
    return {
        "config": config.name,
        "dataset": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "test_reviews_repeated": data.repeated,
            **{split: len(getattr(data, split)) for split in SPLITS},
            "longest_tokens": {
                split: int(getattr(data, split).lengths.max(initial=0)) for split in SPLITS
            },
        },
        "model": {
            "architecture": config.model.to_dict(),
            "parameters": parameters,
        },
        "seeds": [
            {
                "seed": seed,
                **{name: float(values_K[number]) for name, values_K in _named(**metrics).items()},
                **position.best_of(number),
            }
            if alive_K[number]
            else {"seed": seed, "diverged_at_step": position.diverged[seed]}
            for number, seed in enumerate(seeds)
        ],
        **_summaries(alive_K, **metrics),
        "seconds": stopwatch.report(),
        "device": describe_device(),
        "versions": versions(),
    }


def diverged_seeds(result: dict) -> list[int]:
    """The seeds of which a finished run has no figures."""
    return [seed["seed"] for seed in result["seeds"] if "diverged_at_step" in seed]


def summary(values_K: np.ndarray, reviews: float | None = None) -> dict:
    """The mean with an interval, and of what that is; without one where nothing is known.

    Args:
        values_K: of each seed.
        reviews: of how many they are a share; `statistics.mean_interval` has the rest.
    """
    seeds = len(values_K)
    counts_reviews = reviews is not None and math.isfinite(reviews)
    if not counts_reviews and np.ptp(values_K) == 0:
        return {"mean": float(np.mean(values_K))}
    mean, low, high = statistics.mean_interval(values_K, reviews)
    kind = " and ".join(["seeds"] * (seeds > 1) + ["reviews"] * counts_reviews)
    kind = f"over {kind}, of {seeds} seed{'s' * (seeds > 1)}"
    one_more = {}
    if seeds > 1:
        _, *ends = statistics.one_more_interval(values_K, reviews)
        one_more = dict(zip(("one_seed_low", "one_seed_high"), ends, strict=True))
    return {"mean": mean, "ci95_low": low, "ci95_high": high, "interval": kind, **one_more}


def show_interval(of: dict, scale: float = 1, form: str = ".4f") -> str:
    """A mean and where it lies, as in `0.8604 [0.8549, 0.8657]`; without, where that is unknown."""
    mean, *ends = (format(scale * of[name], form) for name in ("mean", *_ENDS) if name in of)
    return f"{mean} [{', '.join(ends)}]" if ends else mean


_ENDS = ("ci95_low", "ci95_high")


def _ends(of: dict) -> list[float] | None:
    return [of[name] for name in _ENDS] if _ENDS[0] in of else None


def describe_result(result: dict, folder: RunFolder) -> str:
    """What closes a run's output."""
    data, lines = result["dataset"], [""]
    if lost := diverged_seeds(result):
        shown = ", ".join(map(str, lost))
        lines.append(f"diverged:   seeds {shown}, of which nothing is in these figures")
    for split in ("validation", "test"):
        if f"{split}_accuracy" not in result:
            continue
        accuracy, loss = result[f"{split}_accuracy"], result[f"{split}_loss"]
        lines += [
            f"{split + ':':<11} accuracy {accuracy['mean']:.4f}, loss {show_interval(loss)} on "
            f"{data[split]:,} reviews of {data['name']}",
            f"{'':<11} 95 % interval {accuracy['ci95_low']:.4f} to {accuracy['ci95_high']:.4f} "
            f"({accuracy['interval']})",
        ]
        if "one_seed_low" in accuracy:
            lines.append(
                f"{'':<11} one more seed lies between {accuracy['one_seed_low']:.4f} and "
                f"{accuracy['one_seed_high']:.4f}"
            )
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in result["seconds"].items())
    lines += [f"{'time:':<11} {seconds} seconds", f"{'folder:':<11} {folder.path}"]
    return "\n".join(lines)


def describe_mesh(mesh: Mesh) -> str:
    """What numbers may depend on, as in `2 x cpu` or `16 x NVIDIA H100, 2 processes`."""
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}{_several()}"


def describe_device() -> str:
    """What JAX runs on, as in `cpu: AMD EPYC, 2 cores` or `gpu: 1 x NVIDIA H100`."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        count = jax.device_count()
        return f"{device.platform}: {count} x {device.device_kind}{_several()}"
    names = []
    with contextlib.suppress(OSError):
        cpuinfo = pathlib.Path("/proc/cpuinfo").read_text("utf-8", "replace")
        names = [line.partition(":")[2] for line in cpuinfo.splitlines() if "model name" in line]
    name = names[0].strip() if names else platform.machine()
    return f"cpu: {name}, {os.cpu_count()} cores{_several()}"


def _several() -> str:
    return f", {processes.count()} processes" if processes.count() > 1 else ""


def versions() -> dict[str, str]:
    """What the numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
        **{name: os.environ[name] for name in COMPILER_VARIABLES if os.environ.get(name)},
    }
