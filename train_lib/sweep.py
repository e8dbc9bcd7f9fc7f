"""Searches over config fields, by validation alone; the test reviews are not looked at.

python -m train_lib.sweep --config=configs/lstm.py --workdir=runs/sweep \
    --over=train.learning_rate=1e-3,3e-3,1e-2 --over=model.pooling=last,mean
python -m train_lib.sweep --config=configs/lstm.py --workdir=runs/sweep --trials=20 \
    --over=train.learning_rate=log:1e-4:1e-1 --over=model.hidden_sizes=(16,),(32,)

Without `--trials` it is the grid of all values; with it, so many random draws, of whole numbers
where the field is one, as in `--over=train.batch_size=log:16:256`. The same command
goes on where it was interrupted, and with more `--trials` it adds to those there are. Every trial
is a run folder of its own in `--workdir`, beside `sweep.md`, `sweep.json` and `sweep.png`.
"""

import ast
import contextlib
import dataclasses
import io
import itertools
import json
import math
import pathlib
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from train_lib import command, files, loop, processes, report, settings, statistics
from train_lib.errors import Diverged, UserError
from train_lib.report import RunFolder

flags.adopt_module_key_flags(command)
_OVER = flags.DEFINE_multi_string(
    "over", [], "A field and its values, as in train.learning_rate=1e-3,1e-2, or, for random "
    "draws, the range of a number: log:1e-4:1e-1 or uniform:0:0.5; of a field that is a whole "
    "number, whole ones are drawn."
)  # fmt: skip
_TRIALS = flags.DEFINE_integer("trials", None, "Random draws; by default the grid of all values.")
_SEED = flags.DEFINE_integer("sweep_seed", 0, "Of the random draws.")


