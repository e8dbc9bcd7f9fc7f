"""Evaluates mathematics on `[H]` and `[gates * H]` vectors gate by gate, on padded tiles.

Arrays in a GPU kernel have sizes that are powers of two, and a kernel can neither split an array
into gates nor concatenate gates. A cell's `update` does both. So it is traced at its own shapes and
then evaluated here with every array as a list of parts, one for each gate: a split selects parts.

A part is a tile `[P, B]` of P lanes and B sequences; the first H lanes are units, and the others
are padding that nothing here reads. A scalar that `update` computes, such as a mean over the units,
is a part whose lanes are all equal; a constant is an array without dimensions.

A part may also be a slice of the units. What is computed from a scalar is then unknown, None, until
the scalar has been summed up over all slices: `stages` says what can be summed up when.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

Parts = list[jax.Array]
"""The parts of an array, in row-major order of all axes but the last."""

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
    "reduce_max": (jnp.maximum, jnp.max, -jnp.inf),
    "reduce_min": (jnp.minimum, jnp.min, jnp.inf),
}


class Unsupported(NotImplementedError):
    """The mathematics contains an operation that is not gate by gate."""


def count(array, size: int) -> int:
    """The number of parts of an array, or of anything with a `shape` and a `size`; H = `size`.

    If its last axis is neither H nor a multiple, it holds scalars, each of them a part.
    """
    return array.size // (size if array.shape and array.shape[-1] % size == 0 else 1)


class Reduction(NamedTuple):
    """A reduction over units: the number of its turn among all in a jaxpr, and its kind."""

    number: int
    kind: str

    @property
    def combine(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """Combines the results of two slices."""
        return _REDUCTIONS[self.kind][0]

    @property
    def neutral(self) -> float:
        """The result of no unit."""
        return _REDUCTIONS[self.kind][2]


class Sliced:
    """Reductions over units in a jaxpr that is evaluated for a slice of the units.

    Args:
        is_unit_P: which lanes are units.
        known: results over all slices, `[B]`, by the numbers of the reductions.

    Attributes:
        found: the results for this slice, `[B]`, of reductions that are not known, but whose
            operands are.
    """

    def __init__(self, is_unit_P: jax.Array, known: Mapping[int, jax.Array]):
        self.is_unit_P, self.known = is_unit_P, known
        self.found: dict[Reduction, jax.Array] = {}
        self._count = 0

    def reduce(self, kind: str, part: jax.Array | None) -> jax.Array | None:
        """The result of the next reduction, in all lanes; None if it is not known."""
        reduction = Reduction(self._count, kind)
        self._count += 1
        if reduction.number in self.known:
            known_B = self.known[reduction.number]
            return jnp.broadcast_to(known_B[None], (len(self.is_unit_P), len(known_B)))
        if part is not None:
            units = jnp.where(self.is_unit_P[:, None], part, reduction.neutral)
            self.found[reduction] = _REDUCTIONS[kind][1](units, axis=0)
        return None


def evaluate(
    jaxpr: core.ClosedJaxpr,
    parts: Parts,
    size: int,
    tile: tuple[int, int],
    sliced: Sliced | None = None,
) -> Parts:
    """Evaluates `jaxpr`, traced with H = `size`, in tiles of the given shape.

    Args:
        jaxpr: the mathematics of vectors `[gates * H]` and scalars.
        parts: the parts of all its arguments, in order.
        size: H.
        tile: the shape of a part.
        sliced: the reductions over units; None: there may be none.

    Returns:
        The parts of all results, in order.

    Raises:
        Unsupported: an operation is neither elementwise, nor a split or concatenation between
            gates, nor a reduction over units.
    """
    if any(jnp.ndim(constant) for constant in jaxpr.consts):
        raise Unsupported("it holds an array that is not a parameter")
    variables = [*jaxpr.jaxpr.constvars, *jaxpr.jaxpr.invars]
    parts_of = dict(zip(variables, _deal([*jaxpr.consts, *parts], variables, size), strict=True))

    def read(atom) -> Parts:
        return [atom.val] if isinstance(atom, core.Literal) else parts_of[atom]

    for eqn in jaxpr.jaxpr.eqns:
        results = _apply(eqn, [read(atom) for atom in eqn.invars], size, tile, sliced)
        for var, result in zip(eqn.outvars, results, strict=True):
            if len(result) != count(var.aval, size):
                raise Unsupported(f"{eqn.primitive.name} mixes units and gates")
            parts_of[var] = result
    return [part for atom in jaxpr.jaxpr.outvars for part in read(atom)]


def stages(jaxpr: core.ClosedJaxpr, size: int, tile: jax.ShapeDtypeStruct) -> list[list[Reduction]]:
    """The reductions over units, each after those that it depends on.

    Args:
        jaxpr: as in `evaluate`.
        size: H.
        tile: what a slice of a part looks like.

    Raises:
        Unsupported: as in `evaluate`.
    """
    found: list[list[Reduction]] = []
    number = sum(count(var.aval, size) for var in jaxpr.jaxpr.invars)

    def run(known, *parts):
        sliced = Sliced(jnp.ones(tile.shape[0], bool), known)
        evaluate(jaxpr, list(parts), size, tile.shape, sliced)
        found.append(list(sliced.found))

    known: dict[int, jax.ShapeDtypeStruct] = {}
    while True:
        jax.eval_shape(run, known, *[tile] * number)
        if not found[-1]:
            return found[:-1]
        result = jax.ShapeDtypeStruct(tile.shape[1:], tile.dtype)
        known |= {reduction.number: result for reduction in found[-1]}


def without_values(tree):
    """Shapes and types alone: values may be sharded, and one program of a kernel never is."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def try_on(tile: jax.ShapeDtypeStruct, jaxprs, size: int) -> None:
    """Evaluates jaxprs on tiles without values.

    Raises:
        Unsupported: as in `evaluate`.
    """
    for jaxpr in jaxprs:
        number = sum(count(var.aval, size) for var in jaxpr.jaxpr.invars)
        run = functools.partial(evaluate, jaxpr, size=size, tile=tile.shape)
        jax.eval_shape(run, [tile] * number)


