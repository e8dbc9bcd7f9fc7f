"""Arrays that loops write, under `vmap`, and their room on devices that need not fill it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqmodels.recurrence import arrays
from tests import accelerators

ARRAY, PART = np.zeros((3, 6, 4), np.float32), np.ones((3, 2, 4), np.float32)


@pytest.mark.parametrize("array", [ARRAY, ARRAY[0]])
@pytest.mark.parametrize("part", [PART, PART[0]])
@pytest.mark.parametrize("start", [np.int32(3), np.array([0, 4, 2], np.int32)])
def test_writes_under_vmap_what_it_writes_alone(array, part, start):
    axes = tuple(0 if one.ndim == most else None for one, most in ((array, 3), (part, 3)))
    axes += (0 if start.ndim else None,)
    if axes == (None, None, None):
        axes = (0, None, None)
        array = ARRAY
    found = jax.vmap(lambda *given: arrays.write(*given, axis=0), axes)(array, part, start)
    for number in range(3):
        expected = np.zeros((6, 4))
        first = int(start[number] if start.ndim else start)
        expected[first : first + 2] = 1
        np.testing.assert_array_equal(found[number], expected)


def test_many_models_write_without_reading():
    """JAX's own write would become a scatter under `vmap`."""

    def write(array, part, start):
        return arrays.write(array, part, start, axis=0)

    twice = jax.vmap(jax.vmap(write, (0, 0, None)), (0, 0, None))
    text = jax.jit(twice).lower(ARRAY[None], PART[None], jnp.int32(3)).as_text()
    assert "dynamic_update_slice" in text
    assert "scatter" not in text


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_only_a_cpu_fills_room(backend, monkeypatch):
    accelerators.pretend(monkeypatch, backend)
    jaxpr = str(jax.make_jaxpr(lambda one: arrays.room([one, one], 5, first=7))(ARRAY[0]))
    assert ("empty" in jaxpr) == (backend != "cpu")
    assert ("7.0" in jaxpr and "8.0" in jaxpr) == (backend == "cpu")
