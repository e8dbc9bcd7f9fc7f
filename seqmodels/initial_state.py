"""The carry before the first step as parameters."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base


def learn(cell: base.Cell) -> base.Cell:
    """The cell itself, whose initial carry is from now on parameters.

    They begin at what it was, but for a maximum, which begins at zero: from minus infinity no
    gradient would reach it or what it scales. The cell's class becomes one derived from its own, so
    that engines go on to run it as what it is.

    Args:
        cell: any cell that keeps the contract.

    Raises:
        ValueError: a part of its initial carry is not floating point.
    """
    leaves = jax.tree.leaves(cell.initial_carry())
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise ValueError(
            f"an initial state can be learned where it is floating point, and that of the cell "
            f"{type(cell).__name__} holds whole numbers"
        )
    cell.__class__ = _derived(type(cell))
    assert isinstance(cell, LearnedInitialState)
    # A new array each: a cell may give one several times, and training gives away its memory.
    cell.learned_initial_state = nnx.List(
        [nnx.Param(jnp.where(leaf == base.MINUS_INFINITY, 0, leaf)) for leaf in leaves]
    )
    return cell


class LearnedInitialState(base.Cell):
    """What `learn` puts in front of a cell's class.

    Attributes:
        learned_initial_state: the leaves of the carry.
    """

    learned_initial_state: nnx.List[nnx.Param[jax.Array]]

    def initial_carry(self):
        structure = jax.tree.structure(super().initial_carry())
        return jax.tree.unflatten(structure, [leaf[...] for leaf in self.learned_initial_state])


@functools.cache
def _derived(cell_class: type[base.Cell]) -> type[base.Cell]:
    """One class for each, by which JAX knows two models as alike."""
    return type(cell_class.__name__, (LearnedInitialState, cell_class), {})
