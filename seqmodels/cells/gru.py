"""Gated recurrent unit, with the reset gate after the product.

Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", EMNLP 2014, in the form of
cuDNN, Keras' `reset_after=True` and PyTorch.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class GRU(base.GatedCell):
    """u, r = sigmoid(W x + b + R h + d); n = tanh(W x + b + r (R h + d)); h' = u h + (1 - u) n.

    Parameters, with the gates concatenated in Keras' order u, r, n: `kernel` W, `recurrent_kernel`
    R, `bias` b and `recurrent_bias` d, zero.

    Args:
        memory_steps: T, how long memories should last initially: the update gate u's bias b is
            `base.memory_bias`.
    """

    counterparts = base.Counterparts(
        keras=base.Counterpart(
            "GRU", {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True}
        ),
        torch=base.Counterpart("GRU", {}, gates=(1, 0, 2)),
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rngs: nnx.Rngs,
        memory_steps: float | None = None,
    ):
        gates = 3 * hidden_size
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, gates)
        self.recurrent_kernel = base.orthogonal(rngs, hidden_size, gates)
        self.bias = base.constant(0.0, gates)
        self.recurrent_bias = base.constant(0.0, gates)
        if memory_steps is not None:
            u_H = base.memory_bias(rngs, hidden_size, memory_steps)
            self.bias[...] = self.bias[...].at[:hidden_size].set(u_H)

    def initial_carry(self):
        return (jnp.zeros(self.hidden_size),)

    def project(self, x_D):
        return base.product(x_D, self.kernel[...]) + self.bias

    def update(self, carry, z_G, u_G):
        (h_H,) = carry
        z_u, z_r, z_n = jnp.split(z_G, 3)
        u_u, u_r, u_n = jnp.split(u_G + self.recurrent_bias, 3)
        keep_H = jax.nn.sigmoid(z_u + u_u)
        new_H = jnp.tanh(z_n + jax.nn.sigmoid(z_r + u_r) * u_n)
        return (keep_H * h_H + (1 - keep_H) * new_H,)
