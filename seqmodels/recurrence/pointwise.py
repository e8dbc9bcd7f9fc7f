"""A GPU kernel that runs any `PointwiseCell` over time: one launch for a layer, not one per step.

Units do not see each other, so each program of the kernel takes four units of 32 sequences through
all their steps, whatever H is. It holds their carry in registers; the cell's `step` is traced and
put into the kernel gate by gate (`gatewise`). `project`, with all the cell's products, is computed
for all steps at once outside the kernel.

The backward kernel reads the carry before every step, which is all the forward pass keeps besides
its inputs, and takes the derivative of `step` there. Such a kernel for one cell is due to Lei et
al., "Simple Recurrent Units for Highly Parallelizable Recurrence", EMNLP 2018.

It is written in Pallas for its Triton backend.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import pallas as pl
from jax.extend import core

from seqmodels.cells import base
from seqmodels.recurrence import fused_kernels, gatewise
from seqmodels.recurrence.entry import Entry
from seqmodels.recurrence.sequences import (
    Encoded,
    last_output,
    own_or,
    real_inputs,
    without_gradient_of_nothing,
)

_UNITS, _COLUMNS = 4, 32  # Of a program: units, and sequences, which are neighbours in memory.
_TILE = _UNITS, _COLUMNS
_WARPS = 4  # A thread for each unit of each sequence.


class Plan(NamedTuple):
    """Everything a kernel needs, except arrays.

    Attributes:
        size: H.
        carries: C, the number of vectors in a carry.
        own: the numbers of the leaves of the cell's parameters that `step` reads.
        step: `(*carry, *own, *z) -> (*carry, y)`.
        pull_back: `(*carry, *own, *z, *d_carry, d_y) -> (*d_carry, *d_own, *d_z)`.
    """

    size: int
    carries: int
    own: tuple[int, ...]
    step: core.ClosedJaxpr
    pull_back: core.ClosedJaxpr
    interpret: bool

    def evaluate(self, jaxpr: core.ClosedJaxpr, parts: gatewise.Parts) -> gatewise.Parts:
        results = gatewise.evaluate(jaxpr, parts, self.size, _TILE)
        return [jnp.broadcast_to(part, _TILE) for part in results]


def available(cell: base.Cell) -> bool:
    """Whether `run` works for this cell on the default device: on NVIDIA GPUs from Ampere on."""
    return fused_kernels.run_here() and why_not(cell) is None


def why_not(cell: base.Cell) -> str | None:
    """Why the kernel cannot run this cell on any device; None if it can."""
    if fused_kernels.triton is None:
        return "this version of JAX has no Pallas for Triton"
    if not isinstance(cell, base.PointwiseCell):
        return "it is not a PointwiseCell"
    if cell.kernel.dtype != jnp.float32:
        return f"its matrix is {cell.kernel.dtype}, not float32"
    try:
        _plan(cell, interpret=False)
    except gatewise.Unsupported as error:
        return str(error)
    return None


def run(
    cell: base.PointwiseCell,
    x_TxDxB: jax.Array,
    lengths_B: jax.Array,
    *,
    reverse: bool | jax.Array = False,
    start: base.Carry = None,
    interpret: bool = False,
) -> Encoded:
    """Computes the same as `loop.run`, with one kernel for each pass.

    Args:
        cell: a cell for which `why_not` returns None.
        x_TxDxB: the inputs; sequences start at time 0.
        lengths_B: valid steps of each sequence, 0 to T. The loop over 32 neighbours in the batch
            ends with the longest of them.
        reverse: run from the last valid step to the first; it may be an array.
        start: the carry of every sequence before its first step; None: the cell's own.
        interpret: interpret the kernel without a GPU, slowly.

    Raises:
        gatewise.Unsupported: the kernel cannot run the cell; `why_not` gives the reason.
    """
    plan = _plan(cell, interpret)
    width, batch_size = len(x_TxDxB), len(lengths_B)
    units, columns = (0, -plan.size % _UNITS), (0, -batch_size % _COLUMNS)

    cell = without_gradient_of_nothing(cell, lengths_B)
    x_TxDxB = real_inputs(x_TxDxB, lengths_B)
    z = jax.vmap(jax.vmap(cell.project, in_axes=-1, out_axes=-1))(x_TxDxB)
    z_TxNxHxB = jnp.concatenate(
        [leaf.reshape(width, -1, plan.size, batch_size) for leaf in jax.tree.leaves(z)], axis=1
    )
    params = jax.tree.leaves(nnx.split(cell, nnx.Param)[1])
    fixed = [*jax.tree.leaves(own_or(start, cell)), *(params[number] for number in plan.own)]
    fixed_FxH = jnp.concatenate([leaf.reshape(-1, plan.size) for leaf in fixed])
    y_TxHxB = _loop(
        plan,
        jnp.asarray(reverse, jnp.int32)[None],
        jnp.pad(fixed_FxH.astype(z_TxNxHxB.dtype), ((0, 0), units)),
        jnp.pad(z_TxNxHxB, ((0, 0), (0, 0), units, columns)),
        jnp.pad(lengths_B.astype(jnp.int32), columns),
    )[:, : plan.size, :batch_size]
    return Encoded(y_TxHxB, last_output(y_TxHxB, lengths_B, reverse))


def _plan(cell: base.PointwiseCell, interpret: bool) -> Plan:
    """Traces the cell's `step` and its derivative, and tries both.

    Raises:
        gatewise.Unsupported: the kernel cannot take them.
    """
    graphdef, params = nnx.split(cell, nnx.Param)
    params, carry = gatewise.without_values((params, cell.initial_carry()))
    leaves, structure = jax.tree.flatten(params)
    size = cell.hidden_size
    x_D = jax.ShapeDtypeStruct((len(cell.kernel),), cell.kernel.dtype)
    z = jax.eval_shape(cell.project, x_D)

    def step(carry, own, z):
        merged = [own.get(number, leaf) for number, leaf in enumerate(leaves)]
        return nnx.merge(graphdef, jax.tree.unflatten(structure, merged)).step(carry, z)

    traced = jax.make_jaxpr(step)(carry, dict(enumerate(leaves)), z).jaxpr
    read = {id(atom) for eqn in traced.eqns for atom in eqn.invars}
    first = len(jax.tree.leaves(carry))
    own = {n: leaf for n, leaf in enumerate(leaves) if id(traced.invars[first + n]) in read}
    if any(leaf.ndim == 0 or leaf.shape[-1] % size for leaf in own.values()):
        raise gatewise.Unsupported(f"its step reads a parameter that is no vector of H = {size}")

    def pull_back(carry, own, z, d_results):
        return jax.vjp(step, carry, own, z)[1](d_results)

    results = jax.eval_shape(step, carry, own, z)
    plan = Plan(
        size=size,
        carries=first,
        own=tuple(own),
        step=jax.make_jaxpr(step)(carry, own, z),
        pull_back=jax.make_jaxpr(pull_back)(carry, own, z, results),
        interpret=interpret,
    )
    tile = jax.ShapeDtypeStruct(_TILE, cell.kernel.dtype)
    gatewise.try_on(tile, (plan.step, plan.pull_back), size)
    return plan


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loop(plan: Plan, reverse_1, fixed_FxH, z_TxNxHxB, lengths_B) -> jax.Array:
    """The outputs `y_TxHxB`, in padded shapes.

    Args:
        plan: the kernel's plan.
        reverse_1: 1 to run from the last valid step to the first, else 0.
        fixed_FxH: the initial carry and the parameters that `step` reads, part by part.
        z_TxNxHxB: the projected inputs, gate by gate.
        lengths_B: valid steps of each sequence.
    """
    width, _, *tile = z_TxNxHxB.shape
    shapes = [(width, *tile)]
    return _call(plan, _forward, shapes, reverse_1, fixed_FxH, lengths_B, [z_TxNxHxB])[0]


def _loop_forward(plan, reverse_1, fixed_FxH, z_TxNxHxB, lengths_B):
    width, _, *tile = z_TxNxHxB.shape
    shapes = [(width, *tile), (width, plan.carries, *tile)]
    given = reverse_1, fixed_FxH, lengths_B
    y_TxHxB, carries_TxCxHxB = _call(plan, _forward, shapes, *given, [z_TxNxHxB])
    return y_TxHxB, (*given, z_TxNxHxB, carries_TxCxHxB)


def _loop_backward(plan, residuals, d_y_TxHxB):
    reverse_1, fixed_FxH, lengths_B, z_TxNxHxB, carries_TxCxHxB = residuals
    d_fixed_FxHxB, d_z_TxNxHxB = _call(
        plan,
        _backward,
        [(*fixed_FxH.shape, len(lengths_B)), z_TxNxHxB.shape],
        reverse_1,
        fixed_FxH,
        lengths_B,
        [z_TxNxHxB, carries_TxCxHxB, d_y_TxHxB],
    )
    return None, d_fixed_FxHxB.sum(-1), d_z_TxNxHxB, None


_loop.defvjp(_loop_forward, _loop_backward)


def _call(plan, kernel, out_shapes, reverse_1, fixed_FxH, lengths_B, arrays) -> list[jax.Array]:
    """Calls a kernel for all tiles of units and sequences, the last two axes of all arrays."""

    def tiles(shape):
        others = shape[:-2]
        return pl.BlockSpec(
            (*others, *_TILE), lambda unit, column: (*[0] * len(others), unit, column)
        )

    size, batch_size = arrays[0].shape[-2:]
    return pl.pallas_call(
        functools.partial(kernel, plan),
        out_shape=[jax.ShapeDtypeStruct(shape, arrays[0].dtype) for shape in out_shapes],
        grid=(size // _UNITS, batch_size // _COLUMNS),
        in_specs=[
            pl.BlockSpec(),
            pl.BlockSpec((len(fixed_FxH), _UNITS), lambda unit, column: (0, unit)),
            pl.BlockSpec((_COLUMNS,), lambda unit, column: (column,)),
            *(tiles(array.shape) for array in arrays),
        ],
        out_specs=[tiles(shape) for shape in out_shapes],
        compiler_params=fused_kernels.triton.CompilerParams(num_warps=_WARPS, num_stages=1),
        interpret=plan.interpret,
    )(reverse_1, fixed_FxH, lengths_B, *arrays)


def _forward(plan: Plan, reverse, fixed, lengths, z, y, carries=None) -> None:
    """From `fixed_FxH, lengths_B, z_TxNxHxB`: `y_TxHxB`, zero after the end, and `carries_TxCxHxB`.

    `carries` are those before every step.
    """
    lengths_B, backwards = lengths[...], reverse[0] > 0
    num_steps = lengths_B.max()
    start, own = _fixed(plan, fixed)

    def body(number, carry):
        time = jnp.where(backwards, num_steps - 1 - number, number)
        if carries is not None:
            _store(carries, time, carry)
        *new, output = plan.evaluate(plan.step, [*carry, *own, *_load(z, time)])
        valid = jnp.broadcast_to(time < lengths_B, _TILE)
        y[time] = jnp.where(valid, output, 0)
        return [jnp.where(valid, *pair) for pair in zip(new, carry, strict=True)]

    jax.lax.fori_loop(0, num_steps, body, start)

    def clear(time, _):
        y[time] = jnp.zeros(_TILE, y.dtype)

    jax.lax.fori_loop(num_steps, len(y), clear, None)


def _backward(plan: Plan, reverse, fixed, lengths, z, carries, d_y, d_fixed, d_z) -> None:
    """The gradients `d_fixed_FxHxB` and `d_z_TxNxHxB`; the rest is as in `_forward`."""
    lengths_B, backwards = lengths[...], reverse[0] > 0
    num_steps = lengths_B.max()
    _, own = _fixed(plan, fixed)
    num_carries, num_fixed = plan.carries, len(d_fixed)

    def body(number, sums):
        time = jnp.where(backwards, number, num_steps - 1 - number)
        valid = jnp.broadcast_to(time < lengths_B, _TILE)
        d_results = [jnp.where(valid, part, 0) for part in (*sums[:num_carries], d_y[time])]
        inputs = [*_load(carries, time), *own, *_load(z, time)]
        results = plan.evaluate(plan.pull_back, [*inputs, *d_results])
        _store(d_z, time, [jnp.where(valid, part, 0) for part in results[num_fixed:]])
        d_carry = [
            jnp.where(valid, *pair) for pair in zip(results[:num_carries], sums, strict=False)
        ]
        d_own = [jnp.where(valid, part, 0) for part in results[num_carries:num_fixed]]
        return d_carry + [a + b for a, b in zip(sums[num_carries:], d_own, strict=True)]

    sums = jax.lax.fori_loop(0, num_steps, body, [jnp.zeros(_TILE, z.dtype)] * num_fixed)
    for number, part in enumerate(sums):
        d_fixed[number] = part

    def clear(time, _):
        _store(d_z, time, [jnp.zeros(_TILE, d_z.dtype)] * d_z.shape[1])

    jax.lax.fori_loop(num_steps, len(d_z), clear, None)


def _fixed(plan: Plan, fixed) -> tuple[gatewise.Parts, gatewise.Parts]:
    """The initial carry and the own parameters of every sequence."""
    parts = [jnp.broadcast_to(fixed[i][:, None], _TILE) for i in range(len(fixed))]
    return parts[: plan.carries], parts[plan.carries :]


def _load(array, time) -> gatewise.Parts:
    return [array[time, i] for i in range(array.shape[1])]


def _store(array, time, parts: gatewise.Parts) -> None:
    for i, part in enumerate(parts):
        array[time, i] = part


def _run(cell, x_TxDxB, lengths_B, *, reverse=False, start=None):
    """Runs the kernel on a GPU, and interprets it on other devices."""
    interpret = jax.default_backend() != "gpu"
    return run(cell, x_TxDxB, lengths_B, reverse=reverse, start=start, interpret=interpret)


ENTRY = Entry("pointwise", _run, why_not, is_best=available, takes_both=True)
