"""Everything that training changes."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from train_lib import metrics


class TrainState(NamedTuple):
    """One seed's run at one moment, or, every array with an axis in front, that of K seeds.

    Attributes:
        step: updates made.
        params: the model's `nnx.Param`s.
        opt_state: Adam's moments.
        key: of the run's dropout; the step is folded into it.
    """

    step: jax.Array
    params: nnx.State
    opt_state: optax.OptState
    key: jax.Array


def adam(
    learning_rate: float, epsilon: float, clip_norm: float = 0.0
) -> optax.GradientTransformation:
    """Adam as Keras computes it.

    Kingma and Ba, "Adam", ICLR 2015, in the form that ends their section 2: epsilon is added to the
    root of the second moment before its bias is corrected. For gradients not far above
    epsilon, such as those of rare words, that matters.

    Args:
        learning_rate, epsilon: of Adam.
        clip_norm: the Euclidean norm to which a longer gradient is shortened before (Pascanu,
            Mikolov and Bengio, "On the difficulty of training recurrent neural networks", ICML
            2013); 0 leaves it as it is.
    """
    second_decay = 0.999
    optimizer = optax.inject_hyperparams(optax.adam)(
        learning_rate=learning_rate,
        b2=second_decay,
        eps=lambda step: epsilon / jnp.sqrt(1 - second_decay ** (step + 1)),
    )
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer) if clip_norm else optimizer


def split(models: Sequence[nnx.Module]) -> tuple[nnx.GraphDef[Any], nnx.State]:
    """What K models that differ in their parameters alone have in common, and the parameters."""
    graphdefs, params = zip(*(nnx.split(model, nnx.Param) for model in models), strict=True)
    return graphdefs[0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)


def create(
    params_K: nnx.State, optimizer: optax.GradientTransformation, seeds: Sequence[int]
) -> TrainState:
    """The state of K seeds before the first step."""
    return TrainState(
        step=jnp.zeros(len(seeds), jnp.int32),
        params=params_K,
        opt_state=jax.vmap(optimizer.init)(params_K),
        key=jnp.stack([jax.random.key(seed) for seed in seeds]),
    )


class Training(NamedTuple):
    """The state of K seeds, and of each the parameters that validated best so far."""

    state: TrainState
    best: nnx.State


@dataclasses.dataclass
class Position:
    """Where a run stands, beside its arrays.

    Attributes:
        epoch: the one in work, from 1.
        steps: of that epoch which are done.
        sums: of each call in it so far, `[K, S]`.
        row_steps: as `batches.steps_taken` counts them, in this epoch so far.
        rows: lines of `metrics.jsonl`.
        best_accuracy: best validation accuracy of each seed so far.
        best_epoch: after which it was that.
        diverged: of seeds whose loss or gradient is no longer finite, the step at which it was not.
    """

    best_accuracy: list[float]
    best_epoch: list[int]
    epoch: int = 1
    steps: int = 0
    sums: list[metrics.Sums] = dataclasses.field(default_factory=list)
    row_steps: int = 0
    rows: list[dict] = dataclasses.field(default_factory=list)
    diverged: dict[int, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def first(cls, num_seeds: int) -> "Position":
        return cls([-1.0] * num_seeds, [0] * num_seeds)

    def alive(self, seeds: Sequence[int]) -> np.ndarray:
        """Which of the seeds have not diverged: `[K]`."""
        return np.array([seed not in self.diverged for seed in seeds])

    def note_best(self, validation: metrics.Metrics) -> np.ndarray:
        """Takes down the best validation; returns which of the seeds have it now: `[K]`."""
        is_best_K = np.isfinite(validation.loss) & (validation.accuracy > self.best_accuracy)
        for number in np.flatnonzero(is_best_K):
            self.best_accuracy[number] = float(validation.accuracy[number])
            self.best_epoch[number] = self.epoch
        return is_best_K

    def best_of(self, number: int) -> dict[str, float]:
        """What one of the seeds had at its best; nothing before the first validation."""
        if not self.best_epoch[number]:
            return {}
        return {
            "best_validation_accuracy": self.best_accuracy[number],
            "best_epoch": self.best_epoch[number],
        }

    def end_epoch(self, row: dict) -> None:
        """Takes down an epoch that is done, and goes on to the next."""
        self.rows.append(row)
        self.epoch, self.steps, self.sums, self.row_steps = self.epoch + 1, 0, [], 0

    def to_json(self) -> dict:
        lists = [[np.asarray(leaf).tolist() for leaf in sums] for sums in self.sums]
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"sums": lists, "diverged": [*self.diverged.items()]}

    @classmethod
    def from_json(cls, fields: dict) -> "Position":
        sums = [metrics.Sums(*np.array(lists, np.float32)) for lists in fields["sums"]]
        return cls(**fields | {"sums": sums, "diverged": dict(fields["diverged"])})
