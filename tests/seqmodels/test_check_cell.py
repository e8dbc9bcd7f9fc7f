"""Every cell through every check; and the checks find what they are there to find."""

import functools
import itertools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seqmodels import check_cell, loading, recurrence
from seqmodels.cells import base, gru
from seqmodels.recurrence import engines

make = functools.cache(check_cell.make)
# What hangs on the engine more than on the cell is slow but for one cell of each kind of engine.
IN_EVERY_CHECK = ("lstm",)


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(
            name, check, id=f"{name}-{check.__name__}",
            marks=() if name in IN_EVERY_CHECK else pytest.mark.slow,
        )
        for name, check in itertools.product(loading.cell_names(), check_cell.CHECKS)
    ],
)  # fmt: skip
def test_every_cell_passes(name, check):
    check(make(name))


class WrongDerivative(gru.GRU):
    """The derivative of `update` is not that of what it computes."""

    def update(self, carry, z_G, u_G):
        @jax.custom_jvp
        def identity(x):
            return x

        identity.defjvp(lambda primals, tangents: (primals[0], 1.1 * tangents[0]))
        return super().update(carry, identity(z_G), u_G)


class Counter(base.Cell):
    """Counts the calls of `step`, so that no two ways to run it agree."""

    calls = 0

    def __init__(self, input_size, hidden_size, *, rngs):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, hidden_size)

    def initial_carry(self):
        return jnp.zeros(self.hidden_size)

    def project(self, x_D):
        return base.product(x_D, self.kernel[...])

    def step(self, carry, z):
        Counter.calls += 1
        return carry, z + Counter.calls


@pytest.mark.parametrize(
    ("broken", "check", "words"),
    [
        (WrongDerivative, check_cell.gradients_match_finite_differences, "finite differences"),
        (Counter, check_cell.equals_the_unrolled_loop, "outputs by the loop differ"),
    ],
)
def test_a_check_fails(monkeypatch, broken, check, words):
    monkeypatch.setattr(loading, "find_cell", lambda name: broken)
    with pytest.raises(check_cell.CheckFailed, match=words):
        check(check_cell.make("broken"))


def ignore_lengths(run):
    return lambda cell, x_TxDxB, lengths_B, **options: run(
        cell, x_TxDxB, jnp.full_like(lengths_B, len(x_TxDxB)), **options
    )


def wrong_if(is_wrong):
    """An engine whose outputs are a hundredth too large where it is called in some way."""

    def spoil(run_all):
        def run(*arguments, **options):
            (encoded,) = run_all(*arguments, **options)
            factor = 1.01 if is_wrong(arguments, options) else 1.0
            return (encoded._replace(last_HxB=encoded.last_HxB * factor),)

        return run

    return spoil


def wrong_under_vmap(run):
    def spoil(cell, x_TxDxB, lengths_B):
        encoded = run(cell, x_TxDxB, lengths_B)
        is_batched = any("Batch" in type(p).__name__ for p in jax.tree.leaves(nnx.state(cell)))
        return encoded._replace(last_HxB=encoded.last_HxB * (1.01 if is_batched else 1.0))

    return spoil


def in_half(run_all):
    def run(engine, *arguments):
        (encoded,) = run_all(engine, *arguments)
        return (encoded._replace(last_HxB=encoded.last_HxB.astype(engine.matrix_dtype)),)

    return run


@pytest.mark.parametrize(
    ("module", "name", "spoil", "check", "words"),
    [
        (recurrence, "run", ignore_lengths, check_cell.padding_is_neither_read_nor_written,
         "contents of the padding affect"),
        (recurrence, "run", wrong_under_vmap, check_cell.works_under_vmap, "under vmap differ"),
        (recurrence, "run_all", wrong_if(lambda _, options: options.get("segment_steps") == 2),
         check_cell.segments_change_nothing, "in segments differ"),
        (engines, "run_all", in_half, check_cell.bfloat16_products_stay_close,
         "the output is bfloat16"),
        (engines, "run_all", wrong_if(lambda arguments, _: arguments[0].name == "scan"),
         check_cell.every_engine_gives_the_same, "by the engine scan differ"),
    ],
)  # fmt: skip
def test_a_check_finds_an_engine_that_is_wrong(monkeypatch, module, name, spoil, check, words):
    monkeypatch.setattr(module, name, spoil(getattr(module, name)))
    with pytest.raises(check_cell.CheckFailed, match=words):
        check(check_cell.make("lstm"))


def test_the_program_tells_what_it_found(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(check_cell, "_TIMED_STEPS", 4)
    assert check_cell.main(["min_gru"]) == 0
    output = capsys.readouterr().out
    assert output.count("ok ") == 1 + len(check_cell.CHECKS)
    assert "engines: parallel, pointwise, newton, scan, loop; here it runs by loop" in output
    assert check_cell.main([str(tmp_path / "mine.py")]) == 1
    assert capsys.readouterr().out.startswith("BROKEN  there is no file")
