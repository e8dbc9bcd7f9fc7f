"""Flax: `nnx.RNN` and `nnx.Bidirectional`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.interface import Batch, Peer, Training, Weights


class Model(nnx.Module):
    """Embedding, LSTM layers with dropout on each one's input, one logit."""

    def __init__(self, training: Training, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(training.vocabulary_size, training.embedding_size, rngs=rngs)
        self.dropouts = nnx.List(nnx.Dropout(rate, rngs=rngs) for rate in training.dropout_rates)
        self.layers = nnx.List(
            self._layer(sizes, training.bidirectional, rngs)
            for sizes in zip(training.input_sizes, training.hidden_sizes, strict=True)
        )
        self.head = nnx.Linear(training.output_size, 1, rngs=rngs)
        self.hidden_size = training.hidden_sizes[-1]
        self.masked = training.masked

    @staticmethod
    def _layer(sizes: tuple[int, int], bidirectional: bool, rngs: nnx.Rngs):
        # LSTMCell and unrolling are slower on a CPU, and so is splitting a batch over its cores.
        def rnn():
            return nnx.RNN(nnx.OptimizedLSTMCell(*sizes, rngs=rngs), time_major=True, rngs=rngs)

        if bidirectional:
            return nnx.Bidirectional(rnn(), rnn(), time_major=True, rngs=rngs)
        return rnn()

    def __call__(self, tokens_BxT: jax.Array, lengths_B: jax.Array) -> jax.Array:
        batch_size, width = tokens_BxT.shape
        x_TxBxD = self.embedding(tokens_BxT.T)
        for dropout, layer in zip(self.dropouts, self.layers, strict=True):
            x_TxBxD = layer(dropout(x_TxBxD), seq_lengths=lengths_B if self.masked else None)
        # A direction's last output is where it ends: forwards at the last word, in reverse at the
        # first.
        last_B = lengths_B - 1 if self.masked else jnp.full(batch_size, width - 1)
        forward_BxH = x_TxBxD[last_B, jnp.arange(batch_size), : self.hidden_size]
        backward_BxH = x_TxBxD[0, :, self.hidden_size :]  # Empty with one direction.
        return self.head(jnp.concatenate([forward_BxH, backward_BxH], axis=-1))[:, 0]


@nnx.jit
def _train_step(model: Model, optimizer: nnx.Optimizer, batch: Batch) -> jax.Array:
    def loss_of(model):
        logits_B = model(batch.tokens_BxT, batch.lengths_B)
        return optax.sigmoid_binary_cross_entropy(logits_B, batch.labels_B).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


@nnx.jit
def _logits(model: Model, batch: Batch) -> jax.Array:
    return model(batch.tokens_BxT, batch.lengths_B)


class Nnx(Peer):
    """An `nnx.Module` and an `nnx.Optimizer`, updated in `nnx.jit`."""

    def __init__(self, training: Training, weights: Weights):
        self._model = Model(training, nnx.Rngs(0))
        self._names = training.weight_names()
        variables = dict(zip(self._names, self._variables(training), strict=True))
        for name, variable in variables.items():
            variable[...] = weights[name]
        make = {"adam": lambda rate: optax.adam(rate, eps=1e-7), "sgd": optax.sgd}
        self._optimizer = nnx.Optimizer(
            self._model, make[training.optimizer](training.learning_rate), wrt=nnx.Param
        )
        self._training = training

    def _variables(self, training: Training):
        """Every parameter in the order of `Weights`; layouts and gates are the same."""
        model = self._model
        yield model.embedding.embedding
        for layer in model.layers:
            for rnn in (
                (layer.forward_rnn, layer.backward_rnn) if training.bidirectional else (layer,)
            ):
                yield rnn.cell.dense_i.kernel
                yield rnn.cell.dense_h.kernel
                yield rnn.cell.dense_h.bias
        yield model.head.kernel
        yield model.head.bias

    def logits(self, batch: Batch) -> np.ndarray:
        self._model.eval()
        return np.asarray(_logits(self._model, batch))

    def train(self, batch: Batch) -> jax.Array:
        self._model.train()
        return _train_step(self._model, self._optimizer, batch)

    def weights(self) -> Weights:
        variables = self._variables(self._training)
        return {
            name: np.asarray(variable[...])
            for name, variable in zip(self._names, variables, strict=True)
        }
