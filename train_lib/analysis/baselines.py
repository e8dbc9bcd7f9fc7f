"""Classical baselines on an experiment's reviews: what a recurrent model has to be better than.

python -m train_lib.baselines [--config=configs/lstm.py] [--workdir=runs/baselines] [--full]

Each is trained, validated and tested on the reviews that `main.py` has with the same config, and
leaves the folder of a finished run. Words are split as for the recurrent models, but all of them
are known, not only the config's vocabulary, unless the name says so. Options are chosen by
the validation reviews. `--full` then trains on these too, as was done for the published figures.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from scipy.sparse import csr_array
from train_lib.data.imdb import ImdbCorpus
from train_lib.data.ngrams import MAX_FEATURES, NGrams
from train_lib.metrics import Metrics
from train_lib.ngram_models import Model, Options, train_averaged, train_linear
from train_lib.progress import Stopwatch
from train_lib.state import Position

from train_lib import command, loop, metrics, report, settings
from train_lib.data import dataset
from train_lib.data.dataset import SPLITS, Dataset
from train_lib.errors import UserError

MIN_COUNT = 2
"""How often the training reviews must have an n-gram. With all of them, NB-SVM has five times as
many parameters and a validation accuracy of .9105 instead of .9123 (three words, IMDB)."""


@dataclasses.dataclass(frozen=True)
class Baseline:
    """One way to classify counted n-grams.

    Attributes:
        name: of its folder.
        words: of the longest n-grams.
        train: from counts, labels, a grid of options and a seed to a model for each of the options.
        grid: the options to choose from; the first of equals is chosen.
        max_features: of its vocabulary.
        is_random: whether another seed makes another model.
        published: accuracy on IMDB's test reviews, trained on all 25,000 others; and whose it is.
    """

    name: str
    words: int
    train: Callable[[csr_array, np.ndarray, Sequence[Options], int], Iterator[Model]]
    grid: Sequence[Options]
    max_features: int = MAX_FEATURES
    is_random: bool = False
    published: str = ""


def baselines(max_features: int) -> list[Baseline]:
    """All there are; `max_features` is that of the recurrent models."""

    def grid(*weightings: str) -> list[Options]:
        costs = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
        return [{"weighting": name, "cost": cost} for name in weightings for cost in costs]

    words, ratio = grid("binary", "tf-idf"), grid("log-count ratio")
    epochs = [{"embedding_size": 10, "epochs": number} for number in range(1, 7)]
    wang = "Wang and Manning 2012"
    return [
        Baseline(f"logistic-regression-{max_features}", 1, train_linear, words, max_features),
        Baseline("logistic-regression", 1, train_linear, words, published=f".8695 (SVM), {wang}"),
        Baseline("nb-svm-1", 1, train_linear, ratio, published=f".8829, {wang}"),
        Baseline("nb-svm-2", 2, train_linear, ratio, published=f".9122, {wang}"),
        Baseline("nb-svm-3", 3, train_linear, ratio, published=".9187, Mesnil et al. 2014"),
        Baseline("fasttext-2", 2, train_averaged, epochs, is_random=True,
                 published=".9056, Keras' example imdb_fasttext"),
    ]  # fmt: skip


def run(config: ConfigDict, workdir: str | None = None, *, full: bool = False) -> list[dict]:
    """Chooses, trains and tests all baselines, and prints a table of them.

    Args:
        config: as `configs/base.py` describes it; its data and seeds are the baselines'.
        workdir: where each baseline gets a run folder; None: under `runs/`. Those that are finished
            there are left as they are.
        full: train on the validation reviews too, once they have chosen the options.

    Returns:
        What `result.json` of each of them holds.

    Raises:
        UserError: the config, the data or a folder cannot be used; nothing was overwritten.
    """
    settings.check(config)
    everyone = baselines(config.data.max_features)
    configs = [_describe(baseline, config, full) for baseline in everyone]
    with contextlib.ExitStack() as stack:
        folders = [
            report.RunFolder.open(workdir and f"{workdir}/{described.name}", described)
            for described in configs
        ]
        for folder in folders:
            stack.callback(folder.close)
        to_choose = to_train = _load(config.data)
        if full:
            to_train = _load(configs[0].data)
        print(report.describe_data(to_train), flush=True)
        results = []
        for baseline, described, folder in zip(everyone, configs, folders, strict=True):
            print(f"{described.name}: {folder.path}", flush=True)
            if not folder.is_finished():
                _run(baseline, described, to_choose, to_train, folder)
            results.append(folder.read_json("result.json"))
    print(f"\n{_table(everyone, results)}", flush=True)
    return results


def _describe(baseline: Baseline, config: ConfigDict, full: bool) -> ConfigDict:
    """The config of one baseline."""
    data = config.data.to_dict() | {"max_features": baseline.max_features}
    if full:
        data["train_reviews"] += data["validation_reviews"]
        data["validation_reviews"] = 0
    seeds = config.train.seeds if baseline.is_random else 1
    return ConfigDict(
        {
            "name": baseline.name,
            "model": {"ngram_words": baseline.words, "min_count": MIN_COUNT},
            "data": data,
            "train": {"seeds": seeds, "seed": config.train.seed},
        }
    )


def _load(data_config: ConfigDict) -> Dataset:
    """The reviews of a config, with all their words."""
    config = ConfigDict(data_config.to_dict())
    config.max_features = MAX_FEATURES
    return dataset.load(config)


def _run(
    baseline: Baseline,
    config: ConfigDict,
    to_choose: Dataset,
    to_train: Dataset,
    folder: report.RunFolder,
) -> None:
    """Chooses a baseline's options with one data set, and trains and tests it with another."""
    stopwatch = Stopwatch()
    seeds = loop.seeds_of(config)
    with stopwatch.phase("data"):
        counts = _count(baseline, to_choose)
    with stopwatch.phase("train"):
        search = _search(baseline, to_choose, counts, seeds[0])
        options = max(search, key=lambda choice: choice[1])[0]
    if to_train is not to_choose:
        with stopwatch.phase("data"):
            counts = _count(baseline, to_train)
    with stopwatch.phase("train"):
        train = counts["train"], to_train.train.labels
        models = [next(baseline.train(*train, [options], seed)) for seed in seeds]
    with stopwatch.phase("evaluate"):
        logits = {
            split: np.stack([model.logits(counts[split]) for model in models])
            for split in ("validation", "test")
            if len(getattr(to_train, split))
        }
        evaluated = {
            split: _metrics(logits_KxN, getattr(to_train, split).labels)
            for split, logits_KxN in logits.items()
        }

    folder.write_predictions(seeds, to_train.test, logits["test"])
    result = report.result(
        config, to_train, seeds, models[0].parameters, Position.first(len(seeds)),
        evaluated.get("validation"), evaluated["test"], stopwatch,
    )  # fmt: skip
    result["model"]["architecture"] |= options
    result["versions"]["scikit-learn"] = metadata.version("scikit-learn")
    result["search"] = [options | {"validation_accuracy": value} for options, value in search]
    folder.finish(result)


