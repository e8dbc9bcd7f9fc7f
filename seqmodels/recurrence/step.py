"""One step of a cell for all sequences of a batch, used by the loop and its derivative."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import dropout
from seqmodels.cells import base
from seqmodels.recurrence import arrays
from seqmodels.recurrence.sequences import last_time, longest


class Setup(NamedTuple):
    """Everything needed to run a cell, except arrays.

    Attributes:
        reverse: whether it runs from the last valid step to the first. If it is an array, inputs
            and outputs are in the order of the steps that the cell takes, not in that of time;
            None stands for such an array.
        is_gated: the cell is a `GatedCell`.
        is_affine: the cell is an `AffineCell`.
        is_pointwise: the cell is an `AffineCell` with no parameters but its two matrices, vectors
            and scalars, so sequences do not mix in a step after the product.
        keeps_reads: what each step read is kept for the backward pass, not recomputed. It always
            is if the products are separate.
        is_separate: the products of inputs and of h are separate: see `separate`.
        rates: the rates that apply; if any but zoneout's is positive, there are seeds.
        hidden_from: the numbers of the matrices from which units of h are hidden, although the
            engine does not compute their products.
    """

    graphdef: nnx.GraphDef
    reverse: Any
    rates: dropout.Rates = dropout.Rates()
    matrix_dtype: str = "float32"
    segment_steps: int = 1
    is_gated: bool = False
    is_affine: bool = False
    is_pointwise: bool = False
    keeps_reads: bool = False
    is_separate: bool = False
    hidden_from: tuple[int, ...] = ()

    def kept(self, carry):
        """The parts of a carry that the backward pass needs besides the outputs, including h."""
        return carry[:-1] if self.is_gated else carry

    def of_product(self, matrix):
        """A matrix in the precision used in products."""
        return matrix.astype("bfloat16") if self.matrix_dtype == "bfloat16" else matrix

    def time(self, number: jax.Array, num_steps: jax.Array) -> jax.Array:
        """The time of the `number`-th step that the cell takes; for a time, the step's number."""
        return arrays.either(self.reverse, lambda: num_steps - 1 - number, lambda: number)

    def place(self, number: jax.Array, num_steps: jax.Array) -> jax.Array:
        """Where the input and the output of the `number`-th step are."""
        return self.time(number, num_steps) if isinstance(self.reverse, bool) else number

    def place_at(self, time: jax.Array, num_steps: jax.Array) -> jax.Array:
        """Where the input and the output of the step at a time are; for a place, the time."""
        return time if isinstance(self.reverse, bool) else self.time(time, num_steps)

    def last_place(self, lengths_B: jax.Array, num_steps: jax.Array) -> jax.Array:
        """Where the output of each sequence's last step is."""
        return self.place_at(last_time(lengths_B, self.reverse), num_steps)

    def stream(self, seeds_Bx2: jax.Array, *names: str | int) -> jax.Array:
        """Seeds for one use of masks in this direction."""
        kind, *others = names
        backward, forward = (
            functools.partial(dropout.stream, seeds_Bx2, kind, way, *others)
            for way in (True, False)
        )
        return arrays.either(self.reverse, backward, forward)


class Weights(NamedTuple):
    """The parameters of a cell, as a step reads them.

    Attributes:
        params: all of them.
        matrix_GxK: W and R of an `AffineCell` joined, K = D + H, so that a step has one product
            of twice the size instead of two; in the precision of products, and laid out so that
            they read it contiguously. None for other cells, and if the products are separate.
        is_matrix: of each leaf of `params`; the others are vectors and scalars.
        spread: these have a batch axis already.
    """

    params: nnx.State
    matrix_GxK: jax.Array | None
    is_matrix: tuple[bool, ...]
    spread: bool = False

    def spread_out(self, batch_size: int) -> "Weights":
        """The same with a batch axis for vectors and scalars, so that their gradients have one."""

        def of_each(leaf, is_matrix):
            return leaf if is_matrix else _of_each(leaf, batch_size)

        leaves, structure = jax.tree.flatten(self.params)
        spread = list(map(of_each, leaves, self.is_matrix))
        return self._replace(params=jax.tree.unflatten(structure, spread), spread=True)


def _of_each(leaf: jax.Array, batch_size: int) -> jax.Array:
    return jnp.broadcast_to(leaf[..., None], (*leaf.shape, batch_size))


def units_of(carry):
    """The rows of the `[U, B]` arrays of a carry."""
    return [len(leaf) for leaf in jax.tree.leaves(carry) if leaf.ndim == 2]


def matrix_of(setup, params):
    """W and R of an `AffineCell`, stacked, `[K, G]`; None for any other cell."""
    if not setup.is_affine:
        return None
    cell = nnx.merge(setup.graphdef, params)
    return jnp.concatenate([cell.kernel[...], cell.recurrent_kernel[...]])


