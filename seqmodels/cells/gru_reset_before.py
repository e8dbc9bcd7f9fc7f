"""Gated recurrent unit, with the reset gate before the product.

Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", EMNLP 2014, as
published; Keras' `reset_after=False`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class ResetBeforeGRU(base.Cell):
    """u, r = sigmoid(W x + R h + b); n = tanh(W x + R (r h) + b); h' = u h + (1 - u) n.

    Gates are concatenated in Keras' order u, r, n.

    Args:
        memory_steps: T, how long memories should last initially: the update gate u's bias is
            `base.memory_bias`.
    """

    counterparts = base.Counterparts(
        keras=base.Counterpart(
            "GRU", {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": False}
        )
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rngs: nnx.Rngs,
        memory_steps: float | None = None,
    ):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, 3 * hidden_size)
        self.recurrent_kernel = base.orthogonal(rngs, hidden_size, 3 * hidden_size)
        self.bias = base.constant(0.0, 3 * hidden_size)
        if memory_steps is not None:
            u_H = base.memory_bias(rngs, hidden_size, memory_steps)
            self.bias[...] = self.bias[...].at[:hidden_size].set(u_H)

    def initial_carry(self):
        return jnp.zeros(self.hidden_size)

    def project(self, x_D):
        return base.product(x_D, self.kernel[...]) + self.bias

    def step(self, carry, z):
        h_H, size = carry, self.hidden_size
        of_gates, of_new = jnp.split(self.recurrent_kernel[...], [2 * size], axis=1)
        u, r = jnp.split(jax.nn.sigmoid(z[: 2 * size] + base.product(h_H, of_gates)), 2)
        new_H = jnp.tanh(z[2 * size :] + base.product(r * h_H, of_new))
        h_H = u * h_H + (1 - u) * new_H
        return h_H, h_H