GUESSING = 0.5
"""The accuracy of guessing, classes being balanced: what a seed that diverged is worth."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """What one field may be.

    Attributes:
        field: of the config, as in `train.learning_rate`.
        values: to choose from, or
        scale, low, high: `log` or `uniform`, to draw a number from the range, its ends included;
            a whole number if they are.
    """

    field: str
    values: tuple[Any, ...] = ()
    scale: str = ""
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Axis":
        """Reads `field=value,value` or `field=log:low:high`.

        Raises:
            UserError: it is neither.
        """
        field, _, of_field = text.partition("=")
        field = field.removeprefix("config.")
        scale, *limits = of_field.split(":")
        if scale in ("log", "uniform"):
            try:
                low, high = map(float, limits)
            except ValueError:
                low = high = 0.0
            if not (-math.inf < low < high < math.inf and (scale == "uniform" or low > 0)):
                raise UserError(
                    f"--over={text}: a range is {scale}:low:high, with low below high"
                    f"{' and above 0' if scale == 'log' else ''}."
                )
            return cls(field, scale=scale, low=low, high=high)
        values = _values(of_field)
        if not field or not values:
            raise UserError(
                f"--over={text} must be a field and its values, as in "
                "--over=train.learning_rate=1e-3,1e-2 or --over=train.learning_rate=log:1e-4:1e-1."
            )
        return cls(field, values)

    def checked(self) -> "Axis":
        """The same, its ends whole numbers where the field is one.

        Raises:
            UserError: there is no such field, or it has no such range.
        """
        if self.field not in settings.RULES:
            raise UserError(
                f"--over={self.field}: there is no field config.{self.field}; see configs/base.py."
            )
        if not self.scale:
            return self
        rule, ends = settings.RULES[self.field], (self.low, self.high)
        for low, high in (ends, tuple(map(int, ends))):
            if (low, high) == ends and rule.accepts(low) and rule.accepts(high):
                return dataclasses.replace(self, low=low, high=high)
        raise UserError(
            f"--over={self.field}={self.scale}:{self.low:g}:{self.high:g}: both ends of a range "
            f"may be drawn, and config.{self.field} must be {rule.expected}."
        )

    def draw(self, rng: np.random.Generator) -> Any:
        """One value at random that the field may have."""
        if self.values:
            return self.values[rng.integers(len(self.values))]
        while not settings.RULES[self.field].accepts(number := self._number(rng)):
            pass  # Between two even ends there are odd numbers.
        return number

    def _number(self, rng: np.random.Generator) -> float:
        is_whole = isinstance(self.low, int)
        low, high = (self.low - 0.5, self.high + 0.5) if is_whole else (self.low, self.high)
        if self.scale == "log":
            number = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            number = rng.uniform(low, high)
        # Four digits, so that what is shown is all of it.
        rounded = round(number) if is_whole else float(f"{number:.4g}")
        return min(max(rounded, self.low), self.high)


def _values(text: str) -> tuple[Any, ...]:
    """Python literals with commas between them; what is no literal is a word."""
    try:
        return tuple(ast.literal_eval(f"[{text}]"))
    except (ValueError, SyntaxError):
        return tuple(_literal(word) for word in text.split(",") if word)


def _literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def trials(axes: Sequence[Axis], count: int | None, seed: int) -> Iterator[dict[str, Any]]:
    """The fields of each trial: of the whole grid, or of so many random draws.

    A draw depends on its number and the seed alone, so that more of them begin with the same ones.

    Raises:
        UserError: a grid is asked for of a range.
    """
    if count is None:
        for axis in axes:
            if axis.scale:
                raise UserError(
                    f"a grid has no values for the range of {axis.field}: name values, or ask for "
                    "random draws with --trials."
                )
        names = [axis.field for axis in axes]
        for values in itertools.product(*(axis.values for axis in axes)):
            yield dict(zip(names, values, strict=True))
    else:
        for number in range(count):
            rng = np.random.default_rng([seed, number])
            yield {axis.field: axis.draw(rng) for axis in axes}


def configs(base: ConfigDict, changes: Sequence[dict[str, Any]]) -> list[ConfigDict]:
    """The config of each trial.

    Raises:
        UserError: one of them cannot be used; nothing was run.
    """
    result = []
    for change in changes:
        config = ConfigDict(base.to_dict())
        with config.ignore_type():  # What it must be is said by `settings`, with its name.
            config.update_from_flattened_dict(change)
        settings.check(config)
        result.append(config)
    return result


def run(
    base: ConfigDict, axes: Sequence[Axis], count: int | None, seed: int, workdir: str | None
) -> dict:
    """Runs what has not been run yet, and reports on all trials.

    Returns:
        What `sweep.json` holds.

    Raises:
        Diverged: every trial did; the reports are written.
        UserError: the fields, their values or the folder cannot be used.
    """
    if processes.count() > 1:
        raise UserError(
            "a sweep runs in one process: start it without --coordinator or --distributed."
        )
    if not axes:
        raise UserError("there is nothing to search over: name fields with --over.")
    if len({axis.field for axis in axes}) < len(axes):
        raise UserError("a field stands in more than one --over; give all its values in one.")
    if count is not None and count < 1:
        raise UserError(f"--trials={count} must be at least 1.")
    if count is None and seed:
        raise UserError(f"--sweep_seed={seed} is of random draws: ask for them with --trials.")
    if not workdir:
        raise UserError("--workdir is missing: the folder that the same command goes on in.")
    changes = list(trials([axis.checked() for axis in axes], count, seed))
    all_configs = configs(base, changes)
    search = {
        "config": base.to_dict(),
        "over": [dataclasses.asdict(axis) for axis in axes],
        "random_seed": None if count is None else seed,
    }
    folder = _open(files.local(workdir), search)
    rows = []
    for number, (change, config) in enumerate(zip(changes, all_configs, strict=True), 1):
        print(f"trial {number}/{len(changes)}: {_shown(change)}", flush=True)
        row = _run_trial(config, folder.path / f"trial-{number:04}")
        rows.append({"trial": number, "fields": change} | row)
        print(f"  validation accuracy {_accuracy(row)}", flush=True)
    return _report(folder, search, rows, all_configs)


def _open(path: pathlib.Path, search: dict) -> RunFolder:
    """The sweep's folder, if it is new, empty, or of the same search."""
    folder, name = RunFolder(path), "search.json"
    try:
        path.mkdir(parents=True, exist_ok=True)
        is_empty = all(file.name.startswith(".") for file in path.iterdir())
    except OSError as error:
        raise UserError(f"--workdir={path} cannot be used: {error}") from error
    if is_empty:
        folder.write_json(name, search)
    elif not (path / name).exists():
        raise UserError(f"--workdir={path} is not empty and not a sweep's folder.")
    found, expected = folder.read_json(name), json.loads(json.dumps(search))
    for one in (found, expected):
        if isinstance(one.get("config"), dict):
            one["config"] = settings.complete(dict(settings.flatten(one["config"])))
    if found != expected:
        differing = ", ".join(sorted(key for key in expected if found.get(key) != expected[key]))
        raise UserError(
            f"--workdir={path} has another search in it: not the same {differing}. Name a new "
            "folder."
        )
    return folder


