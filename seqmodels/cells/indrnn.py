"""Independently recurrent network.

Li, Li, Cook, Zhu and Gao, "Independently Recurrent Neural Network (IndRNN)", CVPR 2018.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class IndRNN(base.PointwiseCell):
    """h' = relu(W x + u h + b): units are independent of each other; u is drawn from U(0, 1).

    Args:
        memory_steps: T, how long memories should last initially: u is drawn from
            U(2^(-1/T), 2^(1/T)), so that T steps at most halve or double a unit's value.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rngs: nnx.Rngs,
        memory_steps: float | None = None,
    ):
        if memory_steps is not None and not memory_steps >= 1:
            raise ValueError(f"memory_steps must be 1 or more, and is {memory_steps}")
        most = 1.0 if memory_steps is None else 2.0 ** (1 / memory_steps)
        least = 0.0 if memory_steps is None else 1 / most
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, hidden_size)
        self.recurrent_weights = nnx.Param(
            jax.random.uniform(rngs.params(), (hidden_size,), minval=least, maxval=most)
        )
        self.bias = base.constant(0.0, hidden_size)

    def initial_carry(self):
        return jnp.zeros(self.hidden_size)

    def project(self, x_D):
        return base.product(x_D, self.kernel[...]) + self.bias

    def step(self, carry, z):
        h_H = jax.nn.relu(z + self.recurrent_weights * carry)
        return h_H, h_H
