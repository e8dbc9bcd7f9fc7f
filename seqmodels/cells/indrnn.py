"""Independently recurrent network.

Li, Li, Cook, Zhu and Gao, "Independently Recurrent Neural Network (IndRNN)", CVPR 2018.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class IndRNN(base.Cell):
    """h' = relu(W x + u h + b): a unit sees no other; u is drawn from U(0, 1)."""

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, hidden_size)
        self.recurrent_weights = nnx.Param(jax.random.uniform(rngs.params(), (hidden_size,)))
        self.bias = base.constant(0.0, hidden_size)

    def initial_carry(self):
        return jnp.zeros(self.hidden_size)

    def project(self, x_D):
        return base.product(x_D, self.kernel[...]) + self.bias

    def step(self, carry, z):
        h_H = jax.nn.relu(z + self.recurrent_weights * carry)
        return h_H, h_H