def _run_trial(config: ConfigDict, path: pathlib.Path) -> dict:
    """What came of a trial, now or before; what the run printed is in a file beside its folder."""
    with contextlib.ExitStack() as stack:
        try:
            log = stack.enter_context(open(path.with_suffix(".log"), "a", encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path.with_suffix('.log')} cannot be written: {error}") from error
        stack.enter_context(contextlib.redirect_stdout(log))
        try:
            result = loop.run(config, str(path), evaluate_test=False)
        except Diverged as error:
            print(error, file=log)
            return {
                "validation_accuracy": GUESSING, "ci95": None, "seeds_diverged": config.train.seeds
            }  # fmt: skip
    accuracy, lost = result["validation_accuracy"], len(report.diverged_seeds(result))
    share = lost / config.train.seeds
    return {
        "validation_accuracy": share * GUESSING + (1 - share) * accuracy["mean"],
        "ci95": None if lost else [accuracy["ci95_low"], accuracy["ci95_high"]],
        "seeds_diverged": lost,
        "validation_loss": result["validation_loss"]["mean"],
        "parameters": result["model"]["parameters"],
        "seconds": result["seconds"]["total"],
    }


def _report(
    folder: RunFolder, search: dict, rows: list[dict], all_configs: Sequence[ConfigDict]
) -> dict:
    """Writes and prints all trials, best first, and what fewer of them would have found."""
    expected = statistics.expected_best([row["validation_accuracy"] for row in rows])
    # A trial that diverged comes last, even where another did worse than guessing.
    rows = sorted(rows, key=lambda row: (_ended(row), row["validation_accuracy"]), reverse=True)
    best = all_configs[rows[0]["trial"] - 1] if _ended(rows[0]) else None
    content = search | {
        "seeds_a_trial": search["config"]["train"]["seeds"],
        "trials": rows,
        "expected_best_validation_accuracy": expected.tolist(),
        "command": best and shlex.join(["python", "main.py", *command.words(best)]),
    }
    table = _markdown(content)
    folder.write_json("sweep.json", content)
    folder.write("sweep.md", table)
    folder.write("sweep.png", _plot(content))
    print(f"\n{table}\nfolder: {folder.path}", flush=True)
    if best is None:
        raise Diverged(
            f"every trial diverged, so none is recommended; {folder.path} has their logs. Search "
            "in lower learning rates, or with config.train.clip_norm=1."
        )
    return content


def _ended(row: dict) -> bool:
    """Whether a trial has a figure of at least one seed."""
    return "seconds" in row


def _markdown(content: dict) -> str:
    """The table, with the budget that was spent and the command that comes next."""
    rows, expected = content["trials"], content["expected_best_validation_accuracy"]
    fields = list(rows[0]["fields"])
    head = ["trial", *fields, "validation accuracy [95 %]", "loss", "parameters", "seconds"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        line = [str(row["trial"]), *(str(row["fields"][field]) for field in fields)]
        line.append(_accuracy(row))
        if _ended(row):
            line += [f"{row['validation_loss']:.4f}", f"{row['parameters']:,}"]
            line.append(f"{row['seconds']:.0f}")
        lines.append(line + [""] * (len(head) - len(line)))
    of_fewer = [1, *(n for n in (2, 3, 5, 10, 20, 50, 100) if n < len(rows)), len(rows)]
    budget = ", ".join(f"{n}: {expected[n - 1]:.4f}" for n in dict.fromkeys(of_fewer))
    if content["command"]:
        chosen = f"The best one on the test reviews:\n\n    {content['command']}\n"
    else:
        chosen = "None is recommended: every trial diverged.\n"
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"# {content['config']['name']}: {len(rows)} trials of {content['seeds_a_trial']} seed(s), "
        f"{sum(row.get('seconds', 0) for row in rows):.0f} s"
        f"{'' if all(map(_ended, rows)) else ' and those that diverged'}"
        f"\n\n{table}\n\n"
        "The best of many is chosen for its luck too: it will do less well on other reviews.\n"
        f"Expected best validation accuracy of so many trials: {budget}.\n\n"
        f"{chosen}"
    )


def _plot(content: dict) -> bytes:
    """Expected best validation accuracy against trials, and all trials along each field: a PNG."""
    rows, expected = content["trials"], content["expected_best_validation_accuracy"]
    fields = list(rows[0]["fields"])
    figure = report.new_figure(4 * (len(fields) + 1), 3.6)
    first, *others = figure.subplots(1, len(fields) + 1, squeeze=False, sharey=True)[0]
    first.plot(range(1, len(rows) + 1), expected, "o-")
    first.set(xlabel="trials", ylabel="validation accuracy", title="expected best")
    accuracies = [row["validation_accuracy"] for row in rows]
    scales = {axis["field"]: axis["scale"] for axis in content["over"]}
    for axes, field in zip(others, fields, strict=True):
        values = [row["fields"][field] for row in rows]
        if scales[field]:
            axes.plot(values, accuracies, "o")
            axes.set_xscale("log" if scales[field] == "log" else "linear")
        else:  # Choices stand side by side, whatever they are.
            names = list(dict.fromkeys(map(str, sorted(values, key=str))))
            axes.plot([names.index(str(value)) for value in values], accuracies, "o")
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set(xlabel=field)
    for axes in (first, *others):
        axes.grid(alpha=0.3)
    first.xaxis.get_major_locator().set_params(integer=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _accuracy(row: dict) -> str:
    if not _ended(row):
        return f"diverged, counts as {GUESSING}"
    if lost := row["seeds_diverged"]:
        return f"{row['validation_accuracy']:.4f}, seeds that diverged ({lost}) count as {GUESSING}"
    low, high = row["ci95"]
    return f"{row['validation_accuracy']:.4f} [{low:.4f}, {high:.4f}]"


def _shown(change: dict[str, Any]) -> str:
    return ", ".join(f"{field}={value}" for field, value in change.items())


if __name__ == "__main__":
    command.run(
        lambda config, workdir: run(
            config, [Axis.parse(text) for text in _OVER.value], _TRIALS.value, _SEED.value, workdir
        )
    )  # fmt: skip
