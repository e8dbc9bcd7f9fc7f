"""The carry before the first step as parameters."""

import functools

import jax
from flax import nnx

from seqmodels.cells import base


def learn(cell: base.Cell) -> base.Cell:
    """The cell itself, whose initial carry is from now on parameters.

    They begin at what it was. The cell's class becomes one derived from its own, so that engines go
    on to run it as what it is. Gradients reach what the first step reads: a carry that begins at
    nothing and is scaled by it, as the memory of `mlstm` is, has none.

    Args:
        cell: any cell that keeps the contract.
    """
    leaves = jax.tree.leaves(cell.initial_carry())
    cell.__class__ = _derived(type(cell))
    assert isinstance(cell, LearnedInitialState)
    cell.learned_initial_state = nnx.List([nnx.Param(leaf) for leaf in leaves])
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
