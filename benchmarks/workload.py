"""What all peers are given: the tutorial's models with the same weights, and the same batches."""

import importlib
import os
import platform

import numpy as np
from flax import nnx

from benchmarks.interface import Batch, Training, Weights
from seqmodels import SequenceModel, factory
from train_lib.data.dataset import Split
from train_lib.records import environment, weights
from train_lib.training import Treatment, batching

ARCHITECTURES = ("lstm", "bilstm", "stacked")
BATCH_SIZE = Training.batch_size
_SEED = 0


def config_of(architecture: str, masked: bool):
    """The project's own config of an architecture, in the requested treatment of length."""
    return importlib.import_module(f"configs.{architecture}").get_config(
        "exact" if masked else "tutorial"
    )


def training_of(config) -> Training:
    """A config's training, as all peers take it."""
    return Training(
        vocabulary_size=config.data.max_features,
        embedding_size=config.model.embedding_size,
        hidden_sizes=tuple(config.model.hidden_sizes),
        bidirectional=config.model.direction == "bidirectional",
        dropout_rates=tuple(config.model.dropout_rates),
        masked=config.data.mask_padding,
        learning_rate=config.train.learning_rate,
    )


def build_model(training: Training) -> SequenceModel:
    """This project's model, freshly initialised."""
    return factory.build(
        vocabulary_size=training.vocabulary_size,
        embedding_size=training.embedding_size,
        cell=training.cell,
        hidden_sizes=training.hidden_sizes,
        direction="bidirectional" if training.bidirectional else "forward",
        dropout_rates=training.dropout_rates,
        pooling="last",
        seed=_SEED,
    )


def draw_weights(training: Training) -> Weights:
    """This project's initial weights, but with random biases, so that none can be left out."""
    arrays = dict(weights.named(nnx.split(build_model(training), nnx.Param)[1]))
    drawn = {name: np.array(arrays[name]) for name in training.weight_names()}
    rng = np.random.default_rng(_SEED)
    for name, array in drawn.items():
        if name.endswith("bias"):
            array += rng.uniform(0.1, 0.5, array.shape).astype(np.float32)
    return drawn


def epoch_of(split: Split, treatment: Treatment) -> list[Batch]:
    """The batches of a shuffled epoch in a treatment of length."""
    rng = np.random.default_rng([_SEED, 1])
    plans = batching.plans(split.lengths, treatment, BATCH_SIZE, rng)
    return [rows_of(split, plan, treatment) for plan in plans]


def rows_of(split: Split, plan: np.ndarray, treatment: Treatment) -> Batch:
    """Reviews in padded rows: as wide as the longest of all, or as the longest of them needs."""
    lengths = split.lengths[plan]
    width = bucket_width(lengths.max()) if treatment.mask_padding else split.lengths.max()
    tokens_BxT = np.zeros((len(plan), width), np.int32)
    for row, review, length in zip(tokens_BxT, plan, lengths, strict=True):
        place = slice(width - length, None) if treatment.padding_side == "pre" else slice(length)
        row[place] = split.values[split.offsets[review] : split.offsets[review + 1]]
    return Batch(tokens_BxT, lengths.astype(np.int32), split.targets[plan].astype(np.float32))


def bucket_width(length: int) -> int:
    """The width to which all peers pad a batch whose longest review is `length`.

    Widths grow by a factor of about 1.25 from 64 up, in multiples of 16: little padding, and few
    shapes for those that compile for each.
    """
    width = 64
    while width < length:
        width = (width * 5 // 4 + 15) // 16 * 16
    return width


def machine() -> dict:
    """What the figures depend on besides the libraries."""
    return {
        "device": environment.describe_device(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
