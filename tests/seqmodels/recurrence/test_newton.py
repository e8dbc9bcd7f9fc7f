"""Newton's method against the oracle; its gradients, what it does if it fails, and for whom."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from seqmodels import check_cell, recurrence
from seqmodels.cells import base
from seqmodels.cells.indrnn import IndRNN
from seqmodels.cells.lstm import LSTM
from seqmodels.cells.min_gru import MinGRU
from seqmodels.cells.qrnn import QRNN
from seqmodels.cells.sru import SRU
from seqmodels.recurrence import newton, oracle
from tests.marks import slow

WIDTH, INPUT, HIDDEN = 6, 3, 4
LENGTHS = [6, 1, 0, 3]


class Coupled(base.PointwiseCell):
    """Two vectors of a carry that move each other, and a learned start, so that C x C matters."""

    def __init__(self, input_size, hidden_size, *, rngs):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, 2 * hidden_size)
        self.weights = nnx.Param(jax.random.normal(rngs.params(), (3, hidden_size)))
        self.first = nnx.Param(jax.random.normal(rngs.params(), (2, hidden_size)))

    def initial_carry(self):
        return {"c": self.first[0], "h": self.first[1]}

    def project(self, x_D):
        return base.product(x_D, self.kernel[...])

    def step(self, carry, z):
        u, v, w = self.weights[...]
        z_c, z_h = jnp.split(z, 2)
        c_H = jnp.tanh(z_c + u * carry["c"] + v * carry["h"])
        h_H = c_H * jax.nn.sigmoid(z_h + w * carry["h"] * carry["c"])
        return {"c": c_H, "h": h_H}, h_H - c_H


class Singular(IndRNN):
    """The derivative at a carry and an input of zero is not finite."""

    def project(self, x_D):
        return super().project(x_D / jnp.sqrt(jnp.sum(x_D**2)))

    def step(self, carry, z):
        h_H = jnp.tanh(jnp.sqrt(z**2 + carry**2) + self.recurrent_weights * carry)
        return h_H, h_H


jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make(cell_class):
    """A cell in which no parameter is zero."""
    return check_cell.without_zeros(cell_class(INPUT, HIDDEN, rngs=nnx.Rngs(0)))


def inputs(width=WIDTH, batch_size=4):
    return jax.random.normal(jax.random.key(2), (width, INPUT, batch_size))


def results_and_gradients(run, cell, x_TxDxB, lengths, start, **options):
    graphdef, params = nnx.split(cell, nnx.Param)

    def loss(params, x_TxDxB, start):
        encoded = run(nnx.merge(graphdef, params), x_TxDxB, lengths, start=start, **options)
        return check_cell.scalar(encoded), encoded

    gradients = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
    # The oracle compiles its step.
    return (gradients if run is oracle.run else jit(gradients))(params, x_TxDxB, start)[::-1]


def assert_equal(actual, expected):
    for tolerance, *pair in zip((1e-5, 1e-4), actual, expected, strict=True):
        jax.tree.map(
            lambda a, e, rtol=tolerance: np.testing.assert_allclose(
                a, e, rtol, rtol * max(np.abs(e).max(), 1)
            ),
            *pair,
        )


def check(cell, lengths, reverse, spoilt=0.0):
    x_TxDxB = inputs()
    start = jax.tree.map(lambda leaf: leaf + 0.5, cell.initial_carry())
    valid_Tx1xB = recurrence.valid_steps(jnp.array(lengths), WIDTH)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        actual = results_and_gradients(
            newton.run, cell, jnp.where(valid_Tx1xB, x_TxDxB, spoilt), jnp.array(lengths), start,
            reverse=reverse,
        )  # fmt: skip
        jax.effects_barrier()
    expected = results_and_gradients(oracle.run, cell, x_TxDxB, lengths, start, reverse=reverse)
    assert_equal(actual, expected)


@pytest.mark.parametrize(
    ("cell_class", "reverse"),
    [
        (Coupled, True), (Singular, True), slow(Coupled, False), slow(SRU, True),
        slow(IndRNN, True), slow(QRNN, True), slow(MinGRU, True),
    ],
)  # fmt: skip
def test_equals_the_unrolled_loop_whatever_is_in_the_padding(cell_class, reverse):
    check(make(cell_class), LENGTHS, reverse, spoilt=jnp.nan)


@pytest.mark.parametrize("lengths", [[WIDTH] * 4, slow([0] * 4)])
def test_full_and_empty_sequences(lengths):
    check(make(Coupled), lengths, reverse=False)


def test_long_sequences_are_solved_exactly():
    cell, x_TxDxB, lengths = make(SRU), inputs(300, 3), jnp.array([300, 5, 200])
    results = [
        results_and_gradients(run, cell, x_TxDxB, lengths, cell.initial_carry())
        for run in (newton.run, recurrence.run)
    ]
    assert_equal(*results)
    assert newton.iterations(cell, x_TxDxB, lengths) < 20


def test_a_linear_cell_needs_one_iteration():
    assert newton.iterations(make(MinGRU), inputs(), jnp.array(LENGTHS)) == 1


@pytest.mark.parametrize("reverse", [True, slow(False)])
def test_what_does_not_converge_is_computed_by_a_loop_and_said(monkeypatch, reverse):
    monkeypatch.setattr(newton, "MAX_ITERATIONS", 1)
    cell = make(Coupled)
    arguments = cell, inputs(), jnp.array(LENGTHS), cell.initial_carry()
    with pytest.warns(RuntimeWarning, match="no solution within 1 iterations"):  # noqa: PT031
        actual = results_and_gradients(newton.run, *arguments, reverse=reverse)
        jax.effects_barrier()
    assert_equal(actual, results_and_gradients(recurrence.run, *arguments, reverse=reverse))


@pytest.mark.filterwarnings("ignore:the engine 'newton':RuntimeWarning")
def test_a_sequence_that_is_not_finite_changes_no_other():
    cell, x_TxDxB, lengths = make(Coupled), inputs(), jnp.array(LENGTHS)
    run = jit(newton.run)
    expected = run(cell, x_TxDxB, lengths)
    spoilt = run(cell, x_TxDxB.at[2, :, 0].set(jnp.nan), lengths)
    for one, other in zip(spoilt, expected, strict=True):
        np.testing.assert_allclose(one[..., 1:], other[..., 1:], 1e-6, 1e-6)
    assert jnp.isnan(spoilt.last_HxB[:, 0]).all()


def test_under_vmap_no_model_depends_on_another():
    graphdef, params = nnx.split(make(Coupled), nnx.Param)
    params_2 = jax.tree.map(lambda leaf: jnp.stack([leaf, 3 * leaf]), params)

    def gradient(params, run=newton.run):
        def loss(params):
            return check_cell.scalar(run(nnx.merge(graphdef, params), inputs(), jnp.array(LENGTHS)))

        return jax.grad(loss)(params)

    both = jit(jax.vmap(gradient))(params_2)
    for number in range(2):
        alone = gradient(jax.tree.map(lambda leaf, n=number: leaf[n], params_2), recurrence.run)
        jax.tree.map(
            lambda b, a, n=number: np.testing.assert_allclose(b[n], a, 1e-4, 1e-4), both, alone
        )
    # One condition for both, or the loop would always be computed too.
    program = str(jax.make_jaxpr(jax.vmap(gradient))(params_2))
    assert "branches=" in program
    assert "cond_jaxpr=" in program
    for condition in program.split("cond_jaxpr=")[1:]:
        assert "bool[2]" not in condition.partition("cond_nconsts")[0]


def test_works_under_shard_map():
    graphdef, params = nnx.split(make(Coupled), nnx.Param)

    def gradients(run, params, x_TxDxB, lengths_B):
        def loss(params):
            encoded = run(nnx.merge(graphdef, params), x_TxDxB, lengths_B)
            return jnp.sum(jnp.sin(encoded.sequence_TxHxB)) + jnp.sum(jnp.cos(encoded.last_HxB))

        return jax.grad(loss)(params)

    spread = jax.shard_map(
        lambda *arrays: jax.lax.psum(gradients(newton.run, *arrays), "batch"),
        mesh=jax.sharding.Mesh(jax.devices()[:2], "batch"),
        in_specs=(PartitionSpec(), PartitionSpec(None, None, "batch"), PartitionSpec("batch")),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    arrays = params, inputs(), jnp.array(LENGTHS)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, 1e-4, 1e-4),
        jit(spread)(*arrays),
        gradients(recurrence.run, *arrays),
    )


def test_it_runs_pointwise_cells_that_name_it():
    assert newton.why_not(make(SRU)) is None
    assert newton.why_not(LSTM(INPUT, HIDDEN, rngs=nnx.Rngs(0))) == "it is not a PointwiseCell"
    assert not newton.ENTRY.is_best(make(SRU))
