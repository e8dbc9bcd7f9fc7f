"""Quasi-recurrent network.

Bradbury, Merity, Xiong and Socher, "Quasi-Recurrent Neural Networks", ICLR 2017: fo-pooling and a
convolution two steps wide.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class QRNN(base.PointwiseCell):
    """g, f, o = V x_prev + W x + b; c' = f c + (1 - f) tanh(g); h' = o c', f and o through sigmoid.

    Before the first step x_prev is zero. Gates are concatenated in the order g, f, o.
    """

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, 3 * hidden_size)
        self.previous_kernel = base.glorot_uniform(rngs, input_size, 3 * hidden_size)
        self.bias = base.constant(0.0, 3 * hidden_size)

    def initial_carry(self):
        return (jnp.zeros(self.hidden_size),) * 4

    def project(self, x_D):
        now_G = base.product(x_D, self.kernel[...]) + self.bias
        return now_G, base.product(x_D, self.previous_kernel[...])

    def step(self, carry, z):
        (c_H, *previous), (now_G, next_G) = carry, z
        g, f, o = (old + now for old, now in zip(previous, jnp.split(now_G, 3), strict=True))
        f = jax.nn.sigmoid(f)
        c_H = f * c_H + (1 - f) * jnp.tanh(g)
        return (c_H, *jnp.split(next_G, 3)), jax.nn.sigmoid(o) * c_H
