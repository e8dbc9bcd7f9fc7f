"""Long short-term memory with more memory than output.

Sak, Senior and Beaufays, "Long Short-Term Memory Recurrent Neural Network Architectures for Large
Scale Acoustic Modeling", Interspeech 2014.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base

_CELLS_PER_UNIT = 2  # As in the paper's larger models.


class ProjectedLSTM(base.Cell):
    """The LSTM with 2H cells and h' = P (o tanh(c')) of H units; P has no bias."""

    def __init__(
        self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs, forget_bias: float = 1.0
    ):
        cells = _CELLS_PER_UNIT * hidden_size
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, 4 * cells)
        self.recurrent_kernel = base.orthogonal(rngs, hidden_size, 4 * cells)
        self.bias = base.gate_bias(cells, 0.0, forget_bias, 0.0, 0.0)
        self.projection = base.glorot_uniform(rngs, cells, hidden_size)

    def initial_carry(self):
        return jnp.zeros(_CELLS_PER_UNIT * self.hidden_size), jnp.zeros(self.hidden_size)

    def project(self, x_D):
        return base.product(x_D, self.kernel[...]) + self.bias

    def step(self, carry, z):
        c_C, h_H = carry
        i, f, g, o = jnp.split(z + base.product(h_H, self.recurrent_kernel[...]), 4)
        c_C = jax.nn.sigmoid(f) * c_C + jax.nn.sigmoid(i) * jnp.tanh(g)
        h_H = base.product(jax.nn.sigmoid(o) * jnp.tanh(c_C), self.projection[...])
        return (c_C, h_H), h_H
