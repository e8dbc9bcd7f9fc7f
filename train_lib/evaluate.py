"""Tests a finished run on other labelled data.

python -m train_lib.evaluate runs/stacked-... other.csv [--best] [--out=FOLDER]

Data can be anything that `config.data.source` may name. The folder, by default a new one under
`runs/`, gets `predictions.csv`, `evaluation.json` and the task's pictures.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from train_lib import files
from train_lib.analysis.comparison import score_summary
from train_lib.data.inputs import Text
from train_lib.data.vocabulary import START, UNKNOWN
from train_lib.errors import UserError, told_to_user
from train_lib.records import description, predictions
from train_lib.records.folder import RunFolder
from train_lib.records.metrics import plain, show_interval
from train_lib.records.result import examples_are, items_of
from train_lib.restored import Restored
from train_lib.training import devices


def evaluate(restored: Restored, path: str, folder: RunFolder) -> dict:
    """Writes the answers, the pictures and `evaluation.json`, whose contents it returns.

    Args:
        restored: the run.
        path: the data.
        folder: the folder to write to.

    Raises:
        UserError: the data cannot be read, are not what the run was trained on, or have no label.
    """
    split, kept_K = restored.tested(path)
    tasks_K = restored.tasks_K
    scored = [
        task.example_scores(kept, *items_of(split))
        for task, kept in zip(tasks_K, kept_K, strict=True)
    ]
    weights_N = scored[0][1]
    if not weights_N.any():
        raise UserError(f"{path} has no label, so there is nothing to evaluate; use predict.")
    predictions.write(folder, restored.seeds, split, tasks_K, kept_K)
    description.write_pictures(folder, split, tasks_K, kept_K)
    task, seeds = restored.task, restored.seeds
    found = {
        "run": str(restored.folder.path),
        "data": path,
        "examples": len(split),
        "examples_are": examples_are(split),
        "score": task.score_name,
        task.score_name: score_summary(
            np.stack([one for one, _ in scored]), weights_N, are_shares=task.score_is_share
        ),
        "seeds": [
            {"seed": seed, **of.figures(kept, *items_of(split))}
            for seed, of, kept in zip(seeds, tasks_K, kept_K, strict=True)
        ],
    }
    if isinstance(restored.inputs, Text):
        is_word = split.values != START
        found["unknown_share"] = float((split.values[is_word] == UNKNOWN).mean())
    if len(seeds) > 1:
        together = restored.together.average(kept_K)
        found["seeds_together"] = restored.together.figures(together, *items_of(split))
    folder.write_json("evaluation.json", found)
    return found


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train_lib.evaluate",
        description="Tests a finished run on other labelled data.",
    )
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("data", help="a file or folder of data, with targets")
    parser.add_argument(
        "--best", action="store_true", help="use each seed's best epoch by validation"
    )
    parser.add_argument("--out", help="a folder, new or empty; by default a new one under runs/")
    arguments = parser.parse_args(argv)
    devices.configure()
    restored = Restored(arguments.run, best=arguments.best)
    folder = RunFolder(files.new_folder("--out", arguments.out, "evaluation"))
    try:
        found = evaluate(restored, arguments.data, folder)
    except UserError:
        if not any(folder.path.iterdir()):
            folder.path.rmdir()
        raise
    score = found["score"]
    print(
        f"{plain(score)} {show_interval(found[score])} on {found['examples']:,} "
        f"{found['examples_are']} of {arguments.data}"
    )
    if unknown := found.get("unknown_share"):
        print(f"{100 * unknown:.2g} % of the tokens are unknown to the run")
    print(f"folder: {folder.path}")


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
