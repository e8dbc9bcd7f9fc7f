"""The simple recurrent network.

Elman, "Finding Structure in Time", Cognitive Science 14(2), 1990.
"""

import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class SimpleRNN(base.AffineCell):
    """h' = tanh(W x + R h + b)."""

    counterparts = base.Counterparts(
        keras=base.Counterpart("SimpleRNN", {"activation": "tanh"}),
        torch=base.Counterpart("RNN", {}),
    )

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, hidden_size)
        self.recurrent_kernel = base.orthogonal(rngs, hidden_size, hidden_size)
        self.bias = base.constant(0.0, hidden_size)

    def initial_carry(self):
        return (jnp.zeros(self.hidden_size),)

    def activate(self, carry, a_G):
        return (jnp.tanh(a_G),)
