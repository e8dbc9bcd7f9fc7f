"""Compares finished runs: which is better, by how much, and how sure that is.

python -m train_lib.compare runs/lstm-... runs/bilstm-... [--out=FOLDER]

Reads `config.json`, `result.json` and `predictions.csv` of each run. Prints tables and writes them
to `compare.md`, everything in them and more to `compare.json`, and pictures to `compare.png`.
"""

import argparse
import dataclasses
import datetime
import io
import itertools
import json
import math
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from train_lib import files, report, settings, statistics
from train_lib.errors import UserError, told_to_user
from train_lib.report import RunFolder

LENGTH_BINS = 5


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run of K seeds, and what each of them says of N test reviews.

    Attributes:
        name: the folder's, for people.
        path: the folder.
        config: every field, as in `{"model.cell": "lstm"}`.
        result: what `result.json` holds.
        seeds: their numbers, ascending.
        tokens_N, labels_N: lengths and classes, 0 or 1, of the reviews.
        logits_KxN: above 0 where a review is said to be positive.
    """

    name: str
    path: pathlib.Path
    config: dict[str, Any]
    result: dict[str, Any]
    seeds: tuple[int, ...]
    tokens_N: np.ndarray
    labels_N: np.ndarray
    logits_KxN: np.ndarray

    @property
    def correct_KxN(self) -> np.ndarray:
        return (self.logits_KxN > 0) == (self.labels_N > 0)

    @property
    def probabilities_KxN(self) -> np.ndarray:
        return expit(self.logits_KxN)


def load(workdirs: Sequence[str]) -> list[Run]:
    """Reads runs that can be compared: of different folders, tested on the same reviews.

    Raises:
        UserError: some cannot; the message says what is in the way.
    """
    if len(workdirs) < 2:
        raise UserError("a comparison needs at least two runs: name the folders of two or more.")
    folders = [RunFolder.open_finished(workdir) for workdir in workdirs]
    resolved = [folder.path.resolve() for folder in folders]
    for workdir, path in zip(workdirs, resolved, strict=True):
        if resolved.count(path) > 1:
            raise UserError(f"{workdir} is named twice: a run says nothing beside itself.")
    names = [path.name for path in resolved]
    runs = [
        _read_run(folder, name if names.count(name) == 1 else str(folder.path))
        for folder, name in zip(folders, names, strict=True)
    ]
    for run in runs[1:]:
        _check_same_test(runs[0], run)
    return runs
