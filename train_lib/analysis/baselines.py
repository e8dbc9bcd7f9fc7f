"""Classical baselines of each task: which exist, how options are chosen, and what they answer.

Words are split as for the recurrent models, but all of them are known, not only the config's
vocabulary, unless the name says so. Options are chosen by the deciding metric of the task, on the
validation examples.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train_lib.analysis import baseline_models, features
from train_lib.analysis.baseline_models import Answerer, Trainer
from train_lib.analysis.ngram_models import Options, train_averaged, train_linear
from train_lib.analysis.ngrams import MAX_FEATURES, NGrams
from train_lib.data.dataset import SPLITS, Dataset, Split
from train_lib.data.inputs import Inputs, Text, Tokens, Vectors
from train_lib.data.vocabulary import START
from train_lib.errors import UserError
from train_lib.tasks.base import Task
from train_lib.tasks.classes import Classes
from train_lib.tasks.labels import Labels
from train_lib.tasks.numbers import Numbers
from train_lib.tasks.tags import Tags
from train_lib.training import metrics
from train_lib.training.program import Evaluation

MIN_COUNT = 2
"""How often an n-gram must occur in the training examples. With all of them, NB-SVM has five times
as many parameters and a validation accuracy of .9105 instead of .9123 (three words, IMDB)."""

_COSTS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

Reader = Callable[[Dataset], dict[str, Any]]
"""Maps a data set to the features of each of `SPLITS`."""


@dataclasses.dataclass(frozen=True)
class Baseline:
    """One way to answer a task.

    Attributes:
        name: the name of its folder.
        read: reads the features of a data set.
        train: trains models on the features.
        grid: the options to choose from; the first of equals is chosen.
        architecture: what else `config.json` says of it.
        max_features: the size of its vocabulary; None: its inputs have none.
        is_random: whether another seed makes another model.
        published: accuracy on IMDB's test reviews, trained on all 25,000 others; and its source.
    """

    name: str
    read: Reader
    train: Trainer
    grid: Sequence[Options]
    architecture: dict[str, Any]
    max_features: int | None = None
    is_random: bool = False
    published: str = ""


def baselines(inputs: Inputs, task: Task, max_features: int) -> list[Baseline]:
    """All baselines for a task.

    Args:
        inputs: what a model reads.
        task: the task.
        max_features: vocabulary size of the recurrent models.

    Raises:
        UserError: there are none for a user's own task.
    """
    if not isinstance(task, Classes | Labels | Numbers | Tags):
        raise UserError(
            f"there is no baseline for the task {type(task).__name__}: those there are answer "
            "classes, labels, numbers and tags. What a constant guess scores is in every "
            "run's result.json."
        )
    if isinstance(task, Tags):
        return list(_of_tags(inputs))
    if isinstance(inputs, Vectors):
        return list(_of_vectors(task))
    return list(_of_ngrams(inputs, task, max_features))


def _grid(*weightings: str) -> list[Options]:
    return [{"weighting": name, "cost": cost} for name in weightings for cost in _COSTS]


def _ridge_grid(weighting: str) -> list[Options]:
    return [{"weighting": weighting, "penalty": 10.0**power} for power in range(-2, 5)]


def _linear(task: Task) -> Trainer:
    """The trainer of linear models of a task whose outputs are logits."""
    if isinstance(task, Labels):
        return baseline_models.labels(train_linear)
    of_two = isinstance(task, Classes) and task.num_outputs == 1
    return (baseline_models.two_classes if of_two else baseline_models.classes)(train_linear)


def _of_ngrams(inputs: Inputs, task: Task, max_features: int) -> Iterator[Baseline]:
    """Baselines that count words and groups of words, or token numbers and groups of them."""
    is_text = isinstance(inputs, Text)

    def baseline(name, words, train, grid, known=MAX_FEATURES, **rest) -> Baseline:
        read = functools.partial(_counts, words=words, max_features=known if is_text else None)
        architecture = {"ngram_words": words, "min_count": MIN_COUNT}
        known = known if is_text else None
        return Baseline(name, read, train, grid, architecture, known, **rest)

    train: Trainer
    if isinstance(task, Numbers):
        train, grid = baseline_models.numbers, _ridge_grid("tf-idf")
        if is_text:
            yield baseline(f"ridge-{max_features}", 1, train, grid, max_features)
        yield baseline("ridge-1", 1, train, grid)
        yield baseline("ridge-2", 2, train, grid)
        return
    train, words, ratio = _linear(task), _grid("binary", "tf-idf"), _grid("log-count ratio")
    wang = "Wang and Manning 2012"
    if is_text:
        yield baseline(f"logistic-regression-{max_features}", 1, train, words, max_features)
    yield baseline("logistic-regression", 1, train, words, published=f".8695 (SVM), {wang}")
    yield baseline("nb-svm-1", 1, train, ratio, published=f".8829, {wang}")
    yield baseline("nb-svm-2", 2, train, ratio, published=f".9122, {wang}")
    yield baseline("nb-svm-3", 3, train, ratio, published=".9187, Mesnil et al. 2014")
    if isinstance(task, Classes) and task.num_outputs == 1:
        yield baseline(
            "fasttext-2",
            2,
            baseline_models.two_classes(train_averaged),
            [{"embedding_size": 10, "epochs": number} for number in range(1, 7)],
            is_random=True,
            published=".9056, Keras' example imdb_fasttext",
        )


def _of_vectors(task: Task) -> Iterator[Baseline]:
    """Baselines that read summary statistics of a sequence's vectors."""
    read, what = _of_each(features.summary), {"features": "mean, sd, first, last, min, max"}
    if isinstance(task, Numbers):
        grid = _ridge_grid("standardised")
        yield Baseline("ridge-summary", read, baseline_models.numbers, grid, what)
    else:
        yield Baseline(
            "logistic-regression-summary", read, _linear(task), _grid("standardised"), what
        )


