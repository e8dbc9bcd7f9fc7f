"""Takes the steps of a cell with a matrix memory chunk by chunk.

Within a chunk, all outputs are products of queries, keys and values, as in attention, weighted by
the gates between them; the memory is carried from chunk to chunk only. So it is written and read
once a chunk, not once a step, and only one memory a chunk is kept for the backward pass, which
recomputes the rest.

Beck et al., "xLSTM: Extended Long Short-Term Memory", NeurIPS 2024, appendix; Yang et al., "Gated
Linear Attention Transformers with Hardware-Efficient Training", ICML 2024.
"""

import functools

import jax
import jax.numpy as jnp

from seqmodels.cells import base
from seqmodels.recurrence import arrays
from seqmodels.recurrence.entry import Entry
from seqmodels.recurrence.sequences import (
    Encoded,
    initial_carry,
    last_output,
    longest,
    real_inputs,
    valid_steps,
    without_gradient_of_nothing,
)

CHUNK = 16
"""Steps in a chunk, L: the work on a step grows with L, and that on the memory with H / L."""


def why_not(cell: base.Cell) -> str | None:
    """Why the cell cannot be run this way; None if it can."""
    return None if isinstance(cell, base.MatrixMemoryCell) else "it is not a MatrixMemoryCell"


def run(
    cell: base.MatrixMemoryCell,
    x_TxDxB: jax.Array,
    lengths_B: jax.Array,
    *,
    reverse: bool = False,
    start: base.Carry = None,
) -> Encoded:
    """Computes the same as `loop.run`, in chunks of `CHUNK` steps.

    Args:
        cell: a cell for which `why_not` returns None.
        x_TxDxB: the inputs; sequences start at time 0.
        lengths_B: valid steps of each sequence, 0 to T. Chunks after the longest are skipped.
        reverse: run from the last valid step to the first.
        start: the carry of every sequence before its first step; None: the cell's own.
    """
    width, batch_size = len(x_TxDxB), len(lengths_B)
    size = min(CHUNK, width)
    count = -(-width // size)
    cell = without_gradient_of_nothing(cell, lengths_B)
    x_TxDxB = jnp.pad(real_inputs(x_TxDxB, lengths_B), ((0, count * size - width), (0, 0), (0, 0)))
    # Padding beyond the width must be finite, whatever the cell makes of zero.
    x_TxDxB = jnp.where(jnp.arange(len(x_TxDxB))[:, None, None] < width, x_TxDxB, x_TxDxB[:1])
    chunks = x_TxDxB.reshape(count, size, *x_TxDxB.shape[1:])
    carry = initial_carry(cell, batch_size, x_TxDxB.dtype, start)
    num_steps = longest(lengths_B)
    project = jax.vmap(jax.vmap(cell.project, -1, -1))

    # A cell may be singular at what it would read in the padding: an empty memory, say. There it
    # reads what the first step of the longest sequence does.
    row = jnp.argmax(lengths_B)
    time = jnp.where(reverse, jnp.maximum(lengths_B[row] - 1, 0), 0)
    x_DxB = arrays.at(jax.lax.stop_gradient(x_TxDxB), time)
    start_1, x_Dx1 = jax.tree.map(lambda leaf: arrays.column(leaf, row), (carry, x_DxB))
    _, real = _remember(start_1, project(x_Dx1[None]), jnp.ones((1, 1), bool))
    real = jax.lax.stop_gradient(real)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def take(carry, x_LxDxB, first):
        valid_LxB = (first + jnp.arange(size))[:, None] < lengths_B
        z = project(x_LxDxB)
        if reverse:
            z, valid_LxB = jax.tree.map(lambda leaf: leaf[::-1], (z, valid_LxB))
        carry, reads = _remember(carry, z, valid_LxB)
        where_valid = functools.partial(_where, valid_LxB)
        reads = jax.tree.map(where_valid, reads, real)
        y_LxHxB = where_valid(jax.vmap(jax.vmap(cell.read, -1, -1))(*reads), 0)
        return carry, y_LxHxB[::-1] if reverse else y_LxHxB

    def body(carry, inputs):
        x_LxDxB, first = inputs

        def skip(carry, x_LxDxB, first):
            del x_LxDxB, first
            return carry, jnp.zeros((size, cell.hidden_size, batch_size), x_TxDxB.dtype)

        return jax.lax.cond(first < num_steps, take, skip, carry, x_LxDxB, first)

    inputs = chunks, size * jnp.arange(count)
    _, y_NxLxHxB = jax.lax.scan(body, carry, inputs, reverse=reverse)
    y_TxHxB = y_NxLxHxB.reshape(count * size, *y_NxLxHxB.shape[2:])[:width]
    y_TxHxB = jnp.where(valid_steps(lengths_B, width)[:, None], y_TxHxB, 0)
    return Encoded(y_TxHxB, last_output(y_TxHxB, lengths_B, reverse))


def _remember(carry, z: base.Write, valid_LxB: jax.Array):
    """All steps of a chunk, in their order: the carry after them, and what `read` is given."""
    memory_HxHxB, n_HxB, m_B = carry
    # A padding step forgets nothing, and adds nothing.
    log_f_LxB = jnp.where(valid_LxB, z.log_forget, 0)
    log_i_LxB = jnp.where(valid_LxB, z.log_input, base.MINUS_INFINITY)
    total_LxB = jnp.cumsum(log_f_LxB, axis=0)
    is_before_LxL = jnp.tri(len(total_LxB), dtype=bool)
    counts_LxLxB = is_before_LxL[..., None] & valid_LxB
    # What of step s is left after step t, and what of the memory before the chunk.
    log_LxLxB = total_LxB[:, None] - total_LxB + log_i_LxB
    log_LxLxB = jnp.where(counts_LxLxB, log_LxLxB, base.MINUS_INFINITY)
    log_of_carry_LxB = total_LxB + m_B
    m_LxB = jnp.maximum(log_LxLxB.max(1), log_of_carry_LxB)
    weight_LxLxB = jnp.where(counts_LxLxB, jnp.exp(log_LxLxB - m_LxB[:, None]), 0)
    of_carry_LxB = jnp.exp(log_of_carry_LxB - m_LxB)

    score_LxLxB = jnp.einsum("thb,shb->tsb", z.query_H, z.key_H) * weight_LxLxB
    read_LxHxB = jnp.einsum("tsb,shb->thb", score_LxLxB, z.value_H)
    carried_LxHxB = jnp.einsum("vkb,tkb->tvb", memory_HxHxB, z.query_H)
    read_LxHxB += of_carry_LxB[:, None] * carried_LxHxB
    normalizer_LxB = score_LxLxB.sum(1)
    normalizer_LxB += of_carry_LxB * jnp.einsum("kb,tkb->tb", n_HxB, z.query_H)

    key_LxHxB = weight_LxLxB[-1][:, None] * z.key_H
    memory_HxHxB = of_carry_LxB[-1] * memory_HxHxB + jnp.einsum(
        "svb,skb->vkb", z.value_H, key_LxHxB
    )
    n_HxB = of_carry_LxB[-1] * n_HxB + key_LxHxB.sum(0)
    carry = memory_HxHxB, n_HxB, m_LxB[-1]
    return carry, (read_LxHxB, normalizer_LxB, m_LxB, z.rest)


def _where(valid_LxB: jax.Array, array_LxB: jax.Array, other: jax.Array | float) -> jax.Array:
    """An array `[L, ..., B]` where a sequence has a step, and another where it has none."""
    steps, batch_size = valid_LxB.shape
    shape = steps, *(1 for _ in array_LxB.shape[2:]), batch_size
    return jnp.where(valid_LxB.reshape(shape), array_LxB, other)


ENTRY = Entry("chunkwise", run, why_not, is_best=lambda cell: why_not(cell) is None)
