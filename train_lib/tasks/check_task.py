"""Checks a task against everything that the codebase asks of it.

python -m train_lib.tasks.check_task classes
python -m train_lib.tasks.check_task path/to/mine.py
python -m train_lib.tasks.check_task path/to/mine.py --targets="[1, 5, 2, 4]"

The tests do the same with every task in `train_lib/tasks`.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from seqmodels import checking, program
from train_lib import tasks
from train_lib.errors import told_to_user
from train_lib.tasks.base import BadTarget
from train_lib.tasks.common import checks


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train_lib.tasks.check_task",
        description="Checks that a task keeps its contract.",
    )
    parser.add_argument("task", help="a module in train_lib/tasks, or the path of a file")
    parser.add_argument(
        "--targets", help="training targets as a JSON list; else the task's own examples"
    )
    arguments = parser.parse_args(argv)
    try:
        program.configure_jax()
        task_class = tasks.find(arguments.task)
        targets = list(task_class.examples)
        if arguments.targets:
            targets = json.loads(arguments.targets)
    except json.JSONDecodeError as error:
        sys.exit(f"error: --targets={arguments.targets} must be a JSON list, as in [1, 2]: {error}")
    except ValueError as error:
        sys.exit(f"error: {error}")
    if not isinstance(targets, list) or not targets:
        sys.exit(
            f"error: {task_class.__name__} has no targets to check it with; give it an attribute "
            "examples, with a few training targets, or pass some in --targets as a JSON list"
        )
    try:
        task = task_class.of_targets(targets)
        case = checks.make(task, targets)
    except checks.CheckFailed as error:
        print(f"BROKEN  {error}")
        return 1
    except BadTarget as error:
        where = "" if error.number is None else f"the target of example {error.number} "
        print(f"BROKEN  {where}{error}")
        return 1
    except Exception as error:
        print(f"BROKEN  {checking.raised(task_class, error)}")
        return 1
    failed = checking.print_outcomes(checks.check(case))
    per = "step" if task.per_step else "sequence"
    better = "higher" if task.higher_is_better else "lower"
    print(
        f"{task.num_outputs} outputs per {per}; {task.metric} decides, {better} is better; "
        f"guessing gives the metrics "
        + ", ".join(
            f"{name} {value:.4g}"
            for name, value in task.measure(task.guess(case.targets_N), case.targets_N).items()
        )
    )
    return 1 if failed else 0


if __name__ == "__main__":
    with told_to_user():
        sys.exit(main(sys.argv[1:]))
