"""Solves all steps of a pointwise cell at once, by Newton's method over the whole sequence.

The carries s_1 ... s_T are the solution of T equations, `s_t = f(s_(t-1), z_t)`. Newton's method
guesses all of them, linearises every step at its guess, solves the linear recurrence that results
in a number of rounds that grows with log T (as `parallel` does), and repeats. Since units do not
see each other, a step's Jacobian is a C x C matrix for each unit, where C is the number of vectors
in a carry. The gradient is that of an implicit function: one linear recurrence in the other
direction, whatever the number of iterations.

Lim et al., "Parallelizing Non-linear Sequential Models over the Sequence Length", ICLR 2024 (DEER);
Danieli et al., "ParaRNN: Unlocking Parallel Training of Nonlinear RNNs for Large Language Models",
2025.

The result is exact but for rounding. A unit of a sequence whose iteration does not converge is
computed by a loop, with a warning. `docs/engine.md` has the iterations that the cells need. The
engine's speed has not been measured on a GPU or TPU, so it runs only where it is named.
"""

import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base
from seqmodels.recurrence import arrays
from seqmodels.recurrence.entry import Entry
from seqmodels.recurrence.sequences import (
    Encoded,
    initial_carry,
    largest,
    last_output,
    real_inputs,
    valid_steps,
    without_gradient_of_nothing,
)

MAX_ITERATIONS = 64
_ULPS = 16  # The residual of a solution, in units of the carry's rounding.


class Setup(NamedTuple):
    """The equations to solve, except arrays."""

    graphdef: nnx.GraphDef
    reverse: bool


class Given(NamedTuple):
    """The arrays that the equations depend on.

    Attributes:
        params: the cell's parameters.
        start_CxHxB: the carry before the first step.
        z: what `project` makes of every input, a pytree of `[T, G, B]`.
        lengths_B: valid steps of each sequence.
    """

    params: nnx.State
    start_CxHxB: jax.Array
    z: base.Projection
    lengths_B: jax.Array


def why_not(cell: base.Cell) -> str | None:
    """Why the cell cannot be run this way; None if it can."""
    return None if isinstance(cell, base.PointwiseCell) else "it is not a PointwiseCell"


def run(
    cell: base.PointwiseCell,
    x_TxDxB: jax.Array,
    lengths_B: jax.Array,
    *,
    reverse: bool = False,
    start: base.Carry = None,
) -> Encoded:
    """Computes the same as `loop.run`, by Newton's method.

    It needs memory for C x C numbers per unit and step. Where a unit of a sequence does not
    converge, or is not finite, all steps are also taken one by one, and a warning says so once.
    JAX does not keep the compiled program for other processes, since it can call back to warn.

    Args:
        cell: a cell for which `why_not` returns None.
        x_TxDxB: the inputs; sequences start at time 0.
        lengths_B: valid steps of each sequence, 0 to T; all T are computed.
        reverse: run from the last valid step to the first.
        start: the carry of every sequence before its first step; None: the cell's own.
    """
    setup, given = _equations(cell, x_TxDxB, lengths_B, reverse, start)
    _, y_TxHxB = _take_all(setup, given, _solve(setup, given))
    return Encoded(y_TxHxB, last_output(y_TxHxB, lengths_B, reverse))


