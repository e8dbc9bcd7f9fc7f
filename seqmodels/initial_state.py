"""A trainable carry before the first step, which a layer holds beside its cell."""

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


def learn(cell: base.Cell) -> nnx.List[nnx.Param[jax.Array]]:
    """The leaves of a cell's initial carry as parameters.

    Their initial values are the cell's, except that of a maximum, which is zero: from minus
    infinity no gradient would reach it or what it scales.

    Args:
        cell: any cell that keeps the contract; it is not changed.

    Raises:
        ValueError: a part of its initial carry is not floating point.
    """
    leaves = jax.tree.leaves(cell.initial_carry())
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise ValueError(
            f"an initial state can be learned only if it is floating point, but that of the cell "
            f"{type(cell).__name__} holds integers"
        )
    # A new array for each: a cell may return one array several times, and training donates them.
    return nnx.List([nnx.Param(jnp.where(leaf == base.MINUS_INFINITY, 0, leaf)) for leaf in leaves])


def carry_of(cell: base.Cell, learned: nnx.List[nnx.Param[jax.Array]] | None) -> base.Carry:
    """The carry with these leaves; None, the cell's own, if nothing is learned."""
    if learned is None:
        return None
    structure = jax.tree.structure(cell.initial_carry())
    return jax.tree.unflatten(structure, [leaf[...] for leaf in learned])
