"""The engine against an unrolled loop, and what must not matter to it."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from seqmodels import check_cell, loading, products, recurrence
from seqmodels.cells import base
from seqmodels.check_cell import scalar
from seqmodels.recurrence import arrays, derivative, loop, oracle, scan, separate, spans
from tests.marks import slow

WIDTH, BATCH, INPUT, HIDDEN = 5, 5, 3, 4
LENGTHS = [5, 1, 0, 3, 4]


# A cell with all that makes it fast, and one with nothing of it; `test_check_cell` has them all.
@pytest.fixture(
    params=[
        "lstm", "lstm, with many rows", "lstm, of many units", "lstm, of many units, in one span",
        "gru", "gru, with many rows", slow("gru, in one span"), "min_gru",
        "lstm, as on a TPU", "gru, as on a TPU", slow("mlstm, as on a TPU"),
    ]
)  # fmt: skip
def cell(request, monkeypatch):
    name, *how = request.param.split(", ")
    steps = WIDTH if "in one span" in how else 2  # Of a span.
    monkeypatch.setattr(spans, "COLUMNS", steps * BATCH)
    if "with many rows" in how:
        monkeypatch.setattr(loop, "keeps_reads", lambda cell, batch_size: False)
        monkeypatch.setattr(loop, "is_separate", lambda *_: False)
    if "of many units" in how:
        monkeypatch.setattr(loop, "_LARGE", 0)
    if "as on a TPU" in how:
        monkeypatch.setattr(arrays, "on_cpu", lambda: False)
    cell = loading.find_cell(name)(INPUT, HIDDEN, rngs=nnx.Rngs(0))
    # Nothing at its initial zero: a bias that is left out must show.
    return check_cell.without_zeros(cell)


@pytest.fixture
def x_TxDxB():
    return jax.random.normal(jax.random.key(2), (WIDTH, INPUT, BATCH))


def run_compiled(cell, x_TxDxB, lengths_B, *, run=recurrence.run, **options):
    """Compiled as one program: operation by operation, there are many; afresh, for a fixture."""
    return jax.jit(lambda *arrays: run(cell, *arrays, **options))(x_TxDxB, lengths_B)


def value_and_gradients(run, cell, x_TxDxB, lengths, reverse):
    graphdef, params = nnx.split(cell, nnx.Param)

    def loss(params, x_TxDxB):
        return scalar(run(nnx.merge(graphdef, params), x_TxDxB, lengths, reverse=reverse))

    gradients = jax.value_and_grad(loss, argnums=(0, 1))
    # The oracle compiles its step.
    return (gradients if run is oracle.run else jax.jit(gradients))(params, x_TxDxB)


def assert_close(actual, expected, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol, atol), actual, expected)


@pytest.mark.parametrize("run", [recurrence.run, slow(scan.run)])
@pytest.mark.parametrize(
    ("lengths", "reverse"), [(LENGTHS, True), ([WIDTH] * 5, False), slow([2, 3, 2, 3, 1], True)]
)
def test_equals_the_unrolled_loop(run, cell, x_TxDxB, lengths, reverse):
    expected = oracle.run(cell, x_TxDxB, lengths, reverse=reverse)
    actual = run_compiled(cell, x_TxDxB, jnp.array(lengths), run=run, reverse=reverse)
    assert_close(actual, expected, rtol=1e-5)
    assert_close(
        value_and_gradients(run, cell, x_TxDxB, jnp.array(lengths), reverse),
        value_and_gradients(oracle.run, cell, x_TxDxB, lengths, reverse),
    )


def test_a_batch_of_empty_sequences_gives_zeros_and_no_gradient(cell, x_TxDxB):
    lengths = jnp.zeros(BATCH, jnp.int32)
    encoded = run_compiled(cell, x_TxDxB, lengths)
    assert not encoded.sequence_TxHxB.any()
    assert not encoded.last_HxB.any()
    _, gradients = value_and_gradients(recurrence.run, cell, x_TxDxB, lengths, False)
    assert not any(gradient.any() for gradient in jax.tree.leaves(gradients))


def test_a_batch_of_empty_sequences_hands_the_carry_on(cell, x_TxDxB):
    def carries_from(start):
        lengths_B = jnp.zeros(BATCH, jnp.int32)
        return recurrence.run_from([start], [cell], [False], [x_TxDxB], lengths_B)[1][0]

    start = recurrence.initial_carry(cell, BATCH)
    carries, pull_back = jax.vjp(jax.jit(carries_from), start)
    jax.tree.map(np.testing.assert_array_equal, carries, start)
    ones = jax.tree.map(jnp.ones_like, start)
    jax.tree.map(np.testing.assert_array_equal, pull_back(ones)[0], ones)


def test_reverse_equals_flipping_by_hand(cell, x_TxDxB):
    def flip(array_TxFxB):
        flipped = np.zeros_like(array_TxFxB)
        for number, length in enumerate(LENGTHS):
            flipped[:length, :, number] = array_TxFxB[:length, :, number][::-1]
        return flipped

    forward = run_compiled(cell, jnp.array(flip(np.array(x_TxDxB))), jnp.array(LENGTHS))
    backward = run_compiled(cell, x_TxDxB, jnp.array(LENGTHS), reverse=True)
    np.testing.assert_allclose(
        flip(np.array(forward.sequence_TxHxB)), backward.sequence_TxHxB, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(forward.last_HxB, backward.last_HxB, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_and_other_sequences_get_no_gradient(cell, x_TxDxB, reverse):
    def one_sequence(x_TxDxB):
        encoded = recurrence.run(cell, x_TxDxB, jnp.array(LENGTHS), reverse=reverse)
        return jnp.sum(encoded.last_HxB[:, 3]) + jnp.sum(encoded.sequence_TxHxB[..., 3])

    gradient_TxDxB = jax.jit(jax.grad(one_sequence))(x_TxDxB)
    own = np.zeros(x_TxDxB.shape, bool)
    own[: LENGTHS[3], :, 3] = True
    assert (np.array(gradient_TxDxB)[own] != 0).all()
    assert (np.array(gradient_TxDxB)[~own] == 0).all()


@pytest.mark.parametrize("reverse", [False, True])
def test_an_output_depends_on_nothing_it_has_not_read(cell, x_TxDxB, reverse):
    def first(x_TxDxB):
        encoded = recurrence.run(cell, x_TxDxB, jnp.full(BATCH, WIDTH), reverse=reverse)
        return encoded.sequence_TxHxB[..., 0].sum(-1)

    jacobian = np.array(jax.jit(jax.jacobian(first))(x_TxDxB))[..., 0].any(-1)
    read = np.tri(WIDTH, dtype=bool)
    np.testing.assert_array_equal(jacobian, read.T if reverse else read)


def test_gradients_match_finite_differences(cell):
    # Of the oracle too, so that no error of automatic differentiation can hide in both.
    lengths = jnp.array([3, 1])
    with jax.enable_x64(True):
        graphdef, params = nnx.split(cell, nnx.Param)
        params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
        x_TxDxB = jnp.array(np.random.default_rng(0).normal(size=(3, INPUT, 2)))

        def loss(params, x_TxDxB):
            return scalar(recurrence.run(nnx.merge(graphdef, params), x_TxDxB, lengths))

        check_grads(jax.jit(loss), (params, x_TxDxB), order=1, modes=["rev"], rtol=1e-6)


@pytest.mark.slow
def test_several_cells_over_parts_equal_each_alone_over_the_whole(cell, x_TxDxB):
    other = loading.find_cell("lstm")(INPUT, HIDDEN + 1, rngs=nnx.Rngs(3))
    lengths_B = jnp.array(LENGTHS)

    def together(x_TxDxB):
        parts = [x_TxDxB[:, :1], x_TxDxB[:, 1:]]
        encoded = recurrence.run_all([cell, other], [True, False], parts, lengths_B)
        return scalar([array for one in encoded for array in one])

    def apart(x_TxDxB):
        encoded = [
            recurrence.run(cell, x_TxDxB, lengths_B, reverse=True),
            recurrence.run(other, x_TxDxB, lengths_B),
        ]
        return scalar([array for one in encoded for array in one])

    assert_close(*(jax.jit(jax.value_and_grad(loss))(x_TxDxB) for loss in (together, apart)))


@pytest.mark.parametrize(
    ("lengths", "segment_steps"),
    [
        (LENGTHS, 2), slow(LENGTHS, 3), slow(LENGTHS, WIDTH + 1), ([0] * BATCH, 2),
        slow([0] * BATCH, 3), slow([0] * BATCH, WIDTH + 1),
    ],
)  # fmt: skip
def test_segments_change_nothing(cell, x_TxDxB, lengths, segment_steps):
    graphdef, params = nnx.split(cell, nnx.Param)

    def loss(params, x_TxDxB, segment_steps):
        cells, backwards = [nnx.merge(graphdef, params)] * 2, [False, True]
        encoded = recurrence.run_all(
            cells, backwards, [x_TxDxB], jnp.array(lengths), segment_steps=segment_steps
        )
        return scalar([one.last_HxB for one in encoded])

    gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2)
    (value, d_segments), (expected, d_all) = (
        gradients(params, x_TxDxB, steps) for steps in (segment_steps, 1)
    )
    valid = recurrence.valid_steps(jnp.array(lengths), WIDTH)[:, None]
    assert_close((value, d_segments[0]), (expected, d_all[0]))
    assert_close(jnp.where(valid, d_segments[1], 0), jnp.where(valid, d_all[1], 0))


@pytest.mark.parametrize("lengths", [[[1, 2, 0, 1, 1], [5, 1, 0, 3, 4]], [[2] * 5, [3] * 5]])
def test_under_vmap_all_loops_are_as_long_as_the_longest(cell, x_TxDxB, lengths):
    """Each its own length would make JAX copy all results at every step."""
    stacked, lengths_KxB = jnp.stack([x_TxDxB, 2 * x_TxDxB]), jnp.array(lengths)
    run = jax.vmap(lambda x, lengths_B: recurrence.run(cell, x, lengths_B))
    for number, encoded in enumerate(zip(*jax.jit(run)(stacked, lengths_KxB), strict=True)):
        alone = run_compiled(cell, stacked[number], lengths_KxB[number])
        assert_close(recurrence.Encoded(*encoded), alone)
    _, *conditions = str(jax.make_jaxpr(run)(stacked, lengths_KxB)).split("cond_jaxpr=")
    assert conditions
    for condition in conditions:  # One answer, not one for each of the two.
        assert "bool[2]" not in condition.partition("cond_nconsts")[0]


@pytest.mark.parametrize(
    ("reverse", "segment_steps"), [(False, 2), (True, 1), slow(False, 1), slow(True, 2)]
)
def test_a_sequence_in_two_pieces_is_the_sequence(cell, x_TxDxB, reverse, segment_steps):
    graphdef, params = nnx.split(cell, nnx.Param)
    pieces = [x_TxDxB[:2], x_TxDxB[2:]]

    def whole(params, pieces):
        cell, x_TxDxB = nnx.merge(graphdef, params), jnp.concatenate(pieces)
        return recurrence.run(cell, x_TxDxB, jnp.full(BATCH, WIDTH), reverse=reverse).last_HxB

    def in_pieces(params, pieces):
        cell = nnx.merge(graphdef, params)
        starts = [recurrence.initial_carry(cell, BATCH)]
        for piece in reversed(pieces) if reverse else pieces:
            (encoded,), starts = recurrence.run_from(
                starts, [cell], [reverse], [piece], jnp.full(BATCH, len(piece)),
                segment_steps=segment_steps,
            )  # fmt: skip
        return encoded.last_HxB

    (expected, d_expected), (actual, d_actual) = (
        jax.jit(jax.value_and_grad(lambda *a, run=run: scalar([run(*a)]), (0, 1)))(params, pieces)
        for run in (whole, in_pieces)
    )
    assert_close((actual, d_actual), (expected, d_expected))


class AnyProjection(base.GatedCell):
    """Its projection is a pytree, not all of which has a gradient."""

    def __init__(self, input_size, hidden_size, *, rngs):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, hidden_size)
        self.recurrent_kernel = base.orthogonal(rngs, hidden_size, hidden_size)

    def initial_carry(self):
        return (jnp.zeros(self.hidden_size),)

    def project(self, x_D):
        z_H = base.product(x_D, self.kernel[...])
        return {"z": z_H, "scale": x_D.sum(), "is_open": x_D[0] > 0}

    def update(self, carry, z, u_G):
        return (jnp.where(z["is_open"], jnp.tanh(z["z"] * z["scale"] + u_G), u_G),)


class ProjectionWithoutNumbers(AnyProjection):
    """None of its projection has a gradient."""

    def project(self, x_D):
        return {"is_open": x_D[0] > 0}

    def update(self, carry, z, u_G):
        return (jnp.where(z["is_open"], jnp.tanh(u_G + 1), u_G),)


@pytest.mark.parametrize("kind", [AnyProjection, ProjectionWithoutNumbers])
def test_a_projection_may_be_any_pytree(kind, x_TxDxB, monkeypatch):
    monkeypatch.setattr(spans, "COLUMNS", 2 * BATCH)
    cell = kind(INPUT, HIDDEN, rngs=nnx.Rngs(0))
    actual, expected = (
        value_and_gradients(run, cell, x_TxDxB, jnp.array(LENGTHS), True)
        for run in (recurrence.run, oracle.run)
    )
    assert_close(actual, expected)


@pytest.mark.parametrize("with_many_rows", [False, True])
def test_double_precision_is_kept(with_many_rows, x_TxDxB, monkeypatch):
    if with_many_rows:
        monkeypatch.setattr(loop, "keeps_reads", lambda cell, batch_size: False)
        monkeypatch.setattr(loop, "is_separate", lambda *_: False)
    with jax.enable_x64(True):
        cell = loading.find_cell("lstm")(INPUT, HIDDEN, rngs=nnx.Rngs(0))
        graphdef, params = nnx.split(cell, nnx.Param)
        cell = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf.astype("float64"), params))
        arguments = cell, x_TxDxB.astype("float64"), jnp.array(LENGTHS), True
        actual = value_and_gradients(recurrence.run, *arguments)
        assert_close(actual, value_and_gradients(oracle.run, *arguments), 1e-11, 1e-12)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_a_large_cell_can_be_exported_for_any_batch_and_length(name):
    cell = loading.find_cell(name)(INPUT, loop._LARGE, rngs=nnx.Rngs(0))
    batch_size, width = jax.export.symbolic_shape("B, T")
    program = jax.export.export(jax.jit(lambda *of: recurrence.run(cell, *of).last_HxB))(
        jax.ShapeDtypeStruct((width, INPUT, batch_size), jnp.float32),
        jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    )
    x_TxDxB, lengths_B = jax.random.normal(jax.random.key(0), (3, INPUT, 2)), jnp.array([3, 1])
    expected = oracle.run(cell, x_TxDxB, lengths_B).last_HxB
    np.testing.assert_allclose(program.call(x_TxDxB, lengths_B), expected, 1e-4, 1e-5)


@pytest.mark.parametrize("gathered_steps", [2, 8])  # Fewer than there are, and more.
@pytest.mark.parametrize(("cells", "segment_steps"), [(1, 1), (2, 2), slow(1, 2), slow(2, 1)])
def test_products_that_are_kept_change_nothing(
    cells, segment_steps, gathered_steps, x_TxDxB, monkeypatch
):
    monkeypatch.setattr(derivative, "GATHERED_STEPS", gathered_steps)
    monkeypatch.setattr(loop, "is_separate", lambda *_: False)
    cell = check_cell.without_zeros(loading.find_cell("lstm")(INPUT, HIDDEN, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(cell, nnx.Param)

    def results(keeps):
        def loss(params, x_TxDxB):
            encoded = recurrence.run_all(
                [nnx.merge(graphdef, params)] * cells, [True, False][:cells], [x_TxDxB],
                jnp.array(LENGTHS), segment_steps=segment_steps,
            )  # fmt: skip
            return sum(scalar([one.last_HxB, one.sequence_TxHxB]) for one in encoded)

        monkeypatch.setattr(loop, "keeps_reads", lambda cell, batch_size: keeps)
        value, (d_params, d_x) = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x_TxDxB)
        valid = recurrence.valid_steps(jnp.array(LENGTHS), WIDTH)[:, None]
        return value, d_params, jnp.where(valid, d_x, 0)

    assert_close(results(True), results(False))


@pytest.mark.parametrize("many_steps", [WIDTH, WIDTH + 1])  # The matrix is transposed, or not.
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_one_sequence_of_a_large_layer(name, many_steps, x_TxDxB, monkeypatch):
    monkeypatch.setattr(separate, "_MANY_STEPS", many_steps)
    monkeypatch.setattr(loop, "_LARGE", 1)
    monkeypatch.setattr(products, "_CACHED", 1)
    cell = check_cell.without_zeros(loading.find_cell(name)(INPUT, HIDDEN, rngs=nnx.Rngs(0)))
    assert loop.is_separate(cell, 1, WIDTH, segment_steps=1)
    arguments = cell, x_TxDxB[..., :1], jnp.array([WIDTH - 1])
    assert_close(
        value_and_gradients(recurrence.run, *arguments, reverse=True),
        value_and_gradients(oracle.run, *arguments, reverse=True),
    )
