"""The kernel for pointwise cells, interpreted, against the oracle; and what a GPU gets of it."""

import functools
import types

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seqmodels import recurrence
from seqmodels.cells.indrnn import IndRNN
from seqmodels.cells.lstm import LSTM
from seqmodels.cells.min_gru import MinGRU
from seqmodels.cells.qrnn import QRNN
from seqmodels.cells.sru import SRU
from seqmodels.recurrence import engines, pointwise
from tests import pointwise as shared
from tests.marks import slow
from tests.pointwise import HIDDEN, INPUT, LENGTHS, WIDTH, Coupled, Singular, inputs, make

interpreted = functools.partial(pointwise.run, interpret=True)


class Mixed(IndRNN):
    """Breaks the contract: a unit sees the mean of all."""

    def step(self, carry, z):
        h_H = jnp.tanh(z + carry.mean())
        return h_H, h_H


class Scaled(IndRNN):
    """Reads a number, whose gradient would be a sum over all units."""

    def __init__(self, input_size, hidden_size, *, rngs):
        super().__init__(input_size, hidden_size, rngs=rngs)
        self.gain = nnx.Param(jnp.ones(()))

    def step(self, carry, z):
        h_H = jnp.tanh(z + self.gain * carry)
        return h_H, h_H


@pytest.mark.parametrize(
    ("cell_class", "lengths", "reverse"),
    [
        (Coupled, LENGTHS, True), (Singular, LENGTHS, False), (Coupled, [0] * 4, False),
        slow(Coupled, [WIDTH] * 4, False), slow(SRU, LENGTHS, True), slow(IndRNN, LENGTHS, True),
        slow(QRNN, LENGTHS, True), slow(MinGRU, LENGTHS, True),
    ],
)  # fmt: skip
def test_equals_the_unrolled_loop(cell_class, lengths, reverse):
    shared.check_equals_the_unrolled_loop(interpreted, make(cell_class), lengths, reverse)


@pytest.mark.parametrize("reverse", [False, slow(True)])
def test_several_blocks_of_units_and_sequences_equal_the_loop(reverse):
    cell, batch_size = make(QRNN), pointwise._COLUMNS + 3
    assert cell.hidden_size > pointwise._UNITS
    lengths = jax.random.randint(jax.random.key(0), (batch_size,), 0, WIDTH + 1)
    arguments = cell, inputs(WIDTH, batch_size), lengths, cell.initial_carry()
    shared.assert_equal(
        shared.results_and_gradients(interpreted, *arguments, reverse=reverse),
        shared.results_and_gradients(recurrence.run, *arguments, reverse=reverse),
    )


def test_works_under_vmap():
    shared.check_vmap(interpreted)


def test_works_under_shard_map():
    shared.check_shard_map(interpreted)


def test_says_what_it_cannot_take():
    assert pointwise.why_not(make(SRU)) is None
    assert pointwise.why_not(LSTM(INPUT, HIDDEN, rngs=nnx.Rngs(0))) == "it is not a PointwiseCell"
    assert "reduces over the units" in pointwise.why_not(make(Mixed))
    assert "a parameter that is no vector" in pointwise.why_not(make(Scaled))
    assert not pointwise.available(make(SRU))  # There is no GPU in the tests.
    with pytest.raises(NotImplementedError, match="reduces over the units"):
        interpreted(make(Mixed), inputs(), jnp.array(LENGTHS))


@pytest.mark.parametrize(
    ("capability", "chosen"), [("9.0", "pointwise"), ("7.5", "loop"), ("gfx942", "loop")]
)
def test_auto_chooses_it_on_newer_nvidia_gpus(monkeypatch, capability, chosen):
    stand_in_for_a_gpu(monkeypatch, capability)
    assert engines.choose(engines.AUTO, make(SRU)) == chosen


@pytest.mark.parametrize("cell_class", [Coupled, slow(SRU), slow(IndRNN), slow(QRNN)])
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
def test_becomes_two_kernels_on_a_gpu(monkeypatch, cell_class):
    stand_in_for_a_gpu(monkeypatch, "9.0")
    graphdef, params = nnx.split(cell_class(INPUT, 100, rngs=nnx.Rngs(0)), nnx.Param)

    def loss(params, x_TxDxB, lengths_B):
        cells = [nnx.merge(graphdef, params)]
        (encoded,) = engines.run_all(engines.AUTO, cells, [True], [x_TxDxB], lengths_B)
        return jnp.sum(encoded.sequence_TxHxB)

    for function, kernels in ((loss, 1), (jax.grad(loss, argnums=(0, 1)), 2)):
        traced = jax.jit(function).trace(params, inputs(), jnp.array(LENGTHS))
        program = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert program.count("__gpu$xla.gpu.triton") == kernels


def stand_in_for_a_gpu(monkeypatch, capability):
    device = types.SimpleNamespace(
        compute_capability=capability, client=types.SimpleNamespace(platform_version="cuda")
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda **_: [device])
