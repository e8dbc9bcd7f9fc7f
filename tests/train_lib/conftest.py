"""Finished runs, made up; command lines; and runs that share what they compile."""

import functools
import json
import sys

import numpy as np
import pytest
from absl import flags

from configs import base
from train_lib import command
from train_lib.data.dataset import Split
from train_lib.data.inputs import Text
from train_lib.data.vocabulary import Vocabulary
from train_lib.records import description, predictions
from train_lib.records.folder import RunFolder
from train_lib.tasks.classes import Classes
from train_lib.training import optimizers, program


@pytest.fixture
def start_with(monkeypatch):
    """Reads words of a command line as a program does; gives the flags, which then go away."""

    def parse(*words):
        monkeypatch.setattr("sys.argv", ["program", *words])
        command._parse(sys.argv)
        return flags.FLAGS

    yield parse
    flags.FLAGS.unparse_flags()
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)


@pytest.fixture
def write_run(tmp_path):
    """Writes the folder of a run without training one; returns its path.

    Its 200 test examples are the same each time. What it says of them is right for the more of
    them, the better its `skill`, and is drawn from `draw` and from its seeds.
    """

    def write(
        name, seeds=(0, 1, 2), skill=1.0, draw=0, reviews=200, others=0, changes=None,
        dataset=None, tested=True,
    ):  # fmt: skip
        rng = np.random.default_rng(7 + others)
        lengths, labels = rng.integers(5, 400, reviews), np.arange(reviews) % 2
        offsets = np.cumsum([0, *lengths])
        test = Split(
            np.zeros(offsets[-1], np.int32), offsets, labels.astype(np.float32), np.arange(reviews)
        )
        margin_N = skill + rng.normal(0, 1, reviews)
        noise_KxN = [np.random.default_rng([draw, seed]).normal(0, 1, reviews) for seed in seeds]
        logits_KxN = (2.0 * labels - 1) * (margin_N + np.array(noise_KxN))
        task = Classes(["negative", "positive"])
        kept_K = [{"outputs": logits_N[:, None]} for logits_N in logits_KxN]
        metrics_K = [task.measure(kept["outputs"], test.targets) for kept in kept_K]
        config = base.get_config(name, "exact")
        config.update_from_flattened_dict(changes or {})
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        folder.write_json("config.json", config.to_dict())
        description.write(folder, Text(Vocabulary(["film"]), "keras"), task)
        predictions.write(folder, seeds, test, [task] * len(seeds), kept_K)
        result = {
            "dataset": {"name": "made_up", "fingerprint": "0123456789abcdef", "test": reviews}
            | (dataset or {}),
            "task": {
                **task.to_json(),
                "metric": task.metric,
                "score": task.score_name,
                "higher_score_is_better": task.higher_score_is_better,
            },
            "model": {"parameters": 1_234},
            "seeds": [
                {
                    "seed": seed,
                    "test_loss": metrics["loss"],
                    "test_accuracy": metrics["accuracy"],
                    "test_figures": task.figures(kept, test.targets),
                }
                for seed, metrics, kept in zip(seeds, metrics_K, kept_K, strict=True)
            ],
            "test_accuracy": {"mean": float(np.mean([one["accuracy"] for one in metrics_K]))},
            "seconds": {"train": 12.3},
            "device": "cpu: made up",
        }
        if not tested:
            del result["test_accuracy"]
        rows = [
            {
                "epoch": n,
                "seconds": 5.0 * n,
                "validation_accuracy": 0.7 + 0.01 * n,
                "ci95": {"validation_accuracy": [0.65, 0.8]} if len(seeds) > 1 else None,
            }
            for n in (1, 2, 3)
        ]
        folder.write("metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
        folder.finish(result)
        return folder.path

    return write


@pytest.fixture(scope="module")
def compiled_once():
    """In a file that asks for it, runs of the same model trace and compile their steps once."""
    compile_steps, made = program.compile_steps, {}

    def compile_once(learner, mesh, seeds_at_once=1):
        task = type(learner.task), json.dumps(learner.task.to_json())
        key = learner.graphdef, task, learner.optimizer, learner.treatment, mesh, seeds_at_once
        if key not in made:
            made[key] = compile_steps(learner, mesh, seeds_at_once)
        return made[key]

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(optimizers, "adam", functools.cache(optimizers.adam))
        monkeypatch.setattr(program, "compile_steps", compile_once)
        yield
