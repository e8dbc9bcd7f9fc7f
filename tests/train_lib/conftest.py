"""Finished runs, made up; command lines; and runs that share what they compile."""

import functools
import sys

import numpy as np
import pytest
from absl import flags
from train_lib.report import RunFolder

from configs import base
from train_lib import command, state, steps
from train_lib.data.dataset import Split


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

    Its 200 test reviews are the same each time. What it says of them is right for the more of them,
    the better its `skill`, and is drawn from `draw` and from its seeds.
    """

    def write(
        name, seeds=(0, 1, 2), skill=1.0, draw=0, reviews=200, others=0, changes=None,
        dataset=None, tested=True,
    ):  # fmt: skip
        rng = np.random.default_rng(7 + others)
        lengths, labels = rng.integers(5, 400, reviews), np.arange(reviews) % 2
        offsets = np.cumsum([0, *lengths])
        test = Split(np.zeros(offsets[-1], np.int32), offsets, labels.astype(np.int8))
        margin_N = skill + rng.normal(0, 1, reviews)
        noise_KxN = [np.random.default_rng([draw, seed]).normal(0, 1, reviews) for seed in seeds]
        logits_KxN = (2.0 * labels - 1) * (margin_N + np.array(noise_KxN))
        config = base.get_config(name, "exact")
        config.update_from_flattened_dict(changes or {})
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        folder.write_predictions(seeds, test, logits_KxN)
        folder.write_json("config.json", config.to_dict())
        accuracies_K = ((logits_KxN > 0) == labels).mean(1)
        result = {
            "dataset": {"name": "made_up", "fingerprint": "0123456789abcdef", "test": reviews}
            | (dataset or {}),
            "model": {"parameters": 1_234},
            "seeds": [
                {"seed": seed, "test_accuracy": float(accuracy)}
                for seed, accuracy in zip(seeds, accuracies_K, strict=True)
            ],
            "test_accuracy": {"mean": float(accuracies_K.mean())},
            "seconds": {"train": 12.3},
            "device": "cpu: made up",
        }
        if not tested:
            del result["test_accuracy"]
        folder.write_metrics(
            [
                {
                    "epoch": n,
                    "seconds": 5.0 * n,
                    "validation_accuracy": 0.7 + 0.01 * n,
                    "ci95": {"validation_accuracy": [0.65, 0.8]} if len(seeds) > 1 else None,
                }
                for n in (1, 2, 3)
            ]
        )
        folder.finish(result)
        return folder.path

    return write


@pytest.fixture(scope="module")
def compiled_once():
    """In a file that asks for it, runs of the same model trace and compile their steps once."""
    make, made = steps.make, {}

    def make_once(graphdef, optimizer, mesh, data_config, *rest):
        key = graphdef, optimizer, mesh, data_config.to_json(), *rest
        if key not in made:
            made[key] = make(graphdef, optimizer, mesh, data_config, *rest)
        return made[key]

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(state, "adam", functools.cache(state.adam))
        monkeypatch.setattr(steps, "make", make_once)
        yield
