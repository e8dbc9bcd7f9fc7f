"""What all peers are given: the tutorial's models with the same weights, and the same batches."""

import importlib
import os
import platform

import numpy as np
from flax import nnx

from benchmarks.interface import Batch, Training, Weights
from seqmodels import factory
from seqmodels.model import SequenceModel
from train_lib import report
from train_lib.data import batches
from train_lib.data.dataset import Split

ARCHITECTURES = ("lstm", "bilstm", "stacked")
BATCH_SIZE = 512
_SEED = 0


def config_of(architecture: str, masked: bool):
    """The project's own config of an architecture, in the treatment of length that is asked for."""
    return importlib.import_module(f"configs.{architecture}").get_config(
        "exact" if masked else "tutorial"
    )


def training_of(config) -> Training:
    """What a config says, for all peers."""
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
        cell="lstm",
        hidden_sizes=training.hidden_sizes,
        direction="bidirectional" if training.bidirectional else "forward",
        dropout_rates=training.dropout_rates,
        pooling="last",
        seed=_SEED,
    )


def draw_weights(training: Training) -> Weights:
    """This project's initial weights, but for the biases: random, so that none can be left out."""
    arrays = dict(report.named_arrays(nnx.split(build_model(training), nnx.Param)[1]))
    weights = {name: np.array(arrays[name]) for name in training.weight_names()}
    rng = np.random.default_rng(_SEED)
    for name, array in weights.items():
        if name.endswith("bias"):
            array += rng.uniform(0.1, 0.5, array.shape).astype(np.float32)
    return weights


def epoch_of(split: Split, data_config) -> list[Batch]:
    """The batches of a shuffled epoch in a config's treatment of length."""
    rng = np.random.default_rng([_SEED, 1])
    plans = batches.plans(split, data_config, BATCH_SIZE, rng)
    return [rows_of(split, plan, data_config) for plan in plans]


def rows_of(split: Split, plan: np.ndarray, data_config) -> Batch:
    """Reviews in padded rows: as wide as the longest of all, or as the longest of them needs."""
    lengths = split.lengths[plan]
    width = bucket_width(lengths.max()) if data_config.mask_padding else split.lengths.max()
    tokens_BxT = np.zeros((len(plan), width), np.int32)
    for row, review, length in zip(tokens_BxT, plan, lengths, strict=True):
        place = slice(width - length, None) if data_config.padding_side == "pre" else slice(length)
        row[place] = split.tokens[split.offsets[review] : split.offsets[review + 1]]
    return Batch(tokens_BxT, lengths.astype(np.int32), split.labels[plan].astype(np.float32))


def bucket_width(length: int) -> int:
    """The width that a batch whose longest review is `length` is padded to, for all peers.

    Widths grow by a factor of about 1.25 from 64 up, in multiples of 16: little padding, and few
    shapes for those that compile for each.
    """
    width = 64
    while width < length:
        width = (width * 5 // 4 + 15) // 16 * 16
    return width


def machine() -> dict:
    """What the figures depend on beside the libraries."""
    return {
        "device": report.describe_device(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
