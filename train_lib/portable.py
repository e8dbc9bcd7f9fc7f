"""A model as StableHLO programs, which JAX alone loads and runs: without Flax, or this code.

The parameters are constants in them. B sequences and T steps are symbols: one program serves any
batch of any lengths, on a CPU, on CUDA and on a TPU.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export
from jax.export import Exported

from seqmodels import SequenceModel
from train_lib.data.inputs import Inputs, Vectors

PLATFORMS = ("cpu", "cuda", "tpu")


class Rows(NamedTuple):
    """How a sequence lies in the row that a model reads.

    Attributes:
        last_steps: how many of its last steps are read; 0: all.
        padded_side: the side on which padding, which is read like a step, fills a row of
            `last_steps`; empty: none is read.
    """

    last_steps: int = 0
    padded_side: str = ""


def whole(model: SequenceModel, inputs: Inputs, rows: Rows) -> Exported:
    """Exports `(x, lengths_B) -> outputs` for whole sequences, with the outputs of predict.

    x is tokens, int32 `[B, T]`, or vectors as in the data, float32 `[B, T, D]`, each sequence from
    time 0 on; `lengths_B` is its steps, int32. Whatever follows a sequence in its row is not read.
    Outputs are `[B, C]`, or `[B, T, C]` if every step has one, zero where nothing is read. Those of
    a sequence whose length is below 0 or above T are NaN.
    """

    model = _anywhere(model)

    def answer(x, lengths_B):
        x = _prepared(x, inputs)
        if rows == Rows():
            return model(x, lengths_B)
        width = x.shape[1]
        is_possible_B = (lengths_B >= 0) & (lengths_B <= width)
        ends_B = jnp.where(is_possible_B, lengths_B, 0)
        steps_B = jnp.minimum(ends_B, rows.last_steps)
        starts_B = ends_B - steps_B
        row_width = rows.last_steps if rows.padded_side else width
        begins_B = row_width - steps_B if rows.padded_side == "pre" else jnp.zeros_like(steps_B)
        row = _moved(x, starts_B - begins_B, starts_B, ends_B, row_width)
        outputs = model(row, None if rows.padded_side else steps_B)
        if model.head.per_step:
            ends_B = begins_B + steps_B
            outputs = _moved(outputs, begins_B - starts_B, begins_B, ends_B, width)
        return jnp.where(_beside(is_possible_B, outputs), outputs, jnp.nan)

    batch_size, width = export.symbolic_shape("B, T")
    lengths_B = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return _exported(answer, _like(inputs, batch_size, width), lengths_B)


class Steps(NamedTuple):
    """Programs for sequences that arrive a step at a time.

    Attributes:
        start: `x -> carry`, before the first step; x is that step, and only its B matters.
        step: `(carry, x) -> (carry, outputs)`. x is tokens, int32 `[B]`, or vectors, float32
            `[B, D]`; the outputs, `[B, C]`, are those of the step or, for a model of sequences,
            those that each would have if it ended here. The carry is a list of arrays.
    """

    start: Exported
    step: Exported


def step_by_step(model: SequenceModel, inputs: Inputs) -> Steps:
    """Exports a model that reads forwards, to run a step at a time.

    Raises:
        ValueError: a layer reads backwards.
    """
    model = _anywhere(model)
    structure = jax.tree.structure(model.initial_carries(1))

    def start(x):
        return jax.tree.leaves(model.initial_carries(x.shape[0]))

    def step(leaves, x):
        carries = jax.tree.unflatten(structure, leaves)
        outputs, carries = model.read_on(carries, _prepared(x, inputs)[:, None])
        return jax.tree.leaves(carries), outputs[:, 0] if model.head.per_step else outputs

    (batch_size,) = export.symbolic_shape("B")
    x = _like(inputs, batch_size)
    return Steps(_exported(start, x), _exported(step, jax.eval_shape(start, x), x))


def _anywhere(model: SequenceModel) -> SequenceModel:
    """A model whose parameters, as constants, are not tied to a device."""
    graphdef, params = nnx.split(model, nnx.Param)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), params))


def _exported(function: Callable, *like: Any) -> Exported:
    return export.export(jax.jit(function), platforms=PLATFORMS)(*like)


def _like(inputs: Inputs, *axes: Any) -> jax.ShapeDtypeStruct:
    """The shape and type of the input, with these axes."""
    if isinstance(inputs, Vectors):
        return jax.ShapeDtypeStruct((*axes, inputs.size), jnp.float32)
    return jax.ShapeDtypeStruct(axes, jnp.int32)


def _prepared(x: jax.Array, inputs: Inputs) -> jax.Array:
    """Tokens as they are; vectors of the data as `Vectors.encode` prepares them for the model."""
    if not isinstance(inputs, Vectors) or inputs.mean is None:
        return x
    mean_D = np.array(inputs.mean)
    # In two parts, since float32 alone would lose a small difference from a large mean.
    upper_D = mean_D.astype(np.float32)
    lower_D = (mean_D - upper_D).astype(np.float32)
    return (x - upper_D - lower_D) / np.array(inputs.scale, np.float32)


def _moved(
    x: jax.Array, first_B: jax.Array, start_B: jax.Array, end_B: jax.Array, width: Any
) -> jax.Array:
    """Rows of `width` steps from step `first_B` on; zero outside `start_B` to `end_B`."""
    times_BxT = jnp.arange(width) + first_B[:, None]
    is_read_BxT = (times_BxT >= start_B[:, None]) & (times_BxT < end_B[:, None])
    taken = jnp.take_along_axis(x, _beside(times_BxT, x), axis=1, mode="clip")
    return jnp.where(_beside(is_read_BxT, x), taken, jnp.zeros((), x.dtype))


def _beside(array: jax.Array, other: jax.Array) -> jax.Array:
    """Expands an array, which has the first axes of another one, to as many axes."""
    return jax.lax.expand_dims(array, range(array.ndim, other.ndim))
