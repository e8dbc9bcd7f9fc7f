"""The fused kernels for large layers, and for cells that combine units.

As in `fused_kernels`, a program takes 16 sequences through all their steps. But it takes the units
of a step slice by slice, and the carry is in the GPU's memory, where its cache holds it. So a
program needs no more registers for a larger layer. If the cell's `update` combines units, as a
normalisation does, it is first evaluated for what it sums up over all slices, once for each sum
that depends on others.

All programs read all of R at every step, so large layers wait for the cache. Programs never wait
for each other.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from seqmodels.recurrence import gatewise
from seqmodels.recurrence.fused_kernels import Plan, barrier, dot

_PIECE = 32  # Rows of R in one product.


def forward(plan: Plan, reverse, matrix, fixed, lengths, z, y, last, carries, products) -> None:
    """Like `fused_kernels.forward`; `carries`, `[T + 1, ...]`, and those after the last step.

    `products_NxHxB` has room for those of a step.
    """
    lengths_B, backwards = lengths[...], reverse[0] > 0
    num_steps = lengths_B.max()
    first, end = jnp.where(backwards, num_steps, 0), jnp.where(backwards, 0, num_steps)

    def begin(units):
        for number in range(plan.carries):
            carries[first, number, units] = _broadcast(plan, fixed[number, units])

    def body(number, _):
        time = jnp.where(backwards, num_steps - 1 - number, number)
        before, after = _before_and_after(time, backwards)
        barrier(plan)  # Until all threads have written what the product reads.

        def multiply(units):
            def add(piece, u):
                h = carries[before, plan.carries - 1, piece]
                return [
                    u[i] + dot(plan, matrix[i, piece, units], h, axis=0) for i in range(plan.gates)
                ]

            zero = jnp.zeros(plan.tile, z.dtype)
            for i, u in enumerate(_over_pieces(plan, add, [zero] * plan.gates)):
                products[i, units] = u

        def inputs(units):
            carry = [carries[before, i, units] for i in range(plan.carries)]
            u = [products[i, units] for i in range(plan.gates)]
            return [*carry, *_own(plan, fixed, units), *_load(z, time, units), *u]

        def take(units, known):
            parts = inputs(units)
            valid = _valid(plan, units, time, lengths_B)
            new = plan.evaluate(plan.step, parts, _sliced(plan, units, known))
            y[time, 0, units] = jnp.where(valid, new[-1], 0)
            for i, pair in enumerate(zip(new, parts[: plan.carries], strict=True)):
                carries[after, i, units] = jnp.where(valid, *pair)

        _over_slices(plan, multiply)
        barrier(plan)
        _evaluate(plan, plan.step, inputs, take)

    def finish(units):
        last[units] = jnp.where(lengths_B > 0, carries[end, plan.carries - 1, units], 0)

    _over_slices(plan, begin)
    jax.lax.fori_loop(0, num_steps, body, None)
    barrier(plan)
    _over_slices(plan, finish)
    _clear(plan, num_steps, y)
    _clear(plan, num_steps + 1, carries)


def backward(
    plan: Plan, reverse, matrix, fixed, lengths, z, u, carries, d_y, d_last, d_fixed, d_z, d_u=None
) -> None:
    """Like `fused_kernels.backward`; sums over time are in `d_fixed` from the start."""
    lengths_B, backwards = lengths[...], reverse[0] > 0
    num_steps = lengths_B.max()
    num_carries, num_fixed = plan.carries, len(d_fixed)
    h = num_carries - 1

    def begin(units):
        for number in range(num_fixed):
            d_fixed[number, units] = jnp.zeros(plan.tile, d_fixed.dtype)
        d_fixed[h, units] = jnp.where(lengths_B > 0, d_last[units], 0)

    def body(number, _):
        time = jnp.where(backwards, number, num_steps - 1 - number)
        before, _ = _before_and_after(time, backwards)

        def inputs(units):
            valid = _valid(plan, units, time, lengths_B)
            d_new = [d_fixed[i, units] for i in range(num_carries)]
            d_new[h] += d_y[time, units]
            carry = [carries[before, i, units] for i in range(num_carries)]
            return [
                *carry, *_own(plan, fixed, units), *_load(z, time, units), *_load(u, time, units),
                *(jnp.where(valid, part, 0) for part in d_new),
            ]  # fmt: skip

        def pull_back(units, known):
            valid = _valid(plan, units, time, lengths_B)
            sums = [d_fixed[i, units] for i in range(num_fixed)]
            sliced = _sliced(plan, units, known)
            results = plan.evaluate(plan.pull_back, inputs(units), sliced)
            results = [jnp.where(valid, part, 0) for part in results]
            for i in range(plan.gates):
                d_z[time, i, units] = results[num_fixed + i]
                if d_u is not None:
                    d_u[time, i, units] = results[num_fixed + plan.gates + i]
            for i in range(num_fixed):
                is_carry = i < num_carries
                new = jnp.where(valid, results[i], sums[i]) if is_carry else sums[i] + results[i]
                d_fixed[i, units] = new

        def add_product(units):
            def add(piece, d_h):
                for gate in range(plan.gates):
                    d_gate = (d_z if d_u is None else d_u)[time, gate, piece]
                    d_h += dot(plan, matrix[gate, units, piece], d_gate, axis=1)
                return d_h

            d_fixed[h, units] = _over_pieces(plan, add, d_fixed[h, units])

        _evaluate(plan, plan.pull_back, inputs, pull_back)
        barrier(plan)
        _over_slices(plan, add_product)
        barrier(plan)

    _over_slices(plan, begin)
    barrier(plan)
    jax.lax.fori_loop(0, num_steps, body, None)
    _clear(plan, num_steps, *([d_z] if d_u is None else [d_z, d_u]))


def _before_and_after(time, backwards) -> tuple[jax.Array, jax.Array]:
    """Where the carries before and after the step at a time are."""
    return jnp.where(backwards, time + 1, time), jnp.where(backwards, time, time + 1)


def _evaluate(plan: Plan, jaxpr, inputs, finish) -> None:
    """Calls `finish` with every slice of the units and what `jaxpr` sums up over all slices.

    Args:
        plan: the kernel's plan.
        jaxpr: the mathematics.
        inputs: `(units) -> parts`, its arguments.
        finish: `(units, known)`; `known` are the results of its reductions.
    """
    tile = jax.ShapeDtypeStruct(plan.tile, jnp.float32)
    known: dict[int, jax.Array] = {}
    for stage in gatewise.stages(jaxpr, plan.size, tile):

        def add(units, totals, known=known, stage=stage):
            sliced = _sliced(plan, units, known)
            plan.evaluate(jaxpr, inputs(units), sliced)
            return [
                one.combine(total, sliced.found[one])
                for one, total in zip(stage, totals, strict=True)
            ]

        neutral = [jnp.full(plan.tile[1], one.neutral, tile.dtype) for one in stage]
        totals = _fold_slices(plan, add, neutral)
        known = known | {one.number: total for one, total in zip(stage, totals, strict=True)}
    _over_slices(plan, functools.partial(finish, known=known))


def _sliced(plan: Plan, units, known) -> gatewise.Sliced:
    return gatewise.Sliced(_is_unit(plan, units), known)


def _is_unit(plan: Plan, units) -> jax.Array:
    return units.start + jnp.arange(plan.tile[0]) < plan.size


def _over_slices(plan: Plan, function) -> None:
    """Calls a function with every slice of the units."""

    _fold_slices(plan, lambda units, _: function(units), None)


def _fold_slices(plan: Plan, function, start):
    """Passes a value from slice to slice of the units: `(units, value) -> value`."""

    def one(number, value):
        return function(pl.ds(number * plan.tile[0], plan.tile[0]), value)

    return jax.lax.fori_loop(0, plan.lanes // plan.tile[0], one, start)


def _over_pieces(plan: Plan, add, start):
    """Sums a product over pieces of its inner axis."""
    piece = min(_PIECE, plan.lanes)
    return jax.lax.fori_loop(
        0, plan.lanes // piece, lambda number, sums: add(pl.ds(number * piece, piece), sums), start
    )


def _broadcast(plan: Plan, part) -> jax.Array:
    return jnp.broadcast_to(part[:, None], plan.tile)


def _own(plan: Plan, fixed, units) -> list[jax.Array]:
    """The own parameters of a slice, for every sequence."""
    return [_broadcast(plan, fixed[i, units]) for i in range(plan.carries, len(fixed))]


def _load(array, time, units) -> list[jax.Array]:
    return [array[time, i, units] for i in range(array.shape[1])]


def _valid(plan: Plan, units, time, lengths_B) -> jax.Array:
    """True for the units of a slice and the sequences that have this step."""
    return jnp.broadcast_to(time < lengths_B, plan.tile) & _is_unit(plan, units)[:, None]


def _clear(plan: Plan, start, *arrays) -> None:
    """Fills arrays with zero from time `start` on."""

    def body(time, _):
        def clear(units):
            for array in arrays:
                for i in range(array.shape[1]):
                    array[time, i, units] = jnp.zeros(plan.tile, array.dtype)

        _over_slices(plan, clear)

    jax.lax.fori_loop(start, len(arrays[0]), body, None)
