"""One class for each step of a sequence, as in tagging.

There is one output per class, with a softmax; the loss is the cross-entropy, in nats. For every
step, only the class answered and its probability are kept.
"""

import collections
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train_lib.tasks import base
from train_lib.tasks.base import Array, BadTarget, Kept
from train_lib.tasks.common import confusion, figures, naming, pictures, smoothing, spans

_METRICS = ("accuracy", "macro_f1", "loss")


class Tags(base.Task):
    """One class for each step.

    Accuracy is not a share metric: the steps of a sequence are not independent.

    Attributes:
        classes: as in the data, in order.
        class_weights: in the training loss; None: all are 1.
        label_smoothing: in the training loss.
    """

    per_step = True
    outputs_follow = ("classes",)
    score_name = "accuracy"
    higher_score_is_better = True
    score_is_share = True
    label_smoothing = 0.0  # Older versions did not store it.
    examples = (["O", "B-X", "I-X"], ["O"], ["B-X", None, "O", "B-Y", "I-Y"])

    def __init__(
        self,
        classes: Sequence[str],
        *,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        metric: str = "accuracy",
    ):
        """As `of_targets`, for known classes, with a weight for each."""
        self.classes = list(classes)
        self.num_outputs = len(self.classes)
        self.class_weights = None if class_weights is None else list(class_weights)
        self.label_smoothing = smoothing.checked(label_smoothing)
        self.metric = naming.choose("metric", metric, _METRICS)
        self.higher_is_better = metric != "loss"

    @classmethod
    def of_targets(  # type: ignore[override]  # It names its options.
        cls,
        targets: Sequence[Any],
        *,
        classes: Sequence[Any] | None = None,
        class_weights: str | Mapping[Any, float] | None = None,
        label_smoothing: float = 0.0,
        metric: str = "accuracy",
    ) -> Self:
        """Makes the task for the classes of the steps of training examples.

        Args:
            targets: a list for each example, with a text or a whole number for each step, or None
                if it has no label.
            classes: all of them, in another order.
            class_weights: as in `classes.Classes.of_targets`, for steps.
            label_smoothing: the share of a label that is spread over all classes in the training
                loss, as in `smoothing.smoothed`; its class weight applies to all of it.
            metric: the one that decides: accuracy, macro_f1 (the mean over classes) or loss.

        Raises:
            BadTarget: as in `base.Task.of_targets`.
            ValueError: likewise.
        """
        found = collections.Counter(
            naming.name_of(tag, number)
            for number, target in enumerate(targets)
            for tag in _steps(target, number)
            if tag is not None
        )
        ordered = naming.given_order(classes, naming.ordered(found), "classes")
        naming.check_count(ordered, found.total(), "labelled steps of training")
        counts_C = np.array([found[one] for one in ordered])
        return cls(
            ordered,
            class_weights=naming.weights(class_weights, ordered, counts_C),
            label_smoothing=label_smoothing,
            metric=metric,
        )

    def encode(self, targets: Sequence[Any]) -> np.ndarray:
        """The number of each step's class: int32; -1: no label."""
        numbers: dict[Any, int] = {name: number for number, name in enumerate(self.classes)}
        encoded = []
        for number, target in enumerate(targets):
            for tag in _steps(target, number):
                if tag is None:
                    encoded.append(-1)
                else:
                    encoded.append(naming.number_of(numbers, tag, number))
        return np.array(encoded, np.int32)

    def loss(self, outputs_NxC: Array, targets_N: Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(outputs_NxC, targets_N)

    def training_loss(self, outputs_NxC: Array, targets_N: Array) -> jax.Array:
        losses_N = self.loss(outputs_NxC, targets_N)
        losses_N = smoothing.smoothed(losses_N, outputs_NxC, self.label_smoothing)
        if self.class_weights is None:
            return losses_N
        return losses_N * jnp.array(self.class_weights)[targets_N]

    def sums(self, outputs_NxC: Array, targets_N: Array, weights_N: Array) -> dict[str, jax.Array]:
        answers_N = jnp.argmax(outputs_NxC, -1)
        return confusion.sums(
            answers_N == targets_N, targets_N, answers_N, weights_N, len(self.classes),
            whole=self.metric == "macro_f1",
        )  # fmt: skip

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {**super().metrics(sums), **confusion.macro_f1(sums)}

    def kept(self, outputs_NxC: Array, targets_N: Array) -> dict[str, Array]:
        """The number of the class answered, int32, and its probability."""
        answers_N = jnp.argmax(outputs_NxC, -1).astype(jnp.int32)
        probabilities_N = jnp.exp(jnp.max(jax.nn.log_softmax(outputs_NxC, -1), -1))
        return {"answer": answers_N, "probability": probabilities_N}

    def average(self, kept_K: Sequence[Kept]) -> Kept:
        """The class with the most votes, which are probabilities, and their mean over the seeds.

        Ties go to the class of the first seed.
        """
        if len(kept_K) == 1:
            return kept_K[0]
        answers_KxN = np.stack([kept["answer"] for kept in kept_K])
        votes_KxN = np.stack([np.asarray(kept["probability"], np.float64) for kept in kept_K])
        totals_KxN = np.stack(
            [np.where(answers_KxN == answers_N, votes_KxN, 0).sum(0) for answers_N in answers_KxN]
        )
        winners_N = totals_KxN.argmax(0)
        places = winners_N, np.arange(len(winners_N))
        return {"answer": answers_KxN[places], "probability": totals_KxN[places] / len(kept_K)}

    def score(self, kept: Kept, targets_N: np.ndarray) -> np.ndarray:
        """1 where the answer is right, and 0 where it is wrong."""
        return (np.asarray(kept["answer"]) == targets_N).astype(np.float64)

    def columns(
        self, kept: Kept, targets_N: np.ndarray | None = None, offsets: np.ndarray | None = None
    ) -> dict[str, list]:
        """Tags separated by spaces, and the mean probability of an example's answers.

        If targets are given, only steps with a label. If a tag contains a space, JSON lists.
        """
        offsets = base.one_example(kept["answer"]) if offsets is None else offsets
        has_label_N = np.ones(offsets[-1], bool)
        if targets_N is not None:
            has_label_N = np.asarray(self.labelled(targets_N))
        answers, probabilities = (
            _select(np.asarray(kept[name]), has_label_N, offsets)
            for name in ("answer", "probability")
        )
        columns: dict[str, list] = {
            "answer": [self._joined(one) for one in answers],
            "probability": [float(one.mean()) if len(one) else None for one in probabilities],
        }
        if targets_N is None:
            return columns
        targets = _select(targets_N, has_label_N, offsets)
        return {
            "target": [self._joined(one) if len(one) else None for one in targets],
            **columns,
        }

    def _joined(self, numbers_T: np.ndarray) -> str:
        names = [self.classes[number] for number in numbers_T]
        if any(re.search(r"\s", name) for name in self.classes):
            return json.dumps(names, ensure_ascii=False)
        return " ".join(names)

    def figures(
        self, kept: Kept, targets_N: np.ndarray, offsets: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Precision, recall and F1 of classes and, for tags such as B-X and I-X, of spans."""
        has_label_N = np.asarray(self.labelled(targets_N))
        if not has_label_N.any():
            return {}
        targets_S, answers_S = targets_N[has_label_N], np.asarray(kept["answer"])[has_label_N]
        found = figures.of_answers(targets_S, answers_S, self.classes)
        found["steps"] = len(targets_S)
        if spans.are_spans(self.classes):
            offsets = base.one_example(targets_N) if offsets is None else offsets
            columns = [
                [[self.classes[number] for number in of_example] for of_example in examples]
                for examples in (
                    _select(targets_N, has_label_N, offsets),
                    _select(np.asarray(kept["answer"]), has_label_N, offsets),
                )
            ]
            found["spans"] = spans.figures(*columns)
        return found

    def pictures(
        self, kept: Kept, targets_N: np.ndarray, offsets: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The confusion matrix."""
        has_label_N = np.asarray(self.labelled(targets_N))
        if not has_label_N.any():
            return {}
        counts_CxC = confusion.counted(
            targets_N[has_label_N], np.asarray(kept["answer"])[has_label_N], len(self.classes)
        )
        return {"confusion": pictures.confusion(counts_CxC, self.classes)}

    def guess(self, targets_N: np.ndarray) -> np.ndarray:
        """The logarithms of the classes' shares."""
        targets_N = targets_N[self.labelled(targets_N)]
        return np.log(np.bincount(targets_N, minlength=len(self.classes)) / len(targets_N))


def _select(values_N: np.ndarray, is_chosen_N: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    """The values of the chosen steps of each example."""
    pairs = zip(
        *(base.split_examples(one, offsets) for one in (values_N, is_chosen_N)), strict=True
    )
    return [values[is_chosen] for values, is_chosen in pairs]


def _steps(target: Any, number: int) -> Sequence[Any]:
    if not isinstance(target, list | tuple):
        raise BadTarget(
            number, f"is {naming.shown(target)}, where a list should be, of a class for each step"
        )
    return target