def weights_of(setup, params):
    """The parameters, as steps read them."""
    is_matrix = tuple(leaf.ndim > 1 for leaf in jax.tree.leaves(params))
    if not setup.is_affine or setup.is_separate:
        return Weights(params, None, is_matrix)
    cell = nnx.merge(setup.graphdef, params)
    # Joined from transposed parts: on a CPU, XLA uses a matrix that it sees transposed as a whole
    # in float32, whatever precision was requested.
    matrix_GxK = jnp.concatenate([cell.kernel[...].T, cell.recurrent_kernel[...].T], axis=1)
    return Weights(params, setup.of_product(matrix_GxK), is_matrix)


def inputs(setup, xs, time, seeds_Bx2):
    """The inputs of a step, from their parts, after dropout."""
    x_DxB = jnp.concatenate(xs) if len(xs) > 1 else xs[0]
    if setup.rates.inputs > 0:
        x_DxB = dropout.drop(x_DxB, time, setup.rates.inputs, seeds_Bx2)
    return x_DxB


def entering(setup, xs, carry, time, seeds_Bx2):
    """What a step reads before any product: x and h for an `AffineCell`, else its input."""
    x_DxB = inputs(setup, xs, time, seeds_Bx2)
    if not setup.is_affine:
        return x_DxB
    return jnp.concatenate([x_DxB, seen(setup, carry[-1], seeds_Bx2)])


def multiply(weights, x_KxB):
    """x @ W + h @ R for an `AffineCell`; its argument, unchanged, for any other cell."""
    if weights.matrix_GxK is None:
        return x_KxB
    return base.product(x_KxB, weights.matrix_GxK.T)


def read(setup, weights, xs, carry, time, seeds_Bx2):
    """What a step reads: x @ W + h @ R for an `AffineCell`, else its input."""
    return multiply(weights, entering(setup, xs, carry, time, seeds_Bx2))


def seen(setup, h_HxB, seeds_Bx2):
    """The units of h that recurrent matrices see: the same in a sequence at all times."""
    if setup.rates.recurrent == 0:
        return h_HxB
    seeds_Bx2 = setup.stream(seeds_Bx2, "recurrent")
    return dropout.drop(h_HxB, 0, setup.rates.recurrent, seeds_Bx2)


class Columns(NamedTuple):
    """What a step reads for each sequence; the batch is the last axis of every array.

    Attributes:
        carry: the carry before the step.
        read: what `read` returns; if the products are separate, their results.
        h_HxB: the units of h that the recurrent matrix of a `GatedCell` sees; None if its product
            has been read, and for others.
        matrices: those with hidden units, one for each sequence.
        zoned_out: the share of the old carry in the new one.
    """

    carry: base.Carry
    read: Any
    h_HxB: jax.Array | None
    matrices: list[jax.Array]
    zoned_out: base.Carry | None


def columns_of(setup, weights, read, carry, time, seeds_Bx2):
    """What a step reads for each sequence."""
    h_HxB = None
    if setup.is_gated and not (setup.is_affine or setup.is_separate):
        h_HxB = seen(setup, carry[-1], seeds_Bx2)
    leaves, matrices = jax.tree.leaves(weights.params), []
    for number in setup.hidden_from:
        matrix_HxG = setup.of_product(leaves[number])
        all_HxB = jnp.ones((len(matrix_HxG), read.shape[-1]), matrix_HxG.dtype)
        seen_HxB = seen(setup, all_HxB, seeds_Bx2)
        matrices.append(matrix_HxG[..., None] * seen_HxB[:, None])
    zoned_out = _zoned_out(setup, carry, time, seeds_Bx2)
    return Columns(carry, read, h_HxB, matrices, zoned_out)


def real_step(setup, start, parts, lengths_B, seeds_Bx2):
    """The first step of the longest sequence, as a batch of one.

    Returns:
        The parts of its input, its carry, its time and the sequence's seeds.
    """
    row = jnp.argmax(lengths_B)
    time = jnp.where(setup.reverse, jnp.maximum(lengths_B[row] - 1, 0), 0)
    place = setup.place_at(time, longest(lengths_B))
    xs, carry = (
        jax.tree.map(lambda leaf: arrays.column(leaf, row), tree)
        for tree in (arrays.at(parts, place), start)
    )
    seeds_1x2 = None if seeds_Bx2 is None else jax.lax.dynamic_slice_in_dim(seeds_Bx2, row, 1)
    return xs, carry, time, seeds_1x2


def real_columns(setup, weights, start, parts, lengths_B, seeds_Bx2):
    """The `Columns` of the `real_step`."""
    xs, carry, time, seeds_1x2 = real_step(setup, start, parts, lengths_B, seeds_Bx2)
    read_Fx1 = read(setup, weights, xs, carry, time, seeds_1x2)
    return columns_of(setup, weights, read_Fx1, carry, time, seeds_1x2)