def _deal(parts: Parts, variables, size: int) -> list[Parts]:
    """Assigns consecutive parts to the variables."""
    dealt, start = [], 0
    for var in variables:
        stop = start + count(var.aval, size)
        dealt.append(parts[start:stop])
        start = stop
    return dealt


def _apply(eqn, operands: list[Parts], size: int, tile, sliced) -> list[Parts]:
    """The parts of the results of one operation."""
    name, params = eqn.primitive.name, eqn.params
    out = eqn.outvars[0].aval
    if name in _CALLS:
        flat = [part for parts in operands for part in parts]
        results = evaluate(_closed(params), flat, size, tile, sliced)
        return _deal(results, eqn.outvars, size)
    if name in _ELEMENTWISE:
        return [_elementwise(eqn, operands, count(out, size))]
    if name in ("concatenate", "stack") and params.get("dimension", params.get("axis")) == 0:
        return [[part for parts in operands for part in parts]]
    if not operands:
        raise Unsupported(f"it holds an array made by {name}")
    operand, shape = operands[0], eqn.invars[0].aval.shape
    if name in ("reshape", "squeeze", "expand_dims"):
        return [operand]
    if name == "broadcast_in_dim":
        return [_broadcast(eqn, operand, size, tile)]
    if name in _REDUCTIONS:
        return [_reduce(name, operand, shape, params["axes"], size, sliced)]
    # The remaining operations move parts along the first axis.
    if name == "unstack" and params["axis"] == 0:
        return _cut(operand, shape, [1] * shape[0])
    if name == "split" and params["axis"] == 0:
        return _cut(operand, shape, params["sizes"])
    if name == "slice" and set(params["strides"] or [1]) == {1} and out.shape[1:] == shape[1:]:
        start, limit = params["start_indices"][0], params["limit_indices"][0]
        return [_cut(operand, shape, [start, limit - start, shape[0] - limit])[1]]
    if name == "pad" and out.shape[1:] == shape[1:]:
        return [_pad(operands, shape, params["padding_config"][0], tile)]
    raise Unsupported(f"{name} of {shape} is not gate by gate")


def _elementwise(eqn, operands: list[Parts], number: int) -> Parts:
    def one(*parts):
        if any(part is None for part in parts):
            return None
        shape = jnp.broadcast_shapes(*map(jnp.shape, parts))
        return eqn.primitive.bind(*(jnp.broadcast_to(p, shape) for p in parts), **eqn.params)

    # A scalar is combined with each part of an array.
    return [one(*parts) for parts in zip(*(_repeat(p, number) for p in operands), strict=True)]


def _repeat(parts: Parts, number: int) -> Parts:
    return parts * number if len(parts) == 1 else parts


def _closed(params) -> core.ClosedJaxpr:
    inner = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
    return inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())


def _broadcast(eqn, parts: Parts, size: int, tile) -> Parts:
    operand, out = eqn.invars[0].aval, eqn.outvars[0].aval
    number = count(out, size)
    keeps_units = eqn.params["broadcast_dimensions"][-1:] == (out.ndim - 1,)
    if len(parts) != number and not (operand.size == 1 or (len(parts) == 1 and keeps_units)):
        raise Unsupported(f"a broadcast of {operand.shape} to {out.shape} is not gate by gate")
    parts = _repeat(parts, number)
    return [part if part is None else jnp.broadcast_to(part, tile) for part in parts]


def _reduce(kind: str, parts: Parts, shape, axes, size: int, sliced) -> Parts:
    """Reduces over the units of each row, over the rows, or both, without the padding's lanes."""
    if len(shape) > 2:
        raise Unsupported(f"a reduction of {shape} has too many axes")
    combine_known, *_ = _REDUCTIONS[kind]

    def combine(one, other):
        return None if one is None or other is None else combine_known(one, other)

    last = len(shape) - 1
    rows = _cut(parts, shape, [1] * shape[0]) if last else [parts]

    def over_units(row: Parts) -> Parts:
        part = functools.reduce(combine, row)
        if shape[-1] % size or (part is not None and not jnp.ndim(part)):
            return [part]
        if sliced is None:
            raise Unsupported("it reduces over the units, which several programs share")
        return [sliced.reduce(kind, part)]

    if last and 0 in axes:
        rows = [[functools.reduce(combine, column) for column in zip(*rows, strict=True)]]
    if last in axes:
        rows = [over_units(row) for row in rows]
    return [part for row in rows for part in row]


def _cut(parts: Parts, shape, sizes) -> list[Parts]:
    """Splits an array into pieces of these sizes along the first axis."""
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
