"""The commands of an installed package: `seqmodels-train`, `seqmodels-predict`, ...

Each does what its program does in a checkout, `python main.py` or `python -m train_lib.predict`,
with the same options, messages and exit codes.
"""

import runpy


def train() -> None:
    """`seqmodels-train`: `python main.py`."""
    _run("train")


def predict() -> None:
    """`seqmodels-predict`: `python -m train_lib.predict`."""
    _run("predict")


def evaluate() -> None:
    """`seqmodels-evaluate`: `python -m train_lib.evaluate`."""
    _run("evaluate")


def generate() -> None:
    """`seqmodels-generate`: `python -m train_lib.generate`."""
    _run("generate")


def export() -> None:
    """`seqmodels-export`: `python -m train_lib.export`."""
    _run("export")


def compare() -> None:
    """`seqmodels-compare`: `python -m train_lib.compare`."""
    _run("compare")


def sweep() -> None:
    """`seqmodels-sweep`: `python -m train_lib.sweep`."""
    _run("sweep")


def convert() -> None:
    """`seqmodels-convert`: `python -m train_lib.convert`."""
    _run("convert")


def baselines() -> None:
    """`seqmodels-baselines`: `python -m train_lib.baselines`."""
    _run("baselines")


def _run(program: str) -> None:
    runpy.run_module(f"train_lib.{program}", run_name="__main__", alter_sys=True)
