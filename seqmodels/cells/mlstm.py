"""mLSTM: long short-term memory with a matrix memory.

Beck et al., "xLSTM: Extended Long Short-Term Memory", NeurIPS 2024: equations 19 to 27,
with one head.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base

_MOST = 80.0  # The largest exponent; above it h is zero anyway.


class MLSTM(base.Cell):
    """C' = f C + i v k^T; n' = f n + i k; h' = sigmoid(o) C' q / max(|n' q|, 1).

    q, k / sqrt(H), v and o are `W x + b`, concatenated in `kernel` and `bias`; i and f, scalars,
    are exponentials of `w x + b`, with `gate_kernel` and `gate_bias`, relative to
    m' = max(f + m, i). The 1 in the maximum is relative too.
    """

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, 4 * hidden_size)
        self.bias = base.constant(0.0, 4 * hidden_size)
        self.gate_kernel = base.glorot_uniform(rngs, input_size, 2)
        self.gate_bias = base.constant(0.0, 2)

    def initial_carry(self):
        size = self.hidden_size
        return jnp.zeros((size, size)), jnp.zeros(size), jnp.array(base.MINUS_INFINITY)

    def project(self, x_D):
        gates_2 = base.product(x_D, self.gate_kernel[...]) + self.gate_bias
        return gates_2, base.product(x_D, self.kernel[...]) + self.bias

    def step(self, carry, z):
        (memory_HxH, n_H, m), (gates_2, qkvo_G) = carry, z
        q, k, v, o = jnp.split(qkvo_G, 4)
        k = k / self.hidden_size**0.5
        i, f = gates_2
        largest = jnp.maximum(f + m, i)
        i, f = jnp.exp(i - largest), jnp.exp(f + m - largest)
        memory_HxH = f * memory_HxH + i * v[:, None] * k
        n_H = f * n_H + i * k
        one = jnp.exp(jnp.minimum(-largest, _MOST))
        scale = jnp.maximum(jnp.abs(jnp.sum(n_H * q)), one)
        h_H = jax.nn.sigmoid(o) * jnp.sum(memory_HxH * q, axis=1) / scale
        return (memory_HxH, n_H, largest), h_H

    def blend(self, old, new, share):
        return base.blend_scaled(old, new, share[-1])