def _of_tags(inputs: Inputs) -> Iterator[Baseline]:
    """Baselines that read a step, and those that read its neighbours too."""
    train = baseline_models.classes(train_linear)
    places = {"neighbours": list(features.NEIGHBOURS)}
    name = "logistic-regression-neighbours"
    if isinstance(inputs, Vectors):
        read = _of_each(features.vector_neighbours)
        yield Baseline(name, read, train, _grid("standardised"), places)
        return
    known = MAX_FEATURES if isinstance(inputs, Text) else None
    yield Baseline(
        "most-frequent-tag", _of_each(features.tokens), baseline_models.most_frequent,
        [{"smoothing": 1.0}], {"neighbours": [0]}, known,
    )  # fmt: skip
    yield Baseline(name, _neighbours, train, _grid("binary"), places, known)


def _of_each(read: Callable[[Split], Any]) -> Reader:
    """Reads the features of each split on its own."""
    return lambda data: {split: read(getattr(data, split)) for split in SPLITS}


def _neighbours(data: Dataset) -> dict[str, Any]:
    """The tokens around each step, for each split."""
    size = 1 + max(int(split.values.max(initial=0)) for split in data.splits)
    return {name: features.neighbours(getattr(data, name), size) for name in SPLITS}


def _counts(data: Dataset, words: int, max_features: int | None) -> dict[str, Any]:
    """The counts `[N, F]` of each split's n-grams.

    Raises:
        UserError: there is nothing to count.
    """
    splits = {name: getattr(data, name) for name in SPLITS}
    start = START if isinstance(data.inputs, Text) else None
    if isinstance(data.inputs, Tokens) and data.inputs.size > MAX_FEATURES:
        raise UserError(
            f"baselines count token numbers below {MAX_FEATURES:,}, and {data.name} has numbers up "
            f"to {data.inputs.size - 1:,}."
        )
    if max_features is not None:
        splits = {name: split.most_frequent_words(max_features) for name, split in splits.items()}
    ngrams = NGrams(splits["train"], words, MIN_COUNT, start)
    if not len(ngrams):
        raise UserError(
            f"no word occurs in the {len(data.train)} training examples {MIN_COUNT} times, so "
            "there is nothing to count; raise --config.data.train_examples."
        )
    return {name: ngrams.count(split) for name, split in splits.items()}


def search(
    baseline: Baseline, data: Dataset, task: Task, of_splits: dict[str, Any], seed: int
) -> list[tuple[Options, float | None]]:
    """The deciding metric on validation with each of the options; None: it is not a number."""
    measure = jax.jit(task.all_sums)  # Once for all options.
    models = _models(baseline, data, task, of_splits, baseline.grid, seed)
    found: list[tuple[Options, float | None]] = []
    for options, model in zip(baseline.grid, models, strict=True):
        outputs_NxC = jnp.asarray(model.outputs(of_splits["validation"]), jnp.float32)
        sums = measure(outputs_NxC, data.validation.targets)
        metrics_of = task.metrics({name: np.asarray(of, np.float64) for name, of in sums.items()})
        value = metrics_of[task.metric]
        found.append((options, value if math.isfinite(value) else None))
    return found


def chosen(found: Sequence[tuple[Options, float | None]], task: Task) -> tuple[Options, float]:
    """The options with the best value, the first of equals, and that value.

    Raises:
        UserError: no value is a number.
    """
    values = [(options, value) for options, value in found if value is not None]
    if not values:
        raise UserError(
            f"{task.metric} is not a number on the validation examples, whatever the options; "
            "choose another --config.task.metric."
        )
    sign = 1 if task.higher_is_better else -1
    return max(values, key=lambda pair: sign * pair[1])


def train(
    baseline: Baseline,
    data: Dataset,
    task: Task,
    of_splits: dict[str, Any],
    options: Options,
    seeds: Sequence[int],
) -> list[Answerer]:
    """A model for each seed."""
    return [next(_models(baseline, data, task, of_splits, [options], seed)) for seed in seeds]


def _models(
    baseline: Baseline,
    data: Dataset,
    task: Task,
    of_splits: dict[str, Any],
    grid: Sequence[Options],
    seed: int,
) -> Iterator[Answerer]:
    """Models trained on the items that have a label."""
    is_known_N = np.asarray(task.labelled(data.train.targets))
    known, targets_N = of_splits["train"], data.train.targets
    if not is_known_N.all():
        known, targets_N = known[is_known_N], targets_N[is_known_N]
    return baseline.train(known, targets_N, task, grid, seed)


def evaluate(
    models: Sequence[Answerer], task: Task, rows: Any, targets_N: np.ndarray
) -> Evaluation:
    """Evaluates the models of K seeds on the items of a split, whose features are `rows`."""
    all_sums, kept_K, sums_K = jax.jit(task.all_sums), [], []
    for model in models:
        outputs_NxC = model.outputs(rows)
        sums_K.append(all_sums(jnp.asarray(outputs_NxC, jnp.float32), targets_N))
        kept = task.kept(outputs_NxC, targets_N)
        kept_K.append({name: np.asarray(of) for name, of in kept.items()})
    stacked = {
        name: np.stack([np.asarray(sums[name], np.float64) for sums in sums_K])
        for name in sums_K[0]
    }
    return Evaluation(
        metrics.of_seeds(task, stacked),
        {name: np.stack([kept[name] for kept in kept_K]) for name in kept_K[0]},
        int(np.asarray(task.labelled(targets_N)).sum()),
    )
