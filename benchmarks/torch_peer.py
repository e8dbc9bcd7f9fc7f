"""PyTorch."""

import os

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.interface import Batch, Peer, Training, Weights

torch.set_num_threads(len(os.sched_getaffinity(0)))


class Model(nn.Module):
    """Embedding, LSTM layers with dropout on the way into each, one logit."""

    def __init__(self, training: Training):
        super().__init__()
        self.embedding = nn.Embedding(training.vocabulary_size, training.embedding_size)
        self.dropouts = nn.ModuleList(nn.Dropout(rate) for rate in training.dropout_rates)
        self.layers = nn.ModuleList(
            nn.LSTM(input_size, hidden_size, bidirectional=training.bidirectional)
            for input_size, hidden_size in zip(
                training.input_sizes, training.hidden_sizes, strict=True
            )
        )
        self.head = nn.Linear(training.output_size, 1)
        self.masked = training.masked

    def forward(self, tokens_BxT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        if self.masked:
            # Packed before anything else, so that padding costs nothing from here on.
            packed = pack_padded_sequence(tokens_BxT.T, lengths_B, enforce_sorted=False)
            x = packed._replace(data=self.embedding(packed.data))
        else:
            x = self.embedding(tokens_BxT.T)
        for dropout, layer in zip(self.dropouts, self.layers, strict=True):
            x = x._replace(data=dropout(x.data)) if self.masked else dropout(x)
            x, (h_2xBxH, _) = layer(x)
        return self.head(torch.cat(tuple(h_2xBxH), dim=-1))[:, 0]


class Torch(Peer):
    """`nn.LSTM`, over a `PackedSequence` where padding is masked."""

    def __init__(self, training: Training, weights: Weights):
        self._model = Model(training)
        for name, parameter in self._model.named_parameters():
            if "bias_hh" in name:  # PyTorch adds two biases where one does the same.
                parameter.requires_grad_(False).zero_()
        # What is trained comes in the same order as in `Weights`.
        trained = [p for p in self._model.parameters() if p.requires_grad]
        self._named = dict(zip(training.weight_names(), trained, strict=True))
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(torch.from_numpy(_transposed(name, weights[name])))
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
            name: _transposed(name, parameter.detach().numpy()).copy()
            for name, parameter in self._named.items()
        }


def _transposed(name: str, array: np.ndarray) -> np.ndarray:
    """Kernels are stored the other way round."""
    return array.T if name.endswith("kernel") else array
