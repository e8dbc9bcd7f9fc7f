"""Real-gated linear recurrent unit.

De et al., "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language
Models", 2024: equations 1 to 4, applied to V x instead of x, since D may differ from H.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base

_SHARPNESS = 8.0  # The paper's c.
_LEAST = 1e-6  # The least value under a root, whose derivative at zero is infinite.


class RGLRU(base.LinearCell):
    """r, i = sigmoid(W x + b); a = exp(-8 r softplus(decay)); h' = a h + sqrt(1 - a^2) i (V x).

    `kernel` concatenates r, i and V x, `bias` r and i. `decay` is drawn so that
    exp(-8 softplus(decay)), which is a for r = 1, is uniform in [0.9, 0.999].
    """

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, 3 * hidden_size)
        self.bias = base.constant(0.0, 2 * hidden_size)
        largest_a_H = jax.random.uniform(rngs.params(), (hidden_size,), minval=0.9, maxval=0.999)
        self.decay = nnx.Param(jnp.log(jnp.expm1(-jnp.log(largest_a_H) / _SHARPNESS)))

    def initial_carry(self):
        return jnp.zeros(self.hidden_size)

    def project(self, x_D):
        r, i, value_H = jnp.split(base.product(x_D, self.kernel[...]), 3)
        b_r, b_i = jnp.split(self.bias[...], 2)
        log_a_H = -_SHARPNESS * jax.nn.sigmoid(r + b_r) * jax.nn.softplus(self.decay[...])
        scale_H = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a_H), _LEAST))
        return jnp.exp(log_a_H), scale_H * jax.nn.sigmoid(i + b_i) * value_H
