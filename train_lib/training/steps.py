"""What one seed does on one device: pure functions, many steps a call."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from seqmodels import recurrence
from train_lib.tasks.base import Task
from train_lib.training import batching
from train_lib.training.batching import Batch, DeviceSplit, Treatment
from train_lib.training.recipe import PLAIN, Recipe
from train_lib.training.state import TrainState

# S steps, N blocks of R rows: see `batching.Layout`.

Sums = dict[str, Any]
"""Named sums over items: `loss`, `weight` (how many items there are), and what the task adds."""

NORM = "gradient_norm"
"""What stands among the sums of a training step: the norm of its gradient, before any clipping."""

_NO_EXAMPLE_NUMBER = 2**31  # So that the weights' masks have a key that is no example's.


class Learner(NamedTuple):
    """A model, what is asked of it, and how it learns.

    Attributes:
        graphdef: of the model.
        task: what is asked of it.
        optimizer: of its parameters.
        treatment: of length.
        recipe: what is done beside its optimiser's updates.
    """

    graphdef: nnx.GraphDef[Any]
    task: Task
    optimizer: optax.GradientTransformation
    treatment: Treatment
    recipe: Recipe = PLAIN

    def train(
        self,
        state: TrainState,
        places_SxNxR: jax.Array,
        split: DeviceSplit,
        num_steps: jax.Array,
        widths: tuple[int, ...],
        axis: str,
    ) -> tuple[TrainState, Sums]:
        """Takes the first `num_steps` of S steps.

        Args:
            state: before them.
            places_SxNxR: this device's examples in every step.
            split: the training examples.
            num_steps: how many are taken.
            widths: that rows may have, ascending.
            axis: of the mesh, along which the rows of a batch are spread.

        Returns:
            The state after them, and the sums of each, `[S, ...]`, with its gradient's norm. The
            loss of a step whose gradient is not finite is NaN.
        """

        def take(number, loop):
            state, sums_S = loop
            key = jax.random.fold_in(state.key, state.step)
            # Every device works through its own rows, and only then are the sums added up, so that
            # no loop over time waits for another device.
            gradient, sums = jax.lax.psum(
                self._gradient(state.params, split, places_SxNxR[number], widths, key), axis
            )
            items = sums["weight"]
            if split.weights is not None:  # A batch may have no label at all.
                items = jnp.maximum(items, 1)
            gradient = jax.tree.map(lambda one: one / items, gradient)
            norm = optax.tree.norm(gradient)
            # The loss of the step then tells of both.
            loss = jnp.where(jnp.isfinite(norm), sums["loss"], jnp.nan)
            sums = sums | {"loss": loss, NORM: norm}
            updates, opt_state = self.optimizer.update(gradient, state.opt_state, state.params)
            if state.recipe.rate_scale is not None:
                updates = optax.tree.scale(state.recipe.rate_scale, updates)
            params = optax.apply_updates(state.params, updates)
            step = state.step + 1
            recipe = self.recipe.after_update(state.recipe, params, step)
            place = functools.partial(
                jax.lax.dynamic_update_index_in_dim,
                index=number, axis=0, allow_negative_indices=False,
            )  # fmt: skip
            sums_S = jax.tree.map(place, sums_S, sums)
            return TrainState(step, params, opt_state, state.key, recipe), sums_S

        if self.recipe.patience:
            num_steps = jnp.where(self.recipe.is_stopped(state.recipe), 0, num_steps)
        sums = self._shapes(places_SxNxR[0, 0], split, widths[0])
        sums = sums | {NORM: sums["loss"]}
        sums_S = jax.tree.map(lambda one: jnp.zeros((len(places_SxNxR), *one.shape)), sums)
        return jax.lax.fori_loop(0, num_steps, take, (state, sums_S))

    def evaluate(
        self,
        params: nnx.State,
        places_MxR: jax.Array,
        split: DeviceSplit,
        widths: tuple[int, ...],
        axis: str,
    ) -> tuple[dict[str, jax.Array], Sums]:
        """What the task keeps of every row, `[M, R, ...]`, and the sums over all devices' rows.

        What is kept of steps, `[M, R, T, ...]`, is zero after the width of their block.
        """

        def block(rows_R):
            return self._at_width_of(
                rows_R,
                split,
                widths,
                lambda width: self._kept(params, split, rows_R, width, widths),
            )

        kept, sums_M = jax.lax.map(block, places_MxR)
        return kept, jax.lax.psum(jax.tree.map(lambda all_M: jnp.sum(all_M, 0), sums_M), axis)

    def _at_width_of(self, rows_R, split, widths, function):
        """`function(width)` for the smallest of the widths that the rows' sequences fit in."""
        lengths_R = jnp.where(rows_R == batching.NO_EXAMPLE, 0, split.lengths_N[rows_R])
        # Of all seeds that run together: for each its own, `vmap` would compute every width.
        number = jnp.searchsorted(jnp.array(widths), recurrence.longest(lengths_R))
        return jax.lax.switch(number, [functools.partial(function, width) for width in widths])

    def _gradient(self, params, split, rows_NxR, widths, step_key):
        """The gradient of the loss summed over the items, and the sums."""

        def add_block(number, total):
            rows_R = rows_NxR[number]

            def block(width):
                def loss(params):
                    outputs, batch = self._outputs(params, split, rows_R, width, step_key)
                    sums = self._sums(outputs, batch, training=True)
                    return sums["loss"], sums

                return jax.grad(loss, has_aux=True)(params)

            of_block = self._at_width_of(rows_R, split, widths, block)
            return jax.tree.map(jnp.add, total, of_block)

        sums = self._shapes(rows_NxR[0], split, widths[0])
        zero = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), (params, sums))
        return jax.lax.fori_loop(0, len(rows_NxR), add_block, zero)

    def _shapes(self, rows_R, split, width) -> Sums:
        """The shapes of the sums. The model, which takes long to trace, is not asked for them."""

        def sums(rows_R, split):
            batch = self._batch(split, rows_R, width)
            outputs_IxC = jnp.zeros((len(batch.weights_I), self.task.num_outputs))
            return self._sums(outputs_IxC, batch, training=True)

        return jax.eval_shape(sums, rows_R, split)

    def _batch(self, split, rows_R, width) -> Batch:
        side, per_step = self.treatment.padding_side, self.task.per_step
        return batching.gather(split, rows_R, width, side, per_step=per_step)

    def _outputs(self, params, split, rows_R, width, step_key=None) -> tuple[jax.Array, Batch]:
        """The model's outputs of every item, `[I, C]`, and the batch that they are of."""
        mask_padding, padding_side = self.treatment
        batch = self._batch(split, rows_R, width)
        keys = {}
        if step_key is not None:
            keys = {
                "dropout_keys_B": jax.vmap(jax.random.fold_in, (None, 0))(step_key, rows_R),
                "step_key": jax.random.fold_in(step_key, _NO_EXAMPLE_NUMBER),
            }
        shared_steps = None
        if not mask_padding and padding_side == "pre" and not self.task.per_step:
            shared_steps = width - jnp.maximum(recurrence.longest(batch.lengths_B), 1)
        outputs = nnx.merge(self.graphdef, params)(
            batch.inputs,
            batch.lengths_B if mask_padding else None,
            padding_side=padding_side,
            shared_steps=shared_steps,
            **keys,
        )
        return outputs.reshape(-1, outputs.shape[-1]), batch

    def _sums(self, outputs_IxC, batch: Batch, *, training: bool) -> Sums:
        loss = self.task.training_loss if training else self.task.loss
        return {
            **self.task.sums(outputs_IxC, batch.targets, batch.weights_I),
            "loss": jnp.sum(loss(outputs_IxC, batch.targets) * batch.weights_I),
            "weight": jnp.sum(batch.weights_I),
        }

    def _kept(self, params, split, rows_R, width, widths) -> tuple[dict[str, Any], Sums]:
        """What the task keeps of each of R rows, and their sums."""
        outputs_IxC, batch = self._outputs(params, split, rows_R, width)
        kept = self.task.kept(outputs_IxC)
        if self.task.per_step:
            kept = {
                name: self._rows(items_I, batch.lengths_B, width, widths[-1])
                for name, items_I in kept.items()
            }
        return kept, self._sums(outputs_IxC, batch, training=False)

    def _rows(self, items_I, lengths_B, width: int, widest: int) -> jax.Array:
        """What there is of every step, `[I, ...]`, as rows `[R, T, ...]`, each from its start."""
        rows = items_I.reshape(-1, width, *items_I.shape[1:])
        if self.treatment.padding_side == "pre":
            times_RxT = (jnp.arange(width) + width - lengths_B[:, None]) % width
            times = times_RxT.reshape(times_RxT.shape + (1,) * (rows.ndim - 2))
            rows = jnp.take_along_axis(rows, times, axis=1)
        return jnp.pad(rows, [(0, 0), (0, widest - width)] + [(0, 0)] * (rows.ndim - 2))
