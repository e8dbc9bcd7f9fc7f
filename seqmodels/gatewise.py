"""Evaluates mathematics on `[H]` and `[gates * H]` vectors gate by gate, on padded tiles.

A kernel on a GPU holds arrays whose sizes are powers of two, and cannot cut one into gates or put
gates together. A cell's `update` does both. So it is traced at its own shapes and then evaluated
here with every array as a list of parts, one for each gate: to split is to take some of the parts.

A part is a tile `[P, B]`: P lanes, of which the first H are units and the others are padding that
nothing here reads, and B sequences. A number that `update` computes, such as a mean over the units,
is a part whose lanes are all equal; a constant is an array of no dimensions.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.extend import core

Parts = list[jax.Array]
"""An array: its parts, in row-major order of all axes but the last."""

_ELEMENTWISE = frozenset(
    "abs add add_any and atan2 cbrt ceil clamp convert_element_type cos div eq exp exp2 "
    "expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg "
    "not one_minus_square or pow rem rsqrt select_n sign sin sqrt square stop_gradient sub "
    "tan tanh xor".split()
)
_CALLS = frozenset(
    "jit pjit closed_call core_call eval_jaxpr custom_jvp_call custom_vjp_call remat checkpoint "
    "remat2".split()
)
_REDUCTIONS: dict[str, tuple[Callable, Callable, float]] = {
    "reduce_sum": (jnp.add, jnp.sum, 0.0),
    "reduce_max": (jnp.maximum, jnp.max, -math.inf),
    "reduce_min": (jnp.minimum, jnp.min, math.inf),
}


class Unsupported(NotImplementedError):
    """The mathematics holds an operation that is not gate by gate."""


def count(shape: Sequence[int], size: int) -> int:
    """Parts of an array of this shape with H = `size`: vectors `[H]`, or else single numbers."""
    return math.prod(shape) // (size if shape and shape[-1] % size == 0 else 1)


def evaluate(jaxpr: core.ClosedJaxpr, parts: Parts, size: int, tile: tuple[int, int]) -> Parts:
    """What `jaxpr`, traced with H = `size`, computes, in tiles of this shape.

    Args:
        jaxpr: the mathematics, of vectors `[gates * H]` and single numbers.
        parts: the parts of all its arguments, one after the other.
        size: H.
        tile: the shape of a part.

    Returns:
        The parts of all results, one after the other.

    Raises:
        Unsupported: an operation that is not elementwise, a cut or join between gates or a
            reduction over units.
    """
    if any(jnp.ndim(constant) for constant in jaxpr.consts):
        raise Unsupported("it holds an array that is not a parameter")
    parts_of = {
        var: [value] for var, value in zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True)
    }
    remaining = iter(parts)
    for var in jaxpr.jaxpr.invars:
        parts_of[var] = list(itertools.islice(remaining, count(var.aval.shape, size)))

    def read(atom) -> Parts:
        return [atom.val] if isinstance(atom, core.Literal) else parts_of[atom]

    for eqn in jaxpr.jaxpr.eqns:
        results = _apply(eqn, [read(atom) for atom in eqn.invars], size, tile)
        for var, result in zip(eqn.outvars, results, strict=True):
            if len(result) != count(var.aval.shape, size):
                raise Unsupported(f"{eqn.primitive.name} mixes units and gates")
            parts_of[var] = result
    return [part for atom in jaxpr.jaxpr.outvars for part in read(atom)]


def _apply(eqn, operands: list[Parts], size: int, tile: tuple[int, int]) -> list[Parts]:
    name, params = eqn.primitive.name, eqn.params
    shapes = [atom.aval.shape for atom in eqn.invars]
    out_shape = eqn.outvars[0].aval.shape
    if name in _ELEMENTWISE:
        return [_elementwise(eqn, operands, count(out_shape, size))]
    if name in _CALLS:
        results = iter(evaluate(_closed(params), [p for o in operands for p in o], size, tile))
        counts = [count(var.aval.shape, size) for var in eqn.outvars]
        return [list(itertools.islice(results, number)) for number in counts]
    if name in ("reshape", "squeeze", "expand_dims"):
        return [operands[0]]
    if name == "broadcast_in_dim":
        return [_broadcast(operands[0], shapes[0], out_shape, params, size, tile)]
    if name in _REDUCTIONS:
        return [_reduce(_REDUCTIONS[name], operands[0], shapes[0], params["axes"], size)]
    # What is left moves parts along the first axis.
    if name in ("concatenate", "stack") and params.get("dimension", params.get("axis")) == 0:
        return [[part for operand in operands for part in operand]]
    if name == "unstack" and params["axis"] == 0:
        return _cut(operands[0], shapes[0], [1] * shapes[0][0])
    if name == "split" and params["axis"] == 0:
        return _cut(operands[0], shapes[0], params["sizes"])
    if name == "slice" and set(params["strides"] or [1]) == {1} and out_shape[1:] == shapes[0][1:]:
        start, limit = params["start_indices"][0], params["limit_indices"][0]
        sizes = [start, limit - start, shapes[0][0] - limit]
        return [_cut(operands[0], shapes[0], sizes)[1]]
    if name == "pad" and out_shape[1:] == shapes[0][1:]:
        return [_pad(operands, shapes[0], params["padding_config"][0], tile)]
    raise Unsupported(f"{name} of {', '.join(map(str, shapes))} is not gate by gate")


def _elementwise(eqn, operands: list[Parts], number: int) -> Parts:
    def one(*parts):
        shape = jnp.broadcast_shapes(*map(jnp.shape, parts))
        return eqn.primitive.bind(*(jnp.broadcast_to(p, shape) for p in parts), **eqn.params)

    # A single number next to an array goes to each of its parts.
    return [one(*parts) for parts in zip(*(_repeat(p, number) for p in operands), strict=True)]


def _repeat(parts: Parts, number: int) -> Parts:
    return parts * number if len(parts) == 1 else parts


def _closed(params) -> core.ClosedJaxpr:
    inner = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
    return inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())


def _broadcast(parts: Parts, shape, out_shape, params, size: int, tile) -> Parts:
    number = count(out_shape, size)
    keeps_units = params["broadcast_dimensions"][-1:] == (len(out_shape) - 1,)
    if len(parts) != number and not (math.prod(shape) == 1 or (len(parts) == 1 and keeps_units)):
        raise Unsupported(f"a broadcast of {shape} to {out_shape} is not gate by gate")
    return [jnp.broadcast_to(part, tile) for part in _repeat(parts, number)]


def _reduce(reduction, parts: Parts, shape, axes, size: int) -> Parts:
    """Over the units of each row, over the rows, or both; lanes of padding do not count."""
    if len(shape) > 2:
        raise Unsupported(f"a reduction of {shape} has too many axes")
    combine, over_lanes, neutral = reduction
    last = len(shape) - 1
    rows = _cut(parts, shape, [1] * shape[0]) if last else [parts]

    def over_units(row: Parts) -> Parts:
        part = functools.reduce(combine, row)
        if shape[-1] % size or not jnp.ndim(part):
            return [part]
        if len(part) > size:
            part = jnp.where(jnp.arange(len(part))[:, None] < size, part, neutral)
        return [jnp.broadcast_to(over_lanes(part, axis=0, keepdims=True), part.shape)]

    if last and 0 in axes:
        rows = [[functools.reduce(combine, column) for column in zip(*rows, strict=True)]]
    if last in axes:
        rows = [over_units(row) for row in rows]
    return [part for row in rows for part in row]


def _cut(parts: Parts, shape, sizes) -> list[Parts]:
    """Pieces of these sizes along the first axis."""
    pieces, start = [], 0
    for length in sizes:
        number = length * len(parts)
        if number % shape[0]:
            raise Unsupported(f"a piece of {length} of {shape[0]} is not a whole gate")
        pieces.append(parts[start : start + number // shape[0]])
        start += number // shape[0]
    return pieces


def _pad(operands: list[Parts], shape, config, tile) -> Parts:
    (parts, [value]), (low, high, interior) = operands, config
    if interior or (low * len(parts)) % shape[0] or (high * len(parts)) % shape[0]:
        raise Unsupported(f"padding {shape} by {low}, {high} and {interior} is not whole gates")
    fill = [jnp.broadcast_to(value, tile)]
    return fill * (low * len(parts) // shape[0]) + parts + fill * (high * len(parts) // shape[0])
