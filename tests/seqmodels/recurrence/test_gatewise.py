"""Mathematics evaluated gate by gate, on tiles whose padding is not a number, against JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqmodels.recurrence import gatewise
from tests.marks import slow

LANES, SLICE = 16, 4


def mathematics(a_H, z_G, u_G, gain):
    """What people write into an `update`, all at once; three gates."""
    size = len(a_H)
    r, k, n = (z_G + gain * u_G).reshape(3, -1)
    first, last = z_G[:size], z_G[-size:]
    s = jax.nn.relu(r) + jax.nn.softplus(k) + jax.nn.silu(n) + jnp.where(first > 0, first, last)
    s = (s - s.mean()) * jax.lax.rsqrt(s.var() + 1e-5)
    rows = jnp.stack([r, k])
    rows = (rows - rows.mean(1, keepdims=True)) / jnp.sqrt(rows.var(-1, keepdims=True) + 1e-3)
    joined = jnp.concatenate([n, *jnp.split(u_G, 3)[:2]])
    return (
        jax.nn.gelu(s) + jnp.clip(a_H, -1, 1) + jax.nn.softmax(n) + jax.nn.leaky_relu(k),
        rows.sum(0) + joined.reshape(3, size)[1] + jnp.mean(z_G) * jnp.max(u_G) + jax.nn.elu(k),
    )


def gradients(a_H, z_G, u_G, gain, *cotangents):
    return jax.vjp(mathematics, a_H, z_G, u_G, gain)[1](cotangents)


def parts_of(array, size):
    """Tiles for two sequences; of a single number every lane is one."""
    rows = np.reshape(array, (gatewise.count(array, size), -1, 1))
    parts = [np.full((LANES, 2), np.nan, np.float32) for _ in rows]
    for part, row in zip(parts, rows, strict=True):
        part[: max(len(row), size)] = row
    return parts


def in_slices(jaxpr, parts, size):
    """The parts of the results, evaluated for a few units at a time."""
    tile = jax.ShapeDtypeStruct((SLICE, 2), np.float32)
    units = [slice(first, first + SLICE) for first in range(0, LANES, SLICE)]
    known = {}

    def evaluate(one):
        sliced = gatewise.Sliced(jnp.arange(LANES)[one] < size, known)
        results = gatewise.evaluate(jaxpr, [part[one] for part in parts], size, tile.shape, sliced)
        return results, sliced.found

    for stage in gatewise.stages(jaxpr, size, tile):
        found = [evaluate(one)[1] for one in units]
        known = known | {
            reduction.number: functools.reduce(reduction.combine, [one[reduction] for one in found])
            for reduction in stage
        }
    all_slices = [evaluate(one)[0] for one in units]
    return [jnp.concatenate(slices) for slices in zip(*all_slices, strict=True)]


# With 3 units a mean of each gate looks like a vector of units, and is refused; so with 2.
@pytest.mark.parametrize("size", [slow(1), 5])
@pytest.mark.parametrize(("function", "arguments"), [(mathematics, 4), (gradients, 6)])
@pytest.mark.slow
def test_equals_jax(function, arguments, size):
    rng = np.random.default_rng(0)
    shapes = [(size,), (3 * size,), (3 * size,), (), (size,), (size,)][:arguments]
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    jaxpr = jax.make_jaxpr(function)(*arrays)
    flat = [part for array in arrays for part in parts_of(array, size)]
    run = jax.jit(
        functools.partial(in_slices, jaxpr, size=size),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    parts = iter(run(flat))
    for expected in function(*arrays):
        rows = [next(parts)[:size, 1] for _ in range(gatewise.count(expected, size))]
        actual = np.concatenate(rows) if expected.ndim else rows[0][0]
        np.testing.assert_allclose(actual, expected, 1e-4, 1e-5)


@pytest.mark.parametrize(
    "function",
    [
        jnp.cumsum,
        jnp.sort,
        lambda z_G: z_G[::-1],
        lambda z_G: z_G[:3],
        lambda z_G: z_G.reshape(4, 3).sum(0),
        lambda z_G: z_G * jnp.arange(12),
        lambda z_G: z_G * np.arange(12.0),
        lambda z_G: z_G.reshape(3, 4).T,
    ],
)
def test_refuses_what_is_not_gate_by_gate(function):
    jaxpr = jax.make_jaxpr(function)(jnp.zeros(12))
    with pytest.raises(gatewise.Unsupported):
        gatewise.evaluate(jaxpr, [jnp.zeros((LANES, 2))] * 3, 4, (LANES, 2))
