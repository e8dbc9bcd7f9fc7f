"""Everything that training changes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx


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
