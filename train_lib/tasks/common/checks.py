"""Checks for what the codebase asks of a task, which say what is wrong."""

import functools
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqmodels import checking
from train_lib.tasks.base import Kept, Task

_EXAMPLES, _MOST_TARGETS, _CLOSE = 24, 240, 1e-4

# Compilation takes most of the time.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class CheckFailed(Exception):
    """Says how a task breaks its contract."""


class Case(NamedTuple):
    """A task, targets, of which the last two are unknown, and random outputs."""

    task: Task
    targets: list[Any]
    targets_N: np.ndarray
    outputs_NxC: np.ndarray
    offsets: np.ndarray | None

    @property
    def known_N(self) -> np.ndarray:
        """Whether each item has a label."""
        return np.asarray(self.task.labelled(self.targets_N))

    @property
    def zeroed_N(self) -> np.ndarray:
        return np.asarray(self.task.zero_unlabelled(self.targets_N))

    def kept(self, outputs_NxC: np.ndarray | None = None) -> Kept:
        outputs_NxC = self.outputs_NxC if outputs_NxC is None else outputs_NxC
        kept = self.task.kept(outputs_NxC, self.zeroed_N)
        return {name: np.asarray(array) for name, array in kept.items()}

    def sums(self, items: Any = slice(None)) -> dict[str, np.ndarray]:
        """The sums over some of the items."""
        targets_N, outputs_NxC = self.targets_N[items], self.outputs_NxC[items]
        sums = _jit(self.task.all_sums)(outputs_NxC, targets_N)
        return {name: np.asarray(total, np.float64) for name, total in sums.items()}


