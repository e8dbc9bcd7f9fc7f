"""Both directions of a layer run as one, over arrays of twice the size.

Off the CPU, the time of a small layer's step depends on the number of its operations, not on their
size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base
from seqmodels.recurrence import arrays
from seqmodels.recurrence.sequences import Encoded


def are_one(
    cells: Sequence[base.Cell], reverse: Sequence[bool | jax.Array], starts: Sequence[base.Carry]
) -> bool:
    """Whether to run these as one: off the CPU, a forward and a backward cell of the same size.

    Args:
        cells: any cells.
        reverse: for each cell, whether it runs backwards.
        starts: for each cell, the carry before its first step; None: the cell's own.
    """
    if arrays.on_cpu() or [backwards is True for backwards in reverse] != [False, True]:
        return False
    (graphdef, *forward), (other, *backward) = (
        (*nnx.split(cell, nnx.Param), start) for cell, start in zip(cells, starts, strict=True)
    )
    return graphdef == other and _shapes(forward) == _shapes(backward)


def _shapes(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def run(
    one: Callable[..., Encoded],
    cells: Sequence[base.Cell],
    starts: Sequence[base.Carry],
    *inputs: Sequence[jax.Array],
) -> tuple[Encoded, Encoded]:
    """Runs two directions, for which `are_one` holds.

    Args:
        one: `(cell, reverse, start, *inputs) -> Encoded`; `reverse` is an array.
        cells: one for each direction.
        starts: likewise.
        inputs: likewise, for each input that differs.
    """
    graphdef, _ = nnx.split(cells[0], nnx.Param)

    def run_one(params, *others):
        return one(nnx.merge(graphdef, params), *others)

    params = [nnx.split(cell, nnx.Param)[1] for cell in cells]
    reverse = [jnp.array(False), jnp.array(True)]
    each = zip(params, reverse, starts, *inputs, strict=True)
    both = jax.vmap(run_one)(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))
    forward, backward = (jax.tree.map(lambda leaf, n=n: leaf[n], both) for n in (0, 1))
    return forward, backward


@jax.custom_vjp
def in_reverse(array_T: jax.Array, num_steps: jax.Array) -> jax.Array:
    """The first `num_steps` elements in reverse; what comes after them is undefined."""
    # Slices, not a gather.
    return jnp.roll(array_T[::-1], num_steps, axis=0)


in_reverse.defvjp(
    lambda array_T, num_steps: (in_reverse(array_T, num_steps), num_steps),
    lambda num_steps, d_array_T: (in_reverse(d_array_T, num_steps), None),
)
