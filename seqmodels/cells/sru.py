"""Simple recurrent unit.

Lei, Zhang, Wang, Dai and Artzi, "Simple Recurrent Units for Highly Parallelizable Recurrence",
EMNLP 2018: equations 1 to 4, with the projected highway of its implementation, since D may differ
from H.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class SRU(base.PointwiseCell):
    """f, r = sigmoid(W x + v c + b); c' = f c + (1 - f) W_c x; h' = r c' + (1 - r) W_h x.

    `kernel` concatenates f, r, c and h; `cell_weights` v and `bias` b concatenate f and r.
    """

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, 4 * hidden_size)
        bound = 3**0.5
        self.cell_weights = nnx.Param(
            jax.random.uniform(rngs.params(), (2 * hidden_size,), minval=-bound, maxval=bound)
        )
        self.bias = base.constant(0.0, 2 * hidden_size)

    def initial_carry(self):
        return jnp.zeros(self.hidden_size)

    def project(self, x_D):
        return base.product(x_D, self.kernel[...])

    def step(self, carry, z):
        c_H = carry
        z_f, z_r, z_c, z_h = jnp.split(z, 4)
        v_f, v_r = jnp.split(self.cell_weights[...], 2)
        b_f, b_r = jnp.split(self.bias[...], 2)
        f, r = jax.nn.sigmoid(z_f + v_f * c_H + b_f), jax.nn.sigmoid(z_r + v_r * c_H + b_r)
        c_H = f * c_H + (1 - f) * z_c
        return c_H, r * c_H + (1 - r) * z_h
