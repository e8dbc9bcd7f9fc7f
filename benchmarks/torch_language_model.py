"""PyTorch's side of `benchmarks.language_model`: `nn.LSTM` and fused AdamW."""

import itertools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from train_lib.data.vocabulary import UNKNOWN

torch.set_num_threads(len(os.sched_getaffinity(0)))


class LanguageModel(nn.Module):
    """Embedding, LSTM layers, and an affine function of every step.

    Args:
        weights: the weights, by this project's names.
        model: the fields of `config.model`.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], model: Mapping[str, Any]):
        super().__init__()
        self.embedding = nn.Embedding(*weights["inputs.table"].shape)
        sizes = [self.embedding.embedding_dim, *model["hidden_sizes"]]
        self.layers = nn.ModuleList(nn.LSTM(*pair) for pair in itertools.pairwise(sizes))
        self.head = nn.Linear(*weights["head.kernel"].shape)
        self.dropouts = [*model["dropout_rates"], model["output_dropout"]]
        self.weight_drop, self.word_dropout = model["weight_drop"], model["word_dropout"]
        with torch.no_grad():
            self.embedding.weight.copy_(torch.from_numpy(weights["inputs.table"]))
            self.head.weight.copy_(torch.from_numpy(weights["head.kernel"].T))
            self.head.bias.copy_(torch.from_numpy(weights["head.bias"]))
            for number, layer in enumerate(self.layers):
                own = f"encoder.layers.{number}.forward."
                layer.weight_ih_l0.copy_(torch.from_numpy(weights[f"{own}kernel"].T))
                layer.weight_hh_l0.copy_(torch.from_numpy(weights[f"{own}recurrent_kernel"].T))
                layer.bias_ih_l0.copy_(torch.from_numpy(weights[f"{own}bias"]))
                # PyTorch adds two biases where one suffices.
                layer.bias_hh_l0.requires_grad_(False).zero_()

    def forward(self, tokens_BxT: torch.Tensor, states: list | None) -> tuple[torch.Tensor, list]:
        """The outputs `[T, B, V]`, and each layer's state after the last step."""
        if self.training and self.word_dropout:
            is_dropped_BxT = torch.rand(tokens_BxT.shape) < self.word_dropout
            tokens_BxT = torch.where(is_dropped_BxT, UNKNOWN, tokens_BxT)
        x_TxBxD, new_states = self.embedding(tokens_BxT.T), []
        for number, layer in enumerate(self.layers):
            x_TxBxD = nn.functional.dropout(x_TxBxD, self.dropouts[number], self.training)
            given = x_TxBxD, states and states[number]
            if self.training and self.weight_drop:
                dropped = nn.functional.dropout(layer.weight_hh_l0, self.weight_drop)
                weights = dict(layer.named_parameters()) | {"weight_hh_l0": dropped}
                x_TxBxD, state = torch.func.functional_call(layer, weights, given)
            else:
                x_TxBxD, state = layer(*given)
            new_states.append(tuple(part.detach() for part in state))
        x_TxBxD = nn.functional.dropout(x_TxBxD, self.dropouts[-1], self.training)
        return self.head(x_TxBxD), new_states


class Training:
    """The model and its recipe.

    Args:
        weights: the model's initial weights.
        config: the config as a dictionary.
        rates_N: the learning rate of every update.
        bfloat16: whether products are in bfloat16.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        config: Mapping[str, Any],
        rates_N: np.ndarray,
        bfloat16: bool,
    ):
        train = config["train"]
        torch.manual_seed(train["seed"])
        self._model = LanguageModel(weights, config["model"])
        self._rates_N, self._bfloat16 = rates_N, bfloat16
        self._clip_norm, self._decay = train["clip_norm"], train["ema_decay"]
        self._trained = [one for one in self._model.parameters() if one.requires_grad]
        matrices = [one for one in self._trained if one.ndim > 1]
        vectors = [one for one in self._trained if one.ndim == 1]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": train["weight_decay"]},
                {"params": vectors, "weight_decay": 0.0},
            ],
            betas=(0.9, train["b2"]),
            fused=True,
        )
        self._averaged = [one.detach().clone() for one in self._trained]
        self._updates, self._states = 0, None

    def begin_epoch(self) -> None:
        """Lets the next update begin with an empty state."""
        self._states = None

    def update(self, tokens_BxT: np.ndarray, targets_BxT: np.ndarray) -> float:
        """Makes an update; returns the mean loss in nats per token, of those that have a target."""
        self._model.train()
        for group in self._optimizer.param_groups:
            group["lr"] = self._rates_N[self._updates]
        self._optimizer.zero_grad()
        loss, count = self._loss(tokens_BxT, targets_BxT)
        loss = loss / count
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained, self._clip_norm or torch.inf)
        self._optimizer.step()
        self._updates += 1
        # The share of the new ones that makes it the bias-corrected average.
        share = (1 - self._decay) / (1 - self._decay**self._updates)
        torch._foreach_lerp_(self._averaged, [one.detach() for one in self._trained], share)
        return loss.item()

    def test(self, tokens_SxT: np.ndarray, targets_SxT: np.ndarray) -> float:
        """The loss of the averaged parameters; the blocks of a stream are read one by one."""
        with torch.no_grad():
            for one, averaged in zip(self._trained, self._averaged, strict=True):
                one.copy_(averaged)
            self._model.eval()
            self.begin_epoch()
            of_blocks = [
                self._loss(*(block[None] for block in pair))
                for pair in zip(tokens_SxT, targets_SxT, strict=True)
            ]
        return float(sum(loss for loss, _ in of_blocks)) / sum(count for _, count in of_blocks)

    def _loss(self, tokens_BxT: np.ndarray, targets_BxT: np.ndarray) -> tuple[torch.Tensor, int]:
        """The sum of the losses, and their number."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            outputs, self._states = self._model(torch.from_numpy(tokens_BxT), self._states)
        targets = torch.from_numpy(targets_BxT.T).reshape(-1).long()
        loss = nn.functional.cross_entropy(
            outputs.flatten(0, 1).float(), targets, ignore_index=-1, reduction="sum"
        )
        return loss, int((targets_BxT >= 0).sum())
