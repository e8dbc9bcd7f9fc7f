"""Long short-term memory with layer normalisation.

Ba, Kiros and Hinton, "Layer Normalization", 2016: equations 20 to 22.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base

_EPSILON = 1e-5  # Under the root of the variance.


class LayerNormLSTM(base.GatedCell):
    """i, f, g, o = N(W x) + N(R h) + b; c' as in the LSTM; h' = sigmoid(o) tanh(N(c')).

    N(v) is (v - mean) / deviation, over all gates together, times a gain, which is initially one.
    The shifts of W x and R h are in b; that of c' is `cell_shift`.
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs, forget_bias: float = 1.0
    ):
        gates = 4 * hidden_size
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, gates)
        self.recurrent_kernel = base.orthogonal(rngs, hidden_size, gates)
        self.bias = base.gate_bias(hidden_size, 0.0, forget_bias, 0.0, 0.0)
        self.input_gain = base.constant(1.0, gates)
        self.recurrent_gain = base.constant(1.0, gates)
        self.cell_gain = base.constant(1.0, hidden_size)
        self.cell_shift = base.constant(0.0, hidden_size)

    def initial_carry(self):
        return jnp.zeros(self.hidden_size), jnp.zeros(self.hidden_size)

    def project(self, x_D):
        return _normalise(base.product(x_D, self.kernel[...])) * self.input_gain + self.bias

    def update(self, carry, z_G, u_G):
        c_H, _ = carry
        i, f, g, o = jnp.split(z_G + _normalise(u_G) * self.recurrent_gain, 4)
        c_H = jax.nn.sigmoid(f) * c_H + jax.nn.sigmoid(i) * jnp.tanh(g)
        seen_H = _normalise(c_H) * self.cell_gain + self.cell_shift
        return c_H, jax.nn.sigmoid(o) * jnp.tanh(seen_H)


def _normalise(v):
    centred = v - v.mean()
    return centred * jax.lax.rsqrt(jnp.square(centred).mean() + _EPSILON)
