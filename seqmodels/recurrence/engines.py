"""The table of engines that can run a cell, and the choice between them.

All give the same values and gradients as the unrolled loop over the cell's steps. To add one, write
a file with an `ENTRY` and add a line to `TABLE`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import dropout, precision
from seqmodels.cells import base
from seqmodels.recurrence import (
    chunkwise,
    cudnn,
    directions,
    fused,
    loop,
    newton,
    parallel,
    pointwise,
    projections,
    scan,
)
from seqmodels.recurrence.sequences import Encoded

TABLE = {
    entry.name: entry
    for entry in (
        cudnn.ENTRY,  # NVIDIA's, for the LSTM.
        parallel.ENTRY,  # All steps of a linear cell at once.
        fused.ENTRY,  # A GPU kernel for any gated cell; interpreted, slowly, on a CPU.
        pointwise.ENTRY,  # The same for any pointwise cell.
        chunkwise.ENTRY,  # Many steps of a matrix memory at once.
        newton.ENTRY,  # All steps of a pointwise cell at once, by Newton's method.
        scan.ENTRY,  # The baseline for comparison: `jax.lax.scan` with JAX's own derivative.
        loop.ENTRY,  # Any cell on any device.
    )
}
"""The engines by name: unless one is named, the first that is best for a cell runs it."""

ENGINES = ("auto", *TABLE)
"""The allowed names of engines; `auto` chooses one."""


class Engine(NamedTuple):
    """How to run cells.

    Attributes:
        name: one of `ENGINES`.
        matrix_dtype: the dtype of matrices in products, one of `precision.MATRIX_DTYPES`.
        segment_steps: steps between two carries kept for the backward pass.
    """

    name: str = "auto"
    matrix_dtype: str = "float32"
    segment_steps: int = 1


AUTO = Engine()


def choose(engine: Engine, cell: base.Cell, rates: dropout.Rates = dropout.NOTHING.rates) -> str:
    """The name of the engine that runs a cell on the default device.

    Raises:
        ValueError: there is no such engine, it cannot run the cell, or the cell cannot be run with
            these rates.
    """
    for what, name, names in (
        ("engine", engine.name, ENGINES),
        ("matrix_dtype", engine.matrix_dtype, precision.MATRIX_DTYPES),
    ):
        if name not in names:
            raise ValueError(f"unknown {what} {name!r}; choose one of {', '.join(names)}")
    if rates.recurrent > 0:
        _check_recurrent_matrices(cell)
    in_bfloat16 = engine.matrix_dtype == "bfloat16"
    if engine.segment_steps > 1 or rates.recurrent > 0 or rates.zoneout > 0:
        if engine.name not in ("auto", "loop"):
            raise ValueError(
                f"the engine {engine.name!r} computes only without segments, recurrent dropout or "
                "zoneout"
            )
        return "loop"
    if engine.name == "auto":
        able = (one for one in TABLE.values() if one.takes_bfloat16 or not in_bfloat16)
        return next(entry.name for entry in able if entry.is_best(cell))
    if in_bfloat16 and not TABLE[engine.name].takes_bfloat16:
        raise ValueError(
            f"the engine {engine.name!r} computes only in float32 or tensorfloat32; in bfloat16, "
            f"{' and '.join(one.name for one in TABLE.values() if one.takes_bfloat16)} do"
        )
    why_not = TABLE[engine.name].why_not(cell)
    if why_not is not None:
        name = type(cell).__name__
        raise ValueError(f"the engine {engine.name!r} cannot run the cell {name}: {why_not}")
    return engine.name


def _check_recurrent_matrices(cell: base.Cell) -> None:
    name, leaves = type(cell).__name__, jax.tree.leaves(nnx.split(cell, nnx.Param)[1])
    shapes = [leaves[number].shape for number in dropout.recurrent_matrices(cell)]
    if not shapes:
        raise ValueError(
            f"recurrent dropout has no matrix to hide h from in the cell {name}: no parameter of "
            "two axes has a name that begins with recurrent_. Zoneout works with every cell"
        )
    for shape in shapes:
        if len(shape) != 2 or shape[0] != cell.hidden_size:
            raise ValueError(
                f"recurrent dropout hides units of h from matrices [H, G] whose names begin with "
                f"recurrent_; one of the cell {name} is {shape}, where H = {cell.hidden_size}"
            )


def run_all(
    engine: Engine,
    cells: Sequence[base.Cell],
    reverse: Sequence[bool],
    parts: projections.Inputs,
    lengths_B: jax.Array,
    dropped: dropout.Dropout = dropout.NOTHING,
    starts: Sequence[base.Carry] | None = None,
) -> tuple[Encoded, ...]:
    """`loop.run_all` with the chosen engine."""
    names = [choose(engine, cell, dropped.rates) for cell in cells]
    # Only the loop takes tokens, and sequences of any number and length, as in exported programs.
    if (
        isinstance(parts, projections.LookedUp)
        or set(names) == {"loop"}
        or not all(isinstance(size, int) for size in parts[0].shape)
    ):
        return loop.run_all(cells, reverse, parts, lengths_B, dropped, *engine[1:], starts)
    x_TxDxB, _ = dropout.drop_inputs(jnp.concatenate(parts, axis=1), dropped)
    starts = starts or [None] * len(cells)
    options = {"matrix_dtype": "bfloat16"} if engine.matrix_dtype == "bfloat16" else {}

    def run_one(name, cell, backwards, start):
        return TABLE[name].run(cell, x_TxDxB, lengths_B, reverse=backwards, start=start, **options)

    with precision.products_in(engine.matrix_dtype):
        if TABLE[names[0]].takes_both and directions.are_one(cells, reverse, starts):
            return directions.run(functools.partial(run_one, names[0]), cells, starts)
        return tuple(map(run_one, names, cells, reverse, starts))
