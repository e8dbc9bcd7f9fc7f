"""A program of StableHLO answers as its model does, however long sequences are."""

import jax
import numpy as np
import pytest
from jax import export

from tests.marks import slow
from tests.train_lib import cases
from tests.train_lib.cases import Case
from train_lib.data.inputs import Vectors
from train_lib.portable import PLATFORMS, Rows, step_by_step, whole

FORWARD = {"direction": "forward"}


def read_back(program):
    return export.deserialize(program.serialize())


def batch_of(case, width):
    """Rows of noise from end to end, and lengths from 0 to all of it; two that cannot be."""
    rng = np.random.default_rng(width)
    lengths_B = np.array([width, 0, 1, width // 2, width + 1, -1], np.int32)
    shape = len(lengths_B), width
    if case.inputs == "tokens":
        return rng.integers(0, cases.VOCABULARY, shape).astype(np.int32), lengths_B
    return rng.normal(size=(*shape, cases.WIDTH)).astype(np.float32), lengths_B


def check_whole(case, widths=(1, 7 * cases.LONGEST), **changes):
    """That a program has its model's outputs for rows of one step, and of very many."""
    (model,) = cases.models_of(case, **changes)
    program = read_back(whole(model, cases.INPUTS[case.inputs], Rows()))
    assert program.platforms == PLATFORMS
    for width in widths:
        x, lengths_B = batch_of(case, width)
        found = program.call(x, lengths_B)
        expected = jax.jit(model.__call__)(x, lengths_B)
        assert found.shape == expected.shape
        is_nan_B = np.isnan(found).reshape(len(x), -1).any(1)
        assert is_nan_B.tolist() == [False] * 4 + [True] * 2
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        slow(Case("two", "tokens"), {"cell": "lstm", "pooling": "mean_max"}),
        slow(Case("three", "vectors"), {"cell": "gru", "pooling": "last"} | FORWARD),
        slow(Case("labels", "tokens"), {"cell": "sru", "pooling": "mean", "hidden_sizes": (4, 4),
                                        "dropout_rates": (0.0, 0.0), "residual": True}),
        slow(Case("numbers", "vectors"), {"pooling": "attention", "learned_initial_state": True}),
        slow(Case("two", "tokens"), {"pooling": "max", "direction": "backward"}),
        (Case("tags", "vectors"), {"cell": "gru"}),
        slow(Case("tags", "tokens"), {"projection_size": 2, "matrix_dtype": "bfloat16"}),
    ],
)  # fmt: skip
def test_it_has_the_outputs_of_the_model(case, changes):
    check_whole(case, **changes)


@pytest.mark.parametrize(
    "cell", ["min_lstm", *map(slow, ("lstm_layer_norm", "mlstm", "slstm", "rg_lru", "qrnn"))]
)
def test_cells_of_every_kind_run(cell):
    check_whole(Case("two", "tokens"), widths=(9,), cell=cell, direction="backward")


@pytest.mark.parametrize(
    ("case", "rows"),
    [
        slow(Case("two", "tokens"), Rows(5)),
        slow(Case("two", "tokens"), Rows(5, "post")),
        slow(Case("tags", "vectors"), Rows(5)),
        (Case("tags", "vectors"), Rows(5, "pre")),
        slow(Case("tags", "vectors"), Rows(5, "post")),
    ],
)
def test_rows_are_laid_out_as_in_training(case, rows):
    """By NumPy, one by one: the last steps, with the padding that is read around them."""
    (model,) = cases.models_of(case, **FORWARD)
    program = whole(model, cases.INPUTS[case.inputs], rows)
    answer = jax.jit(lambda x, lengths_B: model(x, None if rows.padded_side else lengths_B))
    for width in (3, 9):
        x, lengths_B = batch_of(case, width)
        is_possible_B = (lengths_B >= 0) & (lengths_B <= width)
        lengths_B[~is_possible_B] = 0
        steps_B = np.minimum(lengths_B, rows.last_steps)
        firsts_B = rows.last_steps - steps_B if rows.padded_side == "pre" else 0 * steps_B
        row = np.zeros((len(x), rows.last_steps, *x.shape[2:]), x.dtype)
        for number, (end, steps, first) in enumerate(
            zip(lengths_B, steps_B, firsts_B, strict=True)
        ):
            row[number, first : first + steps] = x[number, end - steps : end]
        expected = of_rows = np.array(answer(row, steps_B))
        if case.task == "tags":
            expected = np.zeros((len(x), width, of_rows.shape[-1]))
            places = zip(lengths_B, steps_B, firsts_B, strict=True)
            for number, (end, steps, first) in enumerate(places):
                expected[number, end - steps : end] = of_rows[number, first : first + steps]
        expected[~is_possible_B] = np.nan
        found = program.call(x, batch_of(case, width)[1])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_vectors_are_standardised_without_losing_small_differences():
    case, scale = Case("three", "vectors"), (0.5, 2.0, 1e-3)
    inputs = Vectors(cases.WIDTH, (1e6 + 0.3, -3.3, 1.0), scale)
    (model,) = cases.models_of(case, **FORWARD)
    program = whole(model, inputs, Rows())
    rng = np.random.default_rng(0)
    x_TxD = (rng.normal(size=(6, 3)) * np.array(scale) + np.array(inputs.mean)).astype(np.float32)
    expected = model(inputs.encode([x_TxD], str)[0][None])
    found = program.call(x_TxD[None], np.array([6], np.int32))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        (Case("tags", "vectors"), {"cell": "gru", "learned_initial_state": True}),
        slow(Case("tags", "tokens"), {"cell": "lstm"}),
        slow(Case("two", "tokens"), {"cell": "rg_lru", "pooling": "mean_max"}),
        slow(Case("three", "vectors"), {"cell": "lstm", "pooling": "attention"}),
    ],
)
def test_step_by_step_it_has_the_outputs_of_all_steps_so_far(case, changes):
    (model,) = cases.models_of(case, **FORWARD | changes)
    start, step = map(read_back, step_by_step(model, cases.INPUTS[case.inputs]))
    x, lengths_B = batch_of(case, 6)
    answer = jax.jit(model.__call__)
    carry = start.call(x[:, 0])
    for time in range(6):
        carry, outputs_BxC = step.call(carry, x[:, time])
        expected = answer(x, np.full_like(lengths_B, time + 1))
        expected = expected[:, time] if case.task == "tags" else expected
        np.testing.assert_allclose(outputs_BxC, expected, rtol=1e-5, atol=1e-6)


def test_what_reads_backwards_has_no_steps():
    (model,) = cases.models_of(Case("two", "tokens"))
    with pytest.raises(ValueError, match="reads from the end of a sequence"):
        step_by_step(model, cases.INPUTS["tokens"])
