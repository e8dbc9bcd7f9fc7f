"""What a fit does besides optimiser updates: averaging, early stopping, lowering the rate."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from train_lib.training.schedules import Schedule


class RecipeState(NamedTuple):
    """A recipe's state for one seed or, with a leading axis, for K; None: it needs none.

    Attributes:
        averaged: the moving average of the parameters.
        epochs_since_best: epochs without a better validation metric, for early stopping.
        rate_scale: the factor by which plateaus have lowered the learning rate so far; float32.
        epochs_on_plateau: epochs without a better validation metric since it was last lowered.
    """

    averaged: nnx.State | None = None
    epochs_since_best: jax.Array | None = None
    rate_scale: jax.Array | None = None
    epochs_on_plateau: jax.Array | None = None


class Recipe(NamedTuple):
    """What a fit does besides optimiser updates; by default nothing.

    Attributes:
        schedule: the optimiser's learning rates, which are recorded for every epoch.
        accumulate_batches: k, the number of batches in an update, which equals that of one batch k
            times as large: their gradients are summed and divided by the number of all their
            labelled items.
        ema_decay: d of an exponential moving average of the parameters, which is evaluated in their
            place (Polyak and Juditsky, "Acceleration of stochastic approximation by averaging",
            1992); 0: none. Its bias is corrected as for Adam's moments: after n updates, the
            parameters of update m weigh d^(n - m) (1 - d) / (1 - d^n). So it starts as the mean of
            all updates, and the initial parameters never count.
        patience: epochs without a better validation metric after which a seed stops; 0: it does
            not (Prechelt, "Early stopping - but when?", 1998; counted as in Keras' EarlyStopping).
        plateau_patience: such epochs after which the learning rate is lowered; 0: it is not.
        plateau_factor: by which the rate is then multiplied, as in Keras' ReduceLROnPlateau.
    """

    schedule: Schedule | None = None
    accumulate_batches: int = 1
    ema_decay: float = 0.0
    patience: int = 0
    plateau_patience: int = 0
    plateau_factor: float = 0.1

    @property
    def evaluated(self) -> str:
        """The parameters used in the end: `last`, `averaged`, `best` or `best averaged`."""
        averaged = "averaged" if self.ema_decay else ""
        return f"best {averaged}".strip() if self.patience else averaged or "last"

    def start(self, params_K: nnx.State) -> RecipeState:
        """The state of K seeds before the first update."""
        seeds = len(jax.tree.leaves(params_K)[0])
        zero_K = jnp.zeros(seeds, jnp.int32)
        return RecipeState(
            averaged=jax.tree.map(jnp.copy, params_K) if self.ema_decay else None,
            epochs_since_best=zero_K if self.patience else None,
            rate_scale=jnp.ones(seeds) if self.plateau_patience else None,
            epochs_on_plateau=jnp.copy(zero_K) if self.plateau_patience else None,
        )

    def is_stopped(self, state: RecipeState) -> jax.Array:
        """Whether a seed has stopped learning."""
        if state.epochs_since_best is None:
            return jnp.zeros((), bool)
        return state.epochs_since_best >= self.patience

    def after_update(
        self, state: RecipeState, params: nnx.State, updates: jax.Array
    ) -> RecipeState:
        """The state of a seed after an update.

        Args:
            state: before the update.
            params: after the update.
            updates: the number of updates so far.
        """
        if state.averaged is None:
            return state
        # (1 - d) / (1 - d^n), without the rounding of d^n near 1.
        weight = (1 - self.ema_decay) / -jnp.expm1(updates * math.log(self.ema_decay))
        averaged = jax.tree.map(
            lambda mean, new: mean + weight * (new - mean), state.averaged, params
        )
        return state._replace(averaged=averaged)

    def after_epoch(self, state: RecipeState, is_best: jax.Array) -> RecipeState:
        """The state of each seed after a validation, which may have been its best.

        A seed that has stopped does not change.
        """
        learns = ~self.is_stopped(state)
        if state.epochs_since_best is not None:
            since = jnp.where(is_best, 0, state.epochs_since_best + 1)
            since = jnp.where(learns, since, state.epochs_since_best)
            state = state._replace(epochs_since_best=since)
        if state.epochs_on_plateau is not None and state.rate_scale is not None:
            since = jnp.where(is_best, 0, state.epochs_on_plateau + 1)
            is_due = learns & (since >= self.plateau_patience)
            since = jnp.where(learns, since, state.epochs_on_plateau)
            factor = jnp.where(is_due, self.plateau_factor, 1.0)
            state = state._replace(
                rate_scale=state.rate_scale * factor,
                epochs_on_plateau=jnp.where(is_due, 0, since),
            )
        return state


PLAIN = Recipe()
"""Optimiser updates alone."""
