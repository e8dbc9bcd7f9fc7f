"""Both directions of a layer as one loop, as off the CPU, against each direction alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import check_cell, initial_state, loading
from seqmodels.dropout import Dropout, Rates
from seqmodels.recurrence import Encoded, directions, engines, loop, valid_steps
from seqmodels.recurrence.engines import Engine
from tests import accelerators
from tests.marks import slow

WIDTH, INPUT, UNITS = 7, 3, 4
LENGTHS = jnp.array([5, 0, 3, 1, 5])
X_TxDxB = jax.random.normal(jax.random.key(0), (WIDTH, INPUT, len(LENGTHS)))
LOOP, NO_RATES = Engine("loop"), Rates()
KEYS_B = jax.random.split(jax.random.key(1), len(LENGTHS))


@pytest.fixture(autouse=True)
def tpu(monkeypatch):
    accelerators.pretend(monkeypatch, "tpu")


def make(cell, number=0, size=UNITS):
    make_cell = loading.find_cell(cell)
    return check_cell.without_zeros(make_cell(INPUT, size, rngs=nnx.Rngs(number)))


def gradients(graphdef, engine=LOOP, rates=NO_RATES, alone=False):
    """A function of the parameters and starts of both directions, and of the parts of inputs."""
    dropped = Dropout(rates, KEYS_B)

    def loss(params, starts, parts):
        cells = [nnx.merge(graphdef, one) for one in params]
        if alone:
            encoded = [
                engines.run_all(engine, [cell], [reverse], parts, LENGTHS, dropped, [start])[0]
                for cell, reverse, start in zip(cells, (False, True), starts, strict=True)
            ]
        else:
            encoded = engines.run_all(engine, cells, [False, True], parts, LENGTHS, dropped, starts)
        valid_Tx1xB = valid_steps(LENGTHS, WIDTH)[:, None]
        encoded = tuple(
            Encoded(jnp.where(valid_Tx1xB, one.sequence_TxHxB, 0), one.last_HxB) for one in encoded
        )
        return sum(map(check_cell.scalar, encoded)), encoded

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))


def assert_same(cell, parts=(X_TxDxB,), starts=(None, None), **options):
    graphdef, *params = (one for n in (0, 1) for one in nnx.split(make(cell, n), nnx.Param)[n:])
    given = params, list(starts), list(parts)
    assert_close(*(gradients(graphdef, alone=a, **options)(*given) for a in (False, True)))


def assert_close(*pair):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5), *pair)


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before", *map(slow, loading.cell_names())])
def test_equals_each_alone(cell):
    assert_same(cell)


@pytest.mark.parametrize(
    "options",
    [
        {"rates": Rates(inputs=0.3, zoneout=0.2)},
        slow({"rates": Rates(recurrent=0.3)}),
        {"engine": Engine("loop", segment_steps=2)},
        slow({"engine": Engine("loop", "bfloat16")}),
        {"parts": [X_TxDxB[:, :1], X_TxDxB[:, 1:]]},
    ],
)
def test_equals_each_alone_whatever_the_options(options):
    assert_same("lstm", **options)


def test_each_has_its_own_start():
    starts = [initial_state.carry_of(one, initial_state.learn(one)) for one in [make("lstm")] * 2]
    starts[1] = jax.tree.map(lambda leaf: leaf + 0.7, starts[1])
    assert_same("lstm", starts=starts)


def test_many_models_at_once():
    graphdef, params = nnx.split(make("lstm"), nnx.Param)
    both_K = [jax.tree.map(lambda leaf, s=s: jnp.stack([leaf, s * leaf]), params) for s in (1, 0.5)]
    over_models = [
        jax.jit(jax.vmap(gradients(graphdef, alone=alone), (0, None, None)))
        for alone in (False, True)
    ]
    assert_close(*(run(both_K, [None] * 2, [X_TxDxB]) for run in over_models))


def test_there_is_one_loop():
    graphdef, params = nnx.split(make("lstm"), nnx.Param)
    counts = []
    for alone in (False, True):
        run = gradients(graphdef, alone=alone)
        text = str(jax.make_jaxpr(run)([params, params], [None, None], [X_TxDxB]))
        counts.append(text.count("while["))
    assert 2 * counts[0] == counts[1]


def test_cells_that_differ_run_apart():
    cells, starts = [make("lstm"), make("lstm", size=UNITS + 1)], [None, None]
    assert directions.are_one([cells[0]] * 2, [False, True], starts)
    assert not directions.are_one(cells, [False, True], starts)
    assert not directions.are_one([cells[0], make("gru")], [False, True], starts)
    assert not directions.are_one([cells[0]] * 2, [False, False], starts)
    assert not directions.are_one([cells[0]] * 2, [False, True], [None, cells[0].initial_carry()])


def test_on_a_cpu_they_run_apart(monkeypatch):
    accelerators.pretend(monkeypatch, "cpu")
    assert not directions.are_one([make("lstm")] * 2, [False, True], [None, None])


@pytest.mark.parametrize(("backend", "keeps"), [("cpu", True), ("tpu", False), ("gpu", False)])
def test_a_small_layer_keeps_its_products_only_on_a_cpu(backend, keeps, monkeypatch):
    """Elsewhere, what keeps them is more operations in every step than another product."""
    accelerators.pretend(monkeypatch, backend)
    cell = loading.find_cell("lstm")(64, 64, rngs=nnx.Rngs(0))
    assert loop.keeps_reads(cell, 128) == keeps
    assert loop.keeps_reads(loading.find_cell("lstm")(128, 128, rngs=nnx.Rngs(0)), 128)
