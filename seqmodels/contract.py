"""Checks that a cell keeps the contract of `seqmodels.cells.base`, and names what is wrong."""

import inspect
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import checking
from seqmodels.cells import base

# Methods that cells of each kind must not override, since engines replace them; first match wins.
_GIVEN: dict[type[base.Cell], tuple[str, ...]] = {
    base.AffineCell: ("project", "update", "step"),
    base.GatedCell: ("step",),
    base.LinearCell: ("step",),
    base.MatrixMemoryCell: ("step",),
}
_STEPS = 3  # Steps taken to look for NaN and infinity.


class BrokenCell(ValueError):
    """A cell breaks the contract; the message names it, what is wrong and what is expected."""


def make(
    cell_class: type[base.Cell],
    input_size: int,
    hidden_size: int,
    *,
    rngs: nnx.Rngs,
    options: Mapping[str, Any] | None = None,
) -> base.Cell:
    """Makes a cell and checks that it keeps the contract.

    Args:
        cell_class: the cell's class.
        input_size: D.
        hidden_size: H.
        rngs: for the parameters.
        options: keyword arguments of its constructor besides `rngs`.

    Raises:
        BrokenCell: it does not.
        ValueError: it has no such option.
    """
    options = options or {}
    _check_class(cell_class)
    _check_options(cell_class, options)
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    cell = _try(
        cell_class,
        f"{cell_class.__name__}({input_size}, {hidden_size}, rngs=rngs{given})",
        lambda: cell_class(input_size, hidden_size, rngs=rngs, **options),
    )
    _check_parts(cell, hidden_size)
    _check_shapes(cell, input_size)
    _check_numbers(cell, input_size)
    if isinstance(cell, base.PointwiseCell):
        _check_units(cell, input_size)
    return cell


def _check_class(cell_class: type[base.Cell]) -> None:
    kind = next((kind for kind in _GIVEN if issubclass(cell_class, kind)), None)
    if kind is None:
        return
    own = [name for name in _GIVEN[kind] if getattr(cell_class, name) is not getattr(kind, name)]
    if own:
        raise BrokenCell(
            f"{cell_class.__name__} overrides {', '.join(own)}, which engines do in their own "
            f"way for every {kind.__name__}; derive it from a more general class"
        )


def _check_options(cell_class: type[base.Cell], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(cell_class.__init__).parameters.values()
    names = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.name != "rngs"]
    for name in options:
        if name not in names:
            raise ValueError(
                f"the cell {cell_class.__name__} has no option {name!r}; "
                f"it has {', '.join(names) or 'none'}"
            )


def _check_parts(cell: base.Cell, hidden_size: int) -> None:
    name = type(cell).__name__
    if getattr(cell, "hidden_size", None) != hidden_size:
        raise BrokenCell(
            f"{name}.hidden_size is {getattr(cell, 'hidden_size', 'missing')}, not {hidden_size}; "
            "set self.hidden_size = hidden_size"
        )
    _, params, *others = nnx.split(cell, nnx.Param, ...)
    for path, leaf in jax.tree.leaves_with_path(others[0]):
        raise BrokenCell(
            f"{name} holds {_at(path)}, {_describe(leaf)}, which is not an nnx.Param; a cell must "
            "hold nothing else, so make it one, or compute it where it is used"
        )
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise BrokenCell(
                f"{name}'s parameter {_at(path)} is {_describe(leaf)}, not floating point"
            )
        if not jnp.isfinite(leaf).all():
            raise BrokenCell(f"{name}'s parameter {_at(path)} is NaN or infinite from the start")


