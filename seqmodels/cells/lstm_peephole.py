"""Long short-term memory whose gates see the cell.

Gers and Schmidhuber, "Recurrent Nets that Time and Count", IJCNN 2000.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class PeepholeLSTM(base.AffineCell):
    """The LSTM with p_i c and p_f c added to i and f before the sigmoid, and p_o c' to o.

    Parameters are those of the LSTM, in its order i, f, g, o, and `peepholes` p `[3H]`, initially
    zero, in the order i, f, o.
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs, forget_bias: float = 1.0
    ):
        gates = 4 * hidden_size
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, gates)
        self.recurrent_kernel = base.orthogonal(rngs, hidden_size, gates)
        self.bias = base.gate_bias(hidden_size, 0.0, forget_bias, 0.0, 0.0)
        self.peepholes = base.constant(0.0, 3 * hidden_size)

    def initial_carry(self):
        return jnp.zeros(self.hidden_size), jnp.zeros(self.hidden_size)

    def activate(self, carry, a_G):
        c_H, _ = carry
        i, f, g, o = jnp.split(a_G, 4)
        p_i, p_f, p_o = jnp.split(self.peepholes[...], 3)
        input_H, keep_H = jax.nn.sigmoid(i + p_i * c_H), jax.nn.sigmoid(f + p_f * c_H)
        c_H = keep_H * c_H + input_H * jnp.tanh(g)
        return c_H, jax.nn.sigmoid(o + p_o * c_H) * jnp.tanh(c_H)
