"""Keras, with the tutorial's own code; the backend is $KERAS_BACKEND."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from benchmarks.interface import Batch, Peer, Training, Weights


class Keras(Peer):
    """A `Sequential` model, compiled with its default settings."""

    def __init__(self, training: Training, weights: Weights):
        self._model = keras.Sequential([keras.Input((None,), dtype="int32")])
        self._model.add(
            layers.Embedding(
                training.vocabulary_size, training.embedding_size, mask_zero=training.masked
            )
        )
        last = len(training.hidden_sizes) - 1
        for number, (hidden_size, rate) in enumerate(
            zip(training.hidden_sizes, training.dropout_rates, strict=True)
        ):
            if rate:
                self._model.add(layers.Dropout(rate))
            make = {"lstm": layers.LSTM, "gru": layers.GRU}[training.cell]
            layer = make(hidden_size, return_sequences=number < last)
            self._model.add(layers.Bidirectional(layer) if training.bidirectional else layer)
        self._model.add(layers.Dense(1, activation="sigmoid"))
        optimizers = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
        self._model.compile(
            optimizer=optimizers[training.optimizer](training.learning_rate),
            loss="binary_crossentropy",
            metrics=["accuracy"],
        )
        self._model.set_weights(_with_joined_biases(weights))
        self._names, self._cell = training.weight_names(), training.cell

    def logits(self, batch: Batch) -> np.ndarray:
        p_B = self._model.predict_on_batch(batch.tokens_BxT)[:, 0].astype(np.float64)
        return np.log(p_B) - np.log1p(-p_B)

    def train(self, batch: Batch) -> float:
        return self._model.train_on_batch(batch.tokens_BxT, batch.labels_B[:, None])[0]

    def epoch(self, batches: Sequence[Batch]) -> float:
        if len(batches) == 1 or len({batch.tokens_BxT.shape[1] for batch in batches}) > 1:
            return super().epoch(batches)
        tokens_NxT = np.concatenate([batch.tokens_BxT for batch in batches])
        labels_N = np.concatenate([batch.labels_B for batch in batches])
        history = self._model.fit(
            tokens_NxT, labels_N, batch_size=len(batches[0].labels_B), epochs=1, verbose=0
        )
        return history.history["loss"][0]

    def weights(self) -> Weights:
        arrays = []
        for array in self._model.get_weights():
            is_pair = self._cell == "gru" and array.ndim == 2 and len(array) == 2
            arrays += [*array] if is_pair else [array]
        return dict(zip(self._names, arrays, strict=True))


def _with_joined_biases(weights: Weights) -> list[np.ndarray]:
    """The arrays in Keras' order, in which the GRU's two biases are one array."""
    arrays: list[np.ndarray] = []
    for name, array in weights.items():
        if name.endswith("recurrent_bias"):
            arrays[-1] = np.stack([arrays[-1], array])
        else:
            arrays.append(array)
    return arrays
