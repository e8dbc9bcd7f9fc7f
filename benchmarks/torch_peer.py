"""PyTorch: `nn.LSTM` and `nn.GRU`."""

import os

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.interface import Batch, Peer, Training, Weights

torch.set_num_threads(len(os.sched_getaffinity(0)))
torch.set_flush_denormal(True)  # As XLA does: gradients that vanish over long sequences are slow.

_RNN = {"lstm": nn.LSTM, "gru": nn.GRU}


class PackedModel(nn.Module):
    """What PyTorch offers: a `PackedSequence` of the tokens, without padding."""

    def __init__(self, training: Training):
        super().__init__()
        self.embedding = nn.Embedding(training.vocabulary_size, training.embedding_size)
        self.dropouts = nn.ModuleList(nn.Dropout(rate) for rate in training.dropout_rates)
        self.layers = nn.ModuleList(
            self.layer(training.cell, *sizes, bidirectional=training.bidirectional)
            for sizes in zip(training.input_sizes, training.hidden_sizes, strict=True)
        )
        self.head = nn.Linear(training.output_size, 1)
        self.masked = training.masked

    def layer(self, cell: str, *sizes: int, bidirectional: bool) -> nn.Module:
        return _RNN[cell](*sizes, bidirectional=bidirectional)

    def forward(self, tokens_BxT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(tokens_BxT.T, lengths_B, enforce_sorted=False)
        x = packed._replace(data=self.embedding(packed.data))
        for dropout, layer in zip(self.dropouts, self.layers, strict=True):
            x, state = layer(x._replace(data=dropout(x.data)))
            h_2xBxH = state[0] if isinstance(state, tuple) else state
        return self.head(torch.cat(tuple(h_2xBxH), dim=-1))[:, 0]


class PaddedLayer(nn.Module):
    """One or two directions to the end of the batch, the second from each sequence's own end."""

    def __init__(self, cell: str, input_size: int, hidden_size: int, *, bidirectional: bool):
        super().__init__()
        self.directions = nn.ModuleList(
            _RNN[cell](input_size, hidden_size) for _ in range(1 + bidirectional)
        )

    def forward(self, x_TxBxD: torch.Tensor, rows_N: torch.Tensor) -> list[torch.Tensor]:
        """The outputs of every direction at the times of their inputs.

        Args:
            x_TxBxD: the inputs.
            rows_N: the order of the T x B inputs when every sequence is reversed.
        """

        def turn(x):  # `nn.functional.embedding` picks rows, and has a fast gradient.
            return nn.functional.embedding(rows_N, x.flatten(0, 1)).view_as(x)

        outputs = [self.directions[0](x_TxBxD)[0]]
        for backward in self.directions[1:]:
            outputs.append(turn(backward(turn(x_TxBxD))[0]))
        return outputs


class PaddedModel(PackedModel):
    """Faster on a CPU: every sequence is read to the end of the batch.

    Padding after a sequence does not reach its outputs, which are read at its end.
    """

    def layer(self, cell: str, *sizes: int, bidirectional: bool) -> nn.Module:
        return PaddedLayer(cell, *sizes, bidirectional=bidirectional)

    def forward(self, tokens_BxT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        batch_size, width = tokens_BxT.shape
        last_B = lengths_B.long() - 1 if self.masked else torch.full((batch_size,), width - 1)
        columns_B = torch.arange(batch_size)
        times_TxB = (last_B - torch.arange(width)[:, None]) % width
        rows_N = (times_TxB * batch_size + columns_B).flatten()
        x_TxBxD = self.embedding(tokens_BxT.T)
        for dropout, layer in zip(self.dropouts, self.layers, strict=True):
            outputs = layer(dropout(x_TxBxD), rows_N)
            x_TxBxD = torch.cat(outputs, dim=-1)
        ends = [outputs[0][last_B, columns_B], *(output[0] for output in outputs[1:])]
        return self.head(torch.cat(ends, dim=-1))[:, 0]


class Packed(Peer):
    """Trains `PackedModel` with fused Adam."""

    model = PackedModel

    def __init__(self, training: Training, weights: Weights):
        self._model = self.model(training)
        self._cell = training.cell
        for name, parameter in self._model.named_parameters():
            # PyTorch adds two biases to an LSTM, where one suffices.
            if training.cell == "lstm" and "bias_hh" in name:
                parameter.requires_grad_(False).zero_()
        # Trained parameters come in the same order as in `Weights`.
        trained = [p for p in self._model.parameters() if p.requires_grad]
        self._named = dict(zip(training.weight_names(), trained, strict=True))
        with torch.no_grad():
            for name, parameter in self._named.items():
                array = _transposed(name, self._reordered(name, weights[name]))
                parameter.copy_(torch.from_numpy(array))
        if training.optimizer == "adam":
            self._optimizer = torch.optim.Adam(
                trained, lr=training.learning_rate, eps=1e-7, fused=True
            )
        else:
            self._optimizer = torch.optim.SGD(trained, lr=training.learning_rate)

    def logits(self, batch: Batch) -> np.ndarray:
        self._model.eval()
        with torch.no_grad():
            return self._model(*map(torch.from_numpy, batch[:2])).numpy()

    def train(self, batch: Batch) -> torch.Tensor:
        self._model.train()
        tokens_BxT, lengths_B, labels_B = map(torch.from_numpy, batch)
        self._optimizer.zero_grad()
        logits_B = self._model(tokens_BxT, lengths_B)
        loss = nn.functional.binary_cross_entropy_with_logits(logits_B, labels_B)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def weights(self) -> Weights:
        return {
            name: self._reordered(name, _transposed(name, parameter.detach().numpy())).copy()
            for name, parameter in self._named.items()
        }

    def _reordered(self, name: str, array: np.ndarray) -> np.ndarray:
        """Exchanges the GRU's first two gates, which PyTorch has the other way round."""
        if self._cell != "gru" or not name.startswith("encoder."):
            return array
        first, second, third = np.split(array, 3, axis=-1)
        return np.concatenate([second, first, third], axis=-1)


class Padded(Packed):
    """Trains `PaddedModel` with fused Adam."""

    model = PaddedModel


def _transposed(name: str, array: np.ndarray) -> np.ndarray:
    """Transposes kernels, which are stored the other way round."""
    return array.T if name.endswith("kernel") else array
