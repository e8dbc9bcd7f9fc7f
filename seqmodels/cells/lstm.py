"""Long short-term memory.

Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997, with the forget
gate of Gers, Schmidhuber and Cummins, "Learning to Forget", Neural Computation 12(10), 2000.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


class LSTM(base.AffineCell):
    """i, f, o = sigmoid(W x + R h + b); g = tanh(W x + R h + b); c' = f c + i g; h' = o tanh(c').

    Parameters, with the gates concatenated in the order i, f, g, o: `kernel` W `[D, 4H]`
    Glorot-uniform, `recurrent_kernel` R `[H, 4H]` orthogonal, `bias` b `[4H]` zero except for
    `forget_bias` in the forget gate. The layout and initialisation are those of Keras.

    Args:
        forget_bias: one after Jozefowicz et al., "An Empirical Exploration of Recurrent Network
            Architectures", ICML 2015.
        memory_steps: T, how long memories should last initially: the forget gates' biases are
            `base.memory_bias`, whatever `forget_bias` is, and the input gates' are their negatives.
    """

    counterparts = base.Counterparts(
        keras=base.Counterpart("LSTM", {"activation": "tanh", "recurrent_activation": "sigmoid"}),
        torch=base.Counterpart("LSTM", {}),
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rngs: nnx.Rngs,
        forget_bias: float = 1.0,
        memory_steps: float | None = None,
    ):
        gates = 4 * hidden_size
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, gates)
        self.recurrent_kernel = base.orthogonal(rngs, hidden_size, gates)
        if memory_steps is None:
            self.bias = base.gate_bias(hidden_size, 0.0, forget_bias, 0.0, 0.0)
            return
        f_H = base.memory_bias(rngs, hidden_size, memory_steps)
        zero_H = jnp.zeros(hidden_size)
        self.bias = nnx.Param(jnp.concatenate([-f_H, f_H, zero_H, zero_H]))

    def initial_carry(self):
        return jnp.zeros(self.hidden_size), jnp.zeros(self.hidden_size)

    def activate(self, carry, a_G):
        c_H, _ = carry
        i, f, g, o = jnp.split(a_G, 4)
        c_H = jax.nn.sigmoid(f) * c_H + jax.nn.sigmoid(i) * jnp.tanh(g)
        return c_H, jax.nn.sigmoid(o) * jnp.tanh(c_H)
