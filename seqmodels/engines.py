"""The engines that can run a cell, and which of them does.

All give what the unrolled loop over the cell's steps gives, values and gradients.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import cudnn, dropout, fused, parallel, recurrence
from seqmodels.cells import base
from seqmodels.recurrence import Encoded

ENGINES = ("auto", "loop", "scan", "parallel", "fused", "cudnn")
"""`auto` chooses; `loop` is `seqmodels.recurrence`; `scan` is `jax.lax.scan` with JAX's own
derivative, the plain one, for comparison; `parallel` all steps of a linear cell at once; `fused` a
GPU kernel for any gated cell, which a CPU interprets, slowly; `cudnn` NVIDIA's for the LSTM."""

MATRIX_DTYPES = ("float32", "bfloat16")


class Engine(NamedTuple):
    """What to run cells with.

    Attributes:
        name: one of `ENGINES`.
        matrix_dtype: that matrices take part in products in, one of `MATRIX_DTYPES`.
        segment_steps: steps between two carries kept for the backward pass.
    """

    name: str = "auto"
    matrix_dtype: str = "float32"
    segment_steps: int = 1


AUTO = Engine()


def choose(engine: Engine, cell: base.Cell, rates: dropout.Rates = dropout.NOTHING.rates) -> str:
    """The name of the engine that runs a cell on the default device.

    Raises:
        ValueError: the one that was named cannot, or the cell cannot with these rates.
    """
    if rates.recurrent > 0:
        _check_recurrent_matrices(cell)
    if engine[1:] != AUTO[1:] or rates.recurrent > 0 or rates.zoneout > 0:
        if engine.name not in ("auto", "loop"):
            raise ValueError(
                f"the engine {engine.name!r} computes in float32 alone, not in segments, and "
                "without recurrent dropout and zoneout"
            )
        return "loop"
    if engine.name == "auto":
        if cudnn.available(cell):
            return "cudnn"
        # A CPU would gain nothing: it takes every step there is, one by one or in a tree.
        if parallel.why_not(cell) is None and jax.default_backend() != "cpu":
            return "parallel"
        return "fused" if fused.available(cell) else "loop"
    why_not = None
    if engine.name == "fused":
        why_not = fused.why_not(cell)
    elif engine.name == "parallel":
        why_not = parallel.why_not(cell)
    elif engine.name == "cudnn" and not cudnn.available(cell):
        why_not = cudnn.why_not(cell) or "there is no NVIDIA GPU"
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
            "two axes has a name that begins with recurrent_. Zoneout fits every cell"
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
    parts: Sequence[jax.Array],
    lengths_B: jax.Array,
    dropped: dropout.Dropout = dropout.NOTHING,
) -> tuple[Encoded, ...]:
    """`seqmodels.recurrence.run_all` by an engine."""
    names = [choose(engine, cell, dropped.rates) for cell in cells]
    if set(names) == {"loop"}:
        return recurrence.run_all(cells, reverse, parts, lengths_B, dropped, *engine[1:])
    x_TxDxB = jnp.concatenate(parts, axis=1)
    if dropped.keys_B is not None and dropped.rates.inputs > 0:
        x_TxDxB = dropout.drop_all(x_TxDxB, dropped.rates.inputs, dropped.keys_B)
    run: dict[str, Callable[..., Encoded]] = {
        "loop": recurrence.run,
        "scan": recurrence.scan,
        "parallel": parallel.run,
        "fused": _fused,
        "cudnn": cudnn.run,
    }
    return tuple(
        run[name](cell, x_TxDxB, lengths_B, reverse=backwards)
        for name, cell, backwards in zip(names, cells, reverse, strict=True)
    )


def _fused(cell, x_TxDxB, lengths_B, *, reverse):
    interpret = jax.default_backend() != "gpu"
    return fused.run(cell, x_TxDxB, lengths_B, reverse=reverse, interpret=interpret)
