"""Tokens whose projections are looked up, where that is faster than to compute them at every step.

What a cell's `project` makes of a token's vector depends on the token alone. If a batch has more
steps than there are tokens, the whole table of vectors is projected instead.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import dropout
from seqmodels.bidirectional import Bidirectional, Unidirectional
from seqmodels.cells import base
from seqmodels.encoder import Encoder
from seqmodels.inputs import Embedding, Inputs
from seqmodels.recurrence import arrays, engines

_WIDE = 96
"""The width of a vector from which its projection is looked up faster than it is computed.

With two directions, a lookup is twice as wide, and each direction uses half of it.
"""


class Reader(NamedTuple):
    """Inputs, and the encoder that reads them."""

    inputs: Inputs
    encoder: Encoder


class OfProjections(base.GatedCell):
    """A gated cell that reads what the `project` of another one has returned.

    Args:
        cell: the other one.
        first: the place of its projection in the inputs, which may hold those of two cells.
        size: G, the width of its projection.
    """

    def __init__(self, cell: base.GatedCell, first: int, size: int):
        self.cell = cell
        self.first = first
        self.size = size
        self.hidden_size = cell.hidden_size

    @property
    def recurrent_kernel(self):  # type: ignore[override]
        """R of the other cell."""
        return self.cell.recurrent_kernel

    def initial_carry(self):
        return self.cell.initial_carry()

    def project(self, x_D):
        return x_D[self.first : self.first + self.size]

    def update(self, carry, z_G, u_G):
        return self.cell.update(carry, z_G, u_G)

    def blend(self, old, new, share):
        return self.cell.blend(old, new, share)


def reader(
    inputs: Inputs,
    encoder: Encoder,
    shape: tuple[int, ...],
    dropout_keys_B: jax.Array | None,
) -> Reader:
    """What computes the encoder's outputs in less time: the arguments, or a pair that looks up.

    Args:
        inputs: the model's.
        encoder: the model's.
        shape: that of the inputs, `[B, T]` or `[B, T, D]`.
        dropout_keys_B: None if nothing is dropped.
    """
    dropped = dropout.Dropout(encoder.rates[0], dropout_keys_B)
    layer = encoder.layers[0]
    if type(inputs) is not Embedding or not _is_possible(layer, dropped):
        return Reader(inputs, encoder)
    if not _is_worth_it(inputs, len(layer.cells), shape, dropout_keys_B):
        return Reader(inputs, encoder)
    vector_D = jax.ShapeDtypeStruct((inputs.output_size,), jnp.float32)
    projections = [jax.eval_shape(cell.project, vector_D) for cell in layer.cells]
    expected = 1, inputs.table.dtype
    if any((getattr(one, "ndim", 0), getattr(one, "dtype", 0)) != expected for one in projections):
        return Reader(inputs, encoder)

    table_VxD = inputs.table[...]
    of_cells = [jax.vmap(cell.project)(table_VxD) for cell in layer.cells]
    inputs, encoder = nnx.clone(inputs), nnx.clone(encoder)
    inputs.table = nnx.Param(jnp.concatenate(of_cells, axis=1))
    first = 0
    for name, one in zip(_names(layer), projections, strict=True):
        setattr(encoder.layers[0], name, OfProjections(getattr(layer, name), first, one.size))
        first += one.size
    return Reader(inputs, encoder)


def _is_worth_it(inputs, num_cells, shape, dropout_keys_B):
    if not arrays.on_cpu() or not all(isinstance(size, int) for size in shape):
        return False  # Sizes that are not numbers are symbolic.
    if dropout_keys_B is not None and inputs.embedding_dropout > 0:
        return False
    # The table's own products take a share of what is saved.
    share = len(inputs.table) / max(1, shape[0] * shape[1])
    return inputs.output_size * (1 - share) >= _WIDE * num_cells


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


def _names(layer: Unidirectional | Bidirectional) -> list[str]:
    """The names of a layer's cells."""
    if isinstance(layer, Bidirectional):
        return ["forward", "backward"]
    return ["backward" if layer.backwards else "forward"]
