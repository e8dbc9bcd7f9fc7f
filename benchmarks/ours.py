"""This project."""

from collections.abc import Sequence

import jax
import numpy as np
import optax
from train_lib.data.batches import Corpus, fractions

from benchmarks import workload
from benchmarks.interface import Batch, Peer, Training, Weights
from configs import base
from train_lib import devices, loop, metrics, report, state, steps
from train_lib.data.dataset import Split

devices.configure()


class Ours(Peer):
    """Its own loop's model, steps and devices."""

    def __init__(self, training: Training, weights: Weights):
        config = base.get_config("benchmark", "exact" if training.masked else "tutorial")
        graphdef, params_K = state.split([workload.build_model(training)])
        arrays = [
            jax.numpy.asarray(weights[name])[None] for name, _ in report.named_arrays(params_K)
        ]
        params_K = jax.tree.unflatten(jax.tree.structure(params_K), arrays)
        optimizer = (
            state.adam(training.learning_rate, config.train.adam_epsilon)
            if training.optimizer == "adam"
            else optax.sgd(training.learning_rate)
        )
        self._masked = training.masked
        self._mesh = devices.mesh()
        self._steps = steps.make(graphdef, optimizer, self._mesh, config.data)
        self._state = devices.spread_seeds(state.create(params_K, optimizer, [0]), self._mesh)
        self._names = training.weight_names()
        # The largest yet, so that a smaller group needs no program of its own.
        self._rows, self._widths = 0, (0,)
        self._placed: dict[tuple[int, ...], tuple] = {}

    def logits(self, batch: Batch) -> np.ndarray:
        split, width = _split([batch], self._masked), batch.tokens_BxT.shape[1]
        _, logits_KxN = steps.evaluate_plans(
            self._steps, self._state.params, split, [np.arange(len(split))],
            devices.layout(len(split), self._mesh), self._mesh, (width,),
        )  # fmt: skip
        return logits_KxN[0]

    def train(self, batch: Batch) -> float:
        return self.epoch([batch])

    def epoch(self, batches: Sequence[Batch]) -> float:
        """As in the project's own loop: many steps a call, from reviews that lie on the device."""
        # The others have their batches in rows from the start; these have a place on the device.
        key = tuple(id(batch.tokens_BxT) for batch in batches)
        if key not in self._placed:
            self._placed[key] = *self._place(batches), batches  # Kept, and with it the ids.
        corpus, calls, _ = self._placed[key]
        sums = []
        for places, num_steps in calls:
            self._state, sums_KxS = self._steps.train(
                self._state, corpus, places, num_steps, self._widths
            )
            sums.append(sums_KxS)
        return float(metrics.mean(sums).loss[0])

    def weights(self) -> Weights:
        arrays = dict(report.named_arrays(self._state.params))
        return {name: np.asarray(arrays[name][0]) for name in self._names}

    def _place(self, group: Sequence[Batch]) -> tuple[Corpus, list[tuple[jax.Array, int]]]:
        """The reviews, and for each call where they are computed and how many steps it takes."""
        rows, widest = np.max([batch.tokens_BxT.shape for batch in group], axis=0).tolist()
        self._rows = max(rows, self._rows)
        if widest > self._widths[-1]:
            self._widths = fractions(widest) if self._masked else (widest,)
        layout = devices.layout(self._rows, self._mesh)
        split = _split(group, self._masked)
        ends = np.cumsum([len(batch.labels_B) for batch in group])
        plans = np.split(np.arange(len(split)), ends[:-1])
        calls = []
        for first in range(0, len(plans), loop.STEPS_A_CALL):
            some = plans[first : first + loop.STEPS_A_CALL]
            places = layout.place_all(some, split.lengths, loop.STEPS_A_CALL)[None]
            calls.append((devices.spread(places, self._mesh), len(some)))
        return devices.replicate(_corpus(split), self._mesh), calls


def _corpus(split: Split) -> Corpus:
    """The reviews, in arrays of one size for all groups of them, so that one program takes any."""
    corpus = Corpus.of(split)
    tokens, *others = (
        np.pad(array, (0, -len(array) % size))
        for array, size in zip(corpus, (2**22, 2**15, 2**15, 2**15), strict=True)
    )
    return Corpus(tokens, *others)


def _split(group: Sequence[Batch], masked: bool) -> Split:
    """The reviews of several batches: as they come from the data set, or whole rows.

    Where padding is read, it is part of the review, so that all that is padding is read in every
    row, as the others do. The project's own runs know it from words, and take a shortcut.
    """
    reviews, labels = [], []
    for tokens_BxT, lengths_B, labels_B in group:
        for row, length in zip(tokens_BxT, lengths_B, strict=True):
            reviews.append(row[:length] if masked else row)
        labels.append(labels_B)
    offsets = np.cumsum([0, *map(len, reviews)], dtype=np.int64)
    return Split(np.concatenate(reviews), offsets, np.concatenate(labels).astype(np.int8))
