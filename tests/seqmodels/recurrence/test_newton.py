"""Newton's method against the oracle; its gradients, what it does if it fails, and for whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import recurrence
from seqmodels.cells.indrnn import IndRNN
from seqmodels.cells.lstm import LSTM
from seqmodels.cells.min_gru import MinGRU
from seqmodels.cells.qrnn import QRNN
from seqmodels.cells.sru import SRU
from seqmodels.recurrence import newton
from tests import pointwise as shared
from tests.marks import slow
from tests.pointwise import HIDDEN, INPUT, LENGTHS, WIDTH, Coupled, Singular, inputs, make


@pytest.mark.parametrize(
    ("cell_class", "lengths", "reverse"),
    [
        (Coupled, LENGTHS, True), (Singular, LENGTHS, True), (Coupled, [WIDTH] * 4, False),
        slow(Coupled, LENGTHS, False), slow(Coupled, [0] * 4, False), slow(SRU, LENGTHS, True),
        slow(IndRNN, LENGTHS, True), slow(QRNN, LENGTHS, True), slow(MinGRU, LENGTHS, True),
    ],
)  # fmt: skip
def test_equals_the_unrolled_loop(cell_class, lengths, reverse):
    shared.check_equals_the_unrolled_loop(newton.run, make(cell_class), lengths, reverse)


def test_long_sequences_are_solved_exactly():
    cell = SRU(INPUT, HIDDEN, rngs=nnx.Rngs(0))
    x_TxDxB, lengths = inputs(300, 3), jnp.array([300, 5, 200])
    results = [
        shared.results_and_gradients(run, cell, x_TxDxB, lengths, cell.initial_carry())
        for run in (newton.run, recurrence.run)
    ]
    shared.assert_equal(*results)
    assert newton.iterations(cell, x_TxDxB, lengths) < 20


def test_a_linear_cell_needs_one_iteration():
    assert newton.iterations(make(MinGRU), inputs(), jnp.array(LENGTHS)) == 1


@pytest.mark.parametrize("reverse", [True, slow(False)])
def test_what_does_not_converge_is_computed_by_a_loop_and_said(monkeypatch, reverse):
    monkeypatch.setattr(newton, "MAX_ITERATIONS", 1)
    cell = make(Coupled)
    arguments = cell, inputs(), jnp.array(LENGTHS), cell.initial_carry()
    with pytest.warns(RuntimeWarning, match="no finite solution within 1 iter"):  # noqa: PT031
        actual = shared.results_and_gradients(newton.run, *arguments, reverse=reverse)
        jax.effects_barrier()
    expected = shared.results_and_gradients(recurrence.run, *arguments, reverse=reverse)
    shared.assert_equal(actual, expected)


@pytest.mark.filterwarnings("ignore:the engine 'newton':RuntimeWarning")
def test_a_sequence_that_is_not_finite_changes_no_other():
    cell, x_TxDxB, lengths = make(Coupled), inputs(), jnp.array(LENGTHS)
    run = shared.jit(newton.run)
    expected = run(cell, x_TxDxB, lengths)
    spoilt = run(cell, x_TxDxB.at[2, :, 0].set(jnp.nan), lengths)
    for one, other in zip(spoilt, expected, strict=True):
        np.testing.assert_allclose(one[..., 1:], other[..., 1:], 1e-6, 1e-6)
    assert jnp.isnan(spoilt.last_HxB[:, 0]).all()


def test_works_under_vmap_with_one_condition_for_all():
    """With one for each, the loop to fall back on would always be computed too."""
    program = str(shared.check_vmap(newton.run))
    assert "branches=" in program
    assert "cond_jaxpr=" in program
    for condition in program.split("cond_jaxpr=")[1:]:
        assert "bool[2]" not in condition.partition("cond_nconsts")[0]


def test_works_under_shard_map():
    shared.check_shard_map(newton.run)


def test_it_runs_pointwise_cells_that_name_it():
    assert newton.why_not(make(SRU)) is None
    assert newton.why_not(LSTM(INPUT, HIDDEN, rngs=nnx.Rngs(0))) == "it is not a PointwiseCell"
    assert not newton.ENTRY.is_best(make(SRU))
