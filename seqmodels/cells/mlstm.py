"""mLSTM: long short-term memory with a matrix memory.

Beck et al., "xLSTM: Extended Long Short-Term Memory", NeurIPS 2024: equations 19 to 27,
with one head.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base

_MOST = 80.0  # The largest exponent; above it h is zero anyway.


class MLSTM(base.MatrixMemoryCell):
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

    def project(self, x_D):
        i, f = base.product(x_D, self.gate_kernel[...]) + self.gate_bias
        q, k, v, o = jnp.split(base.product(x_D, self.kernel[...]) + self.bias, 4)
        return base.Write(i, f, q, k / self.hidden_size**0.5, v, o)

    def read(self, memory_H, normalizer, m, rest):
        one = jnp.exp(jnp.minimum(-m, _MOST))
        return jax.nn.sigmoid(rest) * memory_H / jnp.maximum(jnp.abs(normalizer), one)
