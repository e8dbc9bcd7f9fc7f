"""A kernel for GPUs that runs any `GatedCell` over time: one launch a direction, not one a step.

A program of the kernel takes 16 sequences through all their steps. It holds their carry in
registers and, up to H = 64, the recurrent matrix R too; a larger R it reads anew every step, from
the cache. What is left to do in a step is `h @ R`, on the matrix unit, and the cell's `update`,
which is traced and put into the kernel gate by gate (`seqmodels.gatewise`). All that needs no carry
is one product over all steps outside of the kernel: the input projection before it and, backwards,
`h @ R` again and the gradient of R.

Backwards the kernel reads the carry before every step, which is all the forward pass keeps besides
its inputs, and takes the derivative of `update` there. Persistent kernels are due to Diamos et al.,
"Persistent RNNs: Stashing Recurrent Weights On-Chip", 2016.

It is written in Pallas for its Triton backend. Products have the precision of all products in JAX,
`jax.default_matmul_precision`: on a GPU that is TF32 unless told otherwise.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pallas_triton
from jax.extend import core

from seqmodels import gatewise
from seqmodels.cells import base
from seqmodels.recurrence import Encoded

_COLUMNS = 16  # Sequences of a program: the matrix units take no narrower product.
_HELD = 64  # Units whose R a program holds; of a larger one it reads so many squared at a time.
_MAX_HIDDEN = 256  # A program's registers hold the gates of so many units for 16 sequences.


def available(cell: base.Cell) -> bool:
    """Whether `run` works for this cell on the default device and is meant to be used there."""
    return jax.default_backend() == "gpu" and why_not(cell) is None


def why_not(cell: base.Cell) -> str | None:
    """What keeps this cell from the kernel, on any device; None if nothing does."""
    if not isinstance(cell, base.GatedCell):
        return "it is not a GatedCell"
    if cell.hidden_size > _MAX_HIDDEN:
        return f"{cell.hidden_size} units are more than {_MAX_HIDDEN}, which a program can hold"
    try:
        _plan(cell, reverse=False, interpret=False)
    except gatewise.Unsupported as error:
        return str(error)
    return None


def run(
    cell: base.GatedCell,
    x_TxDxB: jax.Array,
    lengths_B: jax.Array,
    *,
    reverse: bool = False,
    interpret: bool = False,
) -> Encoded:
    """`seqmodels.recurrence.run`, to which it is equal, in one kernel forwards and one backwards.

    Args:
        cell: a cell for which `why_not` has nothing to say.
        x_TxDxB: the inputs; sequences start at time 0.
        lengths_B: valid steps of each sequence, 0 to T. The loop over 16 neighbours in the batch
            ends with the longest of them.
        reverse: run from the last valid step to the first.
        interpret: compute what the kernel computes without a GPU, slowly.

    Raises:
        gatewise.Unsupported: `why_not` would have said so.
    """
    plan = _plan(cell, reverse, interpret)
    size, width, batch_size = plan.size, len(x_TxDxB), len(lengths_B)
    lanes, columns = (0, plan.lanes - size), (0, -batch_size % _COLUMNS)

    z_TxGxB = jax.vmap(jax.vmap(cell.project, in_axes=-1, out_axes=-1))(x_TxDxB)
    z_TxNxHxB = z_TxGxB.reshape(width, plan.gates, size, batch_size)
    matrix_NxHxH = cell.recurrent_kernel[...].reshape(size, plan.gates, size).swapaxes(0, 1)
    y_TxHxB, last_HxB = _loop(
        plan,
        jnp.pad(matrix_NxHxH, ((0, 0), lanes, lanes)),
        jnp.pad(plan.fixed(cell).astype(z_TxGxB.dtype), ((0, 0), lanes)),
        jnp.pad(z_TxNxHxB, ((0, 0), (0, 0), lanes, columns)),
        jnp.pad(lengths_B.astype(jnp.int32), columns),
    )
    return Encoded(y_TxHxB[:, :size, :batch_size], last_HxB[:size, :batch_size])


@dataclasses.dataclass(frozen=True, eq=False)
class _Plan:
    """All of a kernel that is no array.

    Attributes:
        size: H.
        lanes: H and the padding that makes it a power of two.
        gates: N.
        carries: C, the vectors of a carry.
        own: the number and shape of each leaf of the cell's parameters that `update` reads.
        step: `(*carry, *own, z, u) -> carry`.
        pull_back: `(*carry, *own, z, u, *d_carry) -> (*d_carry, *d_own, d_z, d_u)`.
    """

    size: int
    lanes: int
    gates: int
    carries: int
    own: dict[int, tuple[int, ...]]
    step: core.ClosedJaxpr
    pull_back: core.ClosedJaxpr
    reverse: bool
    interpret: bool

    @property
    def adds_up(self) -> bool:
        """Whether `update` uses only the sum z + u: their gradients are the same then."""
        *_, d_z, d_u = self.pull_back.jaxpr.outvars
        return d_z is d_u

    @property
    def holds_matrix(self) -> bool:
        """Whether a program reads R once; else it reads a piece at a time, every step."""
        return self.lanes <= _HELD

    def fixed(self, cell: base.GatedCell) -> jax.Array:
        """The initial carry and the own parameters of `update`, part by part: `[F, H]`."""
        leaves = jax.tree.leaves(nnx.split(cell, nnx.Param)[1])
        arrays = [*cell.initial_carry(), *(leaves[number] for number in self.own)]
        parts = [array.reshape(gatewise.count(array.shape, self.size), -1) for array in arrays]
        return jnp.concatenate([jnp.broadcast_to(p, (len(p), self.size)) for p in parts])

    def own_units(self) -> list[int]:
        """How many lanes of each part of the own parameters count: one where it is a number."""
        counts = {shape: gatewise.count(shape, self.size) for shape in self.own.values()}
        return [
            math.prod(shape) // counts[shape]
            for shape in self.own.values()
            for _ in range(counts[shape])
        ]

    def evaluate(self, jaxpr: core.ClosedJaxpr, parts: gatewise.Parts) -> gatewise.Parts:
        return gatewise.evaluate(jaxpr, parts, self.size, (self.lanes, _COLUMNS))


def _plan(cell: base.GatedCell, reverse: bool, interpret: bool) -> _Plan:
    graphdef, params = nnx.split(cell, nnx.Param)
    leaves, structure = jax.tree.flatten(params)
    carry = cell.initial_carry()
    size, width = cell.recurrent_kernel.shape
    gates_G = jax.ShapeDtypeStruct((width,), cell.recurrent_kernel.dtype)

    def update(carry, leaves, z_G, u_G):
        return nnx.merge(graphdef, structure.unflatten(leaves)).update(carry, z_G, u_G)

    traced = jax.make_jaxpr(update)(carry, leaves, gates_G, gates_G).jaxpr
    read = {id(atom) for eqn in traced.eqns for atom in eqn.invars}
    inputs = traced.invars[len(carry) : -2]
    own = {i: leaf.shape for i, leaf in enumerate(leaves) if id(inputs[i]) in read}
    if any(len(shape) > 1 for shape in own.values()):
        raise gatewise.Unsupported("its update reads a matrix")

    def step(carry, own_leaves, z_G, u_G):
        replaced = dict(zip(own, own_leaves, strict=True))
        merged = [replaced.get(number, leaf) for number, leaf in enumerate(leaves)]
        return update(carry, merged, z_G, u_G)

    def pull_back(carry, own_leaves, z_G, u_G, d_carry):
        return jax.vjp(step, carry, own_leaves, z_G, u_G)[1](d_carry)

    arguments = carry, [leaves[number] for number in own], gates_G, gates_G
    plan = _Plan(
        size=size,
        lanes=max(16, 1 << (size - 1).bit_length()),
        gates=width // size,
        carries=len(carry),
        own=own,
        step=jax.make_jaxpr(step)(*arguments),
        pull_back=jax.make_jaxpr(pull_back)(*arguments, carry),
        reverse=reverse,
        interpret=interpret,
    )
    tile = jax.ShapeDtypeStruct((plan.lanes, _COLUMNS), cell.recurrent_kernel.dtype)
    for jaxpr in (plan.step, plan.pull_back):
        number = sum(gatewise.count(var.aval.shape, size) for var in jaxpr.jaxpr.invars)
        jax.eval_shape(functools.partial(plan.evaluate, jaxpr), [tile] * number)
    return plan


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loop(plan: _Plan, matrix_NxHxH, fixed_FxH, z_TxNxHxB, lengths_B):
    """The loop over time in padded shapes: `(y_TxHxB, last_HxB)`.

    Args:
        plan: what the kernel is made of.
        matrix_NxHxH: R, gate by gate, inputs times outputs.
        fixed_FxH: the initial carry and the own parameters of `update`.
        z_TxNxHxB: what `project` makes of the inputs, gate by gate.
        lengths_B: valid steps of each sequence.
    """
    return _loop_forward(plan, matrix_NxHxH, fixed_FxH, z_TxNxHxB, lengths_B)[0]


def _loop_forward(plan, matrix_NxHxH, fixed_FxH, z_TxNxHxB, lengths_B):
    width, _, lanes, batch_size = z_TxNxHxB.shape
    y_Tx1xHxB, last_HxB, carries_TxCxHxB = _call(
        plan,
        _forward_kernel,
        [(width, 1, lanes, batch_size), (lanes, batch_size), (width, plan.carries, lanes, batch_size)],
        [matrix_NxHxH, fixed_FxH],
        [lengths_B, z_TxNxHxB],
    )
    residuals = matrix_NxHxH, fixed_FxH, z_TxNxHxB, lengths_B, carries_TxCxHxB
    return (y_Tx1xHxB[:, 0], last_HxB), residuals


def _loop_backward(plan, residuals, cotangents):
    matrix_NxHxH, fixed_FxH, z_TxNxHxB, lengths_B, carries_TxCxHxB = residuals
    d_y_TxHxB, d_last_HxB = cotangents
    h_TxHxB = carries_TxCxHxB[:, -1]
    u_TxNxHxB = jnp.einsum("nio,tib->tnob", matrix_NxHxH, h_TxHxB)
    d_fixed_FxHxB, d_z_TxNxHxB, *d_u = _call(
        plan,
        _backward_kernel,
        [(*fixed_FxH.shape, len(lengths_B))] + [z_TxNxHxB.shape] * (1 if plan.adds_up else 2),
        [matrix_NxHxH, fixed_FxH],
        [lengths_B, z_TxNxHxB, u_TxNxHxB, carries_TxCxHxB, d_y_TxHxB, d_last_HxB],
    )
    d_matrix_NxHxH = jnp.einsum("tib,tnob->nio", h_TxHxB, d_u[0] if d_u else d_z_TxNxHxB)
    # A parameter that is a single number stands in all lanes, and so does its gradient.
    units_F = jnp.array([plan.size] * plan.carries + plan.own_units())
    counts_FxH = jnp.arange(plan.lanes) < units_F[:, None]
    return d_matrix_NxHxH, jnp.where(counts_FxH, d_fixed_FxHxB.sum(-1), 0), d_z_TxNxHxB, None


_loop.defvjp(_loop_forward, _loop_backward)


def _call(plan: _Plan, kernel, out_shapes, whole, columns):
    """Calls a kernel for every 16 sequences: with all of some arrays, their columns of others."""

    def part(shape):
        return pl.BlockSpec((*shape[:-1], _COLUMNS), lambda block: (*(0 for _ in shape[1:]), block))

    return pl.pallas_call(
        functools.partial(kernel, plan),
        out_shape=[jax.ShapeDtypeStruct(shape, columns[1].dtype) for shape in out_shapes],
        grid=(columns[0].shape[0] // _COLUMNS,),
        in_specs=[pl.BlockSpec()] * len(whole) + [part(array.shape) for array in columns],
        out_specs=[part(shape) for shape in out_shapes],
        # One stage: prefetching would read what this step has yet to write.
        compiler_params=pallas_triton.CompilerParams(num_warps=plan.lanes // 16, num_stages=1),
        interpret=plan.interpret,
    )(*whole, *columns)


def _forward_kernel(plan, matrix, fixed, lengths, z, y, last, carries):
    lengths_B = lengths[...]
    num_steps = lengths_B.max()
    start, own = _fixed(plan, fixed)
    tiles = [matrix[gate] for gate in range(plan.gates)] if plan.holds_matrix else []

    def product(h, time):
        def add(units, u):
            piece = carries[time, plan.carries - 1, units]
            return [u[i] + _dot(matrix[i, units], piece, axis=0) for i in range(plan.gates)]

        if plan.holds_matrix:
            return [_dot(tile, h, axis=0) for tile in tiles]
        return _over_pieces(plan, add, [jnp.zeros_like(h)] * plan.gates)

    def body(number, carry):
        time = num_steps - 1 - number if plan.reverse else number
        _store(carries, time, carry)
        z_parts = _load(z, time)
        new = plan.evaluate(plan.step, [*carry, *own, *z_parts, *product(carry[-1], time)])
        valid = _valid(plan, time, lengths_B)
        _store(y, time, [jnp.where(valid, new[-1], 0)])
        return [jnp.where(valid, *pair) for pair in zip(new, carry, strict=True)]

    carry = jax.lax.fori_loop(0, num_steps, body, start)
    last[...] = jnp.where(lengths_B > 0, carry[-1], 0)
    _clear(plan, num_steps, y, carries)


def _backward_kernel(
    plan, matrix, fixed, lengths, z, u, carries, d_y, d_last, d_fixed, d_z, d_u=None
):
    lengths_B = lengths[...]
    num_steps = lengths_B.max()
    _, own = _fixed(plan, fixed)
    tiles = [matrix[gate] for gate in range(plan.gates)] if plan.holds_matrix else []
    num_carries, num_fixed = plan.carries, len(d_fixed)

    def product(d_parts, time, d_h):
        def add(units, d_h):
            for gate in range(plan.gates):
                piece = (d_z if d_u is None else d_u)[time, gate, units]
                d_h += _dot(matrix[gate, :, units], piece, axis=1)
            return d_h

        if plan.holds_matrix:
            return sum((_dot(*pair, axis=1) for pair in zip(tiles, d_parts, strict=True)), d_h)
        return _over_pieces(plan, add, d_h)

    def body(number, d_fixed):
        time = number if plan.reverse else num_steps - 1 - number
        valid = _valid(plan, time, lengths_B)
        d_new = [*d_fixed[: num_carries - 1], d_fixed[num_carries - 1] + d_y[time]]
        d_new = [jnp.where(valid, part, 0) for part in d_new]
        inputs = [*_load(carries, time), *own, *_load(z, time), *_load(u, time)]
        results = plan.evaluate(plan.pull_back, [*inputs, *d_new])
        results = [jnp.where(valid, part, 0) for part in results]
        d_gates = results[-plan.gates :]
        _store(d_z, time, results[num_fixed : num_fixed + plan.gates])
        if d_u is not None:
            _store(d_u, time, d_gates)
        d_carry, d_own = results[:num_carries], results[num_carries:num_fixed]
        d_carry[-1] = product(d_gates, time, d_carry[-1])
        d_carry = [jnp.where(valid, *pair) for pair in zip(d_carry, d_fixed, strict=False)]
        return d_carry + [a + b for a, b in zip(d_fixed[num_carries:], d_own, strict=True)]

    zero = jnp.zeros_like(d_last[...])
    d_start = [zero] * num_fixed
    d_start[num_carries - 1] = jnp.where(lengths_B > 0, d_last[...], 0)
    for number, part in enumerate(jax.lax.fori_loop(0, num_steps, body, d_start)):
        d_fixed[number] = part
    _clear(plan, num_steps, *([d_z] if d_u is None else [d_z, d_u]))


def _fixed(plan: _Plan, fixed) -> tuple[gatewise.Parts, gatewise.Parts]:
    """The initial carry and the own parameters of every sequence."""
    shape = plan.lanes, _COLUMNS
    parts = [jnp.broadcast_to(fixed[i][:, None], shape) for i in range(len(fixed))]
    return parts[: plan.carries], parts[plan.carries :]


def _valid(plan: _Plan, time, lengths_B) -> jax.Array:
    """True for the units of those sequences that this step is a step of: `[H, B]`."""
    valid_B = jnp.broadcast_to(time < lengths_B, (plan.lanes, _COLUMNS))
    return valid_B & (jnp.arange(plan.lanes) < plan.size)[:, None]


def _over_pieces(plan: _Plan, add, start):
    """Adds up a product over h, a piece at a time; no kernel cuts an array, so `add` reads it."""
    if not plan.interpret:
        pallas_triton.debug_barrier()  # Until all threads of the program have stored their part.
    piece = _HELD * _HELD // plan.lanes
    return jax.lax.fori_loop(
        0, plan.lanes // piece, lambda number, sums: add(pl.ds(number * piece, piece), sums), start
    )


def _dot(tile, part, axis: int) -> jax.Array:
    return jax.lax.dot_general(tile, part, (((axis,), (0,)), ((), ())))


def _load(array, time) -> gatewise.Parts:
    return [array[time, i] for i in range(array.shape[1])]


def _store(array, time, parts: gatewise.Parts) -> None:
    for i, part in enumerate(parts):
        array[time, i] = part


def _clear(plan: _Plan, start, *arrays) -> None:
    """Zero from time `start` on."""

    def body(time, _):
        for array in arrays:
            zero = jnp.zeros((plan.lanes, _COLUMNS), array.dtype)
            _store(array, time, [zero] * array.shape[1])

    jax.lax.fori_loop(start, len(arrays[0]), body, None)
