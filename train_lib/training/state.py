"""Everything that training changes."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from train_lib.training.recipe import PLAIN, Recipe, RecipeState


class TrainState(NamedTuple):
    """The state of one seed or, with a leading axis on every array, of K seeds.

    Attributes:
        step: updates made.
        params: the model's `nnx.Param`s.
        opt_state: the optimiser's state.
        key: the random key for dropout; the step is folded into it.
        recipe: the recipe's state; by default empty.
        carries: for a model that reads on, what `SequenceModel.read_on` returned after the last
            step: one for each layer, with a leading axis of blocks on each leaf. None: it does not
            read on.
    """

    step: jax.Array
    params: nnx.State
    opt_state: optax.OptState
    key: jax.Array
    recipe: RecipeState = RecipeState()
    carries: Any = None

    @property
    def evaluated(self) -> nnx.State:
        """The parameters to evaluate: the averaged ones, if there are any."""
        return self.params if self.recipe.averaged is None else self.recipe.averaged


def split(models: Sequence[nnx.Module]) -> tuple[nnx.GraphDef[Any], nnx.State]:
    """Splits K models that differ only in their parameters into graph definition and parameters."""
    graphdefs, params = zip(*(nnx.split(model, nnx.Param) for model in models), strict=True)
    return graphdefs[0], jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *params)


def create(
    params_K: nnx.State,
    optimizer: optax.GradientTransformation,
    seeds: Sequence[int],
    recipe: Recipe = PLAIN,
) -> TrainState:
    """The state of K seeds before the first step, without carries."""
    return TrainState(
        step=jnp.zeros(len(seeds), jnp.int32),
        params=params_K,
        opt_state=jax.vmap(optimizer.init)(params_K),
        key=jnp.stack([jax.random.key(seed) for seed in seeds]),
        recipe=recipe.start(params_K),
    )


def path_of(keys) -> str:
    """The path of a parameter, from its JAX key path."""
    return jax.tree_util.keystr(keys, simple=True, separator=".").removesuffix(".value")


class Training(NamedTuple):
    """The state of K seeds, and the parameters of each that validated best so far."""

    state: TrainState
    best: nnx.State


@dataclasses.dataclass
class Position:
    """A run's progress, apart from its arrays; of JSON types, except `sums`.

    Attributes:
        epoch: the current epoch, from 1.
        steps: steps of that epoch already made.
        sums: the sums of each call in it so far, `[K, S, ...]`.
        row_steps: steps in this epoch so far, as counted by `batching.steps_taken`.
        rows: the figures of each finished epoch.
        best_value: each seed's best validation value of the task's main metric; None before the
            first.
        best_epoch: the epoch of each seed's best value; 0 before the first.
        diverged: for each seed that diverged, the first step with a non-finite loss or gradient.
    """

    best_value: list[float | None]
    best_epoch: list[int]
    epoch: int = 1
    steps: int = 0
    sums: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    row_steps: int = 0
    rows: list[dict] = dataclasses.field(default_factory=list)
    diverged: dict[int, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def first(cls, num_seeds: int) -> "Position":
        return cls([None] * num_seeds, [0] * num_seeds)

    def alive(self, seeds: Sequence[int]) -> np.ndarray:
        """Whether each of the seeds has not diverged: `[K]`."""
        return np.array([seed not in self.diverged for seed in seeds])

    def note_best(self, values_K: np.ndarray, *, higher_is_better: bool) -> np.ndarray:
        """Records new best values; returns which seeds have one now: `[K]`."""
        sign = 1 if higher_is_better else -1
        is_best_K = np.array(
            [
                np.isfinite(value) and (best is None or sign * value > sign * best)
                for value, best in zip(values_K, self.best_value, strict=True)
            ]
        )
        for number in np.flatnonzero(is_best_K):
            self.best_value[number] = float(values_K[number])
            self.best_epoch[number] = self.epoch
        return is_best_K

    def end_epoch(self, row: dict) -> None:
        """Records a finished epoch and begins the next."""
        self.rows.append(row)
        self.epoch, self.steps, self.sums, self.row_steps = self.epoch + 1, 0, [], 0

    def to_json(self) -> dict:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        sums = [
            {name: np.asarray(leaf).tolist() for name, leaf in of_call.items()}
            for of_call in self.sums
        ]
        return fields | {"sums": sums, "diverged": [*self.diverged.items()]}

    @classmethod
    def from_json(cls, fields: dict) -> "Position":
        sums = [
            {name: np.array(leaf, np.float32) for name, leaf in of_call.items()}
            for of_call in fields["sums"]
        ]
        return cls(**fields | {"sums": sums, "diverged": dict(fields["diverged"])})
