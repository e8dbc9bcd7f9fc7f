"""Minimal gated unit.

Zhou, Wu, Zhang and Zhou, "Minimal Gated Unit for Recurrent Neural Networks", IJAC 13(3), 2016.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class MGU(base.Cell):
    """f = sigmoid(W x + R h + b); n = tanh(W x + R (f h) + b); h' = (1 - f) h + f n.

    f and n are concatenated in W, R and b.
    """

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, 2 * hidden_size)
        self.recurrent_kernel = base.orthogonal(rngs, hidden_size, 2 * hidden_size)
        self.bias = base.constant(0.0, 2 * hidden_size)

    def initial_carry(self):
        return jnp.zeros(self.hidden_size)

    def project(self, x_D):
        return base.product(x_D, self.kernel[...]) + self.bias

    def step(self, carry, z):
        h_H = carry
        z_f, z_n = jnp.split(z, 2)
        of_gate, of_new = jnp.split(self.recurrent_kernel[...], 2, axis=1)
        f = jax.nn.sigmoid(z_f + base.product(h_H, of_gate))
        h_H = (1 - f) * h_H + f * jnp.tanh(z_n + base.product(f * h_H, of_new))
        return h_H, h_H
