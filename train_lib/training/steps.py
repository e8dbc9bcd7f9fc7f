"""What one seed does on one device: pure functions that take many steps per call."""

import functools
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from flax import nnx

from seqmodels import recurrence
from train_lib.tasks.base import Task
from train_lib.training import batching, chunks
from train_lib.training.batching import EXACT, Batch, DeviceSplit, Treatment
from train_lib.training.recipe import PLAIN, Recipe
from train_lib.training.state import TrainState

# S steps, N blocks of R rows: see `batching.Layout`.

Sums = dict[str, Any]
"""Named sums over items: `loss`, `weight` (the number of items), and those of the task."""

NORM = "gradient_norm"
"""A training step's sums have its gradient norm, before any clipping, under this name."""

_MOST_OUTPUTS = 1 << 24
"""The most numbers in a model's outputs for steps at once; beyond it, steps come in chunks."""

_MANY_PARAMETERS = 1 << 20
"""From this size, gradients are added to the sum in place: another array of 4 MB takes time."""

_OF_WEIGHTS, _OF_TOKENS = 2**31, 2**31 + 1  # Keys of masks and drawn tokens; no example has them.


class Learner(NamedTuple):
    """A model, its task, and how it learns.

    Attributes:
        graphdef: the model's graph definition.
        task: what the model is trained for.
        optimizer: updates its parameters.
        treatment: how sequences of different lengths share a batch.
        recipe: what is done in addition to the optimiser's updates.
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
            state: before these steps.
            places_SxNxR: this device's examples in every step.
            split: the training examples.
            num_steps: the number of steps to take.
            widths: the row widths allowed, ascending.
            axis: the mesh axis along which the rows of a batch are spread.

        Returns:
            The state after them, and the sums of each step, `[S, ...]`, with its gradient norm. The
            loss of a step whose gradient is not finite is NaN.
        """

        def take(number, loop):
            state, sums_S = loop
            key = jax.random.fold_in(state.key, state.step)
            # Every device processes its own rows before the sums are added up, so that no loop over
            # time waits for another device.
            gradient, sums, carries = self._gradient(
                state.params, state.carries, split, places_SxNxR[number], widths, key
            )
            if jax.lax.axis_size(axis) > 1:  # XLA copies what a single device "adds up".
                gradient, sums = _added_up((gradient, sums), axis)
            items = sums["weight"]
            if split.weights is not None:  # A batch may have no label at all.
                items = jnp.maximum(items, 1)
            gradient = jax.tree.map(lambda one: one / items, gradient)
            norm = optax.tree.norm(gradient)
            # So the loss of the step shows whether both are finite.
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
            return TrainState(step, params, opt_state, state.key, recipe, carries), sums_S

        if self.recipe.patience:
            num_steps = jnp.where(self.recipe.is_stopped(state.recipe), 0, num_steps)
        sums = self._shapes(places_SxNxR[0, 0], split, widths[0])
        sums = sums | {NORM: sums["loss"]}
        sums_S = jax.tree.map(lambda one: jnp.zeros((len(places_SxNxR), *one.shape)), sums)
        return jax.lax.fori_loop(0, num_steps, take, (state, sums_S))

    def evaluate(
        self,
        params: nnx.State,
        places_SxNxR: jax.Array,
        split: DeviceSplit,
        widths: tuple[int, ...],
    ) -> tuple[dict[str, jax.Array], Sums]:
        """What the task keeps of every row of this device, `[S, N, R, ...]`, and the rows' sums.

        What is kept of steps, `[S, N, R, T, ...]`, is zero beyond the width of their block.
        """
        num_steps, num_blocks = places_SxNxR.shape[:2]
        if self.treatment.reads_on:
            found = [
                self._kept_of_stream(params, places_SxNxR[:, number], split, widths)
                for number in range(num_blocks)
            ]
            kept_NxS, sums_NxS = jax.tree.map(lambda *of: jnp.stack(of), *found)
            kept = jax.tree.map(lambda of_NxS: of_NxS.swapaxes(0, 1), kept_NxS)
            return kept, jax.tree.map(lambda of_NxS: jnp.sum(of_NxS, (0, 1)), sums_NxS)

        def block(rows_R):
            return self._at_width_of(
                rows_R,
                split,
                widths,
                lambda width: self._kept(params, split, rows_R, width, widths)[0],
            )

        places_MxR = places_SxNxR.reshape(-1, places_SxNxR.shape[-1])
        kept, sums_M = jax.lax.map(block, places_MxR)
        kept = {
            name: rows_M.reshape(num_steps, num_blocks, *rows_M.shape[1:])
            for name, rows_M in kept.items()
        }
        return kept, jax.tree.map(lambda all_M: jnp.sum(all_M, 0), sums_M)

    def _kept_of_stream(self, params, places_SxR, split, widths):
        """What is kept of rows that read on, and their sums, for each step."""

        def read_on(carries, rows_R):
            kept, carries = self._kept(params, split, rows_R, widths[-1], widths, carries)
            return carries, kept

        model = nnx.merge(self.graphdef, params)
        return jax.lax.scan(read_on, model.initial_carries(places_SxR.shape[-1]), places_SxR)[1]

    def _at_width_of(self, rows_R, split, widths, function):
        """`function(width)` for the smallest width that the rows' sequences fit in."""
        # One width for all seeds that run together: otherwise `vmap` would compute every width.
        longest = recurrence.longest(_lengths(rows_R, split))
        number = jnp.searchsorted(jnp.array(widths), longest)
        return jax.lax.switch(number, [functools.partial(function, width) for width in widths])

    def _gradient(self, params, carries, split, rows_NxR, widths, step_key):
        """The gradient of the loss summed over the items, the sums, and the last carries.

        Backpropagation through time is truncated at the `carries` (Williams and Peng, Neural
        Computation 2, 1990).
        """

        def add_block(number, loop):
            total, sums, carries = loop
            rows_R, starts = rows_NxR[number], jax.tree.map(lambda all_N: all_N[number], carries)

            def block(width):
                def loss(params):
                    model = nnx.merge(self.graphdef, params)
                    model.pass_on_tables()
                    sums, _, ends = self._measured(model, split, rows_R, width, step_key, starts)
                    return (sums["loss"], _large(nnx.state(model, nnx.Param))), (sums, ends)

                (one, _), pull_back, aux = jax.vjp(loss, params, has_aux=True)
                return pull_back((jnp.ones_like(one), _large(total)))[0], aux

            gradient, (more, ends) = self._at_width_of(rows_R, split, widths, block)
            total = jax.tree.map(lambda a, b: b if _is_large(b) else a + b, total, gradient)
            sums = jax.tree.map(jnp.add, sums, more)
            carries = jax.tree.map(lambda all_N, one: all_N.at[number].set(one), carries, ends)
            return total, sums, carries

        sums = self._shapes(rows_NxR[0], split, widths[0])
        zero = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), (params, sums))
        return jax.lax.fori_loop(0, len(rows_NxR), add_block, (*zero, carries))

    def _shapes(self, rows_R, split, width) -> Sums:
        """The shapes of the sums, found without tracing the model, which is slow."""

        def sums(rows_R, split):
            batch = self._batch(split, rows_R, width)
            if self.task.sampled_tokens:
                return {name: jnp.sum(batch.weights_I) for name in ("loss", "weight")}
            outputs_IxC = jnp.zeros((len(batch.weights_I), self.task.num_outputs))
            return self._sums(outputs_IxC, batch, training=True)

        return jax.eval_shape(sums, rows_R, split)

    def _batch(self, split, rows_R, width) -> Batch:
        side, per_step = self.treatment.padding_side, self.task.per_step
        return batching.gather(split, rows_R, width, side, per_step=per_step)

    def _measured(
        self, model, split, rows_R, width, step_key=None, carries=None
    ) -> tuple[Sums, dict[str, jax.Array], Any]:
        """The sums of R rows, what the task keeps of every item, and the carries after them.

        Args:
            step_key: the key of a training step, in which nothing is kept; None: evaluation.
            carries: the rows' initial carries, if they read on.
        """
        training = step_key is not None
        keys = {}
        if training:
            keys = {
                "dropout_keys_B": jax.vmap(jax.random.fold_in, (None, 0))(step_key, rows_R),
                "step_key": jax.random.fold_in(step_key, _OF_WEIGHTS),
            }
        if training and self.task.sampled_tokens:
            return self._sampled(model, split, rows_R, width, step_key, carries, keys)
        batch = self._batch(split, rows_R, width)
        mask_padding, padding_side, reads_on = self.treatment
        is_large = len(batch.weights_I) * self.task.num_outputs > _MOST_OUTPUTS
        if reads_on or (is_large and self.task.per_step and self.treatment == EXACT):
            encoded, ends, lengths_B = model.encode_from(
                carries, batch.inputs, batch.lengths_B, **keys
            )
            if is_large:
                steps = max(1, _MOST_OUTPUTS // (len(rows_R) * self.task.num_outputs))
                of_outputs = functools.partial(self._of_outputs, training=training)
                sums, kept = chunks.measured(
                    model, encoded, batch, steps, of_outputs, training=training
                )
                return sums, kept, ends or None
            outputs = model.answer(encoded, lengths_B)
            return *self._of_outputs(outputs, batch, training=training), ends
        shared_steps = None
        if not mask_padding and padding_side == "pre" and not self.task.per_step:
            shared_steps = width - jnp.maximum(recurrence.longest(batch.lengths_B), 1)
        outputs = model(
            batch.inputs,
            batch.lengths_B if mask_padding else None,
            padding_side=padding_side,
            shared_steps=shared_steps,
            **keys,
        )
        return *self._of_outputs(outputs, batch, training=training), None

    def _sampled(self, model, split, rows_R, width, step_key, carries, keys):
        """The same with drawn tokens in place of all; every block of a step draws the same ones."""
        mask_padding, padding_side, _ = self.treatment
        side = "post" if mask_padding else padding_side  # Masked padding may be on either side.
        batch = batching.gather(split, rows_R, width, side, per_step=True)
        encoded, ends, lengths_B = model.encode_from(
            carries, batch.inputs, batch.lengths_B if mask_padding else None, **keys
        )
        targets_BxT = batch.targets.reshape(batch.inputs.shape)
        key = jax.random.fold_in(step_key, _OF_TOKENS)
        candidates = split.sampler.draw(key, self.task.sampled_tokens, targets_BxT)
        losses_BxT = model.sampled_losses(encoded, lengths_B, targets_BxT, candidates)
        sums = {"loss": losses_BxT.reshape(-1) * batch.weights_I, "weight": batch.weights_I}
        return jax.tree.map(jnp.sum, sums), {}, ends or None

    def _of_outputs(self, outputs, batch: Batch, *, training: bool):
        """The sums and, in evaluation, what is kept of every item."""
        outputs_IxC = outputs.reshape(-1, outputs.shape[-1])
        kept = {} if training else self.task.kept(outputs_IxC, batch.targets)
        return self._sums(outputs_IxC, batch, training=training), kept

    def _sums(self, outputs_IxC, batch: Batch, *, training: bool) -> Sums:
        loss = self.task.training_loss if training else self.task.loss
        return {
            **self.task.sums(outputs_IxC, batch.targets, batch.weights_I),
            "loss": jnp.sum(loss(outputs_IxC, batch.targets) * batch.weights_I),
            "weight": jnp.sum(batch.weights_I),
        }

    def _kept(self, params, split, rows_R, width, widths, carries=None):
        """What the task keeps of each of R rows and their sums, and the carries after them."""
        model = nnx.merge(self.graphdef, params)
        sums, kept, carries = self._measured(model, split, rows_R, width, carries=carries)
        if self.task.per_step:
            lengths_R = _lengths(rows_R, split)
            kept = {
                name: self._rows(items_I, lengths_R, width, widths[-1])
                for name, items_I in kept.items()
            }
        return (kept, sums), carries

    def _rows(self, items_I, lengths_B, width: int, widest: int) -> jax.Array:
        """Reshapes items of steps, `[I, ...]`, to rows `[R, T, ...]`, each from its start."""
        rows = items_I.reshape(-1, width, *items_I.shape[1:])
        if self.treatment.padding_side == "pre":
            times_RxT = (jnp.arange(width) + width - lengths_B[:, None]) % width
            times = times_RxT.reshape(times_RxT.shape + (1,) * (rows.ndim - 2))
            rows = jnp.take_along_axis(rows, times, axis=1)
        return jnp.pad(rows, [(0, 0), (0, widest - width)] + [(0, 0)] * (rows.ndim - 2))


def _lengths(rows_R: jax.Array, split: DeviceSplit) -> jax.Array:
    """The number of steps of the sequence in each row; 0 for an empty row."""
    return jnp.where(rows_R == batching.NO_EXAMPLE, 0, split.lengths_N[rows_R])


def _added_up(arrays, axis):
    """The sums of arrays over devices.

    Small ones are summed as a single array: a CPU's devices meet for each, which takes 60 us.
    """
    leaves, structure = jax.tree.flatten(arrays)
    groups: dict[Any, list[int]] = {}
    for number, leaf in enumerate(leaves):
        groups.setdefault(number if _is_large(leaf) else leaf.dtype, []).append(number)
    for numbers in groups.values():
        flat, unravel = jax.flatten_util.ravel_pytree([leaves[number] for number in numbers])
        for number, total in zip(numbers, unravel(jax.lax.psum(flat, axis)), strict=True):
            leaves[number] = total
    return jax.tree.unflatten(structure, leaves)


def _is_large(leaf: jax.Array) -> bool:
    return leaf.size >= _MANY_PARAMETERS


def _large(params: nnx.State) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(params) if _is_large(leaf)]
