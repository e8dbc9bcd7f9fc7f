"""The fused kernel, interpreted, against the oracle and the engine; and what a GPU gets of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export
from jax.sharding import PartitionSpec

from seqmodels import check_cell, recurrence
from seqmodels.cells import base
from seqmodels.cells.gru import GRU
from seqmodels.cells.lstm import LSTM
from seqmodels.cells.lstm_layer_norm import LayerNormLSTM
from seqmodels.recurrence import directions, fused, fused_kernels, oracle
from tests.marks import slow

WIDTH, BATCH, INPUT = 5, 17, 3
LENGTHS = [0, 3, 1, 2, 3, 3, 0, 1, 2, 3, 1, 1, 2, 3, 0, 2, 5]  # The 17th has a block to itself.


class Gated(base.GatedCell):
    """What the cells below share; no parameter is zero."""

    gates = 3

    def __init__(self, input_size, hidden_size, *, rngs):
        def normal(*shape):
            return nnx.Param(jax.random.normal(rngs.params(), shape))

        self.hidden_size = hidden_size
        self.kernel = normal(input_size, self.gates * hidden_size)
        self.recurrent_kernel = normal(hidden_size, self.gates * hidden_size)
        self.bias = normal(self.gates * hidden_size)
        self.own_vector = normal(hidden_size)
        self.own_number = normal()
        self.start = normal(2, hidden_size)

    def project(self, x_D):
        return x_D @ self.kernel + self.bias


class Peephole(Gated):
    """Peepholes, a learned initial carry, a learned gain and a mean over the units."""

    def initial_carry(self):
        return self.start[0], self.start[1]

    def update(self, carry, z_G, u_G):
        c_H, _ = carry
        a_G = z_G + self.own_number * u_G
        f, g, o = a_G[: self.hidden_size], *a_G[self.hidden_size :].reshape(2, -1)
        centred_H = g - g.mean() + jax.nn.relu(g)
        c_H = jax.nn.sigmoid(f + self.own_vector * c_H) * c_H + jnp.tanh(centred_H)
        return c_H, jax.nn.sigmoid(o + c_H) * jnp.tanh(c_H)


class Ungated(Gated):
    """An order of the units in `update`, which the kernel cannot take."""

    def initial_carry(self):
        return (jnp.zeros(self.hidden_size),)

    def update(self, carry, z_G, u_G):
        return (jnp.cumsum(jnp.split(z_G + u_G, 3)[0]),)


# `test_check_cell` interprets the kernel for every gated cell there is, at one size.
CELLS = [LSTM, GRU, Peephole]
# Most of the time goes into compiling.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
interpreted = functools.partial(fused.run, interpret=True)


def make(cell_class, hidden_size):
    """A cell in which no parameter is zero."""
    return check_cell.without_zeros(cell_class(INPUT, hidden_size, rngs=nnx.Rngs(0)))


def inputs(batch_size=BATCH):
    return jax.random.normal(jax.random.key(2), (WIDTH, INPUT, batch_size))


def results_and_gradients(run, cell, x_TxDxB, lengths, **options):
    graphdef, params = nnx.split(cell, nnx.Param)

    def loss(params, x_TxDxB):
        encoded = run(nnx.merge(graphdef, params), x_TxDxB, lengths, **options)
        return check_cell.scalar(encoded), encoded

    gradients = jax.grad(loss, argnums=(0, 1), has_aux=True)
    # The oracle compiles its step.
    return (gradients if run is oracle.run else jit(gradients))(params, x_TxDxB)[::-1]


def assert_equal(actual, expected, tolerances=(1e-5, 1e-4)):
    for tolerance, *pair in zip(tolerances, actual, expected, strict=True):
        for a, e in zip(*map(jax.tree.leaves, pair), strict=True):
            e = np.asarray(e, np.float32)
            np.testing.assert_allclose(a, e, tolerance, tolerance * max(np.abs(e).max(), 1))


@pytest.mark.parametrize("cell_class", [slow(CELLS[0]), *map(slow, CELLS[1:-1]), CELLS[-1]])
def test_equals_the_unrolled_loop(cell_class):
    cell, lengths, reverse = make(cell_class, 4), [0, 3, 1], CELLS.index(cell_class) % 2 == 1
    expected = results_and_gradients(oracle.run, cell, inputs(3), lengths, reverse=reverse)
    actual = results_and_gradients(
        interpreted, cell, inputs(3), jnp.array(lengths), reverse=reverse
    )
    assert_equal(actual, expected)


# With 1 unit all shapes look alike; of 65 units the kernel reads R piece by piece.
@pytest.mark.parametrize(
    ("hidden_size", "reverse"), [pytest.param(1, False, marks=pytest.mark.slow), (65, True)]
)
@pytest.mark.parametrize("cell_class", [CELLS[0], *map(slow, CELLS[1:])])
def test_equals_the_engine(cell_class, reverse, hidden_size):
    cell, lengths = make(cell_class, hidden_size), jnp.array(LENGTHS)
    expected = results_and_gradients(recurrence.run, cell, inputs(), lengths, reverse=reverse)
    actual = results_and_gradients(interpreted, cell, inputs(), lengths, reverse=reverse)
    assert_equal(actual, expected)


@pytest.fixture
def sliced(monkeypatch):
    """Slices of 16 units, for layers of more than 16."""
    monkeypatch.setattr(fused_kernels, "SLICE", 16)


class Own(Gated):
    """A vector of its own, a learned initial carry, and z and u apart."""

    def initial_carry(self):
        return self.start[0], self.start[1]

    def update(self, carry, z_G, u_G):
        c_H, h_H = carry
        z, u = jnp.split(z_G, 3), jnp.split(u_G, 3)
        f = jax.nn.sigmoid(z[0] + u[0] + self.own_vector * c_H)
        c_H = f * c_H + (1 - f) * jnp.tanh(z[1] + jax.nn.sigmoid(z[2]) * u[1])
        return c_H, jnp.tanh(c_H) * jax.nn.sigmoid(u[2]) + 0.1 * h_H


@pytest.mark.usefixtures("sliced")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell_class", [slow(LSTM), slow(GRU), Own, LayerNormLSTM])
def test_slices_equal_the_engine(cell_class, reverse):
    cell = make(cell_class, 37)
    assert fused._plan(cell, interpret=True).sliced
    expected = results_and_gradients(
        recurrence.run, cell, inputs(), jnp.array(LENGTHS), reverse=reverse
    )
    actual = results_and_gradients(interpreted, cell, inputs(), jnp.array(LENGTHS), reverse=reverse)
    assert_equal(actual, expected)


@pytest.mark.usefixtures("sliced")
@pytest.mark.parametrize("hidden_size", [16, slow(37)])  # All units at once, and in slices.
@pytest.mark.parametrize("cell_class", [LSTM, slow(GRU), slow(LayerNormLSTM)])
def test_bfloat16_rounds_nothing_but_the_factors_of_products(cell_class, hidden_size):
    cell, lengths = make(cell_class, hidden_size), [0, 3, 1]
    rounded = fused._with_matrices_in("bfloat16", cell)
    expected = results_and_gradients(oracle.run, rounded, inputs(3), lengths)
    actual, fine = (
        results_and_gradients(interpreted, cell, inputs(3), jnp.array(lengths), matrix_dtype=dtype)
        for dtype in ("bfloat16", "float32")
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {jnp.dtype("float32")}
    assert_equal(actual, expected, tolerances=(1e-4, 2e-2))
    with pytest.raises(AssertionError):
        assert_equal(actual, fine, tolerances=(1e-4, 2e-2))


@pytest.mark.parametrize("size", [4, slow(37)])
@pytest.mark.parametrize("cell_class", [slow(GRU), Peephole])
@pytest.mark.usefixtures("sliced")
def test_both_directions_are_one_launch(cell_class, size):
    graphdef, forward = nnx.split(make(cell_class, size), nnx.Param)
    params = [forward, jax.tree.map(lambda leaf: -0.5 * leaf, forward)]
    lengths = jnp.array(LENGTHS)

    def apart(cells, x_TxDxB):
        return [
            interpreted(cell, x_TxDxB, lengths, reverse=reverse)
            for cell, reverse in zip(cells, (False, True), strict=True)
        ]

    def together(cells, x_TxDxB):
        def one(cell, reverse, start):
            return interpreted(cell, x_TxDxB, lengths, reverse=reverse, start=start)

        return directions.run(one, cells, [None, None])

    def gradients(run):
        def loss(params, x_TxDxB):
            encoded = run([nnx.merge(graphdef, one) for one in params], x_TxDxB)
            return sum(map(check_cell.scalar, encoded)), tuple(encoded)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)

    assert_equal(*(jit(gradients(run))(params, inputs())[::-1] for run in (together, apart)))
    assert str(jax.make_jaxpr(gradients(together))(params, inputs())).count("pallas_call[") == 2


def test_a_batch_of_empty_sequences_gives_zeros_and_no_gradient():
    lengths = jnp.zeros(BATCH, jnp.int32)
    everything = results_and_gradients(interpreted, make(Peephole, 4), inputs(), lengths)
    assert not any(array.any() for array in jax.tree.leaves(everything))


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_is_not_read(reverse):
    x_TxDxB, lengths = inputs(), jnp.array(LENGTHS)
    valid = recurrence.valid_steps(lengths, WIDTH)[:, None]
    run = jit(functools.partial(interpreted, make(GRU, 4), reverse=reverse))
    spoilt_TxDxB = jnp.where(valid, x_TxDxB, 1e9)
    jax.tree.map(np.testing.assert_array_equal, run(spoilt_TxDxB, lengths), run(x_TxDxB, lengths))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_block_stops_with_its_longest_sequence(monkeypatch, reverse):
    times, valid = [], fused_kernels._valid

    def counted(plan, time, lengths_B):
        jax.debug.callback(lambda time: times.append(int(time)), time)
        return valid(plan, time, lengths_B)

    monkeypatch.setattr(fused_kernels, "_valid", counted)
    results_and_gradients(interpreted, make(GRU, 4), inputs(), jnp.array(LENGTHS), reverse=reverse)
    jax.effects_barrier()
    each_pass = [*range(max(LENGTHS[:16])), *range(max(LENGTHS[16:]))]
    assert sorted(times) == sorted(2 * each_pass)


def test_works_under_vmap():
    cell, lengths = make(Peephole, 4), jnp.array(LENGTHS)
    stacked = jnp.stack([inputs(), 2 * inputs()])

    def gradient(run, x_TxDxB):
        return jax.grad(lambda x: jnp.sum(jnp.sin(run(cell, x, lengths).sequence_TxHxB)))(x_TxDxB)

    actual, expected = (
        jit(jax.vmap(functools.partial(gradient, run)))(stacked)
        for run in (interpreted, recurrence.run)
    )
    np.testing.assert_allclose(actual, expected, 1e-4, 1e-5)


def test_works_under_shard_map():
    cell, lengths = make(Peephole, 4), jnp.array(LENGTHS[1:])
    graphdef, params = nnx.split(cell, nnx.Param)
    x_TxDxB = inputs()[..., 1:]

    def gradients(run, params, x_TxDxB, lengths_B):
        def loss(params):
            encoded = run(nnx.merge(graphdef, params), x_TxDxB, lengths_B)
            return jnp.sum(jnp.sin(encoded.sequence_TxHxB)) + jnp.sum(jnp.cos(encoded.last_HxB))

        return jax.grad(loss)(params)

    def summed(*arguments):
        return jax.lax.psum(gradients(interpreted, *arguments), "batch")

    spread = jax.shard_map(
        summed,
        mesh=jax.sharding.Mesh(jax.devices()[:2], "batch"),
        in_specs=(PartitionSpec(), PartitionSpec(None, None, "batch"), PartitionSpec("batch")),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    expected = gradients(recurrence.run, params, x_TxDxB, lengths)
    actual = jit(spread)(params, x_TxDxB, lengths)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, 1e-4, 1e-4), actual, expected)


def test_takes_sharded_arrays_under_jit():
    graphdef, params = nnx.split(make(GRU, 4), nnx.Param)
    x_TxDxB, lengths = inputs(batch_size=32), jnp.arange(32) % (WIDTH + 1)
    mesh = jax.sharding.Mesh(jax.devices()[:2], "batch")

    def run(params, x_TxDxB, lengths):
        return interpreted(nnx.merge(graphdef, params), x_TxDxB, lengths).sequence_TxHxB

    spread = jax.device_put(
        (params, x_TxDxB, lengths),
        jax.sharding.NamedSharding(mesh, PartitionSpec()),
    )
    expected = recurrence.run(nnx.merge(graphdef, params), x_TxDxB, lengths).sequence_TxHxB
    np.testing.assert_allclose(jit(run)(*spread), expected, rtol=1e-5, atol=1e-5)


def test_says_what_it_cannot_take():
    assert fused.why_not(make(GRU, 4)) is None
    assert "cumsum" in fused.why_not(make(Ungated, 4))
    assert "1025 units" in fused.why_not(GRU(INPUT, 1025, rngs=nnx.Rngs(0)))
    assert fused.why_not(base.Cell) == "it is not a GatedCell"
    assert not fused.available(make(GRU, 4))  # There is no GPU in the tests.
    with pytest.raises(NotImplementedError, match="cumsum"):
        fused.run(make(Ungated, 4), inputs(), jnp.array(LENGTHS))


@pytest.mark.parametrize(
    "hidden_size", [*(pytest.param(size, marks=pytest.mark.slow) for size in (16, 64)), 256]
)
@pytest.mark.parametrize("cell_class", CELLS)
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.slow
def test_becomes_two_kernels_on_a_gpu(cell_class, hidden_size):
    cell = make(cell_class, hidden_size)
    graphdef, params = nnx.split(cell, nnx.Param)

    def loss(params, x_TxDxB, lengths_B):
        return jnp.sum(fused.run(nnx.merge(graphdef, params), x_TxDxB, lengths_B).sequence_TxHxB)

    name = "__gpu$xla.gpu.triton"
    for function, kernels in ((loss, 1), (jax.grad(loss, argnums=(0, 1)), 2)):
        with jax.sharding.use_abstract_mesh(gpu_mesh()):
            exported = export.export(
                jax.jit(function),
                platforms=["cuda"],
                disabled_checks=[export.DisabledSafetyCheck.custom_call(name)],
            )(params, inputs(), jnp.array(LENGTHS))
        assert exported.mlir_module().count(name) == kernels


def gpu_mesh():
    """Stands for a GPU where there is none, so that code can be made for it."""
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100", num_cores=None, platform="gpu")
    return jax.sharding.AbstractMesh((), (), abstract_device=device)
