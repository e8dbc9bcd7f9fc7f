"""Models that answer any task from features, with the outputs that the task expects of any model.

Features are `[N, F]`, dense or sparse, one row per item. An item is a sequence or, for tags, a
step.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import log_expit

from train_lib.analysis import ngram_models
from train_lib.analysis.ngram_models import Options
from train_lib.tasks.base import Task


class Answerer(NamedTuple):
    """A trained model.

    Attributes:
        parameters: their number.
        outputs: maps features `[N, F]` to what the task reads, `[N, C]`.
    """

    parameters: int
    outputs: Callable[[Any], np.ndarray]


Trainer = Callable[[Any, np.ndarray, Task, Sequence[Options], int], Iterator[Answerer]]
"""Maps features, encoded targets that all have a label, the task, a grid of options and a seed to a
model for each of the options."""

Binary = Callable[[Any, np.ndarray, Sequence[Options], int], Iterator[ngram_models.Model]]
"""Maps features, labels of 0 and 1, a grid and a seed to a model of one logit for each option."""


def two_classes(train: Binary) -> Trainer:
    """The logit of the second class."""

    def train_all(features, targets_N, task, grid, seed):
        for model in train(features, targets_N.astype(np.int8), grid, seed):
            yield Answerer(model.parameters, functools.partial(_logits, [model]))

    return train_all


def classes(train: Binary) -> Trainer:
    """A model of each class against all others; probabilities are scaled to a sum of 1."""

    def train_all(features, targets_N, task, grid, seed):
        is_class_NxC = targets_N[:, None] == np.arange(task.num_outputs)
        for answerer in _each_column(train, features, is_class_NxC, grid, seed):
            # Under a softmax, these are the probabilities over their sum.
            yield Answerer(answerer.parameters, functools.partial(_logs, answerer))

    return train_all


def labels(train: Binary) -> Trainer:
    """A model for each label, which says whether it applies."""

    def train_all(features, targets_N, task, grid, seed):
        return _each_column(train, features, targets_N, grid, seed)

    return train_all


def _each_column(
    train: Binary, features: Any, labels_NxC: np.ndarray, grid: Sequence[Options], seed: int
) -> Iterator[Answerer]:
    for options in grid:
        models = [
            _constant(labels_N) or next(train(features, labels_N, [options], seed))
            for labels_N in labels_NxC.astype(np.int8).T
        ]
        parameters = sum(model.parameters for model in models)
        yield Answerer(parameters, functools.partial(_logits, models))


def _logits(models: Sequence[ngram_models.Model], features: Any) -> np.ndarray:
    """The logit of each model, in columns."""
    return np.stack([model.logits(features) for model in models], 1)


def _logs(answerer: Answerer, features: Any) -> np.ndarray:
    """Logarithms of an answerer's probabilities."""
    return log_expit(answerer.outputs(features))


def _constant(labels_N: np.ndarray) -> ngram_models.Model | None:
    """If all labels are the same: a constant model, smoothed by half an example of each class."""
    there = int(labels_N.sum())
    if 0 < there < len(labels_N):
        return None
    logit = np.log((there + 0.5) / (len(labels_N) - there + 0.5))
    return ngram_models.Model(1, lambda features: np.full(features.shape[0], logit))


def numbers(features, targets_N, task, grid, seed) -> Iterator[Answerer]:
    """Ridge regression, with each of several weightings and penalties.

    It minimises the sum of the squared errors of the standardised numbers plus `penalty` times that
    of the squared coefficients.
    """
    from sklearn.linear_model import Ridge  # Slow to import, and needed only here.

    for options in grid:
        weigh = ngram_models.WEIGHTINGS[options["weighting"]](features, targets_N)
        model = Ridge(alpha=options["penalty"], random_state=seed).fit(weigh(features), targets_N)

        def outputs(features, model=model, weigh=weigh):
            return model.predict(weigh(features)).reshape(features.shape[0], -1)

        yield Answerer(model.coef_.size + targets_N.shape[1], outputs)


def most_frequent(features, targets_N, task, grid, seed) -> Iterator[Answerer]:
    """Each token's most frequent class; that of all tokens if training lacks the token.

    The probability of a class is its share, after adding `smoothing` items that have it as often as
    all do. Features are the tokens, `[N]`.
    """
    size = int(features.max()) + 1
    counts_VxC = np.zeros((size, task.num_outputs))
    np.add.at(counts_VxC, (features, targets_N), 1)
    shares_C = (counts_VxC.sum(0) + 0.5) / (counts_VxC.sum() + 0.5 * task.num_outputs)
    for options in grid:
        # One more row, for tokens that training lacks.
        smoothed = np.append(counts_VxC, np.zeros((1, task.num_outputs)), axis=0)
        smoothed = smoothed + options["smoothing"] * shares_C
        logs_VxC = np.log(smoothed / smoothed.sum(1, keepdims=True))
        parameters = int((counts_VxC.sum(1) > 0).sum() + 1) * task.num_outputs
        yield Answerer(parameters, functools.partial(_row_of, logs_VxC))


def _row_of(rows_VxC: np.ndarray, tokens_N: np.ndarray) -> np.ndarray:
    """The row of each token; the last one for tokens beyond."""
    return rows_VxC[np.minimum(tokens_N, len(rows_VxC) - 1)]
