"""Training and evaluation steps: pure functions, many steps a call, compiled once."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from seqmodels import recurrence
from train_lib import devices, metrics
from train_lib.data import batches
from train_lib.data.batches import Corpus, Layout
from train_lib.data.dataset import Split
from train_lib.metrics import Metrics
from train_lib.state import TrainState

# K seeds, S steps, P devices, N blocks of R rows: see `batches.Layout`.

_NO_REVIEWS_NUMBER = 2**31  # So that the weights' masks have a key that is no review's.


class Steps(NamedTuple):
    """Compiled functions. Their last argument are the widths that rows may have, in tokens.

    Attributes:
        train: `(state_K, corpus, places_KxSxPxNxR, num_steps, widths) -> (state_K, sums_KxS)`;
            takes the first `num_steps` of the S steps; gives the old state's memory to the new one.
            The loss of a step whose gradient is not finite is NaN.
        evaluate: `(params_K, corpus, places_SxPxNxR, widths) -> (logits_KxSxPxNxR, sums_K)`.
    """

    train: Callable[
        [TrainState, Corpus, jax.Array, int, tuple[int, ...]], tuple[TrainState, metrics.Sums]
    ]
    evaluate: Callable[
        [nnx.State, Corpus, jax.Array, tuple[int, ...]], tuple[jax.Array, metrics.Sums]
    ]


def make(
    graphdef: nnx.GraphDef[Any],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    data_config,
    seeds_at_once: int = 1,
) -> Steps:
    """The steps of a model that was split into `graphdef` and parameters.

    Every device works through its own rows to the end of a step and only then are the sums added
    up, so that no loop over time waits for another device. Seeds have nothing to do with each
    other.

    Args:
        graphdef: of the model.
        optimizer: of each seed.
        mesh: as `devices.mesh` makes it.
        data_config: `config.data`.
        seeds_at_once: of a device's seeds, by `vmap`; one group of so many after the other.
    """

    def at_width_of(reviews_R, corpus, widths, function):
        """`function(width)` for the smallest of the widths that the reviews fit in."""
        lengths_R = jnp.where(reviews_R == batches.NO_REVIEW, 0, corpus.lengths_N[reviews_R])
        # Of all seeds that run together: for each its own, `vmap` would compute every width.
        number = jnp.searchsorted(jnp.array(widths), recurrence.longest(lengths_R))
        return jax.lax.switch(number, [functools.partial(function, width) for width in widths])

    def predict(params, corpus, reviews_R, width, step_key=None):
        batch = batches.gather(corpus, reviews_R, width, data_config.padding_side)
        keys = {}
        if step_key is not None:
            keys = {
                "dropout_keys_B": jax.vmap(jax.random.fold_in, (None, 0))(step_key, reviews_R),
                "step_key": jax.random.fold_in(step_key, _NO_REVIEWS_NUMBER),
            }
        shared_steps = None
        if not data_config.mask_padding and data_config.padding_side == "pre":
            shared_steps = width - jnp.maximum(recurrence.longest(batch.lengths_B), 1)
        logits_Rx1 = nnx.merge(graphdef, params)(
            batch.tokens_BxT,
            batch.lengths_B if data_config.mask_padding else None,
            padding_side=data_config.padding_side,
            shared_steps=shared_steps,
            **keys,
        )
        logits_R = logits_Rx1[:, 0]
        return logits_R, metrics.cross_entropy(logits_R, batch.labels_B, batch.weights_B)

    def gradients(params, corpus, reviews_NxR, widths, step_key):
        """The gradient of the loss summed over the reviews, and the sums."""

        def add_block(number, total):
            reviews_R = reviews_NxR[number]

            def block(width):
                def loss(params):
                    _, sums = predict(params, corpus, reviews_R, width, step_key)
                    return sums.loss, sums

                return jax.grad(loss, has_aux=True)(params)

            of_block = at_width_of(reviews_R, corpus, widths, block)
            return jax.tree.map(jnp.add, total, of_block)

        zero = jax.tree.map(jnp.zeros_like, params), metrics.Sums(*jnp.zeros(3))
        return jax.lax.fori_loop(0, len(reviews_NxR), add_block, zero)

    def train(state, places_SxPxNxR, corpus, num_steps, widths):
        def take(number, loop):
            state, sums_S = loop
            key = jax.random.fold_in(state.key, state.step)
            reviews_NxR = places_SxPxNxR[number, 0]  # Of this device.
            gradient, sums = jax.lax.psum(
                gradients(state.params, corpus, reviews_NxR, widths, key), "batch"
            )
            gradient = jax.tree.map(lambda one: one / sums.reviews, gradient)
            # The loss of the step then tells of both.
            is_finite = jnp.isfinite(optax.tree.norm(gradient))
            sums = sums._replace(loss=jnp.where(is_finite, sums.loss, jnp.nan))
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            sums_S = jax.tree.map(lambda all_S, one: all_S.at[number].set(one), sums_S, sums)
            return TrainState(state.step + 1, params, opt_state, state.key), sums_S

        sums_S = metrics.Sums(*jnp.zeros((3, len(places_SxPxNxR))))
        return jax.lax.fori_loop(0, num_steps, take, (state, sums_S))

    def evaluate(params, places_SxPxNxR, corpus, widths):
        def block(reviews_R):
            return at_width_of(
                reviews_R, corpus, widths, lambda width: predict(params, corpus, reviews_R, width)
            )

        logits_MxR, sums_M = jax.lax.map(
            block, places_SxPxNxR.reshape(-1, places_SxPxNxR.shape[-1])
        )
        sums = jax.lax.psum(jax.tree.map(jnp.sum, sums_M), "batch")
        return logits_MxR.reshape(places_SxPxNxR.shape), sums

    def of_each_seed(function, *arrays_K):
        return jax.lax.map(
            lambda arrays: function(*arrays),
            arrays_K,
            batch_size=None if seeds_at_once == 1 else seeds_at_once,
        )

    whole, of_seed, of_seed_and_rows = (
        PartitionSpec(), PartitionSpec("seed"), PartitionSpec("seed", None, "batch"),
    )  # fmt: skip

    @functools.partial(jax.jit, static_argnums=4, donate_argnums=0)
    def train_all(state_K, corpus, places_KxSxPxNxR, num_steps, widths):
        def on_device(state_K, corpus, places_KxSxPxNxR, num_steps):
            function = functools.partial(train, corpus=corpus, num_steps=num_steps, widths=widths)
            return of_each_seed(function, state_K, places_KxSxPxNxR)

        return jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(of_seed, whole, of_seed_and_rows, whole),
            out_specs=of_seed,
            check_vma=False,
        )(state_K, corpus, places_KxSxPxNxR, num_steps)

    @functools.partial(jax.jit, static_argnums=3)
    def evaluate_all(params_K, corpus, places_SxPxNxR, widths):
        def on_device(params_K, corpus, places_SxPxNxR):
            return of_each_seed(
                lambda params: evaluate(params, places_SxPxNxR, corpus, widths), params_K
            )

        return jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(of_seed, whole, PartitionSpec(None, "batch")),
            out_specs=(of_seed_and_rows, of_seed),
            check_vma=False,
        )(params_K, corpus, places_SxPxNxR)

    return Steps(train_all, evaluate_all)


def evaluate_plans(
    steps: Steps,
    params_K: nnx.State,
    split: Split,
    plans: Sequence[np.ndarray],
    layout: Layout,
    mesh: Mesh,
    widths: tuple[int, ...],
) -> tuple[Metrics, np.ndarray]:
    """Of each seed, the metrics of the planned batches and the logit of every review, in order.

    Reviews longer than the widest row keep their last tokens.

    Returns:
        Metrics of K values, and logits `[K, N]`.
    """
    split = split.last_tokens(widths[-1])
    places = layout.place_all(plans, split.lengths, len(plans))
    logits_KxSxPxNxR, sums_K = steps.evaluate(
        params_K,
        devices.replicate(Corpus.of(split), mesh),
        devices.spread(places, mesh),
        widths,
    )
    is_review = places != batches.NO_REVIEW
    logits_of_places = devices.fetch(logits_KxSxPxNxR)
    logits_KxN = np.empty((len(logits_of_places), len(split)), np.float32)
    logits_KxN[:, places[is_review]] = logits_of_places[:, is_review]
    return metrics.mean([sums_K]), logits_KxN
