"""Every cell against an implementation of its own: Keras', or its paper's equations in NumPy."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seqmodels import check_cell, loading, recurrence
from seqmodels.cells import base

STEPS, BATCH, INPUT, HIDDEN = 7, 2, 3, 5


def make(name):
    """A cell none of whose parameters is zero, or like another."""
    cell = loading.find_cell(name)(INPUT, HIDDEN, rngs=nnx.Rngs(0))
    return check_cell.without_zeros(cell)


def run(cell, x_TxDxB):
    lengths_B = jnp.full(BATCH, STEPS)
    return np.asarray(recurrence.run(cell, jnp.asarray(x_TxDxB, jnp.float32), lengths_B)[0])


@pytest.mark.parametrize(
    ("name", "layer", "biases"),
    [
        ("simple_rnn", keras.layers.SimpleRNN(HIDDEN, return_sequences=True), ["bias"]),
        ("lstm", keras.layers.LSTM(HIDDEN, return_sequences=True), ["bias"]),
        ("gru", keras.layers.GRU(HIDDEN, return_sequences=True), ["bias", "recurrent_bias"]),
        (
            "gru_reset_before",
            keras.layers.GRU(HIDDEN, return_sequences=True, reset_after=False),
            ["bias"],
        ),
    ],
)
def test_equals_keras(name, layer, biases):
    cell = make(name)
    x_BxTxD = np.random.default_rng(0).normal(size=(BATCH, STEPS, INPUT)).astype(np.float32)
    layer.build(x_BxTxD.shape)
    biases = np.stack([np.asarray(getattr(cell, bias)) for bias in biases])
    layer.set_weights(
        [
            np.asarray(cell.kernel),
            np.asarray(cell.recurrent_kernel),
            biases if len(biases) > 1 else biases[0],
        ]
    )
    expected_BxTxH = np.asarray(layer(x_BxTxD))
    actual_TxHxB = run(cell, x_BxTxD.transpose(1, 2, 0))
    np.testing.assert_allclose(actual_TxHxB.transpose(2, 0, 1), expected_BxTxH, 1e-4, 1e-5)


# The equations, as their papers print them, for one sequence in float64; p holds the parameters.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gates(p, x, h, count):
    return np.split(x @ p.kernel + h @ p.recurrent_kernel + p.bias, count)


def lstm_peephole(p, xs):
    h = c = np.zeros(HIDDEN)
    for x in xs:
        i, f, g, o = gates(p, x, h, 4)
        p_i, p_f, p_o = p.peepholes.reshape(3, -1)
        new_c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(g)
        h, c = sigmoid(o + p_o * new_c) * np.tanh(new_c), new_c
        yield h


def lstm_coupled(p, xs):
    h = c = np.zeros(HIDDEN)
    for x in xs:
        f, g, o = gates(p, x, h, 3)
        c = sigmoid(f) * c + (1 - sigmoid(f)) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        yield h


def lstm_projected(p, xs):
    r, c = np.zeros(HIDDEN), np.zeros(2 * HIDDEN)
    for x in xs:
        i, f, g, o = gates(p, x, r, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        r = (sigmoid(o) * np.tanh(c)) @ p.projection
        yield r


def lstm_layer_norm(p, xs):
    def norm(v):
        return (v - v.mean()) / np.sqrt(v.var() + 1e-5)

    h = c = np.zeros(HIDDEN)
    for x in xs:
        of_input = norm(x @ p.kernel) * p.input_gain
        of_state = norm(h @ p.recurrent_kernel) * p.recurrent_gain
        i, f, g, o = np.split(of_input + of_state + p.bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(norm(c) * p.cell_gain + p.cell_shift)
        yield h


def lstm_mogrifier(p, xs):
    h = c = np.zeros(HIDDEN)
    q1, q3, q5 = np.split(p.recurrent_input_gates, 3, axis=1)
    r2, r4 = np.split(p.hidden_gates, 2, axis=1)
    for x in xs:
        x = 2 * sigmoid(h @ q1) * x
        h = 2 * sigmoid(x @ r2) * h
        x = 2 * sigmoid(h @ q3) * x
        h = 2 * sigmoid(x @ r4) * h
        x = 2 * sigmoid(h @ q5) * x
        i, f, g, o = gates(p, x, h, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        yield h


def mgu(p, xs):
    h = np.zeros(HIDDEN)
    w_f, w_h = np.split(p.kernel, 2, axis=1)
    u_f, u_h = np.split(p.recurrent_kernel, 2, axis=1)
    b_f, b_h = np.split(p.bias, 2)
    for x in xs:
        f = sigmoid(h @ u_f + x @ w_f + b_f)
        h = (1 - f) * h + f * np.tanh((f * h) @ u_h + x @ w_h + b_h)
        yield h


def sru(p, xs):
    c = np.zeros(HIDDEN)
    w_f, w_r, w, w_h = np.split(p.kernel, 4, axis=1)
    v_f, v_r = np.split(p.cell_weights, 2)
    b_f, b_r = np.split(p.bias, 2)
    for x in xs:
        f = sigmoid(x @ w_f + v_f * c + b_f)
        r = sigmoid(x @ w_r + v_r * c + b_r)
        c = f * c + (1 - f) * (x @ w)
        yield r * c + (1 - r) * (x @ w_h)


def qrnn(p, xs):
    c = np.zeros(HIDDEN)
    for before, x in zip([np.zeros(INPUT), *xs], xs, strict=False):
        z, f, o = np.split(before @ p.previous_kernel + x @ p.kernel + p.bias, 3)
        c = sigmoid(f) * c + (1 - sigmoid(f)) * np.tanh(z)
        yield sigmoid(o) * c


def indrnn(p, xs):
    h = np.zeros(HIDDEN)
    for x in xs:
        h = np.maximum(x @ p.kernel + p.recurrent_weights * h + p.bias, 0)
        yield h


def min_gru(p, xs):
    h = np.zeros(HIDDEN)
    for x in xs:
        z, candidate = np.split(x @ p.kernel + p.bias, 2)
        h = (1 - sigmoid(z)) * h + sigmoid(z) * candidate
        yield h


def min_lstm(p, xs):
    h = np.zeros(HIDDEN)
    for x in xs:
        f, i, candidate = np.split(x @ p.kernel + p.bias, 3)
        total = sigmoid(f) + sigmoid(i)
        h = sigmoid(f) / total * h + sigmoid(i) / total * candidate
        yield h


def rg_lru(p, xs):
    h = np.zeros(HIDDEN)
    w_r, w_i, w_x = np.split(p.kernel, 3, axis=1)
    b_r, b_i = np.split(p.bias, 2)
    for x in xs:
        r, i = sigmoid(x @ w_r + b_r), sigmoid(x @ w_i + b_i)
        # a ** (c r) with a = sigmoid(-decay), so that log a = -softplus(decay).
        a = sigmoid(-p.decay) ** (8 * r)
        h = a * h + np.sqrt(1 - a**2) * (i * (x @ w_x))
        yield h


def slstm(p, xs):
    h = c = n = np.zeros(HIDDEN)
    for x in xs:
        i, f, g, o = gates(p, x, h, 4)
        c, n = np.exp(f) * c + np.exp(i) * np.tanh(g), np.exp(f) * n + np.exp(i)
        h = sigmoid(o) * c / n
        yield h


def mlstm(p, xs):
    memory, n = np.zeros((HIDDEN, HIDDEN)), np.zeros(HIDDEN)
    for x in xs:
        q, k, v, o = np.split(x @ p.kernel + p.bias, 4)
        k = k / np.sqrt(HIDDEN)
        i, f = np.exp(x @ p.gate_kernel + p.gate_bias)
        memory, n = f * memory + i * np.outer(v, k), f * n + i * k
        yield sigmoid(o) * (memory @ q) / max(abs(n @ q), 1)


EQUATIONS = [
    lstm_peephole, lstm_coupled, lstm_projected, lstm_layer_norm, lstm_mogrifier, mgu, sru, qrnn,
    indrnn, min_gru, min_lstm, rg_lru, slstm, mlstm,
]  # fmt: skip
OF_KERAS = ["simple_rnn", "lstm", "gru", "gru_reset_before"]


class Parameters:
    """A cell's parameters in float64."""

    def __init__(self, cell):
        for name, value in vars(cell).items():
            if isinstance(value, nnx.Param):
                setattr(self, name, np.asarray(value, np.float64))


