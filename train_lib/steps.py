"""One training step and one evaluation step: pure functions, compiled once for each batch shape."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from train_lib import metrics
from train_lib.data.batches import Batch
from train_lib.state import TrainState


class Steps(NamedTuple):
    """Compiled functions; batches come with their rows spread over the mesh.

    Attributes:
        train: `(state, batch) -> (state, sums)`; gives the old state's memory to the new one.
        evaluate: `(params, batch) -> (logits_B, sums)`.
    """

    train: Callable[[TrainState, Batch], tuple[TrainState, metrics.Sums]]
    evaluate: Callable[[nnx.State, Batch], tuple[jax.Array, metrics.Sums]]


def make(
    graphdef: nnx.GraphDef[Any],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    data_config,
) -> Steps:
    """The steps of a model that was split into `graphdef` and parameters.

    Every device works through its own rows to the end and only then are the sums added up, so
    that no loop over time waits for another device.
    """
    rows, whole = PartitionSpec("batch"), PartitionSpec()

    def predict(params, batch: Batch, dropout_keys_B=None):
        logits_B = nnx.merge(graphdef, params)(
            batch.tokens_BxT,
            batch.lengths_B if data_config.mask_padding else None,
            padding_side=data_config.padding_side,
            dropout_keys_B=dropout_keys_B,
        )
        return logits_B, metrics.cross_entropy(logits_B, batch.labels_B, batch.weights_B)

    def gradients_of_rows(params, batch: Batch, dropout_keys_B):
        def total_loss(params):
            _, sums = predict(params, batch, dropout_keys_B)
            return sums.loss, sums

        return jax.lax.psum(jax.grad(total_loss, has_aux=True)(params), "batch")

    def train_step(state: TrainState, batch: Batch):
        step_key = jax.random.fold_in(state.key, state.step)
        gradients, sums = jax.shard_map(
            gradients_of_rows,
            mesh=mesh,
            in_specs=(whole, rows, rows),
            out_specs=whole,
            check_vma=False,
        )(state.params, batch, jax.random.split(step_key, len(batch.labels_B)))
        gradients = jax.tree.map(lambda gradient: gradient / sums.reviews, gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key), sums

    def predict_rows(params, batch: Batch):
        logits_B, sums = predict(params, batch)
        return logits_B, jax.lax.psum(sums, "batch")

    evaluate = jax.shard_map(
        predict_rows, mesh=mesh, in_specs=(whole, rows), out_specs=(rows, whole), check_vma=False
    )
    return Steps(jax.jit(train_step, donate_argnums=0), jax.jit(evaluate))