def _count(baseline: Baseline, data: Dataset) -> dict[str, csr_array]:
    """The counts `[N, F]` of each split's reviews."""
    splits = {
        name: getattr(data, name).most_frequent_words(baseline.max_features) for name in SPLITS
    }
    ngrams = NGrams(splits["train"], baseline.words, MIN_COUNT)
    if not len(ngrams):
        raise UserError(
            f"no word stands in the {len(data.train)} training reviews {MIN_COUNT} times, so there "
            "is nothing to count; raise --config.data.train_reviews."
        )
    return {name: ngrams.count(split) for name, split in splits.items()}


def _search(
    baseline: Baseline, data: Dataset, counts: dict[str, csr_array], seed: int
) -> list[tuple[Options, float]]:
    """Validation accuracy with each of the options."""
    models = baseline.train(counts["train"], data.train.labels, baseline.grid, seed)
    labels_N = data.validation.labels
    return [
        (options, float(_metrics(model.logits(counts["validation"])[None], labels_N).accuracy[0]))
        for options, model in zip(baseline.grid, models, strict=True)
    ]


def _metrics(logits_KxN: np.ndarray, labels_N: np.ndarray) -> Metrics:
    """Loss and accuracy of each of K models."""
    of_each = jax.vmap(metrics.cross_entropy, (0, None, None))
    return metrics.mean([of_each(logits_KxN, labels_N, np.ones(len(labels_N)))])


def _table(everyone: Sequence[Baseline], results: Sequence[dict]) -> str:
    """All baselines, for people; the published figures where they are of the same reviews."""
    data = results[0]["dataset"]
    rows = [["baseline", "options", "parameters", "validation", "test [95 %]", "seconds", ""]]
    if data["name"] == ImdbCorpus.name:
        rows[0][-1] = "published, of 25,000"
    for baseline, result in zip(everyone, results, strict=True):
        options, test = result["model"]["architecture"], result["test_accuracy"]
        best = max(choice["validation_accuracy"] for choice in result["search"])
        rows.append(
            [
                baseline.name,
                ", ".join(f"{name} {options[name]}" for name in baseline.grid[0]),
                f"{result['model']['parameters']:,}",
                f"{best:.4f}",
                f"{test['mean']:.4f} [{test['ci95_low']:.4f}, {test['ci95_high']:.4f}]",
                f"{result['seconds']['total']:.0f}",
                baseline.published if rows[0][-1] else "",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    title = f"{data['name']}, trained on {data['train']:,} reviews, tested on {data['test']:,}"
    return "\n".join([title, "", *lines])


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    _FULL = flags.DEFINE_bool(
        "full", False, "Train on the validation reviews too, once the options are chosen."
    )
    flags.FLAGS.set_default("config", "configs/lstm.py")
    jax.config.update("jax_platforms", "cpu")  # Where scikit-learn is.
    command.run(lambda config, workdir: run(config, workdir, full=_FULL.value))
