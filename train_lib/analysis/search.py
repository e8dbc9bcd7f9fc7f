"""The results of a search's trials: which is best, and what fewer of them would have found.

A trial is a row: its number, its `fields`, its `state`, the value that it reached, under the name
of the goal, and `seeds_diverged`. Unless all seeds diverged it has `seconds`; if it is `complete`,
also `validation_loss` and `parameters`; if it was `pruned`, also `epochs`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from train_lib.analysis import pictures, statistics
from train_lib.records.metrics import ENDS, plain, show_interval

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Goal:
    """What trials are compared by: the task's deciding metric, on the validation examples.

    Attributes:
        metric: its name.
        higher_is_better: whether a higher value is better.
    """

    metric: str
    higher_is_better: bool

    @property
    def field(self) -> str:
        """The name of the value in a row."""
        return f"validation_{self.metric}"

    @property
    def name(self) -> str:
        """The same in words."""
        return plain(self.field)

    @property
    def sign(self) -> int:
        """The factor by which values are multiplied so that higher is better."""
        return 1 if self.higher_is_better else -1


STATES = ("diverged", "pruned", "complete")
"""The outcomes of a trial, the worst first: all seeds diverged, it was ended early, neither."""


def is_complete(row: Row) -> bool:
    """Whether at least one seed was trained to the end."""
    return row["state"] == "complete"


def ranked(rows: Sequence[dict], goal: Goal) -> list[dict]:
    """Trials, the best one first.

    Those that were pruned come after the others, whatever they reached. A trial whose seeds all
    diverged comes last, even if another did worse than guessing.
    """

    def key(row: Row) -> tuple[int, float]:
        return STATES.index(row["state"]), goal.sign * row[goal.field]

    return sorted(rows, key=key, reverse=True)


def expected_best(rows: Sequence[Row], goal: Goal) -> list[float]:
    """The expected best value of 1, 2, ... and of all trials.

    It is known for trials drawn independently and run to their end.
    """
    best = statistics.expected_best([goal.sign * row[goal.field] for row in rows])
    return (goal.sign * best).tolist()


def show_value(row: Row, goal: Goal) -> str:
    """What a trial reached, with what a reader must know about it."""
    value, lost = row[goal.field], row["seeds_diverged"]
    if row["state"] == "diverged":
        return f"diverged, counts as {value:.4g}"
    if row["state"] == "pruned":
        return f"{_number(value)}, pruned after epoch {row['epochs']}"
    if lost:
        guess = row["a_seed_that_diverged_counts_as"]
        return f"{_number(value)}, seeds that diverged ({lost}) count as {guess:.4g}"
    ends = dict(zip(ENDS, row["ci95"], strict=True)) if row["ci95"] else {}
    return show_interval({"mean": value, **ends}, form=_form(value))


def show_fields(fields: Mapping[str, Any]) -> str:
    """The fields of a trial on one line."""
    return ", ".join(f"{field}={value}" for field, value in fields.items())


def markdown(name: str, content: Mapping[str, Any], goal: Goal) -> str:
    """The table, with the budget that was spent and the command to run next.

    Args:
        name: the experiment's name.
        content: the contents of `sweep.json`.
        goal: the search's goal.
    """
    rows, expected = content["trials"], content[f"expected_best_{goal.field}"]
    fields = list(rows[0]["fields"])
    head = ["trial", *fields, f"{goal.name} [95 %]", "loss", "parameters", "seconds"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        line = [str(row["trial"]), *(str(row["fields"][field]) for field in fields)]
        line.append(show_value(row, goal))
        whole = is_complete(row)
        line += [_number(row["validation_loss"]), f"{row['parameters']:,}"] if whole else ["", ""]
        line.append(f"{row['seconds']:.0f}" if "seconds" in row else "")
        lines.append(line)
    budget = ""
    if expected:
        of_fewer = [1, *(n for n in (2, 3, 5, 10, 20, 50, 100) if n < len(rows)), len(rows)]
        found = ", ".join(f"{n}: {_number(expected[n - 1])}" for n in dict.fromkeys(of_fewer))
        budget = f"Expected best {goal.name} by number of trials: {found}.\n"
    if content["command"]:
        chosen = f"The best one on the test examples:\n\n    {content['command']}\n"
    else:
        chosen = f"None is recommended: {why_none(rows)}.\n"
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    better = "higher" if goal.higher_is_better else "lower"
    return (
        f"# {name}: {len(rows)} trials of {content['seeds_a_trial']} seed(s), "
        f"{sum(row.get('seconds', 0) for row in rows):.0f} s"
        f"{'' if all('seconds' in row for row in rows) else ' and those that diverged'}"
        f"\n\n{table}\n\n"
        f"Of {goal.name}, {better} is better. The best of many is chosen for its luck too: it will "
        "do less well on other examples.\n"
        f"{budget}\n{chosen}"
    )


def why_none(rows: Sequence[Row]) -> str:
    """Why no trial is recommended."""
    is_pruned = any(row["state"] == "pruned" for row in rows)
    return f"every trial {'diverged or was pruned' if is_pruned else 'diverged'}"


def draw(content: Mapping[str, Any], goal: Goal) -> Any:
    """A Matplotlib figure: all trials along each field, those pruned as crosses.

    The expected best against the number of trials comes first, if it is known.
    """
    rows, expected = content["trials"], content[f"expected_best_{goal.field}"]
    fields = list(rows[0]["fields"])
    count = len(fields) + bool(expected)
    figure = pictures.new_figure(4 * count, 3.6)
    all_axes = list(figure.subplots(1, count, squeeze=False, sharey=True)[0])
    all_axes[0].set(ylabel=goal.name)
    for axes in all_axes:
        axes.grid(alpha=0.3)
    if expected:
        first = all_axes.pop(0)
        first.plot(range(1, len(rows) + 1), expected, "o-")
        first.set(xlabel="trials", title="expected best")
        first.xaxis.get_major_locator().set_params(integer=True)
    scales = {axis["field"]: axis["scale"] for axis in content["over"]}
    for axes, field in zip(all_axes, fields, strict=True):
        values = [row["fields"][field] for row in rows]
        if scales[field]:
            axes.set_xscale("log" if scales[field] == "log" else "linear")
        else:  # Choices stand side by side, whatever they are.
            names = list(dict.fromkeys(map(str, sorted(values, key=str))))
            values = [names.index(str(value)) for value in values]
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.5, len(names) - 0.5)
        for marker, is_pruned in (("o", False), ("x", True)):
            shown = [n for n, row in enumerate(rows) if (row["state"] == "pruned") == is_pruned]
            axes.plot([values[n] for n in shown], [rows[n][goal.field] for n in shown], marker)
        axes.set(xlabel=field)
    return figure


def _number(value: float) -> str:
    return format(value, _form(value))


def _form(value: float) -> str:
    """Four decimals, or four digits if decimals would say little or take much room."""
    return ".4f" if value == 0 or 1e-2 <= abs(value) < 1e3 else ".4g"
