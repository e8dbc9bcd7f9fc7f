"""Everything that training changes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx


class TrainState(NamedTuple):
    """One seed's run at one moment.

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


def create(params: nnx.State, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        key=jax.random.key(seed),
    )
