"""What all peers are given: the tutorial's models with the same weights, and the same batches."""

import importlib
import os
import platform

import numpy as np
from flax import nnx

from benchmarks.interface import Batch, Training, Weights
from seqmodels import factory
from seqmodels.classifier import Classifier
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
        bidirectional=config.model.bidirectional,
        dropout_rates=tuple(config.model.dropout_rates),
        masked=config.data.mask_padding,
        learning_rate=config.train.learning_rate,
    )


def build_model(training: Training) -> Classifier:
    """This project's model, freshly initialised."""
    return factory.build(
        vocabulary_size=training.vocabulary_size,
        embedding_size=training.embedding_size,
        cell="lstm",
        hidden_sizes=training.hidden_sizes,
        bidirectional=training.bidirectional,
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
    return [
        Batch(*(array[: len(plan.reviews)] for array in filled[:3]))
        for plan in batches.plans(split, data_config, BATCH_SIZE, rng)
        for filled in [batches.batch(split, plan, BATCH_SIZE, data_config.padding_side)]
    ]


def machine() -> dict:
    """What the figures depend on beside the libraries."""
    return {
        "device": report.describe_device(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