def _check_shapes(cell: base.Cell, input_size: int) -> None:
    name, size = type(cell).__name__, cell.hidden_size
    carry = _try(type(cell), f"{name}.initial_carry()", cell.initial_carry)
    for path, leaf in jax.tree.leaves_with_path(carry):
        if not isinstance(leaf, jax.Array):
            raise BrokenCell(
                f"{name}.initial_carry() holds {_at(path)}{leaf!r}, a {type(leaf).__name__}; every "
                "part of it must be an array, like jnp.zeros(self.hidden_size)"
            )
    if isinstance(cell, base.GatedCell):
        _check_gates(cell, input_size, carry)
    if isinstance(cell, base.PointwiseCell):
        _check_vectors(cell, input_size, carry)
    x_D = jax.ShapeDtypeStruct((input_size,), jnp.float32)
    z = _try(type(cell), f"{name}.project(x_D)", lambda: jax.eval_shape(cell.project, x_D))
    what = f"{name}.step(carry, z)"
    result = _try(type(cell), what, lambda: jax.eval_shape(cell.step, carry, z))
    if not isinstance(result, tuple) or len(result) != 2:
        raise BrokenCell(f"{what} returns {_describe(result)}, not a pair (carry, y)")
    new_carry, y_H = result
    if getattr(y_H, "shape", None) != (size,):
        raise BrokenCell(f"{what} has the output {_describe(y_H)}, not one of shape ({size},)")
    _check_carry(name, what, new_carry, carry)
    what = f"{name}.blend(carry, carry, share)"
    blended = _try(type(cell), what, lambda: jax.eval_shape(cell.blend, carry, carry, carry))
    _check_carry(name, what, blended, carry)


def _check_carry(name: str, what: str, new_carry: Any, carry: Any) -> None:
    structures = [str(jax.tree.structure(one)) for one in (new_carry, carry)]
    if structures[0] != structures[1]:
        raise BrokenCell(
            f"{what} changes the structure of the carry: {structures[0]}, where initial_carry() "
            f"has {structures[1]}"
        )
    for (path, new), old in zip(
        jax.tree.leaves_with_path(new_carry), jax.tree.leaves(carry), strict=True
    ):
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            raise BrokenCell(
                f"{what} makes {_describe(new)} of the part {_at(path) or 'that is all'} of the "
                f"carry, which is {_describe(old)} in initial_carry()"
            )


def _check_gates(cell: base.GatedCell, input_size: int, carry: Any) -> None:
    name, size = type(cell).__name__, cell.hidden_size
    shape: tuple[int, ...] = getattr(getattr(cell, "recurrent_kernel", None), "shape", ())
    if len(shape) != 2 or shape[0] != size or shape[1] % size or not shape[1]:
        raise BrokenCell(
            f"{name}.recurrent_kernel is {shape or 'missing'}; for a GatedCell it must be [H, G], "
            f"with H = {size} and G a multiple of it, H for each gate"
        )
    if isinstance(cell, base.AffineCell):
        for part, expected in (("kernel", (input_size, shape[1])), ("bias", (shape[1],))):
            actual = getattr(getattr(cell, part, None), "shape", "missing")
            if actual != expected:
                raise BrokenCell(f"{name}.{part} is {actual}; it must be {expected}")
    shapes = [leaf.shape for leaf in carry] if isinstance(carry, tuple) else None
    if not shapes or set(shapes) != {(size,)}:
        raise BrokenCell(
            f"{name}.initial_carry() is {_describe(carry)}; for a GatedCell it must be a tuple of "
            f"vectors ({size},), the last of which is h, the output"
        )


def _check_vectors(cell: base.PointwiseCell, input_size: int, carry: Any) -> None:
    name, size = type(cell).__name__, cell.hidden_size
    kind = "LinearCell" if isinstance(cell, base.LinearCell) else "PointwiseCell"
    shape: tuple[int, ...] = getattr(getattr(cell, "kernel", None), "shape", ())
    if len(shape) != 2 or shape[0] != input_size:
        raise BrokenCell(
            f"{name}.kernel is {shape or 'missing'}; for a {kind} it must be a matrix [D, G], with "
            f"D = {input_size}"
        )
    if not jax.tree.leaves(carry) or {leaf.shape for leaf in jax.tree.leaves(carry)} != {(size,)}:
        raise BrokenCell(
            f"{name}.initial_carry() is {_describe(carry)}; for a {kind} it must consist of "
            f"vectors ({size},)"
        )
    x_D = jax.ShapeDtypeStruct((input_size,), jnp.float32)
    z = _try(type(cell), f"{name}.project(x_D)", lambda: jax.eval_shape(cell.project, x_D))
    if any(leaf.ndim != 1 or leaf.size % size for leaf in jax.tree.leaves(z)):
        raise BrokenCell(
            f"{name}.project(x_D) is {_describe(z)}; for a {kind} it must consist of vectors whose "
            f"size is a multiple of H = {size}"
        )


