"""minLSTM.

Feng et al., "Were RNNs All We Needed?", 2024: section 3.2, with the two gates normalised.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class MinLSTM(base.LinearCell):
    """f, i = sigmoid(W x + b); n = W x + b; h' = (f h + i n) / (f + i).

    f, i and n are concatenated; `forget_bias` is the bias of f, as in the LSTM.
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs, forget_bias: float = 1.0
    ):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, 3 * hidden_size)
        self.bias = base.gate_bias(hidden_size, forget_bias, 0.0, 0.0)

    def initial_carry(self):
        return jnp.zeros(self.hidden_size)

    def project(self, x_D):
        f, i, new_H = jnp.split(base.product(x_D, self.kernel[...]) + self.bias, 3)
        # f / (f + i) of the two sigmoids, both of which may be too small to divide by.
        keep_H = jax.nn.sigmoid(jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i))
        return keep_H, (1 - keep_H) * new_H
