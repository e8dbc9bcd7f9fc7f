"""Mogrifier LSTM.

Melis, Kocisky and Blunsom, "Mogrifier LSTM", ICLR 2020, with full matrices in the rounds.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base

_ROUNDS = 5  # As in the paper's experiments.


class MogrifierLSTM(base.Cell):
    """The LSTM, after x and h have gated each other in turn in five rounds, x first.

    x = 2 sigmoid(Q h) x in odd rounds, h = 2 sigmoid(P x) h in even ones; the other parameters and
    the order of the gates are the LSTM's. Each round has its own matrix, concatenated in
    `recurrent_input_gates` Q `[H, 3D]` and `hidden_gates` P `[D, 2H]`.
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs, forget_bias: float = 1.0
    ):
        gates = 4 * hidden_size
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, gates)
        self.recurrent_kernel = base.orthogonal(rngs, hidden_size, gates)
        self.bias = base.gate_bias(hidden_size, 0.0, forget_bias, 0.0, 0.0)
        odd, even = (_ROUNDS + 1) // 2, _ROUNDS // 2
        self.recurrent_input_gates = base.glorot_uniform(rngs, hidden_size, odd * input_size)
        self.hidden_gates = base.glorot_uniform(rngs, input_size, even * hidden_size)

    def initial_carry(self):
        return jnp.zeros(self.hidden_size), jnp.zeros(self.hidden_size)

    def project(self, x_D):
        return x_D

    def step(self, carry, z):
        (c_H, h_H), x_D = carry, z
        input_gates = jnp.split(self.recurrent_input_gates[...], (_ROUNDS + 1) // 2, axis=1)
        hidden_gates = jnp.split(self.hidden_gates[...], _ROUNDS // 2, axis=1)
        for number in range(_ROUNDS):
            if number % 2 == 0:
                x_D = 2 * jax.nn.sigmoid(base.product(h_H, input_gates[number // 2])) * x_D
            else:
                h_H = 2 * jax.nn.sigmoid(base.product(x_D, hidden_gates[number // 2])) * h_H
        a_G = base.product(x_D, self.kernel[...]) + self.bias
        i, f, g, o = jnp.split(a_G + base.product(h_H, self.recurrent_kernel[...]), 4)
        c_H = jax.nn.sigmoid(f) * c_H + jax.nn.sigmoid(i) * jnp.tanh(g)
        h_H = jax.nn.sigmoid(o) * jnp.tanh(c_H)
        return (c_H, h_H), h_H
