"""This project."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from benchmarks import workload
from benchmarks.interface import Batch, Peer, Training, Weights
from configs import base
from train_lib.data.dataset import Split
from train_lib.records import weights as named_weights
from train_lib.tasks.classes import Classes
from train_lib.training import Program, Treatment, devices, fitting, metrics, optimizers
from train_lib.training.batching import DeviceSplit, fractions

devices.configure()

_TASK = Classes(["0", "1"], ["negative", "positive"])


class Ours(Peer):
    """Its own model, program and devices."""

    def __init__(self, training: Training, weights: Weights):
        config = base.get_config("benchmark", "exact" if training.masked else "tutorial")
        optimizer = (
            optimizers.adam(training.learning_rate, config.train.adam_epsilon)
            if training.optimizer == "adam"
            else optax.sgd(training.learning_rate)
        )
        self._masked = training.masked
        self._program = Program(
            [workload.build_model(training)], _TASK, optimizer, batch_size=training.batch_size,
            treatment=Treatment(config.data.mask_padding, config.data.padding_side),
        )  # fmt: skip
        params_K = self._program.params_K
        arrays = [
            jax.numpy.asarray(weights[name])[None] for name, _ in named_weights.named(params_K)
        ]
        self._program.params_K = jax.tree.unflatten(jax.tree.structure(params_K), arrays)
        self._state = fitting.start(self._program, [0]).training.state
        self._names = training.weight_names()
        # The largest so far, so that a smaller group needs no program of its own.
        self._rows, self._widths = 0, (0,)
        self._placed: dict[tuple[int, ...], tuple] = {}

    def logits(self, batch: Batch) -> np.ndarray:
        split, width = _split([batch], self._masked), batch.tokens_BxT.shape[1]
        found = self._program.evaluate(self._state.params, split, (width,), len(split))
        return found.kept["outputs"][0, :, 0]

    def train(self, batch: Batch) -> float:
        return self.epoch([batch])

    def epoch(self, batches: Sequence[Batch]) -> float:
        """As in the project's own loop: many steps per call, from reviews on the device."""
        # The others get their batches in rows from the start; these are placed on the device.
        key = tuple(id(batch.tokens_BxT) for batch in batches)
        if key not in self._placed:
            self._placed[key] = *self._place(batches), batches  # Kept, so that the ids stay valid.
        on_device, calls, _ = self._placed[key]
        sums = []
        for places, num_steps in calls:
            self._state, sums_KxS = self._program.compiled.train(
                self._state, on_device, places, num_steps, self._widths
            )
            sums.append(sums_KxS)
        return float(metrics.of_seeds(_TASK, metrics.add_up(sums))["loss"][0])

    def weights(self) -> Weights:
        arrays = dict(named_weights.named(self._state.params))
        return {name: np.asarray(arrays[name][0]) for name in self._names}

    def _place(self, group: Sequence[Batch]) -> tuple[DeviceSplit, list[tuple[jax.Array, int]]]:
        """The reviews, and for each call where they are computed and how many steps it takes."""
        rows, widest = np.max([batch.tokens_BxT.shape for batch in group], axis=0).tolist()
        self._rows = max(rows, self._rows)
        if widest > self._widths[-1]:
            self._widths = fractions(widest) if self._masked else (widest,)
        mesh = self._program.mesh
        layout = devices.layout(self._rows, mesh)
        split = _split(group, self._masked)
        ends = np.cumsum([len(batch.labels_B) for batch in group])
        plans = np.split(np.arange(len(split)), ends[:-1])
        calls = []
        for first in range(0, len(plans), fitting.STEPS_A_CALL):
            some = plans[first : first + fitting.STEPS_A_CALL]
            places = layout.place_all(some, split.lengths, fitting.STEPS_A_CALL)[None]
            calls.append((devices.spread(places, mesh), len(some)))
        return devices.replicate(_padded(split), mesh), calls


def _padded(split: Split) -> DeviceSplit:
    """The reviews, in arrays of one size for all groups of them, so that one program serves any."""
    arrays = DeviceSplit.of(split, _TASK)[:4]  # All of them have a label, so there are no weights.
    return DeviceSplit(
        *(
            np.pad(array, (0, -len(array) % size))
            for array, size in zip(arrays, (2**22, 2**15, 2**15, 2**15), strict=True)
        )
    )


def _split(group: Sequence[Batch], masked: bool) -> Split:
    """The reviews of several batches: as they come from the data set, or whole rows.

    If padding is read, it is part of the review, so that all padding is read in every row, as the
    others do. The project's own runs tell it from words, and take a shortcut.
    """
    reviews, labels = [], []
    for tokens_BxT, lengths_B, labels_B in group:
        for row, length in zip(tokens_BxT, lengths_B, strict=True):
            reviews.append(row[:length] if masked else row)
        labels.append(labels_B)
    offsets = np.cumsum([0, *map(len, reviews)], dtype=np.int64)
    return Split(np.concatenate(reviews), offsets, np.concatenate(labels).astype(np.float32))