def iterations(cell: base.PointwiseCell, x_TxDxB: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """The number of iterations that `run` makes, forwards; a scalar."""
    return _iterate(*_equations(cell, x_TxDxB, lengths_B, reverse=False, start=None))[0]


def _equations(cell, x_TxDxB, lengths_B, reverse, start) -> tuple[Setup, Given]:
    cell = without_gradient_of_nothing(cell, lengths_B)
    x_TxDxB = real_inputs(x_TxDxB, lengths_B)
    z = jax.vmap(jax.vmap(cell.project, -1, -1))(x_TxDxB)
    carry = initial_carry(cell, len(lengths_B), x_TxDxB.dtype, start)
    graphdef, params = nnx.split(cell, nnx.Param)
    return Setup(graphdef, reverse), Given(params, jnp.stack(jax.tree.leaves(carry)), z, lengths_B)


def _take_all(setup: Setup, given: Given, carries_TxCxHxB: jax.Array):
    """Takes every step from the carry that is guessed before it: `(new carries, y_TxHxB)`.

    Args:
        setup: the equations.
        given: their arrays.
        carries_TxCxHxB: the guess of the carries after each step.
    """
    start_1xCxHxB = given.start_CxHxB[None]
    if setup.reverse:
        before_TxCxHxB = jnp.concatenate([carries_TxCxHxB[1:], start_1xCxHxB])
    else:
        before_TxCxHxB = jnp.concatenate([start_1xCxHxB, carries_TxCxHxB[:-1]])
    valid_Tx1xB = valid_steps(given.lengths_B, len(carries_TxCxHxB))[:, None]
    # In the padding, where a cell may be singular, the step at time 0 of the longest sequence.
    real_CxHx1 = arrays.column(before_TxCxHxB[0], jnp.argmax(given.lengths_B))
    at_TxCxHxB = jnp.where(valid_Tx1xB[:, None], before_TxCxHxB, jax.lax.stop_gradient(real_CxHx1))
    step = functools.partial(_take, setup, given.params)
    new_TxCxHxB, y_TxHxB = jax.vmap(jax.vmap(step, -1, -1))(at_TxCxHxB, given.z)
    # A padding step leaves the carry unchanged.
    new_TxCxHxB = jnp.where(valid_Tx1xB[:, None], new_TxCxHxB, before_TxCxHxB)
    return new_TxCxHxB, jnp.where(valid_Tx1xB, y_TxHxB, 0)


def _take(setup: Setup, params: nnx.State, carry_CxH: jax.Array, z: base.Projection):
    """One step of one sequence."""
    cell = nnx.merge(setup.graphdef, params)
    structure = jax.tree.structure(cell.initial_carry())
    carry, y_H = cell.step(jax.tree.unflatten(structure, list(carry_CxH)), z)
    return jnp.stack(jax.tree.leaves(carry)), y_H


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _solve(setup: Setup, given: Given) -> jax.Array:
    """The carry after every step, `[T, C, H, B]`."""
    _, error_HxB, carries_TxCxHxB = _iterate(setup, given)
    has_converged_HxB = error_HxB <= 1

    def finish():
        jax.debug.callback(_warn)
        return jnp.where(has_converged_HxB, carries_TxCxHxB, _loop(setup, given))

    return jax.lax.cond(largest(~has_converged_HxB), finish, lambda: carries_TxCxHxB)


def _iterate(setup: Setup, given: Given) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Newton's iterations: how many, the error of each unit, and the carry after every step."""
    width = len(jax.tree.leaves(given.z)[0])
    guess_TxCxHxB = jnp.broadcast_to(given.start_CxHxB, (width, *given.start_CxHxB.shape))
    # Else XLA computes with a constant guess itself while it compiles, which takes seconds.
    guess_TxCxHxB = jax.lax.optimization_barrier(guess_TxCxHxB)

    def goes_on(loop):
        number, error_HxB, *_ = loop
        # An error that is NaN stays so: there is nothing to go on for.
        return (number < MAX_ITERATIONS) & largest(error_HxB > 1)

    def improve(loop):
        number, error_HxB, carries_TxCxHxB, jacobian_TxCxCxHxB, residual_TxCxHxB = loop
        change_TxCxHxB = _solve_linear(jacobian_TxCxCxHxB, residual_TxCxHxB, setup.reverse)
        # A unit that has converged stays as it is, whatever the others still need.
        changed_TxCxHxB = jnp.where(
            error_HxB > 1, carries_TxCxHxB + change_TxCxHxB, carries_TxCxHxB
        )
        return number + 1, *_linearise(setup, given, changed_TxCxHxB)

    loop = jax.lax.while_loop(goes_on, improve, (0, *_linearise(setup, given, guess_TxCxHxB)))
    return loop[:3]


def _solve_forward(setup, given):
    carries_TxCxHxB = _solve(setup, given)
    return carries_TxCxHxB, (given, carries_TxCxHxB)


def _solve_backward(setup, residuals, d_carries_TxCxHxB):
    given, carries_TxCxHxB = residuals
    _, jacobian_TxCxCxHxB = _jacobian(setup, given, carries_TxCxHxB)
    # Each carry moves the next one, by the next step's Jacobian.
    transposed_TxCxCxHxB = jnp.roll(
        jacobian_TxCxCxHxB.swapaxes(1, 2), 1 if setup.reverse else -1, axis=0
    )
    d_carries_TxCxHxB = _solve_linear(transposed_TxCxCxHxB, d_carries_TxCxHxB, not setup.reverse)
    _, pull_back = jax.vjp(lambda given: _take_all(setup, given, carries_TxCxHxB)[0], given)
    return pull_back(d_carries_TxCxHxB)


_solve.defvjp(_solve_forward, _solve_backward)


def _jacobian(setup: Setup, given: Given, carries_TxCxHxB: jax.Array):
    """Takes every step, and says how each new carry depends on the one before: `[T, C, C, H, B]`.

    Units do not see each other, so moving a carry's vector in all units at once gives a column.
    """
    new_TxCxHxB, derivative = jax.linearize(
        lambda carries_TxCxHxB: _take_all(setup, given, carries_TxCxHxB)[0], carries_TxCxHxB
    )
    units_CxC = jnp.eye(carries_TxCxHxB.shape[1], dtype=carries_TxCxHxB.dtype)

    def column(unit_C):
        return derivative(jnp.broadcast_to(unit_C[:, None, None], carries_TxCxHxB.shape))

    return new_TxCxHxB, jax.vmap(column, out_axes=2)(units_CxC)


def _linearise(setup: Setup, given: Given, carries_TxCxHxB: jax.Array):
    """The state of the iteration: the error of each unit, the guess, Jacobians and residuals.

    The error is the largest residual, at most 1 in a solution; it is NaN where the guess is.
    """
    new_TxCxHxB, jacobian_TxCxCxHxB = _jacobian(setup, given, carries_TxCxHxB)
    residual_TxCxHxB = new_TxCxHxB - carries_TxCxHxB
    precision = jnp.finfo(carries_TxCxHxB.dtype)
    scale_CxHxB = jnp.maximum(jnp.abs(carries_TxCxHxB).max(0), precision.tiny / precision.eps)
    error_CxHxB = jnp.abs(residual_TxCxHxB).max(0) / (_ULPS * precision.eps * scale_CxHxB)
    return error_CxHxB.max(0), carries_TxCxHxB, jacobian_TxCxCxHxB, residual_TxCxHxB


def _solve_linear(jacobian_TxCxCxHxB: jax.Array, b_TxCxHxB: jax.Array, reverse: bool) -> jax.Array:
    """Solves `x_t = A_t x_(t-1) + b_t`, or `A_t x_(t+1) + b_t` in reverse, from zero."""

    def then(first, second):
        (a_first, b_first), (a_second, b_second) = first, second
        # Products of small matrices, unit by unit: no work for a matrix unit.
        a = jnp.sum(a_second[:, :, :, None] * a_first[:, None], axis=2)
        return a, jnp.sum(a_second * b_first[:, None], axis=2) + b_second

    pair = jacobian_TxCxCxHxB, b_TxCxHxB
    return jax.lax.associative_scan(then, pair, reverse=reverse)[1]


def _loop(setup: Setup, given: Given) -> jax.Array:
    """The carry after every step, taken one by one."""
    width = len(jax.tree.leaves(given.z)[0])

    def body(carry_CxHxB, inputs):
        z, valid_B = inputs
        step = functools.partial(_take, setup, given.params)
        new_CxHxB, _ = jax.vmap(step, -1, -1)(carry_CxHxB, z)
        new_CxHxB = jnp.where(valid_B, new_CxHxB, carry_CxHxB)
        return new_CxHxB, new_CxHxB

    inputs = given.z, valid_steps(given.lengths_B, width)
    return jax.lax.scan(body, given.start_CxHxB, inputs, reverse=setup.reverse)[1]


def _warn() -> None:
    warnings.warn(
        f"the engine 'newton' found no finite solution within {MAX_ITERATIONS} iterations, so a "
        "loop took all steps of a batch one by one. Results are right, but another engine is "
        "faster if this happens often",
        RuntimeWarning,
        stacklevel=1,
    )


ENTRY = Entry("newton", run, why_not, is_best=lambda cell: False)
