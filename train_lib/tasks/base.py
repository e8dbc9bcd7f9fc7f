"""The base class of tasks. To write your own, subclass it in a file: see docs/add_a_task.md."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray | jax.Array
_MOST_NUMBERS = 1 << 24  # The most outputs that `measure` processes at once.

Kept = Mapping[str, np.ndarray]
"""What evaluation keeps of every item, on the host."""


class BadTarget(ValueError):
    """A target that a task cannot use. The text is a clause whose subject is the target.

    Attributes:
        number: the number of the example, from 0; None if no single example is at fault: the text
            is then a sentence about all of them.
    """

    def __init__(self, number: int | None, text: str):
        super().__init__(text)
        self.number = number


class Task:
    """What a model is trained for.

    An item is a sequence or, if `per_step`, a step; N counts items. A task needs only
    `num_outputs`, `encode` and `loss`. Methods with "device" in their docstring run inside compiled
    functions, on JAX arrays; all others run on the host, on NumPy arrays.

    `offsets` is passed to host methods if `per_step`: int64 `[examples + 1]`, where the steps of
    each example begin among the items, and where the last ones end.

    A run folder stores the attributes of an instance, so they must be JSON values: lists, not
    tuples.

    Attributes:
        num_outputs: C, the numbers that the model computes for an item.
        per_step: whether every step has a target, rather than every sequence.
        metric: the name, in `metrics`, of the one that decides which epoch or model is better.
        higher_is_better: whether a higher value of that metric is better.
        share_metrics: names of metrics that are shares of independent items, such as accuracy;
            their intervals are binomial.
        score_name: the name of `score`; the name of a metric if its mean is that metric. Answers
            are right or wrong if it is one of `share_metrics`.
        higher_score_is_better: whether an item with a higher score was answered better.
        score_is_share: whether all scores are from 0 to 1.
        score_unit: the unit of a score, for people; empty: none, or the targets' unit.
        examples: training targets to check the task with; not used otherwise.
        predicts_inputs: whether the target of a step is the next token, so that data need no
            targets. Such a task is made by `of_tokens`, with the same options.
        outputs_follow: names of the attributes that say what the outputs stand for; a run may
            begin with another run's head if they are equal. Empty: all attributes.
        sampled_tokens: with `predicts_inputs` and the cross-entropy as loss, the number of tokens
            sampled to stand for all others in training, which then has the loss as its only
            metric; 0: no sampling.
    """

    num_outputs: int
    per_step: bool = False
    metric: str = "loss"
    higher_is_better: bool = False
    share_metrics: tuple[str, ...] = ()
    score_name: str = "loss"
    higher_score_is_better: bool = False
    score_is_share: bool = False
    score_unit: str = ""
    examples: Sequence[Any] = ()
    predicts_inputs: bool = False
    outputs_follow: tuple[str, ...] = ()
    sampled_tokens: int = 0

    @classmethod
    def of_targets(cls, targets: Sequence[Any], **options: Any) -> Self:
        """Makes the task for training targets; the base class ignores them.

        Args:
            targets: of the training examples, as in `encode`.
            options: keyword arguments of the constructor. A subclass that learns from targets
                (their classes, their scale) overrides this method and names its options here.

        Raises:
            BadTarget: no such task can be learnt from these targets.
            ValueError: an option has an invalid value.
        """
        return cls(**options)

    @classmethod
    def of_tokens(cls, tokens: Sequence[tuple[str, int | None]], **options: Any) -> Self:
        """Makes the task for inputs with these tokens, if `predicts_inputs`.

        Args:
            tokens: the name of each token number, and how many bytes of a text it stands for; None:
                not known.
            options: as in `of_targets`.

        Raises:
            ValueError: an option has an invalid value.
        """
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """The attributes, from which `from_json` restores the task.

        Raises:
            TypeError: one of them is not a JSON value.
        """
        return json.loads(json.dumps(vars(self)))

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Restores the task from the result of `to_json`."""
        task = cls.__new__(cls)
        vars(task).update(fields)
        return task

    def encode(self, targets: Sequence[Any]) -> np.ndarray:
        """Converts targets to an array, which is copied to the device unchanged.

        Args:
            targets: JSON values as in the source; a list for each example if `per_step`. None
                stands for no label.

        Returns:
            `[N, ...]`; if `per_step` the steps of all examples, end to end. Where there is no
            label, integers are -1 and floating point numbers NaN.

        Raises:
            BadTarget: a target cannot be used; it has the number of the example.
        """
        raise NotImplementedError

    def labelled(self, targets_N: Array) -> Array:
        """Which items have a label: bool `[N]`. Device or host."""
        is_integer = np.issubdtype(targets_N.dtype, np.integer)
        has_label: Any = targets_N >= 0 if is_integer else targets_N == targets_N
        return has_label.all(axis=tuple(range(1, has_label.ndim)))

    def loss(self, outputs_NxC: Array, targets_N: Array) -> jax.Array:
        """The loss of every item, `[N]`. Device. Targets of items without a label are zeros."""
        raise NotImplementedError

    def training_loss(self, outputs_NxC: Array, targets_N: Array) -> jax.Array:
        """What training minimises, `[N]`: the loss, with any weights or further terms. Device."""
        return self.loss(outputs_NxC, targets_N)

    def sums(self, outputs_NxC: Array, targets_N: Array, weights_N: Array) -> dict[str, jax.Array]:
        """The weighted sums over items that `metrics` needs; they may be arrays. Device.

        The caller sums the loss ("loss") and the weights ("weight").
        """
        return {}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Figures from sums over any number of items; here, the mean of each sum that is a number.

        A subclass adds figures that are not means to these.
        """
        return {
            name: share(sums[name], sums["weight"])
            for name in dict.fromkeys(("loss", *sums))
            if name != "weight" and np.ndim(sums[name]) == 0
        }

    def kept(self, outputs_NxC: Array, targets_N: Array) -> dict[str, Array]:
        """What evaluation keeps of every item, `[N, ...]` each. Device.

        Targets are for what cannot be computed later, such as a score from very many outputs. They
        are zeros where there is no label.
        """
        return {"outputs": outputs_NxC}

    def decided(self, kept: Kept, targets_N: np.ndarray) -> "Task":
        """The task with everything chosen from validation answers, such as a threshold.

        Args:
            kept: of one trained seed, on the validation examples.
            targets_N: the targets of these examples.
        """
        return self

    def average(self, kept_K: Sequence[Kept]) -> Kept:
        """Combines what several seeds answer, in the same form as one seed's answers."""
        if len(kept_K) == 1:
            return kept_K[0]
        return {
            name: np.mean([np.asarray(kept[name], np.float64) for kept in kept_K], axis=0)
            for name in kept_K[0]
        }

    def score(self, kept: Kept, targets_N: np.ndarray) -> np.ndarray:
        """How well each item is answered, float64 `[N]`; undefined where there is no label."""
        outputs_NxC = jnp.asarray(kept["outputs"], jnp.float32)
        losses_N = self.loss(outputs_NxC, jnp.asarray(self.zero_unlabelled(targets_N)))
        return np.asarray(losses_N, np.float64)

    def answers(self, kept: Kept) -> np.ndarray:
        """The answer to each item, as numbers `[N, ...]`; here the outputs."""
        return np.asarray(kept["outputs"], np.float64)

    def support(self, kept: Kept) -> np.ndarray | None:
        """How far each item supports the answer to the first: float64 `[N]`, the only output.

        None if an item has several answers.
        """
        return None if self.num_outputs > 1 else np.asarray(kept["outputs"], np.float64)[:, 0]

    def columns(
        self, kept: Kept, targets_N: np.ndarray | None = None, offsets: np.ndarray | None = None
    ) -> dict[str, list]:
        """Columns with a value for each example: "target" if known, "answer", then details.

        If an example has several targets, column names begin with "target_" and "answer_". Values
        are texts, integers, floats, or None where there is none.
        """
        answers = split_examples(self.answers(kept), offsets)
        columns = {"answer": [as_text(answer) for answer in answers]}
        if targets_N is None:
            return columns
        has_label = split_examples(np.asarray(self.labelled(targets_N)), offsets)
        targets = split_examples(np.asarray(targets_N), offsets)
        return {
            "target": [
                as_text(target) if np.any(is_known) else None
                for target, is_known in zip(targets, has_label, strict=True)
            ],
            **columns,
        }

    def answer(self, kept: Kept, offsets: np.ndarray | None = None) -> list[str]:
        """The answer to each example for people, on one line."""
        return [str(answer) for answer in self.columns(kept, None, offsets)["answer"]]

    def figures(
        self, kept: Kept, targets_N: np.ndarray, offsets: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Figures in addition to the metrics, as JSON values; None where one is not defined."""
        return {}

    def pictures(
        self, kept: Kept, targets_N: np.ndarray, offsets: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Matplotlib figures, each under its file name without the suffix."""
        return {}

    def guess(self, targets_N: np.ndarray) -> np.ndarray:
        """The outputs that have the least loss if the same for every item: float64 `[C]`.

        `measure` gives the metrics of such a guess. Here they are found by optimisation.

        Args:
            targets_N: of the training items.
        """
        import scipy.optimize  # Slow to import.

        targets_N = targets_N[np.asarray(self.labelled(targets_N))]

        @jax.jit
        def mean_loss(outputs_C):
            outputs_NxC = jnp.broadcast_to(outputs_C, (len(targets_N), self.num_outputs))
            return jnp.mean(self.loss(outputs_NxC, targets_N))

        found = scipy.optimize.minimize(
            jax.value_and_grad(mean_loss), np.zeros(self.num_outputs), jac=True, method="L-BFGS-B"
        )
        return found.x

    # The methods below are derived from those above, for callers of a task.

    def zero_unlabelled(self, targets_N: Array) -> Array:
        """The targets with zeros where there is no label. Device or host."""
        has_label_N = self.labelled(targets_N)
        has_label = has_label_N.reshape(has_label_N.shape + (1,) * (targets_N.ndim - 1))
        modules = np if isinstance(targets_N, np.ndarray) else jnp
        return modules.where(has_label, targets_N, 0)

    def all_sums(self, outputs_NxC: Array, targets_N: Array) -> dict[str, jax.Array]:
        """The sums over items with a label, including "loss" and "weight". Device."""
        has_label_N = jnp.asarray(self.labelled(targets_N))
        weights_N, targets_N = has_label_N.astype(jnp.float32), self.zero_unlabelled(targets_N)
        losses_N = jnp.where(has_label_N, self.loss(outputs_NxC, targets_N), 0)
        return {
            "loss": jnp.sum(losses_N),
            "weight": jnp.sum(weights_N),
            **self.sums(outputs_NxC, targets_N, weights_N),
        }

    def measure(self, outputs: Array, targets_N: np.ndarray) -> dict[str, float]:
        """The metrics of outputs `[N, C]`, or of the same outputs `[C]` for every item."""
        add_up = jax.jit(self.all_sums)
        total: dict[str, np.ndarray] = {}
        items = max(1, _MOST_NUMBERS // self.num_outputs)
        for first in range(0, max(1, len(targets_N)), items):
            part_N = targets_N[first : first + items]
            part = outputs if np.ndim(outputs) == 1 else outputs[first : first + items]
            sums = add_up(
                jnp.broadcast_to(jnp.asarray(part, jnp.float32), (len(part_N), self.num_outputs)),
                part_N,
            )
            sums = jax.tree.map(lambda one: np.asarray(one, np.float64), sums)
            total = jax.tree.map(np.add, total, sums) if total else sums
        return self.metrics(total)

    def example_scores(
        self, kept: Kept, targets_N: np.ndarray, offsets: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The mean score of each example, and its weight: the number of its items with a label.

        Without any, both are 0.
        """
        weights_N = np.asarray(self.labelled(targets_N), np.float64)
        scores_N = np.where(weights_N > 0, self.score(kept, targets_N), 0.0)
        if offsets is None or not self.per_step:
            return scores_N, weights_N
        examples = len(offsets) - 1
        example_N = np.repeat(np.arange(examples), np.diff(offsets))
        weights = np.bincount(example_N, weights_N, examples)
        return np.bincount(example_N, scores_N, examples) / np.maximum(weights, 1), weights


def share(total: Any, weight: Any) -> float:
    """A mean; NaN if the weight is 0."""
    return float(total) / float(weight) if weight else float("nan")


def split_examples(values_N: np.ndarray, offsets: np.ndarray | None) -> Any:
    """The values of each example: one value or, with offsets, an array of values."""
    return values_N if offsets is None else np.split(values_N, offsets[1:-1])


def as_text(values: Any) -> Any:
    """A single number as it is, several as a JSON list."""
    values = np.asarray(values)
    if values.size == 1:
        return values.item()
    return json.dumps([float(f"{value:.6g}") for value in values.ravel()])


def one_example(values_N: np.ndarray) -> np.ndarray:
    """Offsets that assign all steps to one example."""
    return np.array([0, len(values_N)])
