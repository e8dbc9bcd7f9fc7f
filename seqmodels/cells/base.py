"""The contract between a cell and the loop that runs it.

A cell is the mathematics of one time step of one sequence: vectors in, vectors out. The engine in
`seqmodels.recurrence` adds everything else: the batch, time, lengths, direction, gradients and
speed. A step comes in two parts:

*   `project` is the part that needs no state,
*   `step` is the part that does.

A more specific cell has faster ways to run:

*   `Cell`: any mathematics.
*   `GatedCell`: the only product with a recurrent matrix is `h @ R`; `update` does the rest.
*   `AffineCell`: all gates are functions of `x @ W + h @ R + b`; `activate` does the rest.
*   `PointwiseCell`: units do not see each other; all products are in `project`.
*   `LinearCell`: the same, and `h' = a * h + b`, where a and b depend only on the input.
*   `MatrixMemoryCell`: a memory to which a step adds an outer product.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from seqmodels.products import product as product

MINUS_INFINITY = -1e30
"""The initial value of a maximum. Unlike with infinity, its difference with itself is a number."""

Carry = Any
"""What a cell remembers between two steps: any pytree of arrays."""

Projection = Any
"""What `project` hands to `step`: any pytree of arrays."""


class Counterpart(NamedTuple):
    """A layer of another library that computes the same as a cell, from the same parameters.

    These are called `kernel`, `recurrent_kernel`, `bias` and, if there is one, `recurrent_bias`.

    Attributes:
        layer: the name of its class, such as `LSTM`.
        options: those of its constructor that change what it computes.
        gates: for each gate there, its position here; empty: the order is the same.
    """

    layer: str
    options: dict[str, Any]
    gates: tuple[int, ...] = ()


class Counterparts(NamedTuple):
    """The counterparts of a cell; None where there is none."""

    keras: Counterpart | None = None
    torch: Counterpart | None = None


def glorot_uniform(rngs: nnx.Rngs, *shape: int) -> nnx.Param[jax.Array]:
    """A matrix drawn as Keras draws input kernels: Glorot-uniform (Glorot and Bengio, 2010)."""
    return nnx.Param(initializers.glorot_uniform()(rngs.params(), shape, jnp.float32))


def orthogonal(rngs: nnx.Rngs, *shape: int) -> nnx.Param[jax.Array]:
    """A matrix drawn as Keras draws recurrent kernels: orthogonal rows (Saxe et al., 2014)."""
    return nnx.Param(initializers.orthogonal()(rngs.params(), shape, jnp.float32))


def constant(value: float, *shape: int) -> nnx.Param[jax.Array]:
    """Parameters initialised to one value, such as a bias."""
    return nnx.Param(jnp.full(shape, value, jnp.float32))


def gate_bias(hidden_size: int, *values: float) -> nnx.Param[jax.Array]:
    """A bias initialised to one value for each of several concatenated gates."""
    return nnx.Param(jnp.repeat(jnp.array(values, jnp.float32), hidden_size))


def memory_bias(rngs: nnx.Rngs, hidden_size: int, memory_steps: float) -> jax.Array:
    """A bias `[H]` for gates that keep: units then forget after 2 to T = `memory_steps` steps.

    Tallec and Ollivier, "Can recurrent neural networks warp time?", ICLR 2018: log(U(1, T - 1)).

    Raises:
        ValueError: T is not above 2.
    """
    if not memory_steps > 2:
        raise ValueError(f"memory_steps must be above 2, and is {memory_steps}")
    return jnp.log(
        jax.random.uniform(rngs.params(), (hidden_size,), minval=1, maxval=memory_steps - 1)
    )


def blend_scaled(
    old: tuple[jax.Array, ...], new: tuple[jax.Array, ...], share: jax.Array
) -> tuple[jax.Array, ...]:
    """`Cell.blend` for arrays that are scaled by `exp(-m)`, where m is the last one."""
    m_old, m_new = old[-1], new[-1]
    m = jnp.maximum(
        jnp.where(share > 0, m_old, MINUS_INFINITY), jnp.where(share < 1, m_new, MINUS_INFINITY)
    )
    keep = share * jnp.exp(jnp.minimum(m_old - m, 0))
    take = (1 - share) * jnp.exp(jnp.minimum(m_new - m, 0))
    return *(keep * a + take * b for a, b in zip(old[:-1], new[:-1], strict=True)), m


class Cell(nnx.Module):
    """One recurrent layer's parameters and its mathematics for one step of one sequence.

    Subclasses set `hidden_size` and hold `nnx.Param`s only.

    Attributes:
        hidden_size: H, the width of the output of a step.
        counterparts: equivalent layers of other libraries. Subclasses do not inherit them, because
            they may compute something else.
    """

    counterparts = Counterparts()

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

    def blend(self, old: Carry, new: Carry, share: Carry) -> Carry:
        """The carry after zoneout: `share` of the old one, the rest from the new one.

        Args:
            old: the carry before a step.
            new: the carry after it.
            share: for each element, in [0, 1].
        """
        return jax.tree.map(lambda a, b, share: share * a + (1 - share) * b, old, new, share)


class GatedCell(Cell):
    """A cell whose only product with a recurrent matrix is `u = h @ R`.

    Its carry is a tuple of vectors `[H]`, the last of which is h, the output of the step.

    Attributes:
        recurrent_kernel: R, `[H, G]`; G is H times the number of gates.
    """

    recurrent_kernel: nnx.Param[jax.Array]

    def update(
        self, carry: tuple[jax.Array, ...], z_G: jax.Array, u_G: jax.Array
    ) -> tuple[jax.Array, ...]:
        """The step after the product: `(carry, project(x), h @ R) -> carry`.

        It may use other parameters (peepholes, a gain), but no matrix.
        """
        raise NotImplementedError

    def step(self, carry, z):
        carry = self.update(carry, z, product(carry[-1], self.recurrent_kernel[...]))
        return carry, carry[-1]


class AffineCell(GatedCell):
    """A gated cell that reads its input and h through one affine function, `x @ W + h @ R + b`.

    Attributes:
        kernel: W, `[D, G]`.
        bias: b, `[G]`.
    """

    kernel: nnx.Param[jax.Array]
    bias: nnx.Param[jax.Array]

    def activate(self, carry: tuple[jax.Array, ...], a_G: jax.Array) -> tuple[jax.Array, ...]:
        """The step after the affine function: `(carry, a) -> carry`.

        Like `update`, it may use other parameters, but no matrix.
        """
        raise NotImplementedError

    def project(self, x_D):
        return product(x_D, self.kernel[...]) + self.bias

    def update(self, carry, z_G, u_G):
        return self.activate(carry, z_G + u_G)


class PointwiseCell(Cell):
    """A cell whose units do not see each other in `step`: all its products are in `project`.

    Its carry is a pytree of vectors `[H]`, and what `project` returns is a pytree of vectors whose
    size is a multiple of H, a part for each gate. Unit i of the new carry and of the output depends
    on unit i of the carry and of these parts alone, so a step's Jacobian with regard to a carry of
    k vectors is a k x k matrix for each unit.

    Attributes:
        kernel: W, `[D, G]`: what `project` multiplies its input by, or one of several such.
    """

    kernel: nnx.Param[jax.Array]


class Write(NamedTuple):
    """What a step of a `MatrixMemoryCell` does to its memory, and asks of it.

    Attributes:
        log_input: the logarithm of i, a scalar.
        log_forget: the logarithm of f, a scalar.
        query_H: q.
        key_H: k.
        value_H: v.
        rest: what else `read` needs, any pytree.
    """

    log_input: jax.Array
    log_forget: jax.Array
    query_H: jax.Array
    key_H: jax.Array
    value_H: jax.Array
    rest: Any


class MatrixMemoryCell(Cell):
    """A cell with `C' = f C + i v k^T` and `n' = f n + i k`, where all but C and n are from x.

    C and n are kept relative to exp(m), `m' = max(log f + m, log i)`, so that no exponential
    overflows. The carry is `(C_HxH, n_H, m)`. Many steps can be taken at once, in chunks.
    """

    def project(self, x_D: jax.Array) -> Write:
        """What a step does to the memory, and asks of it."""
        raise NotImplementedError

    def read(self, memory_H: jax.Array, normalizer: jax.Array, m: jax.Array, rest: Any):
        """The output of a step: `(C' q, n' q, m', rest) -> y_H`."""
        raise NotImplementedError

    def initial_carry(self):
        size = self.hidden_size
        return jnp.zeros((size, size)), jnp.zeros(size), jnp.array(MINUS_INFINITY)

    def step(self, carry, z):
        memory_HxH, n_H, m = carry
        largest = jnp.maximum(z.log_forget + m, z.log_input)
        i, f = jnp.exp(z.log_input - largest), jnp.exp(z.log_forget + m - largest)
        memory_HxH = f * memory_HxH + i * z.value_H[:, None] * z.key_H
        n_H = f * n_H + i * z.key_H
        memory_H = jnp.sum(memory_HxH * z.query_H, axis=1)
        y_H = self.read(memory_H, jnp.sum(n_H * z.query_H), largest, z.rest)
        return (memory_HxH, n_H, largest), y_H

    def blend(self, old, new, share):
        return blend_scaled(old, new, share[-1])


class LinearCell(PointwiseCell):
    """A cell with `h' = a * h + b`, elementwise, where `project` computes a and b from the input.

    All its steps can be taken at once, in a number of rounds that grows with the logarithm of T.
    Its carry is h.
    """

    def project(self, x_D: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The coefficients `(a_H, b_H)` of a step."""
        raise NotImplementedError

    def step(self, carry, z):
        a_H, b_H = z
        h_H = a_H * carry + b_H
        return h_H, h_H