@pytest.mark.parametrize("equations", EQUATIONS, ids=lambda function: function.__name__)
def test_equals_its_equations(equations):
    cell = make(equations.__name__)
    x_TxDxB = np.random.default_rng(0).normal(size=(STEPS, INPUT, BATCH))
    expected = [list(equations(Parameters(cell), x_TxDxB[..., n])) for n in range(BATCH)]
    np.testing.assert_allclose(run(cell, x_TxDxB), np.stack(expected, -1), rtol=1e-4, atol=1e-5)


def test_no_cell_is_without_an_independent_check():
    checked = {*OF_KERAS, *(function.__name__ for function in EQUATIONS)}
    assert checked == set(loading.cell_names())


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("lstm", 1), ("lstm_peephole", 1), ("lstm_layer_norm", 1), ("lstm_mogrifier", 1),
        ("lstm_projected", 1), ("lstm_coupled", 0), ("min_lstm", 0),
    ],
)  # fmt: skip
def test_forget_bias_is_in_the_forget_gate_alone(name, place):
    plain, other = (
        loading.find_cell(name)(INPUT, HIDDEN, rngs=nnx.Rngs(0), **options).bias[...]
        for options in ({}, {"forget_bias": 3.0})
    )
    size = 2 * HIDDEN if name == "lstm_projected" else HIDDEN
    forget = np.arange(len(plain)) // size == place
    np.testing.assert_array_equal(plain, forget)
    np.testing.assert_array_equal(other, 3 * forget)


