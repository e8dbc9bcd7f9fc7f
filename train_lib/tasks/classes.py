"""One class of several for each sequence.

Two classes have one output, the logit of the second class; more have one output each, with a
softmax. The loss is the cross-entropy, in nats.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import expit, log_softmax, logsumexp

from train_lib.tasks import base
from train_lib.tasks.base import Array, Kept
from train_lib.tasks.common import confusion, figures, naming, pictures, smoothing
from train_lib.tasks.common import threshold as threshold_of

_METRICS = ("accuracy", "macro_f1", "loss")
_METRICS_OF_TWO = (*_METRICS, "f1")


class Classes(base.Task):
    """One class for each sequence.

    Attributes:
        classes: as in the data, in order; of two, the second is the positive one.
        names: what people read in place of them.
        class_weights: in the training loss; None: all are 1.
        label_smoothing: in the training loss.
        cut: for two classes, the logit above which the second is answered.
        chooses_cut: whether `decided` sets it to the one with the best `metric` in validation.
    """

    share_metrics = ("accuracy",)
    outputs_follow = ("classes",)
    score_name = "accuracy"
    higher_score_is_better = True
    score_is_share = True
    label_smoothing = 0.0  # Older versions did not store it.
    examples = ("bad", "good", "fair", "good", "bad", "good")

    def __init__(
        self,
        classes: Sequence[str],
        names: Sequence[str] | None = None,
        *,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        metric: str = "accuracy",
        threshold: float | str = 0.5,
    ):
        """As `of_targets`, for known classes, in this order, with a weight for each."""
        self.classes = list(classes)
        self.names = naming.shown_names(names, self.classes)
        self.num_outputs = 1 if len(self.classes) == 2 else len(self.classes)
        self.class_weights = None if class_weights is None else list(class_weights)
        self.label_smoothing = smoothing.checked(label_smoothing)
        self.metric = naming.choose(
            "metric", metric, _METRICS_OF_TWO if self.num_outputs == 1 else _METRICS
        )
        self.higher_is_better = metric != "loss"
        self.chooses_cut = threshold == "validation"
        self.cut = threshold_of.cut(threshold)
        if (self.cut or self.chooses_cut) and self.num_outputs > 1:
            raise ValueError(
                f"threshold={threshold!r} is for two classes, and there are {len(self.classes)}"
            )
        if self.chooses_cut and metric == "loss":
            raise ValueError(
                "threshold='validation' needs a metric that depends on it, such as accuracy or f1; "
                "metric is 'loss'"
            )

    @classmethod
    def of_targets(  # type: ignore[override]  # It names its options.
        cls,
        targets: Sequence[Any],
        *,
        classes: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        class_weights: str | Mapping[Any, float] | None = None,
        label_smoothing: float = 0.0,
        metric: str = "accuracy",
        threshold: float | str = 0.5,
    ) -> Self:
        """Makes the task for the classes of training targets.

        The classes are in ascending order if all are numbers, otherwise in alphabetical order.

        Args:
            targets: texts, integers, whole numbers; None: no label.
            classes: all of them, in another order; of two, the second is the positive one.
            names: what people read in place of the classes, in their order.
            class_weights: in the training loss: `balanced`, so that all classes weigh the same and
                examples 1 on average; or a weight for each class; as text, a JSON object.
            label_smoothing: the share of a label that is spread over all classes in the training
                loss, as in `smoothing.smoothed`; its class weight applies to all of it.
            metric: the one that decides: accuracy, macro_f1 (the mean over classes), loss or, for
                two classes, f1 (of the second).
            threshold: for two classes, the probability above which the second is answered;
                `validation`: the one with the best `metric` on the validation examples.

        Raises:
            BadTarget: as in `base.Task.of_targets`.
            ValueError: likewise.
        """
        found = [
            naming.name_of(target, number)
            for number, target in enumerate(targets)
            if target is not None
        ]
        ordered = naming.given_order(classes, naming.ordered(found), "classes")
        naming.check_count(ordered, len(found), "training examples")
        counts = collections.Counter(found)
        counts_C = np.array([counts[one] for one in ordered])
        return cls(
            ordered,
            names,
            class_weights=naming.weights(class_weights, ordered, counts_C),
            label_smoothing=label_smoothing,
            metric=metric,
            threshold=threshold,
        )

    def encode(self, targets: Sequence[Any]) -> np.ndarray:
        """The number of each target's class; for two classes float32, as the loss needs."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        encoded = [
            -1 if target is None else naming.number_of(numbers, target, number)
            for number, target in enumerate(targets)
        ]
        if self.num_outputs > 1:
            return np.array(encoded, np.int32)
        return np.where(np.array(encoded) < 0, np.nan, encoded).astype(np.float32)

    def loss(self, outputs_NxC: Array, targets_N: Array) -> jax.Array:
        if self.num_outputs == 1:
            return optax.sigmoid_binary_cross_entropy(outputs_NxC[:, 0], targets_N)
        return optax.softmax_cross_entropy_with_integer_labels(outputs_NxC, targets_N)

    def training_loss(self, outputs_NxC: Array, targets_N: Array) -> jax.Array:
        losses_N = self.loss(outputs_NxC, targets_N)
        losses_N = smoothing.smoothed(losses_N, outputs_NxC, self.label_smoothing)
        if self.class_weights is None:
            return losses_N
        return losses_N * jnp.array(self.class_weights)[targets_N.astype(int)]

    def sums(self, outputs_NxC: Array, targets_N: Array, weights_N: Array) -> dict[str, jax.Array]:
        if self.num_outputs == 1:
            answers_N = outputs_NxC[:, 0] > self.cut
            correct_N = answers_N == (targets_N > 0.5)
        else:
            answers_N = jnp.argmax(outputs_NxC, -1)
            correct_N = answers_N == targets_N
        whole = self.metric in ("f1", "macro_f1")
        return confusion.sums(
            correct_N, targets_N, answers_N, weights_N, len(self.classes), whole=whole
        )

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        metrics = {**super().metrics(sums), **confusion.macro_f1(sums)}
        if "confusion" in sums and self.num_outputs == 1:
            metrics["f1"] = float(confusion.f1_of_classes(sums["confusion"])[1])
        return metrics

    def decided(self, kept: Kept, targets_N: np.ndarray) -> "Classes":
        """The task with the threshold that gives these answers the best metric.

        Ties go to the threshold closest to 0.5. Without `chooses_cut`, nothing changes.
        """
        if not self.chooses_cut:
            return self
        is_known_N = self.labelled(targets_N)
        logits_N, targets_N = kept["outputs"][is_known_N, 0], targets_N[is_known_N] > 0.5
        task = self.from_json(self.to_json())
        task.cut = threshold_of.best_cut(np.asarray(logits_N, np.float64), targets_N, self.metric)
        return task

    def average(self, kept_K: Sequence[Kept]) -> Kept:
        """The logits of the mean probabilities."""
        if len(kept_K) == 1:
            return kept_K[0]
        logits_KxNxC = np.stack([np.asarray(kept["outputs"], np.float64) for kept in kept_K])
        if self.num_outputs == 1:  # As a softmax over (0, logit).
            logits_KxNxC = np.concatenate([np.zeros_like(logits_KxNxC), logits_KxNxC], -1)
        mean_NxC = logsumexp(log_softmax(logits_KxNxC, -1), 0) - np.log(len(kept_K))
        return {"outputs": np.diff(mean_NxC) if self.num_outputs == 1 else mean_NxC}

    def probabilities(self, kept: Kept) -> np.ndarray:
        """The probability of every class, even of two: float64 `[N, C]`."""
        return probabilities(np.asarray(kept["outputs"], np.float64))

    def answers(self, kept: Kept) -> np.ndarray:
        """The number of the class answered: int64 `[N]`."""
        outputs_NxC = np.asarray(kept["outputs"])
        if self.num_outputs == 1:
            return (outputs_NxC[:, 0] > self.cut).astype(np.int64)
        return outputs_NxC.argmax(-1)

    def support(self, kept: Kept) -> np.ndarray:
        """The log-odds of the class answered for the first item."""
        answer = self.answers(kept)[0]
        logits_NxC = np.asarray(kept["outputs"], np.float64)
        if self.num_outputs == 1:
            return logits_NxC[:, 0] * (1 if answer else -1)
        return logits_NxC[:, answer] - logsumexp(np.delete(logits_NxC, answer, axis=1), axis=1)

    def score(self, kept: Kept, targets_N: np.ndarray) -> np.ndarray:
        """1 where the answer is right, and 0 where it is wrong."""
        return (self.answers(kept) == targets_N).astype(np.float64)

    def columns(
        self, kept: Kept, targets_N: np.ndarray | None = None, offsets: np.ndarray | None = None
    ) -> dict[str, list]:
        """Names of classes, and probabilities: of the second of two, or of the answer and of each.

        For two classes also the logit.
        """
        answers_N, probabilities_NxC = self.answers(kept), self.probabilities(kept)
        columns: dict[str, list] = {"answer": [self.names[answer] for answer in answers_N]}
        if self.num_outputs == 1:
            columns["logit"] = np.asarray(kept["outputs"], np.float64)[:, 0].tolist()
            columns["probability"] = probabilities_NxC[:, 1].tolist()
        else:
            places = np.arange(len(answers_N)), answers_N
            columns["probability"] = probabilities_NxC[places].tolist()
            for name, of_class in zip(self.names, probabilities_NxC.T, strict=True):
                columns[f"probability_{name}"] = of_class.tolist()
        if targets_N is None:
            return columns
        is_known_N = self.labelled(targets_N)
        targets = [
            self.names[int(target)] if is_known else None
            for target, is_known in zip(targets_N, is_known_N, strict=True)
        ]
        return {"target": targets, **columns}

    def answer(self, kept: Kept, offsets: np.ndarray | None = None) -> list[str]:
        """The class and its probability."""
        answers_N, probabilities_NxC = self.answers(kept), self.probabilities(kept)
        pairs = zip(answers_N, probabilities_NxC, strict=True)
        return [f"{self.names[answer]}  {of_classes[answer]:.4f}" for answer, of_classes in pairs]

    def figures(
        self, kept: Kept, targets_N: np.ndarray, offsets: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Precision, recall and F1 of each class and over classes, and figures of probabilities.

        The latter are AUROC, average precision, log loss, Brier score and calibration error.
        """
        is_known_N = self.labelled(targets_N)
        targets_N = targets_N[is_known_N].astype(np.int64)
        if not len(targets_N):
            return {}
        answers_N = self.answers(kept)[is_known_N]
        outputs_NxC = np.asarray(kept["outputs"], np.float64)[is_known_N]
        threshold = {"threshold": float(expit(self.cut))} if self.num_outputs == 1 else {}
        return {
            **threshold,
            **figures.of_answers(targets_N, answers_N, self.names),
            **figures.of_probabilities(targets_N, outputs_NxC, self.names),
        }

    def pictures(
        self, kept: Kept, targets_N: np.ndarray, offsets: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The confusion matrix."""
        is_known_N = self.labelled(targets_N)
        if not is_known_N.any():
            return {}
        counts_CxC = confusion.counted(
            targets_N[is_known_N], self.answers(kept)[is_known_N], len(self.classes)
        )
        return {"confusion": pictures.confusion(counts_CxC, self.names)}

    def guess(self, targets_N: np.ndarray) -> np.ndarray:
        """The logits of the classes' shares."""
        targets_N = targets_N[self.labelled(targets_N)].astype(int)
        logs_C = np.log(np.bincount(targets_N, minlength=len(self.classes)) / len(targets_N))
        return np.diff(logs_C) if self.num_outputs == 1 else logs_C


def probabilities(outputs_NxC: np.ndarray) -> np.ndarray:
    """Probabilities from a logit per class or, for two, the second's logit: float64 `[N, C]`."""
    if outputs_NxC.shape[-1] == 1:
        return np.concatenate([expit(-outputs_NxC), expit(outputs_NxC)], -1)
    return np.exp(log_softmax(outputs_NxC, -1))