def _check_units(cell: base.PointwiseCell, input_size: int) -> None:
    """Checks that a step's Jacobian J is diagonal by unit: J v must be (J 1) v for a random v."""
    keys = jax.random.split(jax.random.key(0), 3)
    v_H = jax.random.normal(keys[0], (cell.hidden_size,))
    z = cell.project(jax.random.normal(keys[1], (input_size,)))
    carry = jax.tree.map(
        lambda leaf: leaf + jax.random.normal(keys[2], leaf.shape), cell.initial_carry()
    )
    _, derivative = jax.linearize(cell.step, carry, z)
    nothing = jax.tree.map(jnp.zeros_like, (carry, z))

    def along(tangent_H: jax.Array, read: Any) -> Any:
        """The derivative when one leaf moves, in all of its gates alike."""
        return derivative(
            *jax.tree.map_with_path(
                lambda path, leaf: (
                    jnp.tile(tangent_H, leaf.size // tangent_H.size) if path == read else leaf
                ),
                nothing,
            )
        )

    for read, _ in jax.tree.leaves_with_path(nothing):
        of_v, of_1 = along(v_H, read), along(jnp.ones_like(v_H), read)
        for (made, d_v_H), d_1_H in zip(
            jax.tree.leaves_with_path(of_v), jax.tree.leaves(of_1), strict=True
        ):
            error_H = jnp.abs(d_v_H - d_1_H * v_H)
            if (error_H > 1e-4 * jnp.abs(d_v_H).max()).any():
                raise BrokenCell(
                    f"{type(cell).__name__}.step(carry, z) mixes units: unit {error_H.argmax()} of "
                    f"{_part(made, 'the new carry', 'the output')} depends on other units of "
                    f"{_part(read, 'the carry', 'z')}. A PointwiseCell's units must not see each "
                    "other; take the product in project, or derive the cell from base.Cell"
                )


def _part(path, first: str, second: str) -> str:
    """Names a leaf of a pair of pytrees."""
    pair, *rest = path
    what = (first, second)[pair.idx]
    return f"the part {_at(rest)} of {what}" if rest else what


def _check_numbers(cell: base.Cell, input_size: int) -> None:
    graphdef, params = nnx.split(cell, nnx.Param)

    @jax.jit
    def run(params, x_TxD):
        cell = nnx.merge(graphdef, params)
        carry, outputs = cell.initial_carry(), []
        for x_D in x_TxD:
            carry, y_H = cell.step(carry, cell.project(x_D))
            outputs.append(y_H)
        return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((carry, outputs))])

    if not run(params, jax.random.normal(jax.random.key(0), (_STEPS, input_size))).all():
        raise BrokenCell(
            f"{type(cell).__name__} computes NaN or infinity in its first {_STEPS} steps, with "
            "its initial parameters"
        )


def _try(cell_class: type, what: str, function: Callable[[], Any]) -> Any:
    """Calls a function of the cell, and turns its errors into `BrokenCell`."""
    try:
        return function()
    except NotImplementedError as error:
        missing = traceback.extract_tb(error.__traceback__)[-1].name
        raise BrokenCell(f"{cell_class.__name__} does not define {missing}") from error
    except Exception as error:  # A user's cell may raise anything.
        raise BrokenCell(f"{what} raises {checking.raised(cell_class, error)}") from error


def _at(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def _describe(value: Any) -> str:
    """Describes an array by its shape and dtype, anything else by its contents or type."""
    if hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {', '.join(map(_describe, value)) or 'nothing'}"
    return f"a {type(value).__name__}"
