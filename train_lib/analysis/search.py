"""What the trials of a search say: which is best, and what fewer of them would have found.

A trial is a row: its number, its `fields`, the value that it reached, under the name of the goal,
and `seeds_diverged`; if one of its seeds ended, also `loss`, `parameters` and `seconds`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from train_lib.analysis import pictures, statistics
from train_lib.records.metrics import ENDS, plain, show_interval

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Goal:
    """What trials are compared by: what the task decides by, on the validation examples.

    Attributes:
        metric: its name.
        higher_is_better: whether a higher value is the better one.
    """

    metric: str
    higher_is_better: bool

    @property
    def field(self) -> str:
        """What the value is called in a row."""
        return f"validation_{self.metric}"

    @property
    def name(self) -> str:
        """The same for people."""
        return plain(self.field)

    @property
    def sign(self) -> int:
        """By which values are multiplied, so that the higher one is the better one."""
        return 1 if self.higher_is_better else -1


def is_evaluated(row: Row) -> bool:
    """Whether a trial has a figure of at least one seed."""
    return "seconds" in row


def ranked(rows: Sequence[dict], goal: Goal) -> list[dict]:
    """Trials, the best one first.

    One of which all seeds diverged comes last, even where another did worse than guessing.
    """

    def key(row: Row) -> tuple[bool, float]:
        return is_evaluated(row), goal.sign * row[goal.field]

    return sorted(rows, key=key, reverse=True)


def expected_best(rows: Sequence[Row], goal: Goal) -> list[float]:
    """What the best of 1, 2, ... and of all trials is expected to reach."""
    best = statistics.expected_best([goal.sign * row[goal.field] for row in rows])
    return (goal.sign * best).tolist()


def show_value(row: Row, goal: Goal) -> str:
    """What a trial reached, and what is to be known of it."""
    value, lost = row[goal.field], row["seeds_diverged"]
    if not is_evaluated(row):
        return f"diverged, counts as {value:.4g}"
    if lost:
        guess = row["a_seed_that_diverged_counts_as"]
        return f"{_number(value)}, seeds that diverged ({lost}) count as {guess:.4g}"
    ends = dict(zip(ENDS, row["ci95"], strict=True)) if row["ci95"] else {}
    return show_interval({"mean": value, **ends}, form=_form(value))


def show_fields(fields: Mapping[str, Any]) -> str:
    """The fields of a trial in a line."""
    return ", ".join(f"{field}={value}" for field, value in fields.items())


def markdown(name: str, content: Mapping[str, Any], goal: Goal) -> str:
    """The table, with the budget that was spent and the command that comes next.

    Args:
        name: of the experiment.
        content: what `sweep.json` holds.
        goal: of the search.
    """
    rows, expected = content["trials"], content[f"expected_best_{goal.field}"]
    fields = list(rows[0]["fields"])
    head = ["trial", *fields, f"{goal.name} [95 %]", "loss", "parameters", "seconds"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        line = [str(row["trial"]), *(str(row["fields"][field]) for field in fields)]
        line.append(show_value(row, goal))
        if is_evaluated(row):
            line += [_number(row["validation_loss"]), f"{row['parameters']:,}"]
            line.append(f"{row['seconds']:.0f}")
        lines.append(line + [""] * (len(head) - len(line)))
    of_fewer = [1, *(n for n in (2, 3, 5, 10, 20, 50, 100) if n < len(rows)), len(rows)]
    budget = ", ".join(f"{n}: {_number(expected[n - 1])}" for n in dict.fromkeys(of_fewer))
    if content["command"]:
        chosen = f"The best one on the test examples:\n\n    {content['command']}\n"
    else:
        chosen = "None is recommended: every trial diverged.\n"
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    better = "higher" if goal.higher_is_better else "lower"
    return (
        f"# {name}: {len(rows)} trials of {content['seeds_a_trial']} seed(s), "
        f"{sum(row.get('seconds', 0) for row in rows):.0f} s"
        f"{'' if all(map(is_evaluated, rows)) else ' and those that diverged'}"
        f"\n\n{table}\n\n"
        f"Of {goal.name}, {better} is better. The best of many is chosen for its luck too: it will "
        "do less well on other examples.\n"
        f"Expected best {goal.name} of so many trials: {budget}.\n\n"
        f"{chosen}"
    )


def draw(content: Mapping[str, Any], goal: Goal) -> Any:
    """A Matplotlib figure: the expected best against trials, and all trials along each field."""
    rows, expected = content["trials"], content[f"expected_best_{goal.field}"]
    fields = list(rows[0]["fields"])
    figure = pictures.new_figure(4 * (len(fields) + 1), 3.6)
    first, *others = figure.subplots(1, len(fields) + 1, squeeze=False, sharey=True)[0]
    first.plot(range(1, len(rows) + 1), expected, "o-")
    first.set(xlabel="trials", ylabel=goal.name, title="expected best")
    reached = [row[goal.field] for row in rows]
    scales = {axis["field"]: axis["scale"] for axis in content["over"]}
    for axes, field in zip(others, fields, strict=True):
        values = [row["fields"][field] for row in rows]
        if scales[field]:
            axes.plot(values, reached, "o")
            axes.set_xscale("log" if scales[field] == "log" else "linear")
        else:  # Choices stand side by side, whatever they are.
            names = list(dict.fromkeys(map(str, sorted(values, key=str))))
            axes.plot([names.index(str(value)) for value in values], reached, "o")
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set(xlabel=field)
    for axes in (first, *others):
        axes.grid(alpha=0.3)
    first.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _number(value: float) -> str:
    return format(value, _form(value))


def _form(value: float) -> str:
    """Four decimals, or four digits where these would say little or take much room."""
    return ".4f" if value == 0 or 1e-2 <= abs(value) < 1e3 else ".4g"
