"""This project."""

import jax
import numpy as np
import optax
from flax import nnx

from benchmarks.interface import Batch, Peer, Training, Weights
from configs import base
from train_lib import devices, loop, report, state, steps
from train_lib.data import batches

devices.configure()


class Ours(Peer):
    """Its own loop's model, steps and devices."""

    def __init__(self, training: Training, weights: Weights):
        config = base.get_config("benchmark", "exact" if training.masked else "tutorial")
        config.data.max_features = training.vocabulary_size
        for field in ("embedding_size", "hidden_sizes", "bidirectional", "dropout_rates"):
            config.model[field] = getattr(training, field)
        graphdef, params = nnx.split(loop.build_model(config), nnx.Param)
        arrays = [jax.numpy.asarray(weights[name]) for name, _ in report.named_arrays(params)]
        params = jax.tree.unflatten(jax.tree.structure(params), arrays)
        optimizer = (
            state.adam(training.learning_rate, config.train.adam_epsilon)
            if training.optimizer == "adam"
            else optax.sgd(training.learning_rate)
        )
        self._mesh = devices.mesh(config.train.batch_size)
        self._steps = steps.make(graphdef, optimizer, self._mesh, config.data)
        self._state = devices.replicate(state.create(params, optimizer, seed=0), self._mesh)
        self._names = training.weight_names()
        self._full_batch = config.train.batch_size

    def _spread(self, batch: Batch) -> batches.Batch:
        """A batch with empty rows up to the size that all batches have, as in the project's own."""
        rows = len(batch.labels_B)
        full = rows if rows % self._mesh.size == 0 else self._full_batch
        arrays = batches.Batch(*batch, np.ones(rows, np.float32))
        arrays = jax.tree.map(
            lambda array: np.pad(array, [(0, full - rows)] + [(0, 0)] * (array.ndim - 1)), arrays
        )
        return devices.spread(arrays, self._mesh)

    def logits(self, batch: Batch) -> np.ndarray:
        logits_B, _ = self._steps.evaluate(self._state.params, self._spread(batch))
        return np.asarray(logits_B)[: len(batch.labels_B)]

    def train(self, batch: Batch) -> jax.Array:
        self._state, sums = self._steps.train(self._state, self._spread(batch))
        return sums.loss / sums.reviews

    def weights(self) -> Weights:
        arrays = dict(report.named_arrays(self._state.params))
        return {name: np.asarray(arrays[name]) for name in self._names}
