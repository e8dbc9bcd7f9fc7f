"""The contract between a cell and the loop that runs it.

A cell is the mathematics of one time step of one sequence: vectors in, vectors out. The engine in
`seqmodels.recurrence` adds everything else: the batch, time, lengths, direction, gradients and
speed. A step comes in two parts:

*   `project` is the part that needs no state,
*   `step` is the part that does.
"""

from typing import Any

import jax
from flax import nnx

Carry = Any
"""What a cell remembers between two steps: any pytree of arrays."""

Projection = Any
"""What `project` hands to `step`: any pytree of arrays."""


class Cell(nnx.Module):
    """One recurrent layer's parameters and its mathematics for one step of one sequence.

    Subclasses set `hidden_size` and hold `nnx.Param`s only.

    Attributes:
        hidden_size: H, the width of the output of a step.
    """

    hidden_size: int

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        """Draws the parameters of a layer with D = `input_size` inputs and H units."""
        raise NotImplementedError

    def initial_carry(self) -> Carry:
        """The carry before the first step."""
        raise NotImplementedError

    def project(self, x_D: jax.Array) -> Projection:
        """The part of a step that needs only its input."""
        raise NotImplementedError

    def step(self, carry: Carry, z: Projection) -> tuple[Carry, jax.Array]:
        """One step: `(carry, project(x)) -> (carry, y_H)`.

        The new carry has the structure, shapes and dtypes of the old one.
        """
        raise NotImplementedError
