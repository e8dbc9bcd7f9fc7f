"""This project."""

from collections.abc import Sequence

import jax
import numpy as np
import optax
from flax import nnx

from benchmarks import workload
from benchmarks.interface import Batch, Peer, Training, Weights
from configs import base
from train_lib import devices, report, state, steps
from train_lib.data import batches

devices.configure()


class Ours(Peer):
    """Its own loop's model, steps and devices."""

    def __init__(self, training: Training, weights: Weights):
        config = base.get_config("benchmark", "exact" if training.masked else "tutorial")
        graphdef, params = nnx.split(workload.build_model(training), nnx.Param)
        arrays = [jax.numpy.asarray(weights[name]) for name, _ in report.named_arrays(params)]
        params = jax.tree.unflatten(jax.tree.structure(params), arrays)
        optimizer = (
            state.adam(training.learning_rate, config.train.adam_epsilon)
            if training.optimizer == "adam"
            else optax.sgd(training.learning_rate)
        )
        self._mesh = devices.mesh(workload.BATCH_SIZE)
        self._steps = steps.make(graphdef, optimizer, self._mesh, config.data)
        self._state = devices.replicate(state.create(params, optimizer, seed=0), self._mesh)
        self._names = training.weight_names()

    def _spread(self, batch: Batch) -> batches.Batch:
        weights_B = (batch.lengths_B > 0).astype(np.float32)
        return devices.spread(batches.Batch(*batch, weights_B), self._mesh)

    def logits(self, batch: Batch) -> np.ndarray:
        logits_B, _ = self._steps.evaluate(self._state.params, self._spread(batch))
        return np.asarray(logits_B)

    def train(self, batch: Batch) -> jax.Array:
        self._state, sums = self._steps.train(self._state, self._spread(batch))
        return sums.loss / sums.reviews

    def epoch(self, batches: Sequence[Batch]) -> float:
        """As in the project's own loop, a batch that is not full has empty rows."""
        rows = max(len(batch.labels_B) for batch in batches)
        return super().epoch([_filled(batch, rows) for batch in batches])

    def weights(self) -> Weights:
        arrays = dict(report.named_arrays(self._state.params))
        return {name: np.asarray(arrays[name]) for name in self._names}


def _filled(batch: Batch, rows: int) -> Batch:
    missing = rows - len(batch.labels_B)
    if not missing:
        return batch
    return Batch(*(np.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1)) for a in batch))
