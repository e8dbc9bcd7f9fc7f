"""The carry before the first step as parameters, which a layer holds beside its cell."""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


def learn(cell: base.Cell) -> nnx.List[nnx.Param[jax.Array]]:
    """The leaves of a cell's initial carry as parameters.

    They begin at what the cell begins at, but for a maximum, which begins at zero: from minus
    infinity no gradient would reach it or what it scales.

    Args:
        cell: any cell that keeps the contract; it stays as it is.

    Raises:
        ValueError: a part of its initial carry is not floating point.
    """
    leaves = jax.tree.leaves(cell.initial_carry())
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise ValueError(
            f"an initial state can be learned where it is floating point, and that of the cell "
            f"{type(cell).__name__} holds whole numbers"
        )
    # A new array each: a cell may give one several times, and training gives away its memory.
    return nnx.List([nnx.Param(jnp.where(leaf == base.MINUS_INFINITY, 0, leaf)) for leaf in leaves])


def carry_of(cell: base.Cell, learned: nnx.List[nnx.Param[jax.Array]] | None) -> base.Carry:
    """The carry that the parameters stand for; None, the cell's own, where nothing is learned."""
    if learned is None:
        return None
    structure = jax.tree.structure(cell.initial_carry())
    return jax.tree.unflatten(structure, [leaf[...] for leaf in learned])
