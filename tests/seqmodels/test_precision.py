"""Products in the precision that is asked for, whatever a device does by default."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.extend import core

from seqmodels import factory, loading, precision
from tests import accelerators
from tests.marks import slow

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2
HIGH = (jax.lax.Precision.HIGH,) * 2
X3 = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3
TF32 = jax.lax.DotAlgorithmPreset.TF32_TF32_F32


@pytest.fixture(params=["cpu", "gpu", "tpu"])
def device(request, monkeypatch):
    accelerators.pretend(monkeypatch, request.param)
    return request.param


def precisions_of(jaxpr):
    """Those of every product of float32 arrays in a program, and of every LSTM of cuDNN."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general" and eqn.invars[0].aval.dtype == jnp.float32:
            yield eqn.params["precision"]
        if "cudnn_allow_tf32" in eqn.params:
            yield HIGH if eqn.params["cudnn_allow_tf32"] else HIGHEST
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from precisions_of(getattr(inner, "jaxpr", inner))


def _is_jaxpr(value):
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def program_of(transform=lambda function: function, **options):
    """What a training step of a small model computes."""
    options = {"vocabulary_size": 9, "embedding_size": 3, "hidden_sizes": (4,)} | options
    graphdef, params = nnx.split(factory.build(seed=0, **options), nnx.Param)

    def loss(params, tokens_BxT, lengths_B):
        return jnp.sum(nnx.merge(graphdef, params)(tokens_BxT, lengths_B))

    arguments = params, jnp.zeros((2, 5), jnp.int32), jnp.array([5, 2])
    return jax.make_jaxpr(jax.grad(transform(loss)))(*arguments).jaxpr


# Each cell where JAX would round most, and with the kernels that it has on a GPU.
@pytest.mark.parametrize("cell", loading.cell_names())
@pytest.mark.parametrize("backend", ["tpu", slow("gpu"), slow("cpu")])
def test_float32_is_float32_on_every_device(cell, backend, monkeypatch):
    accelerators.pretend(monkeypatch, backend)
    found = list(precisions_of(program_of(cell=cell, direction="bidirectional")))
    assert found
    assert all(one in (HIGHEST, X3) for one in found)


@pytest.mark.parametrize("pooling", ["attention", "max"])
def test_so_it_is_around_the_cells(pooling, device):
    assert set(precisions_of(program_of(pooling=pooling))) <= {HIGHEST, X3}


def test_a_derivative_that_is_traced_later_keeps_it(device):
    assert set(precisions_of(program_of(jax.jit, cell="gru"))) <= {HIGHEST, X3}
    assert set(precisions_of(program_of(jax.checkpoint, cell="mgu"))) == {HIGHEST}


@pytest.mark.parametrize(("cell", "engine"), [("lstm", "loop"), ("gru", "auto"), ("lstm", "auto")])
def test_tensorfloat32_is_for_cells_alone(cell, engine, device):
    make = functools.partial(program_of, cell=cell, engine=engine)
    of_cells = list(precisions_of(make(matrix_dtype="tensorfloat32")))
    in_float32 = list(precisions_of(make(matrix_dtype="float32")))
    assert len(of_cells) == len(in_float32)
    assert {HIGH, TF32} & set(of_cells)
    assert set(of_cells) <= {HIGH, TF32, HIGHEST}
    assert in_float32.count(HIGHEST) > of_cells.count(HIGHEST) > 0


def test_nothing_else_is_affected():
    with precision.products_in("float32"):
        pass
    program_of(matrix_dtype="tensorfloat32")
    assert jax.config.jax_default_matmul_precision is None
    product = jax.make_jaxpr(jnp.dot)(jnp.ones((2, 2)), jnp.ones((2, 2))).jaxpr
    assert list(precisions_of(product)) == [None]