@pytest.mark.parametrize(("name", "place"), [("lstm", 1), ("gru", 0), ("gru_reset_before", 0)])
@pytest.mark.slow
def test_memories_last_as_long_as_a_cell_is_told(name, place):
    cell = loading.find_cell(name)(INPUT, 300, rngs=nnx.Rngs(0), memory_steps=50)
    gates = list(np.array(cell.bias[...], np.float64).reshape(-1, 300))
    keep_H = gates.pop(place)
    # Of a memory, 1 / (1 - sigmoid(keep)) steps are left before it fades.
    steps_H = 1 + np.exp(keep_H)
    assert 2 <= steps_H.min() < 3
    assert 49 < steps_H.max() <= 50
    if name == "lstm":
        np.testing.assert_array_equal(gates.pop(0), -keep_H)
    assert not np.any(gates)


def test_memories_without_gates_last_as_long_as_a_cell_is_told():
    cell = loading.find_cell("indrnn")(INPUT, 1_000, rngs=nnx.Rngs(0), memory_steps=50)
    left_H = np.array(cell.recurrent_weights[...], np.float64) ** 50
    assert 0.4999 < left_H.min() < 0.51
    assert 1.96 < left_H.max() < 2.0001


@pytest.mark.parametrize(
    ("name", "least"), [("lstm", 2), ("gru", 2), ("gru_reset_before", 2), ("indrnn", 0)]
)
def test_memories_that_cannot_be_are_refused(name, least):
    with pytest.raises(ValueError, match=f"memory_steps must be .* is {least}"):
        loading.find_cell(name)(INPUT, HIDDEN, rngs=nnx.Rngs(0), memory_steps=least)


@pytest.mark.parametrize("name", ["slstm", "mlstm"])
def test_exponential_gates_do_not_overflow(name):
    cell = make(name)
    for sign in (-1, 1):
        x_TxDxB = sign * np.full((STEPS, INPUT, BATCH), 200.0)
        y_TxHxB, pull_back = jax.vjp(
            lambda x: recurrence.run(cell, x, jnp.full(BATCH, STEPS))[0], jnp.asarray(x_TxDxB)
        )
        assert np.isfinite(y_TxHxB).all()
        assert np.isfinite(pull_back(jnp.ones_like(y_TxHxB))[0]).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("columns", [1, 2, 7, 8])  # Narrow products take another way.
def test_product_equals_the_operator(columns, dtype):
    x_DxB = jax.random.normal(jax.random.key(0), (5, columns)).astype(dtype)
    kernel_DxG = jax.random.normal(jax.random.key(1), (5, 3))

    def results(product):
        def loss(x_DxB, kernel_DxG):
            y_GxB = product(x_DxB, kernel_DxG)
            return jnp.sum(jnp.sin(y_GxB.astype("float32"))), y_GxB

        (_, y_GxB), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(x_DxB, kernel_DxG)
        return y_GxB, gradients

    actual = results(base.product)
    expected = results(lambda x_DxB, kernel_DxG: (kernel_DxG.T @ x_DxB).astype(dtype))
    rtol, atol = {"float32": (1e-5, 1e-6), "bfloat16": (0.02, 0.02)}[dtype]
    close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(lambda a, e: close(a.astype("float32"), e.astype("float32")), actual, expected)
    assert actual[0].dtype == actual[1][0].dtype == dtype