def take(setup, weights, read, carry, time, lengths, seeds_Bx2, real=None):
    """One step of all sequences; after its end a sequence keeps its carry and outputs zero.

    Args:
        lengths: of the sequences, as `arrays.for_units` returns them.
        real: when the step is differentiated, what to compute on in the padding, where the cell may
            be singular: see `real_inputs`. Values do not need it, nor do pointwise cells.
    """
    columns = columns_of(setup, weights, read, carry, time, seeds_Bx2)
    if real is not None:
        columns = jax.tree.map(functools.partial(where_valid, time, lengths), columns, real)
    new_carry, y_HxB = compute(setup, weights, columns)
    carry = jax.tree.map(functools.partial(where_valid, time, lengths), new_carry, carry)
    return carry, where_valid(time, lengths, y_HxB, 0)


def where_valid(time, lengths, array_B, other):
    """An array where a sequence has a step at this time, and another where it has none."""
    return jnp.where(time < arrays.as_in(lengths, array_B), array_B, other)


def compute(setup, weights, columns, counted=None):
    """The carry and the output after a step, even of sequences that have ended.

    Args:
        counted: a function of a vector or scalar with a batch axis, as `counted_where_valid`, that
            says which sequences contribute to its gradient; None: all.
    """
    batch_size = jax.tree.leaves(columns.read)[0].shape[-1]

    # A bias without a batch axis would make vmap move the batch axis of the rest to the front.
    def of_each(leaf):
        leaf_B = leaf if weights.spread else _of_each(leaf, batch_size)
        return leaf_B if counted is None else counted(leaf_B)

    leaves, structure = jax.tree.flatten(weights.params)
    is_matrix = weights.is_matrix
    leaves = [
        setup.of_product(leaf) if matrix else of_each(leaf)
        for leaf, matrix in zip(leaves, is_matrix, strict=True)
    ]
    axes = [None if matrix else -1 for matrix in is_matrix]
    for number, matrix_HxGxB in zip(setup.hidden_from, columns.matrices, strict=True):
        leaves[number], axes[number] = matrix_HxGxB, -1

    def one(leaves, carry, read, h_H, zoned_out):
        cell = nnx.merge(setup.graphdef, jax.tree.unflatten(structure, leaves))
        if not setup.is_gated:
            new_carry, y_H = cell.step(carry, cell.project(read))
        else:
            if setup.is_affine:
                new_carry = cell.activate(carry, read if setup.is_separate else read + cell.bias)
            elif setup.is_separate:
                new_carry = cell.update(carry, *read)
            else:
                u_G = base.product(h_H, cell.recurrent_kernel[...])
                new_carry = cell.update(carry, cell.project(read), u_G)
            y_H = new_carry[-1]
        if setup.rates.zoneout == 0:
            return new_carry, y_H
        blended = cell.blend(carry, new_carry, zoned_out)
        if setup.is_gated:
            return blended, blended[-1]
        # An output that is part of the carry remains part of it.
        for part, old in zip(*map(jax.tree.leaves, (blended, new_carry)), strict=True):
            y_H = part if old is y_H else y_H
        return blended, y_H

    return jax.vmap(one, (axes, -1, -1, -1, -1), -1)(
        leaves, columns.carry, columns.read, columns.h_HxB, columns.zoned_out
    )


def counted_where_valid(time, lengths, array_B):
    """Returns the array; its gradient counts only where a sequence has a step at this time."""
    return _counted_where(array_B, time < arrays.as_in(lengths, array_B))


@jax.custom_vjp
def _counted_where(array_B, valid_B):
    """Returns the array; its gradient counts only where valid, whatever it is elsewhere."""
    del valid_B
    return array_B


_counted_where.defvjp(
    lambda array_B, valid_B: (array_B, valid_B),
    lambda valid_B, d_array_B: (jnp.where(valid_B, d_array_B, 0), None),
)


def _zoned_out(setup, carry, time, seeds_Bx2):
    """The share of the old carry in the new one: 0 or 1 in training, else its mean."""
    rate = setup.rates.zoneout
    if rate == 0:
        return None
    if seeds_Bx2 is None:
        return jax.tree.map(lambda leaf: jnp.full(leaf.shape, rate, leaf.dtype), carry)
    leaves, structure = jax.tree.flatten(carry)
    shares = []
    for number, leaf in enumerate(leaves):
        stream_Bx2 = setup.stream(seeds_Bx2, "zoneout", number)
        share = dropout.dropped(leaf.size // leaf.shape[-1], time, rate, stream_Bx2)
        shares.append(share.reshape(leaf.shape).astype(leaf.dtype))
    return jax.tree.unflatten(structure, shares)
