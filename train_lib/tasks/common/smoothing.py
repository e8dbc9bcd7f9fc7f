"""Label smoothing: targets that give every class a small share."""

import jax
import jax.numpy as jnp

from train_lib.tasks.base import Array


def checked(label_smoothing: float) -> float:
    """Checks a label smoothing share, and returns it.

    Raises:
        ValueError: it is not in [0, 1).
    """
    if not (isinstance(label_smoothing, int | float) and 0 <= label_smoothing < 1):
        raise ValueError(f"label_smoothing={label_smoothing!r} must be a number in [0, 1)")
    return label_smoothing


def smoothed(losses_N: jax.Array, outputs_NxC: Array, label_smoothing: float) -> jax.Array:
    """Cross-entropies for targets with a share of each spread evenly over all classes: `[N]`.

    Szegedy et al., "Rethinking the Inception architecture", CVPR 2016, section 7: with a share s, a
    target is 1 - s + s / C for its class, and s / C for each of the others.

    Args:
        losses_N: the cross-entropies for the targets as they are.
        outputs_NxC: logits; for two classes, only that of the second.
        label_smoothing: s; 0 changes nothing.
    """
    if not label_smoothing:
        return losses_N
    logits_NxC = jnp.asarray(outputs_NxC)
    if logits_NxC.shape[-1] == 1:
        logits_NxC = jnp.concatenate([jnp.zeros_like(logits_NxC), logits_NxC], -1)
    uniform_N = jax.nn.logsumexp(logits_NxC, -1) - jnp.mean(logits_NxC, -1)
    return (1 - label_smoothing) * losses_N + label_smoothing * uniform_N
