"""Every cell through every check; and the checks find what they are there to find."""

import jax
import jax.numpy as jnp
import pytest

from seqmodels import check_cell, factory
from seqmodels.cells import base, gru


@pytest.fixture(scope="module", params=factory.cell_names())
def cell(request):
    return check_cell.make(request.param)


@pytest.mark.parametrize("check", check_cell.CHECKS, ids=lambda check: check.__name__)
def test_every_cell_passes(cell, check):
    check(cell)


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
    monkeypatch.setattr(factory, "find_cell", lambda name: broken)
    with pytest.raises(check_cell.CheckFailed, match=words):
        check(check_cell.make("broken"))


def test_the_program_tells_what_it_found(capsys, tmp_path):
    assert check_cell.main(["min_gru"]) == 0
    output = capsys.readouterr().out
    assert output.count("ok ") == 1 + len(check_cell.CHECKS)
    assert "engines: loop, scan, parallel; here it runs by loop" in output
    assert check_cell.main([str(tmp_path / "mine.py")]) == 1
    assert capsys.readouterr().out.startswith("BROKEN  there is no file")
