"""A GPU kernel that runs any `GatedCell` over time: one launch for a layer, not one per step.

Each program of the kernel takes 16 sequences through all their steps. Up to 128 units, it holds
their carry in registers (larger layers, and cells that combine units, are for `fused_slices`) and,
if it fits in 64 KiB (four gates of 64 units), the recurrent matrix R in shared memory; a larger R
is read from the cache again at every step. A step then consists of `h @ R`, on the matrix unit, and
the cell's `update`, which is traced and put into the kernel gate by gate (`gatewise`). All that
needs no carry is one product over all steps outside the kernel: the input projection before it and,
in the backward pass, `h @ R` again and the gradient of R.

The backward kernel reads the carry before every step, which is all the forward pass keeps besides
its inputs, and takes the derivative of `update` there. Persistent kernels are due to Diamos et al.,
"Persistent RNNs: Stashing Recurrent Weights On-Chip", 2016.

It is written in Pallas for its Triton backend. Products have the precision of all products in JAX
where `run` is called, `jax.default_matmul_precision`. In the kernel, float32 is three products in
TF32, whose sum has nearly the precision of float32. With matrices in bfloat16, both factors of a
product are rounded to it, and only they: sums, gates, carries and gradients are float32.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import precision
from seqmodels.cells import base
from seqmodels.recurrence import fused_kernels as kernels
from seqmodels.recurrence import fused_slices, gatewise
from seqmodels.recurrence.entry import Entry
from seqmodels.recurrence.sequences import (
    Encoded,
    own_or,
    real_inputs,
    without_gradient_of_nothing,
)

_MOST = 1024  # The compilers were tried with no more.
_MOST_UNASKED = 256  # Units of a layer that it takes without being named.


def available(cell: base.Cell) -> bool:
    """Whether `run` is fit for this cell on the default device: on NVIDIA GPUs from Ampere on.

    Larger layers can name it. How fast they are has not been measured, and all programs would wait
    for one matrix.
    """
    return kernels.run_here() and why_not(cell) is None and cell.hidden_size <= _MOST_UNASKED


def why_not(cell: base.Cell) -> str | None:
    """Why the kernel cannot run this cell on any device; None if it can."""
    if kernels.triton is None:
        return "this version of JAX has no Pallas for Triton"
    if not isinstance(cell, base.GatedCell):
        return "it is not a GatedCell"
    if cell.hidden_size > _MOST:
        return f"{cell.hidden_size} units are more than {_MOST}"
    if cell.recurrent_kernel.dtype != jnp.float32:
        return f"its matrix is {cell.recurrent_kernel.dtype}, not float32"
    try:
        _plan(cell, interpret=False)
    except gatewise.Unsupported as error:
        return str(error)
    return None


def run(
    cell: base.GatedCell,
    x_TxDxB: jax.Array,
    lengths_B: jax.Array,
    *,
    reverse: bool | jax.Array = False,
    start: base.Carry = None,
    matrix_dtype: str = "float32",
    interpret: bool = False,
) -> Encoded:
    """Computes the same as `loop.run`, with one kernel for each pass.

    Args:
        cell: a cell for which `why_not` returns None.
        x_TxDxB: the inputs; sequences start at time 0.
        lengths_B: valid steps of each sequence, 0 to T. The loop over 16 neighbours in the batch
            ends with the longest of them.
        reverse: run from the last valid step to the first; it may be an array.
        start: the carry of every sequence before its first step; None: the cell's own.
        matrix_dtype: float32, or bfloat16 for both factors of every product with a matrix.
        interpret: interpret the kernel without a GPU, slowly.

    Raises:
        gatewise.Unsupported: the kernel cannot run the cell; `why_not` gives the reason.
    """
    plan = _plan(cell, interpret, matrix_dtype)
    size, width, batch_size = plan.size, len(x_TxDxB), len(lengths_B)
    lanes, columns = (0, plan.lanes - size), (0, -batch_size % kernels.COLUMNS)

    cell = without_gradient_of_nothing(cell, lengths_B)
    x_TxDxB = real_inputs(x_TxDxB, lengths_B)
    project = _with_matrices_in(matrix_dtype, cell).project
    z_TxGxB = jax.vmap(jax.vmap(project, in_axes=-1, out_axes=-1))(x_TxDxB)
    z_TxNxHxB = z_TxGxB.reshape(width, plan.gates, size, batch_size)
    matrix_NxHxH = cell.recurrent_kernel[...].reshape(size, plan.gates, size).swapaxes(0, 1)
    y_TxHxB, last_HxB = _loop(
        plan,
        jnp.asarray(reverse, jnp.int32)[None],
        jnp.pad(matrix_NxHxH, ((0, 0), lanes, lanes)),
        jnp.pad(_fixed(plan, cell, own_or(start, cell)).astype(z_TxGxB.dtype), ((0, 0), lanes)),
        jnp.pad(z_TxNxHxB, ((0, 0), (0, 0), lanes, columns)),
        jnp.pad(lengths_B.astype(jnp.int32), columns),
    )
    return Encoded(y_TxHxB[:, :size, :batch_size], last_HxB[:size, :batch_size])


def _with_matrices_in(dtype: str, cell: base.GatedCell) -> base.GatedCell:
    graphdef, params = nnx.split(cell, nnx.Param)
    return nnx.merge(
        graphdef, jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.ndim > 1 else leaf, params)
    )


def _fixed(plan: kernels.Plan, cell: base.GatedCell, start: base.Carry) -> jax.Array:
    """The initial carry and the parameters that `update` reads, part by part: `[F, H]`."""
    leaves = jax.tree.leaves(nnx.split(cell, nnx.Param)[1])
    arrays = [*start, *(leaves[number] for number, _ in plan.own)]
    parts = [array.reshape(gatewise.count(array, plan.size), -1) for array in arrays]
    return jnp.concatenate([jnp.broadcast_to(p, (len(p), plan.size)) for p in parts])


def _plan(cell: base.GatedCell, interpret: bool, matrix_dtype: str = "float32") -> kernels.Plan:
    """Traces the cell's `update` and its derivative, and tries both.

    Raises:
        gatewise.Unsupported: the kernel cannot take them.
    """
    graphdef, params = nnx.split(cell, nnx.Param)
    params, carry = gatewise.without_values((params, cell.initial_carry()))
    leaves, structure = jax.tree.flatten(params)
    size, width = cell.recurrent_kernel.shape
    gates_G = jax.ShapeDtypeStruct((width,), cell.recurrent_kernel.dtype)

    def update(carry, leaves, z_G, u_G):
        return nnx.merge(graphdef, jax.tree.unflatten(structure, leaves)).update(carry, z_G, u_G)

    traced = jax.make_jaxpr(update)(carry, leaves, gates_G, gates_G).jaxpr
    read = {id(atom) for eqn in traced.eqns for atom in eqn.invars}
    inputs = traced.invars[len(carry) : -2]
    own = [number for number, var in enumerate(inputs) if id(var) in read]
    if any(leaves[number].ndim > 1 for number in own):
        raise gatewise.Unsupported("its update reads a matrix")

    def step(carry, own_leaves, z_G, u_G):
        replaced = dict(zip(own, own_leaves, strict=True))
        merged = [replaced.get(number, leaf) for number, leaf in enumerate(leaves)]
        return update(carry, merged, z_G, u_G)

    def pull_back(carry, own_leaves, z_G, u_G, d_carry):
        return jax.vjp(step, carry, own_leaves, z_G, u_G)[1](d_carry)

    arguments = carry, [leaves[number] for number in own], gates_G, gates_G
    lanes = max(16, 1 << (size - 1).bit_length())
    jaxprs = jax.make_jaxpr(step)(*arguments), jax.make_jaxpr(pull_back)(*arguments, carry)
    tile = jax.ShapeDtypeStruct((lanes, kernels.COLUMNS), jnp.float32)
    sums = [gatewise.stages(jaxpr, size, tile) for jaxpr in jaxprs]
    return kernels.Plan(
        size=size,
        lanes=lanes,
        gates=width // size,
        carries=len(carry),
        own=tuple((number, leaves[number]) for number in own),
        step=jaxprs[0],
        pull_back=jaxprs[1],
        precision=precision.current(),
        matrix_dtype=matrix_dtype,
        combines=any(sums),
        interpret=interpret,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loop(plan: kernels.Plan, reverse_1, matrix_NxHxH, fixed_FxH, z_TxNxHxB, lengths_B):
    """The loop over time in padded shapes: `(y_TxHxB, last_HxB)`.

    Args:
        plan: the kernel's plan.
        reverse_1: 1 to run from the last valid step to the first, else 0.
        matrix_NxHxH: R, gate by gate, inputs by outputs.
        fixed_FxH: the initial carry and the parameters that `update` reads.
        z_TxNxHxB: the projected inputs, gate by gate.
        lengths_B: valid steps of each sequence.
    """
    return _loop_forward(plan, reverse_1, matrix_NxHxH, fixed_FxH, z_TxNxHxB, lengths_B)[0]


def _loop_forward(plan, reverse_1, matrix_NxHxH, fixed_FxH, z_TxNxHxB, lengths_B):
    width, gates, lanes, batch_size = z_TxNxHxB.shape
    tile = lanes, batch_size
    shapes = [(width, 1, *tile), tile, (width, plan.carries, *tile)]
    if plan.sliced:
        shapes = [*shapes[:2], (width + 1, plan.carries, *tile), (gates, *tile)]
    y_Tx1xHxB, last_HxB, carries_TxCxHxB, *_ = kernels.call(
        plan,
        (fused_slices if plan.sliced else kernels).forward,
        shapes,
        [reverse_1, matrix_NxHxH.astype(plan.matrix_dtype), fixed_FxH],
        [lengths_B, z_TxNxHxB],
    )
    residuals = reverse_1, matrix_NxHxH, fixed_FxH, z_TxNxHxB, lengths_B, carries_TxCxHxB
    return (y_Tx1xHxB[:, 0], last_HxB), residuals


def _loop_backward(plan, residuals, cotangents):
    reverse_1, matrix_NxHxH, fixed_FxH, z_TxNxHxB, lengths_B, carries_TxCxHxB = residuals
    d_y_TxHxB, d_last_HxB = cotangents
    h_TxHxB = carries_TxCxHxB[:, -1]
    if plan.sliced:
        h_TxHxB = jnp.where(reverse_1 > 0, h_TxHxB[1:], h_TxHxB[:-1])
    u_TxNxHxB = _einsum(plan, "nio,tib->tnob", matrix_NxHxH, h_TxHxB)
    d_fixed_FxHxB, d_z_TxNxHxB, *d_u = kernels.call(
        plan,
        (fused_slices if plan.sliced else kernels).backward,
        [(*fixed_FxH.shape, len(lengths_B))] + [z_TxNxHxB.shape] * (1 if plan.adds_up else 2),
        [reverse_1, matrix_NxHxH.astype(plan.matrix_dtype), fixed_FxH],
        [lengths_B, z_TxNxHxB, u_TxNxHxB, carries_TxCxHxB, d_y_TxHxB, d_last_HxB],
    )
    d_matrix_NxHxH = _einsum(plan, "tib,tnob->nio", h_TxHxB, d_u[0] if d_u else d_z_TxNxHxB)
    # A scalar parameter is repeated in all lanes, and so is its gradient.
    counts_FxH = jnp.arange(plan.lanes) < jnp.array(plan.fixed_units())[:, None]
    d_fixed_FxH = jnp.where(counts_FxH, d_fixed_FxHxB.sum(-1), 0)
    return None, d_matrix_NxHxH, d_fixed_FxH, d_z_TxNxHxB, None


_loop.defvjp(_loop_forward, _loop_backward)


def _einsum(plan, axes, *factors):
    rounded = [factor.astype(plan.matrix_dtype) for factor in factors]
    # JAX traces a derivative after the caller has left its precision's context.
    with jax.default_matmul_precision(plan.precision):
        return jnp.einsum(axes, *rounded, preferred_element_type=jnp.float32)


def _run(cell, x_TxDxB, lengths_B, **options):
    """Runs the kernel on a GPU, and interprets it on other devices."""
    return run(cell, x_TxDxB, lengths_B, interpret=jax.default_backend() != "gpu", **options)


ENTRY = Entry("fused", _run, why_not, is_best=available, takes_both=True, takes_bfloat16=True)
