"""Long short-term memory with coupled input and forget gates.

Greff et al., "LSTM: A Search Space Odyssey", IEEE TNNLS 28(10), 2017: the variant CIFG.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class CoupledLSTM(base.AffineCell):
    """The LSTM with i = 1 - f; gates in the order f, g, o; `forget_bias` is the bias of f."""

    def __init__(
        self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs, forget_bias: float = 1.0
    ):
        gates = 3 * hidden_size
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, gates)
        self.recurrent_kernel = base.orthogonal(rngs, hidden_size, gates)
        self.bias = base.gate_bias(hidden_size, forget_bias, 0.0, 0.0)

    def initial_carry(self):
        return jnp.zeros(self.hidden_size), jnp.zeros(self.hidden_size)

    def activate(self, carry, a_G):
        c_H, _ = carry
        f, g, o = jnp.split(a_G, 3)
        keep_H = jax.nn.sigmoid(f)
        c_H = keep_H * c_H + (1 - keep_H) * jnp.tanh(g)
        return c_H, jax.nn.sigmoid(o) * jnp.tanh(c_H)
