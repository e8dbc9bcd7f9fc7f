"""Computes outputs a chunk of steps at a time, so that they are never all in memory at once."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seqmodels import SequenceModel
from seqmodels.recurrence import Encoded
from train_lib.training.batching import Batch


def measured(
    model: SequenceModel,
    encoded: Sequence[Encoded],
    batch: Batch,
    steps: int,
    of_outputs: Callable[[jax.Array, Batch], tuple[dict[str, Any], dict[str, jax.Array]]],
    *,
    training: bool,
) -> tuple[dict[str, Any], dict[str, jax.Array]]:
    """Applies `of_outputs` to a batch whose items are steps, chunk by chunk.

    In training, each chunk's outputs are recomputed for its gradient.

    Args:
        model: computes the outputs.
        encoded: the encoded sequences it computes them from.
        batch: padded after each sequence.
        steps: the number of steps in a chunk.
        of_outputs: returns the sums over outputs and their items, and what is kept of each item.
        training: whether a gradient will be taken.
    """
    rows, width = batch.inputs.shape[:2]
    chunks = -(-width // steps)

    def in_chunks(array_Tx):
        """Reshapes `[T, ...]` to `[chunks, steps, ...]`."""
        padding = [(0, chunks * steps - width)] + [(0, 0)] * (array_Tx.ndim - 1)
        return jnp.pad(array_Tx, padding).reshape(chunks, steps, *array_Tx.shape[1:])

    def of_steps(items_I):
        return in_chunks(items_I.reshape(rows, width, *items_I.shape[1:]).swapaxes(0, 1))

    def of_chunk(chunk):
        first, parts, targets, weights = chunk
        outputs = model.answer(
            [one._replace(sequence_TxHxB=part) for one, part in zip(encoded, parts, strict=True)],
            jnp.clip(batch.lengths_B - first, 0, steps),
        )
        items = [one.swapaxes(0, 1).reshape(-1, *one.shape[2:]) for one in (targets, weights)]
        return of_outputs(outputs, Batch(batch.inputs, batch.lengths_B, *items))

    arrays = (
        steps * jnp.arange(chunks), [in_chunks(one.sequence_TxHxB) for one in encoded],
        of_steps(batch.targets), of_steps(batch.weights_I),
    )  # fmt: skip
    of_chunk = jax.checkpoint(of_chunk) if training else of_chunk
    _, (sums_C, kept) = jax.lax.scan(lambda _, chunk: (None, of_chunk(chunk)), None, arrays)
    sums = jax.tree.map(lambda all_C: jnp.sum(all_C, 0), sums_C)

    def whole(kept_CxI):
        """Joins what was kept, in row-major order of rows and steps."""
        kept = kept_CxI.reshape(chunks, rows, steps, *kept_CxI.shape[2:]).swapaxes(0, 1)
        return kept.reshape(rows, chunks * steps, *kept.shape[3:])[:, :width].reshape(
            rows * width, *kept.shape[3:]
        )

    return sums, {name: whole(kept_CxI) for name, kept_CxI in kept.items()}
