"""The next token at every step: a language model.

The loss is the cross-entropy, in nats per token. For characters and bytes, the number of bytes that
a token stands for is known, so bits per byte, which do not depend on how a text is split, are
reported.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import logsumexp

from train_lib.tasks import base
from train_lib.tasks.base import Array, BadTarget, Kept
from train_lib.tasks.common import naming

_METRICS = ("loss", "bits_per_token", "bits_per_byte", "perplexity", "accuracy")


class NextToken(base.Task):
    """One of V tokens for each step: the next one.

    Attributes:
        tokens: V pairs: the name of each, and how many bytes of a text it stands for; None: not
            known.
    """

    per_step = True
    predicts_inputs = True
    share_metrics = ("accuracy",)
    score_unit = "nats a token"
    examples = ([1, 2, 3, 1], [2, 3], [1])

    def __init__(
        self, tokens: Sequence[Sequence[Any]], *, metric: str = "loss", sampled_tokens: int = 0
    ):
        """As `of_tokens`."""
        self.tokens = [list(token) for token in tokens]
        self.num_outputs = len(self.tokens)
        self.metric = naming.choose("metric", metric, _METRICS)
        self.higher_is_better = self.metric == "accuracy"
        self.sampled_tokens = sampled_tokens
        if sampled_tokens >= self.num_outputs:
            raise ValueError(
                f"sampled_tokens={sampled_tokens:,} must be below the number of tokens, "
                f"{self.num_outputs:,}; set it to 0 to use all of them"
            )
        if self.metric == "bits_per_byte" and all(of is None for _, of in self.tokens[4:]):
            raise ValueError(
                "metric='bits_per_byte' needs tokens that stand for a known number of bytes: "
                "characters or bytes, as in config.data.text_rules='bytes'"
            )

    @classmethod
    def of_tokens(  # type: ignore[override]  # It names its options.
        cls, tokens: Sequence[Sequence[Any]], *, metric: str = "loss", sampled_tokens: int = 0
    ) -> Self:
        """Makes the task for inputs with these tokens.

        Args:
            tokens: pairs, as the attribute.
            metric: the one that decides: loss (nats per token), bits_per_token, bits_per_byte,
                perplexity or accuracy.
            sampled_tokens: the number of tokens sampled to stand for all others in training; 0: all
                tokens are used.

        Raises:
            ValueError: as in `base.Task.of_targets`.
        """
        return cls(tokens, metric=metric, sampled_tokens=sampled_tokens)

    @classmethod
    def of_targets(  # type: ignore[override]  # It names its options.
        cls, targets: Sequence[Any], *, metric: str = "loss", sampled_tokens: int = 0
    ) -> Self:
        """Makes the task for tokens from 0 to the largest in targets, lists of numbers."""
        largest = max((token for one in targets for token in one if token is not None), default=-1)
        if largest < 1:
            raise BadTarget(None, "There must be at least two tokens to tell apart.")
        tokens = [(str(number), None) for number in range(largest + 1)]
        return cls(tokens, metric=metric, sampled_tokens=sampled_tokens)

    def encode(self, targets: Sequence[Any]) -> np.ndarray:
        """Token numbers: int32; -1: no label."""
        encoded = [-1 if token is None else token for steps in targets for token in steps]
        return np.array(encoded, np.int32)

    def loss(self, outputs_NxC: Array, targets_N: Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(outputs_NxC, targets_N)

    def _bytes_V(self) -> np.ndarray:
        """The number of bytes of a text that each token stands for; NaN where not known."""
        return np.array([math.nan if of is None else of for _, of in self.tokens])

    def sums(self, outputs_NxC: Array, targets_N: Array, weights_N: Array) -> dict[str, jax.Array]:
        is_right_N = jnp.argmax(outputs_NxC, -1) == targets_N
        bytes_N = jnp.where(weights_N > 0, jnp.array(self._bytes_V())[targets_N], 0)
        is_known_N = ~jnp.isnan(bytes_N)
        return {
            "accuracy": jnp.sum(is_right_N * weights_N),
            # The bytes of tokens with a known number, and the count of all other tokens.
            "bytes": jnp.stack(
                [jnp.sum(jnp.where(is_known_N, bytes_N, 0) * weights_N), jnp.sum(~is_known_N)]
            ),
        }

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        metrics = super().metrics(sums)
        if "bytes" not in sums:  # Training with sampled tokens: only an estimate of the loss.
            return metrics
        loss = metrics["loss"]
        metrics["bits_per_token"] = loss / math.log(2)
        metrics["perplexity"] = math.exp(min(loss, 700.0)) if math.isfinite(loss) else loss
        known, unknown = sums["bytes"]
        if known and not unknown:
            metrics["bits_per_byte"] = float(sums["loss"]) / math.log(2) / float(known)
        return metrics

    def kept(self, outputs_NxC: Array, targets_N: Array) -> dict[str, Array]:
        """The loss of each token, float32: V outputs per step would be too many."""
        return {"loss": self.loss(outputs_NxC, targets_N)}

    def average(self, kept_K: Sequence[Kept]) -> Kept:
        """The loss of the mean probability."""
        if len(kept_K) == 1:
            return kept_K[0]
        losses_KxN = np.stack([np.asarray(kept["loss"], np.float64) for kept in kept_K])
        return {"loss": np.log(len(kept_K)) - logsumexp(-losses_KxN, 0)}

    def score(self, kept: Kept, targets_N: np.ndarray) -> np.ndarray:
        """The loss."""
        return np.asarray(kept["loss"], np.float64)

    def answers(self, kept: Kept) -> np.ndarray:
        """The loss of each token."""
        return np.asarray(kept["loss"], np.float64)

    def columns(
        self, kept: Kept, targets_N: np.ndarray | None = None, offsets: np.ndarray | None = None
    ) -> dict[str, list]:
        """The mean loss of each example's tokens, in nats, and the perplexity."""
        offsets = base.one_example(kept["loss"]) if offsets is None else offsets
        losses_N = np.asarray(kept["loss"], np.float64)
        is_known_N = np.ones(len(losses_N), bool)
        if targets_N is not None:
            is_known_N = np.asarray(self.labelled(targets_N))
        pairs = zip(
            base.split_examples(losses_N, offsets), base.split_examples(is_known_N, offsets),
            strict=True,
        )  # fmt: skip
        means = [float(of[known].mean()) if known.any() else None for of, known in pairs]
        return {
            "answer": means,
            "perplexity": [None if mean is None else math.exp(min(mean, 700.0)) for mean in means],
        }

    def answer(self, kept: Kept, offsets: np.ndarray | None = None) -> list[str]:
        """Nats per token and perplexity of each example."""
        columns = self.columns(kept, None, offsets)
        pairs = zip(columns["answer"], columns["perplexity"], strict=True)
        return [
            "nothing to predict" if mean is None
            else f"{mean:.4f} nats per token  perplexity {perplexity:.4g}"
            for mean, perplexity in pairs
        ]  # fmt: skip

    def figures(
        self, kept: Kept, targets_N: np.ndarray, offsets: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The metrics that can be computed from the losses alone."""
        is_known_N = np.asarray(self.labelled(targets_N))
        losses_N = np.asarray(kept["loss"], np.float64)[is_known_N]
        if not len(losses_N):
            return {}
        bytes_N = self._bytes_V()[targets_N[is_known_N]]
        unknown = np.isnan(bytes_N).sum()
        sums = {"loss": losses_N.sum(), "weight": float(len(losses_N))}
        return self.metrics(sums | {"bytes": np.array([np.nansum(bytes_N), unknown])})

    def guess(self, targets_N: np.ndarray) -> np.ndarray:
        """The logarithms of the tokens' counts; a token missing in training counts as 0.01."""
        counts_V = np.bincount(targets_N[self.labelled(targets_N)], minlength=self.num_outputs)
        return np.log(np.maximum(counts_V, 0.01))
