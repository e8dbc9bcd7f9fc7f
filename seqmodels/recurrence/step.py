"""One step of a cell for all sequences of a batch: what the loop and its derivative are made of."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import dropout
from seqmodels.cells import base
from seqmodels.recurrence import arrays


class Setup(NamedTuple):
    """All about running a cell that is not an array.

    Attributes:
        is_gated: the cell is a `GatedCell`.
        is_affine: the cell is an `AffineCell`.
        is_pointwise: an `AffineCell` that holds vectors and numbers besides its two matrices, so
            that no two sequences meet in a step after the product.
        keeps_reads: the backward pass keeps what each step read, rather than compute it again.
        rates: those that count; where there are any but zoneout's, there are seeds.
        hidden_from: the numbers of the matrices from which units of h are to be hidden, though the
            engine has no part in their products.
    """

    graphdef: nnx.GraphDef
    reverse: bool
    rates: dropout.Rates = dropout.Rates()
    matrix_dtype: str = "float32"
    segment_steps: int = 1
    is_gated: bool = False
    is_affine: bool = False
    is_pointwise: bool = False
    keeps_reads: bool = False
    hidden_from: tuple[int, ...] = ()

    def kept(self, carry):
        """What the backward pass needs of a carry besides the outputs, among them h."""
        return carry[:-1] if self.is_gated else carry

    def of_product(self, matrix):
        """A matrix in the precision in which it takes part in products."""
        return matrix if self.matrix_dtype == "float32" else matrix.astype(self.matrix_dtype)

    def time(self, number: jax.Array, num_steps: jax.Array) -> jax.Array:
        """The time of the step that the cell takes as its `number`-th."""
        return num_steps - 1 - number if self.reverse else number


class Weights(NamedTuple):
    """The parameters of a cell, as a step reads them.

    Attributes:
        params: all of them.
        matrix_GxK: W and R of an `AffineCell` as one, K = D + H, so that a step has one product
            of twice the size instead of two; in the precision of products, and lying so that none
            reads across memory. None for any other cell.
    """

    params: nnx.State
    matrix_GxK: jax.Array | None


def matrix_of(setup, params):
    """W and R of an `AffineCell`, one above the other, `[K, G]`; None for any other cell."""
    if not setup.is_affine:
        return None
    cell = nnx.merge(setup.graphdef, params)
    return jnp.concatenate([cell.kernel[...], cell.recurrent_kernel[...]])


def weights_of(setup, params):
    """The parameters, as steps read them."""
    if not setup.is_affine:
        return Weights(params, None)
    cell = nnx.merge(setup.graphdef, params)
    # Put together from transposed parts: a matrix that XLA sees transposed as a whole takes part in
    # float32 on a CPU, whatever precision was asked for.
    matrix_GxK = jnp.concatenate([cell.kernel[...].T, cell.recurrent_kernel[...].T], axis=1)
    return Weights(params, setup.of_product(matrix_GxK))


def entering(setup, xs, carry, time, seeds_Bx2):
    """What a step reads before any product: of an `AffineCell` x and h, of any other its input."""
    x_DxB = jnp.concatenate(xs) if len(xs) > 1 else xs[0]
    if setup.rates.inputs > 0:
        x_DxB = dropout.drop(x_DxB, time, setup.rates.inputs, seeds_Bx2)
    if not setup.is_affine:
        return x_DxB
    return jnp.concatenate([x_DxB, _seen_of(setup, carry[-1], seeds_Bx2)])


def multiply(weights, x_KxB):
    """x @ W + h @ R of an `AffineCell`; of any other cell what it is given."""
    if weights.matrix_GxK is None:
        return x_KxB
    return base.product(x_KxB, weights.matrix_GxK.T)


def read(setup, weights, xs, carry, time, seeds_Bx2):
    """What a step reads: of an `AffineCell` x @ W + h @ R, of any other its input."""
    return multiply(weights, entering(setup, xs, carry, time, seeds_Bx2))


def _seen_of(setup, h_HxB, seeds_Bx2):
    """What recurrent matrices see of h: the same units of a sequence at all times."""
    if setup.rates.recurrent == 0:
        return h_HxB
    seeds_Bx2 = dropout.stream(seeds_Bx2, "recurrent", setup.reverse)
    return dropout.drop(h_HxB, 0, setup.rates.recurrent, seeds_Bx2)


class Columns(NamedTuple):
    """What a step reads of each sequence; the batch is the last axis of every array.

    Attributes:
        carry: before the step.
        read_FxB: as `read` makes it.
        h_HxB: what the recurrent matrix of a `GatedCell` that is no `AffineCell` sees of h.
        matrices: those with hidden units, one for each sequence.
        zoned_out: the share of the old carry in the new.
    """

    carry: base.Carry
    read_FxB: jax.Array
    h_HxB: jax.Array | None
    matrices: list[jax.Array]
    zoned_out: base.Carry | None


def columns_of(setup, weights, read_FxB, carry, time, seeds_Bx2):
    """What a step reads of each sequence."""
    h_HxB = None
    if setup.is_gated and weights.matrix_GxK is None:
        h_HxB = _seen_of(setup, carry[-1], seeds_Bx2)
    leaves, matrices = jax.tree.leaves(weights.params), []
    for number in setup.hidden_from:
        matrix_HxG = setup.of_product(leaves[number])
        all_HxB = jnp.ones((len(matrix_HxG), read_FxB.shape[-1]), matrix_HxG.dtype)
        seen_HxB = _seen_of(setup, all_HxB, seeds_Bx2)
        matrices.append(matrix_HxG[..., None] * seen_HxB[:, None])
    zoned_out = _zoned_out(setup, carry, time, seeds_Bx2)
    return Columns(carry, read_FxB, h_HxB, matrices, zoned_out)


def real_columns(setup, weights, start, parts, lengths_B, seeds_Bx2):
    """The first step of the longest sequence, as the `Columns` of a batch of one."""
    row = jnp.argmax(lengths_B)
    time = jnp.where(setup.reverse, jnp.maximum(lengths_B[row] - 1, 0), 0)
    xs, carry = (
        jax.tree.map(lambda leaf: arrays.column(leaf, row), tree)
        for tree in (arrays.at(parts, time), start)
    )
    seeds_1x2 = None if seeds_Bx2 is None else jax.lax.dynamic_slice_in_dim(seeds_Bx2, row, 1)
    read_Fx1 = read(setup, weights, xs, carry, time, seeds_1x2)
    return columns_of(setup, weights, read_Fx1, carry, time, seeds_1x2)


def take(setup, weights, read_FxB, carry, time, lengths_B, seeds_Bx2, real=None):
    """One step of all: the carry, held where a sequence is over, and the output, zero there.

    Args:
        real: where the step's derivative is taken, what to compute in the padding, since a cell may
            be singular at what stands there: see `real_inputs`. Values need none, nor do cells that
            are pointwise.
    """
    valid_B = time < lengths_B
    columns = columns_of(setup, weights, read_FxB, carry, time, seeds_Bx2)
    if real is not None:
        columns = jax.tree.map(lambda one, of_real: jnp.where(valid_B, one, of_real), columns, real)
    new_carry, y_HxB = compute(setup, weights, columns)
    carry = jax.tree.map(lambda new, old: jnp.where(valid_B, new, old), new_carry, carry)
    return carry, jnp.where(valid_B, y_HxB, 0)


def compute(setup, weights, columns, valid_B=None):
    """The carry and the output after a step, also of sequences that are over.

    Args:
        valid_B: the sequences that count in the gradient of vectors and numbers; None: all.
    """

    # A bias without a batch axis would make vmap move the others' from last to first.
    def of_each(leaf):
        leaf_B = jnp.broadcast_to(leaf[..., None], (*leaf.shape, columns.read_FxB.shape[-1]))
        return leaf_B if valid_B is None else _counted_where(leaf_B, valid_B)

    leaves, structure = jax.tree.flatten(weights.params)
    is_matrix = [leaf.ndim > 1 for leaf in leaves]
    leaves = [
        setup.of_product(leaf) if matrix else of_each(leaf)
        for leaf, matrix in zip(leaves, is_matrix, strict=True)
    ]
    axes = [None if matrix else -1 for matrix in is_matrix]
    for number, matrix_HxGxB in zip(setup.hidden_from, columns.matrices, strict=True):
        leaves[number], axes[number] = matrix_HxGxB, -1

    def one(leaves, carry, read_F, h_H, zoned_out):
        cell = nnx.merge(setup.graphdef, jax.tree.unflatten(structure, leaves))
        if weights.matrix_GxK is not None:
            new_carry = cell.activate(carry, read_F + cell.bias)
            y_H = new_carry[-1]
        elif setup.is_gated:
            u_G = base.product(h_H, cell.recurrent_kernel[...])
            new_carry = cell.update(carry, cell.project(read_F), u_G)
            y_H = new_carry[-1]
        else:
            new_carry, y_H = cell.step(carry, cell.project(read_F))
        if setup.rates.zoneout == 0:
            return new_carry, y_H
        blended = cell.blend(carry, new_carry, zoned_out)
        if setup.is_gated:
            return blended, blended[-1]
        # An output that is a part of the carry stays it.
        for part, old in zip(*map(jax.tree.leaves, (blended, new_carry)), strict=True):
            y_H = part if old is y_H else y_H
        return blended, y_H

    return jax.vmap(one, (axes, -1, -1, -1, -1), -1)(
        leaves, columns.carry, columns.read_FxB, columns.h_HxB, columns.zoned_out
    )


@jax.custom_vjp
def _counted_where(array_B, valid_B):
    """The array, whose gradient counts where it is valid, whatever it is elsewhere."""
    del valid_B
    return array_B


_counted_where.defvjp(
    lambda array_B, valid_B: (array_B, valid_B),
    lambda valid_B, d_array_B: (jnp.where(valid_B, d_array_B, 0), None),
)


def _zoned_out(setup, carry, time, seeds_Bx2):
    """The share of the old carry in the new: 0 or 1 in training, else what that is on average."""
    rate = setup.rates.zoneout
    if rate == 0:
        return None
    if seeds_Bx2 is None:
        return jax.tree.map(lambda leaf: jnp.full(leaf.shape, rate, leaf.dtype), carry)
    leaves, structure = jax.tree.flatten(carry)
    shares = []
    for number, leaf in enumerate(leaves):
        stream_Bx2 = dropout.stream(seeds_Bx2, "zoneout", setup.reverse, number)
        share = dropout.dropped(leaf.size // leaf.shape[-1], time, rate, stream_Bx2)
        shares.append(share.reshape(leaf.shape).astype(leaf.dtype))
    return jax.tree.unflatten(structure, shares)
