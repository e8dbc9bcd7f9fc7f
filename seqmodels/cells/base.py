"""The contract between a cell and the loop that runs it.

A cell is the mathematics of one time step of one sequence: vectors in, vectors out. The engine in
`seqmodels.recurrence` adds everything else: the batch, time, lengths, direction, gradients and
speed. A step comes in two parts:

*   `project` is the part that needs no state,
*   `step` is the part that does.

There are three levels, each of which assumes more than the one before and runs faster:

1.  `Cell`: any mathematics.
2.  `GatedCell`: the only product with a recurrent matrix is `h @ R`; `update` is all the rest.
3.  `AffineCell`: all gates are functions of `x @ W + h @ R + b`; `activate` is all the rest.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Carry = Any
"""What a cell remembers between two steps: any pytree of arrays."""

Projection = Any
"""What `project` hands to `step`: any pytree of arrays."""


def product(x_D: jax.Array, kernel_DxG: jax.Array) -> jax.Array:
    """`x @ kernel`, in the precision of the kernel; the result has that of x.

    It is written so that the batch the engine adds stays the last axis. With `@` a cell computes
    the same, about a third slower on a CPU: the batch comes out first, and all pointwise work after
    it reads its operands across memory.
    """
    return jnp.einsum(
        "dg,d->g", kernel_DxG, x_D.astype(kernel_DxG.dtype), preferred_element_type=x_D.dtype
    )


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


class GatedCell(Cell):
    """A cell whose only product with a recurrent matrix is `u = h @ R`.

    Its carry is a tuple of vectors `[H]`, the last of which is h, the output of the step.

    Attributes:
        recurrent_kernel: R, `[H, G]`; G is a multiple of H, one for each gate.
    """

    recurrent_kernel: nnx.Param[jax.Array]

    def update(
        self, carry: tuple[jax.Array, ...], z_G: jax.Array, u_G: jax.Array
    ) -> tuple[jax.Array, ...]:
        """The step behind the product: `(carry, project(x), h @ R) -> carry`.

        It may hold parameters of its own (peepholes, a gain), but no matrix of them.
        """
        raise NotImplementedError

    def step(self, carry, z):
        carry = self.update(carry, z, product(carry[-1], self.recurrent_kernel[...]))
        return carry, carry[-1]


class AffineCell(GatedCell):
    """A gated cell that reads its input and h in one affine function `a = x @ W + h @ R + b`.

    Attributes:
        kernel: W, `[D, G]`.
        bias: b, `[G]`.
    """

    kernel: nnx.Param[jax.Array]
    bias: nnx.Param[jax.Array]

    def activate(self, carry: tuple[jax.Array, ...], a_G: jax.Array) -> tuple[jax.Array, ...]:
        """The step behind the affine function: `(carry, a) -> carry`.

        As `update`, it may hold parameters of its own, but no matrix of them.
        """
        raise NotImplementedError

    def project(self, x_D):
        return product(x_D, self.kernel[...]) + self.bias

    def update(self, carry, z_G, u_G):
        return self.activate(carry, z_G + u_G)
