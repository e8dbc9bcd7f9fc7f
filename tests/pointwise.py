"""What the tests of engines for pointwise cells share: cells, and checks of a way to run them."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from seqmodels import check_cell, recurrence
from seqmodels.cells import base
from seqmodels.cells.indrnn import IndRNN
from seqmodels.recurrence import oracle

WIDTH, INPUT, HIDDEN = 6, 3, 5
LENGTHS = [6, 1, 0, 3]


class Coupled(base.PointwiseCell):
    """Two vectors of a carry that move each other, a learned start, and an output beside them."""

    def __init__(self, input_size, hidden_size, *, rngs):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, 2 * hidden_size)
        self.weights = nnx.Param(jax.random.normal(rngs.params(), (3 * hidden_size,)))
        self.first = nnx.Param(jax.random.normal(rngs.params(), (2, hidden_size)))

    def initial_carry(self):
        return {"c": self.first[0], "h": self.first[1]}

    def project(self, x_D):
        return base.product(x_D, self.kernel[...])

    def step(self, carry, z):
        u, v, w = jnp.split(self.weights[...], 3)
        z_c, z_h = jnp.split(z, 2)
        c_H = jnp.tanh(z_c + u * carry["c"] + v * carry["h"])
        h_H = c_H * jax.nn.sigmoid(z_h + w * carry["h"] * carry["c"])
        return {"c": c_H, "h": h_H}, h_H - c_H


class Singular(IndRNN):
    """The derivative is not finite where input and carry are zero."""

    def project(self, x_D):
        return super().project(x_D / jnp.sqrt(jnp.sum(x_D**2)))

    def step(self, carry, z):
        h_H = jnp.tanh(jnp.sqrt(z**2 + carry**2) + self.recurrent_weights * carry)
        return h_H, h_H


# Most of the time goes into compiling.
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


def check_equals_the_unrolled_loop(run, cell, lengths, reverse):
    """From a given start, with padding that is not a number, and without a warning."""
    x_TxDxB = inputs()
    start = jax.tree.map(lambda leaf: leaf + 0.5, cell.initial_carry())
    valid_Tx1xB = recurrence.valid_steps(jnp.array(lengths), WIDTH)[:, None]
    spoilt_TxDxB = jnp.where(valid_Tx1xB, x_TxDxB, jnp.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=RuntimeWarning)
        actual = results_and_gradients(
            run, cell, spoilt_TxDxB, jnp.array(lengths), start, reverse=reverse
        )
        jax.effects_barrier()
    expected = results_and_gradients(oracle.run, cell, x_TxDxB, lengths, start, reverse=reverse)
    assert_equal(actual, expected)


def gradient(run, graphdef, params, x_TxDxB, lengths_B):
    def loss(params):
        encoded = run(nnx.merge(graphdef, params), x_TxDxB, lengths_B)
        return jnp.sum(jnp.sin(encoded.sequence_TxHxB)) + jnp.sum(jnp.cos(encoded.last_HxB))

    return jax.grad(loss)(params)


def check_vmap(run):
    """Two models at once are each alone; returns what computes the gradients of both, traced."""
    graphdef, params = nnx.split(make(Coupled), nnx.Param)
    params_2 = jax.tree.map(lambda leaf: jnp.stack([leaf, 3 * leaf]), params)
    arrays = inputs(), jnp.array(LENGTHS)
    both = jax.vmap(lambda params: gradient(run, graphdef, params, *arrays))
    actual = jit(both)(params_2)
    for number in range(2):
        one = jax.tree.map(lambda leaf, n=number: leaf[n], params_2)
        assert_close(
            jax.tree.map(lambda leaf, n=number: leaf[n], actual),
            gradient(recurrence.run, graphdef, one, *arrays),
        )
    return jax.make_jaxpr(both)(params_2)


def check_shard_map(run):
    """The gradients of a batch on two devices sum up to that of the batch."""
    graphdef, params = nnx.split(make(Coupled), nnx.Param)
    spread = jax.shard_map(
        lambda *arrays: jax.lax.psum(gradient(run, graphdef, *arrays), "batch"),
        mesh=jax.sharding.Mesh(jax.devices()[:2], "batch"),
        in_specs=(PartitionSpec(), PartitionSpec(None, None, "batch"), PartitionSpec("batch")),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    arrays = params, inputs(), jnp.array(LENGTHS)
    assert_close(jit(spread)(*arrays), gradient(recurrence.run, graphdef, *arrays))


def assert_close(actual, expected):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, 1e-4, 1e-4), actual, expected)