def make(task: Task, training_targets: Sequence[Any]) -> Case:
    """Makes a case for a task made from these targets.

    Raises:
        CheckFailed: the task does not encode them as it must.
    """
    known = list(training_targets) * -(-_EXAMPLES // len(training_targets))
    unknown = [[None] * len(known[0]) if task.per_step else None, [] if task.per_step else None]
    targets = [*known, *unknown]
    targets_N = task.encode(targets)
    offsets = np.cumsum([0, *map(len, targets)]) if task.per_step else None
    _check_encoded(task, targets, targets_N, offsets)
    shape = len(targets_N), task.num_outputs
    outputs_NxC = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Case(task, targets, targets_N, outputs_NxC, offsets)


def _check_encoded(task: Task, targets, targets_N: Any, offsets: np.ndarray | None) -> None:
    items = len(targets) if offsets is None else offsets[-1]
    what = "steps" if task.per_step else "examples"
    if not isinstance(targets_N, np.ndarray) or targets_N.shape[:1] != (items,):
        raise CheckFailed(
            f"encode of {items} {what} must return a NumPy array with a row for each; it returns "
            f"{_describe(targets_N)}"
        )
    if not isinstance(task.num_outputs, int) or task.num_outputs < 1:
        raise CheckFailed(f"num_outputs is {task.num_outputs!r}; it must be 1 or more")
    if task.per_step:
        is_none_N = np.array([one is None for of_example in targets for one in of_example], bool)
    else:
        is_none_N = np.array([one is None for one in targets])
    wrong_N = np.asarray(task.labelled(targets_N)) == is_none_N
    if wrong_N.any():
        raise CheckFailed(
            f"encode gives {targets_N[wrong_N][0]} for a target that is "
            f"{'None' if is_none_N[wrong_N][0] else 'known'}; where it is None, integers must be "
            "-1 and floating point numbers NaN, and nowhere else"
        )


def losses_are_finite_and_one_an_item(case: Case) -> None:
    """So are their gradients, even where an item without a label has a target of zeros."""
    for name in ("loss", "training_loss"):
        function = getattr(case.task, name)
        losses_N = _jit(function)(case.outputs_NxC, case.zeroed_N)
        if jnp.shape(losses_N) != (len(case.targets_N),):
            raise CheckFailed(
                f"{name} of outputs {list(case.outputs_NxC.shape)} must be [N], a number for each "
                f"item; it is {_describe(losses_N)}"
            )
        gradient_NxC = _jit(
            jax.grad(lambda *arguments, function=function: function(*arguments).sum())
        )(case.outputs_NxC, case.zeroed_N)
        for what, array in ((name, losses_N), (f"the gradient of {name}", gradient_NxC)):
            if not np.isfinite(array).all():
                raise CheckFailed(
                    f"{what} is not finite; it must be for any outputs, and also for targets of "
                    "zero, which items without a label have"
                )


def an_item_has_its_loss_in_any_company(case: Case) -> None:
    """Its loss is the same alone and in another order."""
    items = np.random.default_rng(1).permutation(len(case.targets_N))
    loss = _jit(case.task.loss)
    losses_N = np.asarray(loss(case.outputs_NxC, case.zeroed_N))[items]
    permuted_N = loss(case.outputs_NxC[items], case.zeroed_N[items])
    alone_N = [loss(case.outputs_NxC[[n]], case.zeroed_N[[n]])[0] for n in items]
    _close("the loss of an item among others and in another order", permuted_N, losses_N)
    _close("the loss of an item among others and alone", alone_N, losses_N)


def sums_of_parts_add_up(case: Case) -> None:
    """Items without a label do not count in them."""
    whole, middle = case.sums(), len(case.targets_N) // 2
    first, second = case.sums(slice(middle)), case.sums(slice(middle, None))
    known = case.sums(case.known_N)
    for name, total in whole.items():
        _close(f"the sum {name} of all items and of two parts", first[name] + second[name], total)
        _close(f"the sum {name} with and without unlabelled items", known[name], total)


def metrics_follow_from_sums(case: Case) -> None:
    """The loss and the deciding metric are among them, as finite floats."""
    metrics = case.task.metrics(case.sums())
    for name in ("loss", case.task.metric):
        if name not in metrics:
            raise CheckFailed(f"metrics has no {name!r}; it has {', '.join(metrics)}")
    for name, value in metrics.items():
        if not isinstance(value, float) or not np.isfinite(value):
            raise CheckFailed(f"the metric {name} is {value!r}; it must be a finite float")
    for name in case.task.share_metrics:
        if not 0 <= metrics.get(name, 0.0) <= 1:
            raise CheckFailed(f"the share metric {name} is {metrics[name]}, which is not a share")


def compiled_functions_agree(case: Case) -> None:
    """They agree with uncompiled ones, and with those for several models under `jax.vmap`."""
    task, targets_N = case.task, jnp.asarray(case.targets_N)

    def everything(outputs_NxC):
        zeroed_N = task.zero_unlabelled(targets_N)
        losses_N = task.training_loss(outputs_NxC, zeroed_N)
        return task.all_sums(outputs_NxC, targets_N), task.kept(outputs_NxC, zeroed_N), losses_N

    expected = everything(jnp.asarray(case.outputs_NxC))
    outputs_2xNxC = jnp.stack([case.outputs_NxC, case.outputs_NxC / 2])
    mapped = _jit(jax.vmap(everything))(outputs_2xNxC)
    for one, several in zip(*map(jax.tree.leaves, (expected, mapped)), strict=True):
        _close("what is computed alone and by jit and vmap", np.asarray(several)[0], one)


def kept_arrays_have_a_row_an_item(case: Case) -> None:
    for name, array in case.kept().items():
        if len(array) != len(case.targets_N):
            raise CheckFailed(f"kept[{name!r}] must have a row per item; it is {_describe(array)}")


def scores_are_one_an_item(case: Case) -> None:
    """Their mean is the metric of the same name, if there is one."""
    scores_N = case.task.score(case.kept(), case.targets_N)
    if np.shape(scores_N) != (len(case.targets_N),):
        raise CheckFailed(f"score must be [N], a number per item; it is {_describe(scores_N)}")
    known_N = scores_N[case.known_N]
    furthest = 0.5 if case.task.score_is_share else np.finfo(float).max
    if not (abs(known_N - 0.5) <= furthest).all():
        raise CheckFailed("the score of an item with a label is not finite, or is not a share")
    metrics, name = case.task.metrics(case.sums()), case.task.score_name
    if name in metrics:
        _close(f"the mean of score and the metric {name}", np.mean(known_N), metrics[name])
    scores, weights = case.task.example_scores(case.kept(), case.targets_N, case.offsets)
    _close("the mean score of examples and of items", scores @ weights, known_N.sum())


def answers_are_written(case: Case) -> None:
    """Every column has a value for each example, and there is a line of text for people."""
    task, kept, examples = case.task, case.kept(), len(case.targets)
    alone = task.columns(kept, None, case.offsets)
    columns = task.columns(kept, case.targets_N, case.offsets)
    if not any(name.startswith("answer") for name in alone):
        raise CheckFailed(f"columns has no answer; it has {', '.join(alone)}")
    targets = [name for name in columns if name.startswith("target")]
    if not (targets or task.predicts_inputs) or any(name.startswith("target") for name in alone):
        raise CheckFailed("columns must have a target where targets are given, and only there")
    for name, values in columns.items():
        if len(values) != examples:
            raise CheckFailed(f"the column {name} has {len(values)} values for {examples} examples")
        for one in values:
            if not isinstance(one, str | int | float | None):
                raise CheckFailed(f"the column {name} has {_describe(one)}, {one!r}")
    if targets and (columns[targets[0]][-1] is not None or columns[targets[0]][0] is None):
        raise CheckFailed("a target must be None where there is no label, and only there")
    lines = task.answer(kept, case.offsets)
    if len(lines) != examples or not all(isinstance(line, str) for line in lines):
        raise CheckFailed(f"answer must return a text for each of {examples} examples")
    if "\n" in "".join(lines):
        raise CheckFailed("answer returns a text of more than one line")


def figures_have_types_of_json(case: Case) -> None:
    """Those that are also metrics have the same values. There are no warnings."""
    kept = case.kept()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = case.task.figures(kept, case.targets_N, case.offsets)
        for name, picture in case.task.pictures(kept, case.targets_N, case.offsets).items():
            if not hasattr(picture, "savefig"):
                raise CheckFailed(f"pictures[{name!r}] is {_describe(picture)}, not a figure")
    try:
        json.dumps(figures, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckFailed(f"figures cannot be written as JSON: {error}") from error
    metrics = case.task.metrics(case.sums())
    for name in metrics.keys() & figures.keys():
        if isinstance(figures[name], float):
            _close(f"{name} among figures and metrics", figures[name], np.array(metrics[name]))


def a_task_is_read_as_it_was_written(case: Case) -> None:
    """From JSON, without any data."""
    try:
        fields = case.task.to_json()
    except TypeError as error:
        raise CheckFailed(
            f"an attribute of the task is not a JSON value, so a run folder cannot store it: "
            f"{error}"
        ) from error
    again = type(case.task).from_json(json.loads(json.dumps(fields)))
    if again.to_json() != fields:
        raise CheckFailed("from_json of the result of to_json is a different task")
    _close(
        "targets encoded by a task and by the same one read from JSON",
        np.nan_to_num(again.encode(case.targets), nan=-1.0),
        np.nan_to_num(case.targets_N, nan=-1.0),
    )
    _close(
        "training losses of a task and of the same one read from JSON",
        again.training_loss(case.outputs_NxC, case.zeroed_N),
        case.task.training_loss(case.outputs_NxC, case.zeroed_N),
    )


def a_guess_is_best_among_constants(case: Case) -> None:
    """Neither nearby outputs nor all zeros have less loss if used for every item."""
    task, guess_C = case.task, np.asarray(case.task.guess(case.targets_N))
    if guess_C.shape != (task.num_outputs,) or not np.isfinite(guess_C).all():
        raise CheckFailed(
            f"guess must return {task.num_outputs} finite outputs [C]; it returns "
            f"{_describe(guess_C)}"
        )
    others = [guess_C, np.zeros_like(guess_C), *(guess_C + by for by in (-1, -0.1, 0.1, 1))]
    shape = len(others), len(case.targets_N), task.num_outputs
    outputs_OxNxC = np.broadcast_to(np.stack(others)[:, None], shape).astype(np.float32)
    losses_OxN = _jit(jax.vmap(task.loss, (0, None)))(outputs_OxNxC, case.zeroed_N)
    best, *losses = np.asarray(losses_OxN)[:, case.known_N].mean(1).tolist()
    # A task may count a few more examples of rare targets than there are.
    if min(losses) < best - 0.02 * abs(best) - _CLOSE:
        other_C = others[1 + int(np.argmin(losses))]
        raise CheckFailed(f"guess has a loss of {best:.4g}; {other_C}, one of {min(losses):.4g}")


def several_seeds_answer_together(case: Case) -> None:
    """In the same form as one seed, in any order, and like each of them if they agree."""
    task, kept = case.task, case.kept()
    other = case.kept(np.roll(case.outputs_NxC, 1, axis=0))
    scores_N = task.score(kept, case.targets_N)[case.known_N]
    for several in ([kept], [kept, kept, kept]):
        together_N = task.score(task.average(several), case.targets_N)[case.known_N]
        _close("the scores of one seed and of several that agree", together_N, scores_N)
    mixed, swapped = task.average([kept, other]), task.average([other, kept])
    if {name: np.shape(array) for name, array in mixed.items()} != {
        name: array.shape for name, array in kept.items()
    }:
        raise CheckFailed("average must return what kept does: the same names and shapes")
    mixed_N, swapped_N = (task.score(one, case.targets_N)[case.known_N] for one in (mixed, swapped))
    _close("the scores of two seeds together in one order and in the other", swapped_N, mixed_N)


def _close(what: str, actual: Any, expected: Any) -> None:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    difference = np.max(np.abs(actual - expected), initial=0.0)
    largest = np.max(np.abs(expected), initial=0.0)
    if not difference <= _CLOSE * max(1.0, largest):
        raise CheckFailed(f"{what} differ by {difference:.2g}, where {largest:.2g} is largest")


CHECKS: tuple[Callable[[Case], None], ...] = (
    losses_are_finite_and_one_an_item,
    an_item_has_its_loss_in_any_company,
    sums_of_parts_add_up,
    metrics_follow_from_sums,
    compiled_functions_agree,
    kept_arrays_have_a_row_an_item,
    scores_are_one_an_item,
    answers_are_written,
    figures_have_types_of_json,
    a_task_is_read_as_it_was_written,
    a_guess_is_best_among_constants,
    several_seeds_answer_together,
)


def check(case: Case) -> Iterator[tuple[str, str]]:
    """The name of each check in words, and what failed; empty if nothing did."""
    return checking.outcomes(
        CHECKS,
        case,
        lambda error: (
            str(error)
            if isinstance(error, CheckFailed)
            else checking.raised(type(case.task), error)
        ),
    )


def check_whole(task: Task, training_targets: Sequence[Any]) -> None:
    """Runs all checks on a task, with some of its training targets.

    Raises:
        CheckFailed: it fails some of them; the message lists all of these.
        BadTarget: the task rejects one of the targets.
    """
    case = make(task, training_targets[:_MOST_TARGETS])
    failures = [f"{words}: {failure}" for words, failure in check(case) if failure]
    if failures:
        raise CheckFailed("\n  ".join(["the task fails its checks:", *failures]))


def _describe(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    return f"a {type(value).__name__}"
