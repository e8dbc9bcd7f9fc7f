"""One trial: its run, and its outcome."""

import contextlib
import pathlib
import time
from typing import Any

from ml_collections import ConfigDict

from train_lib import building
from train_lib import run as train
from train_lib.analysis import search
from train_lib.analysis.search import Goal
from train_lib.errors import Diverged, UserError
from train_lib.records.folder import InUse
from train_lib.records.result import diverged_seeds
from train_lib.trials.lease import BEAT_SECONDS
from train_lib.trials.study import Lost, Pruned, Trial


def run(trial: Trial, config: ConfigDict, goal: Goal, path: pathlib.Path) -> str:
    """Runs a trial or resumes it, records its outcome, and returns that in words.

    Args:
        trial: the trial to run.
        config: its config.
        goal: the search's goal.
        path: the run's folder; a file beside it has what the run prints.

    Raises:
        UserError: it cannot be run or compared.
        Stopped: it was asked to end; the next worker resumes it.
    """
    try:
        log = open(path.with_suffix(".log"), "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{path.with_suffix('.log')} cannot be written: {error}") from error
    with log, contextlib.redirect_stdout(log):
        try:
            result = train.run(config, str(path), evaluate_test=False, hooks=[trial])
            row = _row(config, goal, result, path)
        except Diverged as error:
            print(error)
            row = {
                "state": "diverged",
                goal.field: _guess(config, goal),
                "ci95": None,
                "seeds_diverged": config.train.seeds,
            }
        except InUse as error:  # Its old worker slept, and will see that it lost the trial.
            print(error)
            time.sleep(BEAT_SECONDS)
            return str(error)
        except (Lost, Pruned) as ended:
            print(ended)
            return str(ended)
        try:
            trial.end(row)
        except Lost as lost:
            return str(lost)
    return f"{goal.name} {search.show_value(row, goal)}"


def _row(config: ConfigDict, goal: Goal, result: dict, path: pathlib.Path) -> dict[str, Any]:
    """A trial's row, from the result of its run."""
    if goal.field not in result:
        raise UserError(
            f"{path}: {goal.name} is not a number, so this trial cannot be compared. See "
            f"{path / 'metrics.jsonl'}, or choose another config.task.metric."
        )
    found, lost = result[goal.field], len(diverged_seeds(result))
    row: dict[str, Any] = {
        "state": "complete",
        "validation_loss": result["validation_loss"]["mean"],
        goal.field: found["mean"],
        "ci95": [found["ci95_low"], found["ci95_high"]] if "ci95_low" in found else None,
        "seeds_diverged": lost,
        "parameters": result["model"]["parameters"],
        "seconds": result["seconds"]["total"],
    }
    if lost:
        share, guess = lost / config.train.seeds, _guess(config, goal)
        row |= {
            goal.field: share * guess + (1 - share) * found["mean"],
            "ci95": None,
            "a_seed_that_diverged_counts_as": guess,
        }
    return row


def _guess(config: ConfigDict, goal: Goal) -> float:
    """The value of a seed that diverged: that of the best guess that is the same for all examples.

    It is made from the training examples and measured on the validation examples.
    """
    data, task = building.load_data(config)
    guess = task.measure(task.guess(data.train.targets), data.validation.targets)[goal.metric]
    return guess
