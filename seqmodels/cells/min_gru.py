"""minGRU.

Feng et al., "Were RNNs All We Needed?", 2024: section 3.1, in the form without logarithms.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class MinGRU(base.LinearCell):
    """u = sigmoid(W_u x + b); n = W_n x + b; h' = (1 - u) h + u n; u and n are concatenated."""

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, 2 * hidden_size)
        self.bias = base.constant(0.0, 2 * hidden_size)

    def initial_carry(self):
        return jnp.zeros(self.hidden_size)

    def project(self, x_D):
        u, new_H = jnp.split(base.product(x_D, self.kernel[...]) + self.bias, 2)
        return jax.nn.sigmoid(-u), jax.nn.sigmoid(u) * new_H
