"""Optimisers, as optax has them."""

import jax.numpy as jnp
import optax


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
