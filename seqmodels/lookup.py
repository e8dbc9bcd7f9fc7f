"""Tokens whose projections are looked up, where that is faster than to compute them at every step.

What a cell's `project` makes of a token's vector depends on the token alone. If a batch has more
steps than there are tokens, the whole table of vectors is projected instead.
"""

import jax
import jax.numpy as jnp

from seqmodels import dropout
from seqmodels.bidirectional import Bidirectional, Unidirectional
from seqmodels.cells import base
from seqmodels.encoder import Encoder
from seqmodels.inputs import Embedding, Inputs
from seqmodels.recurrence import LookedUp, arrays, engines

_WIDE = 32
"""The width of a vector from which its projection is looked up faster than it is computed."""


def looked_up(
    inputs: Inputs, encoder: Encoder, x: jax.Array, dropout_keys_B: jax.Array | None
) -> LookedUp | None:
    """What the encoder computes its outputs from in less time than from vectors; None if nothing.

    Args:
        inputs: the model's.
        encoder: the model's.
        x: what they read, `[B, T]` or `[B, T, D]`.
        dropout_keys_B: None if nothing is dropped.
    """
    dropped = dropout.Dropout(encoder.rates[0], dropout_keys_B)
    layer = encoder.layers[0]
    if type(inputs) is not Embedding or not _is_possible(layer, dropped):
        return None
    if not _is_worth_it(inputs, x.shape, dropout_keys_B):
        return None
    vector_D = jax.ShapeDtypeStruct((inputs.output_size,), jnp.float32)
    projections = [jax.eval_shape(cell.project, vector_D) for cell in layer.cells]
    expected = 1, inputs.table.dtype
    if any((getattr(one, "ndim", 0), getattr(one, "dtype", 0)) != expected for one in projections):
        return None
    table_VxD = inputs.table[...]
    tables = tuple(jax.vmap(cell.project)(table_VxD) for cell in layer.cells)
    return LookedUp(tables, inputs.with_word_dropout(x, dropout_keys_B).T)


def _is_worth_it(inputs, shape, dropout_keys_B):
    if not arrays.on_cpu() or not all(isinstance(size, int) for size in shape):
        return False  # Sizes that are not numbers are symbolic.
    if dropout_keys_B is not None and inputs.embedding_dropout > 0:
        return False
    # The table's own products take a share of what is saved.
    share = len(inputs.table) / max(1, shape[0] * shape[1])
    return inputs.output_size * (1 - share) >= _WIDE


def _is_possible(layer: Unidirectional | Bidirectional, dropped: dropout.Dropout) -> bool:
    if not all(map(_is_regular, layer.cells)):
        return False
    # A machine that multiplies bfloat16 does so faster than it looks up. Segments are there to save
    # memory, and projections take more of it than vectors.
    engine = layer.engine
    is_plain = engine.matrix_dtype == "float32" and engine.segment_steps == 1
    names = {engines.choose(engine, cell, dropped.rates) for cell in layer.cells}
    return is_plain and dropped.applied().inputs == 0 and names == {"loop"}


def _is_regular(cell: base.Cell) -> bool:
    """Whether a cell's `project` is known to have a derivative at any token, read or not."""
    is_known = type(cell).__module__.startswith("seqmodels.cells.")
    return isinstance(cell, base.AffineCell) or (isinstance(cell, base.GatedCell) and is_known)
