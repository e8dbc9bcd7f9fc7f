"""Several labels at once for each sequence, each of them present or absent.

There is one output per label, its logit; a label is answered if that is above 0. The loss is the
cross-entropy in nats, a mean over labels.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import expit, log_expit, logsumexp

from train_lib.tasks import base
from train_lib.tasks.base import Array, BadTarget, Kept
from train_lib.tasks.common import confusion, figures, naming

_METRICS = ("samples_f1", "micro_f1", "macro_f1", "subset_accuracy", "loss")


class Labels(base.Task):
    """Any number of labels for each sequence.

    Attributes:
        labels: in alphabetical order, or ascending if all are numbers.
        weights_Lx2: in the training loss, where a label is absent and where it is present; None:
            all are 1.
    """

    share_metrics = ("subset_accuracy",)
    outputs_follow = ("labels",)
    score_name = "samples_f1"
    higher_score_is_better = True
    score_is_share = True
    examples = (["a", "b"], [], ["b"], ["a", "c"], ["b"])

    def __init__(
        self,
        labels: Sequence[str],
        *,
        weights_Lx2: Sequence[Sequence[float]] | None = None,
        metric: str = "samples_f1",
    ):
        """As `of_targets`, for known labels, with two weights for each."""
        self.labels = list(labels)
        self.num_outputs = len(self.labels)
        self.weights_Lx2 = None if weights_Lx2 is None else [list(pair) for pair in weights_Lx2]
        self.metric = naming.choose("metric", metric, _METRICS)
        self.higher_is_better = metric != "loss"

    @classmethod
    def of_targets(  # type: ignore[override]  # It names its options.
        cls,
        targets: Sequence[Any],
        *,
        class_weights: str | Mapping[Any, float] | None = None,
        metric: str = "samples_f1",
    ) -> Self:
        """Makes the task for the labels of training targets.

        Args:
            targets: lists of names, or texts with semicolons between names; empty: the example has
                none of the labels; None: its labels are not known.
            class_weights: in the training loss. `balanced`: a label weighs the same in total where
                it is present and where it is absent, and 1 on average; or a weight for each label
                where it is present; as text, a JSON object.
            metric: the one that decides: samples_f1 (the mean over examples of the F1 of an
                example's labels, 1 if it has none and none is answered), micro_f1 (of all labels
                together), macro_f1 (the mean over labels), subset_accuracy (the share of examples
                with no label wrong) or loss.

        Raises:
            BadTarget: as in `base.Task.of_targets`.
            ValueError: likewise.
        """
        found = [
            _names(target, number) for number, target in enumerate(targets) if target is not None
        ]
        labels = naming.ordered({name for of_example in found for name in of_example})
        if not labels:
            raise BadTarget(None, "No training example has a label.")
        if all(sorted(of_example) == sorted(found[0]) for of_example in found):
            raise BadTarget(
                None,
                f"All {len(found):,} training examples have the same labels, "
                f"{naming.listed(found[0])}; there is nothing to tell apart.",
            )
        task = cls(labels, metric=metric)
        is_there_NxL = task.encode(found)
        task.weights_Lx2 = _weights(class_weights, labels, is_there_NxL.sum(0), len(found))
        return task

    def encode(self, targets: Sequence[Any]) -> np.ndarray:
        """Which labels each example has: int32 `[N, L]` of 0 and 1; all -1: not known."""
        numbers = {name: number for number, name in enumerate(self.labels)}
        encoded_NxL = np.zeros((len(targets), len(self.labels)), np.int32)
        for number, target in enumerate(targets):
            if target is None:
                encoded_NxL[number] = -1
                continue
            for name in _names(target, number):
                encoded_NxL[number, naming.number_of(numbers, name, number, "label")] = 1
        return encoded_NxL

    def loss(self, outputs_NxC: Array, targets_N: Array) -> jax.Array:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(outputs_NxC, targets_N), -1)

    def training_loss(self, outputs_NxC: Array, targets_N: Array) -> jax.Array:
        if self.weights_Lx2 is None:
            return self.loss(outputs_NxC, targets_N)
        absent_C, there_C = jnp.array(self.weights_Lx2).T
        losses_NxC = optax.sigmoid_binary_cross_entropy(outputs_NxC, targets_N)
        return jnp.mean(losses_NxC * jnp.where(targets_N > 0, there_C, absent_C), -1)

    def sums(self, outputs_NxC: Array, targets_N: Array, weights_N: Array) -> dict[str, jax.Array]:
        is_there_NxC, is_answer_NxC = jnp.asarray(targets_N) > 0, jnp.asarray(outputs_NxC) > 0
        weights_Nx1 = weights_N[:, None]
        right_NxC = (is_there_NxC & is_answer_NxC) * weights_Nx1
        false_NxC = (is_there_NxC != is_answer_NxC) * weights_Nx1
        rights_N, wrong_N = right_NxC.sum(-1), false_NxC.sum(-1)
        return {
            "true_positives": right_NxC.sum(0),
            "false_positives": (false_NxC * is_answer_NxC).sum(0),
            "false_negatives": (false_NxC * is_there_NxC).sum(0),
            "samples_f1": jnp.sum(
                jnp.where(wrong_N > 0, 2 * rights_N / (2 * rights_N + wrong_N + 1e-30), 1)
                * weights_N
            ),
            "subset_accuracy": jnp.sum((wrong_N == 0) * weights_N),
        }

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        right_L = np.asarray(sums["true_positives"], np.float64)
        wrong_L = np.asarray(sums["false_positives"] + sums["false_negatives"], np.float64)
        return {
            **super().metrics(sums),
            "micro_f1": float(confusion.share(right_L.sum(), right_L.sum() + wrong_L.sum() / 2)),
            "macro_f1": confusion.macro(confusion.share(right_L, right_L + wrong_L / 2)),
        }

    def average(self, kept_K: Sequence[Kept]) -> Kept:
        """The logits of the mean probabilities."""
        if len(kept_K) == 1:
            return kept_K[0]
        logits_KxNxL = np.stack([np.asarray(kept["outputs"], np.float64) for kept in kept_K])
        there_NxL, absent_NxL = (
            logsumexp(log_expit(sign * logits_KxNxL), axis=0) for sign in (1, -1)
        )
        return {"outputs": there_NxL - absent_NxL}

    def score(self, kept: Kept, targets_N: np.ndarray) -> np.ndarray:
        """The F1 of each example's labels; 1 if it has none and none is answered."""
        is_there_NxL, is_answer_NxL = targets_N > 0, np.asarray(kept["outputs"]) > 0
        right_N = (is_there_NxL & is_answer_NxL).sum(-1).astype(np.float64)
        counts_N = (is_there_NxL.sum(-1) + is_answer_NxL.sum(-1)) / 2
        return np.divide(right_N, counts_N, out=np.ones(len(right_N)), where=counts_N > 0)

    def columns(
        self, kept: Kept, targets_N: np.ndarray | None = None, offsets: np.ndarray | None = None
    ) -> dict[str, list]:
        """Names of labels separated by semicolons, and the probability of each label.

        If a name contains a semicolon, JSON lists.
        """
        logits_NxL = np.asarray(kept["outputs"], np.float64)
        columns: dict[str, list] = {"answer": [self._joined(row) for row in logits_NxL > 0]}
        for name, of_label in zip(self.labels, expit(logits_NxL).T, strict=True):
            columns[f"probability_{name}"] = of_label.tolist()
        if targets_N is None:
            return columns
        targets = [
            self._joined(row > 0) if is_known else None
            for row, is_known in zip(targets_N, self.labelled(targets_N), strict=True)
        ]
        return {"target": targets, **columns}

    def _joined(self, is_there_L: np.ndarray) -> str:
        names = [self.labels[label] for label in np.flatnonzero(is_there_L)]
        if any(";" in name for name in self.labels):
            return json.dumps(names, ensure_ascii=False)
        return ";".join(names)

    def answer(self, kept: Kept, offsets: np.ndarray | None = None) -> list[str]:
        """The labels answered, each with its probability; a dash if there are none."""
        probabilities_NxL = expit(np.asarray(kept["outputs"], np.float64))
        return [
            "; ".join(
                f"{self.labels[label]} {row[label]:.4f}" for label in np.flatnonzero(row > 0.5)
            )
            or "-"
            for row in probabilities_NxL
        ]

    def figures(
        self, kept: Kept, targets_N: np.ndarray, offsets: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Precision, recall, F1, support, AUROC and average precision per label and over labels."""
        is_known_N = self.labelled(targets_N)
        if not is_known_N.any():
            return {}
        logits_NxL = np.asarray(kept["outputs"], np.float64)[is_known_N]
        return figures.of_labels(targets_N[is_known_N] > 0, logits_NxL, self.labels)

    def guess(self, targets_N: np.ndarray) -> np.ndarray:
        """The logits of the labels' shares, adding half an example with and half without each."""
        is_there_NxL = targets_N[self.labelled(targets_N)]
        there_L = is_there_NxL.sum(0)
        return np.log((there_L + 0.5) / (len(is_there_NxL) - there_L + 0.5))


def _names(target: Any, number: int) -> list[str]:
    """The names of a target's labels.

    Raises:
        BadTarget: it is not a list of labels, or has one of them twice.
    """
    if isinstance(target, str):
        target = [name.strip() for name in target.split(";")] if target.strip() else []
    if not isinstance(target, list | tuple):
        raise BadTarget(
            number,
            f"is {naming.shown(target)}, where labels should be: a list of names, or a text with "
            "semicolons between them",
        )
    names = [naming.name_of(one, number) for one in target]
    if len(set(names)) < len(names):
        raise BadTarget(number, f"is {naming.shown(target)}, which has a label twice")
    return names


def _weights(given, labels: Sequence[str], there_L: np.ndarray, examples: int):
    """The weights of each label where it is absent and where it is present."""
    if given == "balanced":
        counts_Lx2 = np.stack([examples - there_L, there_L], -1)
        # If one of the two never occurs, there is nothing to balance.
        return np.where(
            counts_Lx2.all(-1, keepdims=True), examples / (2 * np.maximum(counts_Lx2, 1)), 1.0
        ).tolist()
    weights_L = naming.weights(given, labels, there_L)
    return weights_L and [[1.0, weight] for weight in weights_L]
