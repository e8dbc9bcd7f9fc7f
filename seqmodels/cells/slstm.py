"""sLSTM: scalar memory with exponential gates.

Beck et al., "xLSTM: Extended Long Short-Term Memory", NeurIPS 2024: equations 8 to 17,
with one head.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class SLSTM(base.AffineCell):
    """c' = f c + i tanh(g); n' = f n + i; h' = sigmoid(o) c' / n', with i = exp(i) and f = exp(f).

    Both are computed relative to m' = max(f + m, i), which also scales c and n, so that no
    exponential overflows. The parameters and the order of the gates are the LSTM's.
    """

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        gates = 4 * hidden_size
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, gates)
        self.recurrent_kernel = base.orthogonal(rngs, hidden_size, gates)
        self.bias = base.constant(0.0, gates)

    def initial_carry(self):
        zero_H = jnp.zeros(self.hidden_size)
        return zero_H, zero_H, jnp.full(self.hidden_size, base.MINUS_INFINITY), zero_H

    def activate(self, carry, a_G):
        c_H, n_H, m_H, _ = carry
        i, f, g, o = jnp.split(a_G, 4)
        largest_H = jnp.maximum(f + m_H, i)
        i, f = jnp.exp(i - largest_H), jnp.exp(f + m_H - largest_H)
        c_H = f * c_H + i * jnp.tanh(g)
        n_H = f * n_H + i
        return c_H, n_H, largest_H, jax.nn.sigmoid(o) * c_H / n_H

    def blend(self, old, new, share):
        (*scaled_old, h_old), (*scaled_new, h_new) = old, new
        share_H, *_, share_of_h = share
        h_H = share_of_h * h_old + (1 - share_of_h) * h_new
        return *base.blend_scaled(tuple(scaled_old), tuple(scaled_new), share_H), h_H
