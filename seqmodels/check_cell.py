"""Tests everything the codebase requires of a cell, and compares its speed with the LSTM's.

python -m seqmodels.check_cell lstm
python -m seqmodels.check_cell path/to/mine.py

The tests do the same for every cell in `seqmodels/cells`.
"""

import argparse
import contextlib
import functools
import sys
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.test_util import check_grads

from seqmodels import checking, contract, loading, program, recurrence
from seqmodels.cells import base
from seqmodels.recurrence import Encoded, engines, oracle

_STEPS, _BATCH, _INPUT, _HIDDEN = 5, 5, 3, 4  # Small, odd and all different.
_LENGTHS = [5, 1, 0, 3, 4]
_TIMED_STEPS = 256
_VALUES, _GRADIENTS = 1e-5, 1e-4  # Tolerances, relative to the largest number.

# Most of the time is spent compiling.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class CheckFailed(Exception):
    """A cell fails a check; the message says what it does wrong."""


def make(name: str) -> base.Cell:
    """A small cell without zero parameters, so that leaving one out has an effect.

    Raises:
        ValueError: there is no such cell, or it breaks the contract.
    """
    return without_zeros(contract.make(loading.find_cell(name), _INPUT, _HIDDEN, rngs=nnx.Rngs(0)))


def without_zeros(cell: base.Cell) -> base.Cell:
    """The cell with noise added to all its parameters."""
    graphdef, params = nnx.split(cell, nnx.Param)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), max(len(leaves), 1))
    leaves = [
        leaf + jax.random.normal(key, leaf.shape) / 2
        for leaf, key in zip(leaves, keys, strict=False)
    ]
    return nnx.merge(graphdef, jax.tree.unflatten(structure, leaves))


def equals_the_unrolled_loop(cell: base.Cell) -> None:
    """The engine gives the same results as a Python loop over the steps.

    Gradients are compared only backwards; forwards they have fewer ways to go wrong, none of which
    depends on the cell.
    """
    unrolled = functools.partial(oracle.run, reverse=True)
    loop = functools.partial(recurrence.run, reverse=True)
    expected = _results(cell, unrolled, _LENGTHS, jit=lambda function: function)
    _compare(_results(cell, loop, jnp.array(_LENGTHS)), expected, what="by the loop")
    forwards = _jit(recurrence.run)(cell, _inputs(), jnp.array(_LENGTHS))
    expected = oracle.run(cell, _inputs(), _LENGTHS)
    _close("the outputs by the loop, forwards,", forwards, expected, _VALUES)


def gradients_match_finite_differences(cell: base.Cell) -> None:
    """In float64, and independent of JAX's derivative of the unrolled loop."""
    with jax.enable_x64(True):
        graphdef, params = nnx.split(cell, nnx.Param)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        x_TxDxB = _inputs()[:3].astype(jnp.float64)

        def loss(params, x_TxDxB):
            return scalar(recurrence.run(nnx.merge(graphdef, params), x_TxDxB, jnp.array([3, 1])))

        try:
            arguments = params, x_TxDxB[..., :2]
            check_grads(jax.jit(loss), arguments, order=1, modes=["rev"], rtol=1e-5, atol=1e-8)
        except AssertionError as error:
            text = " ".join(str(error).split())
            raise CheckFailed(
                f"a gradient is not what finite differences give: {text[:300]}"
            ) from None


def padding_is_neither_read_nor_written(cell: base.Cell) -> None:
    """What follows a sequence changes nothing, and its outputs and gradients are zero."""
    x_TxDxB, lengths_B = _inputs(), jnp.array(_LENGTHS)
    valid_Tx1xB = recurrence.valid_steps(lengths_B, _STEPS)[:, None]
    for reverse in (False, True):

        @_jit
        def run(x_TxDxB, reverse=reverse):
            encoded, pull_back = jax.vjp(
                lambda x: recurrence.run(cell, x, lengths_B, reverse=reverse), x_TxDxB
            )
            return encoded, pull_back(jax.tree.map(jnp.ones_like, encoded))

        encoded, (d_x_TxDxB,) = run(x_TxDxB)
        spoilt, _ = run(jnp.where(valid_Tx1xB, x_TxDxB, 1e9))
        if not all(jnp.array_equal(*pair) for pair in zip(encoded, spoilt, strict=True)):
            raise CheckFailed("the contents of the padding affect a result")
        for array in (encoded.sequence_TxHxB, d_x_TxDxB):
            if jnp.where(valid_Tx1xB, 0, array).any():
                raise CheckFailed("padding has an output or a gradient that is not zero")


def works_under_vmap(cell: base.Cell) -> None:
    """Many models at once give the same results as each alone."""
    graphdef, params = nnx.split(cell, nnx.Param)
    params_2 = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2]), params)

    def run(params):
        return recurrence.run(nnx.merge(graphdef, params), _inputs(), jnp.array(_LENGTHS))

    both = _jit(jax.vmap(run))(params_2)
    for number in range(2):
        alone = run(jax.tree.map(lambda leaf, number=number: leaf[number], params_2))
        _close("under vmap", jax.tree.map(lambda one, n=number: one[n], both), alone, _VALUES)


def segments_change_nothing(cell: base.Cell) -> None:
    """Recomputed carries equal those that would have been kept."""
    lengths_B = jnp.array(_LENGTHS)

    def run(cell, x_TxDxB, lengths_B, segment_steps):
        (encoded,) = recurrence.run_all(
            [cell], [True], [x_TxDxB], lengths_B, segment_steps=segment_steps
        )
        return Encoded(jnp.zeros(()), encoded.last_HxB)

    cut, whole = (
        _results(cell, functools.partial(run, segment_steps=segment_steps), lengths_B)
        for segment_steps in (2, 1)
    )
    _compare(cut, whole, what="in segments")


def bfloat16_products_stay_close(cell: base.Cell) -> None:
    """With matrices in bfloat16, carries and outputs stay float32 and change only slightly."""
    fine_HxB = _jit(recurrence.run)(cell, _inputs(), jnp.array(_LENGTHS)).last_HxB
    for name in qualified(cell, engines.Engine(matrix_dtype="bfloat16")):
        run = functools.partial(_run_by, engines.Engine(name, "bfloat16"), reverse=False)
        coarse_HxB = _jit(run)(cell, _inputs(), jnp.array(_LENGTHS)).last_HxB
        if coarse_HxB.dtype != jnp.float32:
            raise CheckFailed(f"with products in bfloat16 the output is {coarse_HxB.dtype}")
        _close(f"with products in bfloat16, by {name},", coarse_HxB, fine_HxB, 0.1)


def every_engine_gives_the_same(cell: base.Cell) -> None:
    """All engines that can run the cell agree, run backwards; GPU kernels are interpreted."""
    lengths_B = jnp.array(_LENGTHS)
    expected = _results(cell, functools.partial(recurrence.run, reverse=True), lengths_B)
    for name in qualified(cell):
        if name == "loop":
            continue
        run = functools.partial(_run_by, engines.Engine(name))
        _compare(_results(cell, run, lengths_B), expected, what=f"by the engine {name}")


CHECKS: tuple[Callable[[base.Cell], None], ...] = (
    equals_the_unrolled_loop,
    gradients_match_finite_differences,
    padding_is_neither_read_nor_written,
    works_under_vmap,
    segments_change_nothing,
    bfloat16_products_stay_close,
    every_engine_gives_the_same,
)


def qualified(cell: base.Cell, engine: engines.Engine = engines.AUTO) -> list[str]:
    """The engines that can run a cell here with the options of `engine`."""
    names = []
    for name in engines.TABLE:
        with contextlib.suppress(ValueError):
            names.append(engines.choose(engine._replace(name=name), cell))
    return names


def _run_by(engine, cell, x_TxDxB, lengths_B, reverse=True):
    return engines.run_all(engine, [cell], [reverse], [x_TxDxB], lengths_B)[0]


def _inputs() -> jax.Array:
    return jax.random.normal(jax.random.key(2), (_STEPS, _INPUT, _BATCH))


def scalar(encoded: Sequence[jax.Array]) -> jax.Array:
    """A loss in which every output has its own weight."""
    weighted = [
        jnp.vdot(jax.random.normal(jax.random.key(number), array.shape), jnp.sin(array))
        for number, array in enumerate(encoded)
    ]
    return jnp.stack(weighted).sum()


def _results(cell: base.Cell, run, lengths, jit=_jit) -> tuple:
    """The outputs of one way to run a cell, and the gradients of its parameters and inputs."""
    graphdef, params = nnx.split(cell, nnx.Param)

    def loss(params, x_TxDxB):
        encoded = run(nnx.merge(graphdef, params), x_TxDxB, lengths)
        return scalar(encoded), encoded

    gradients, encoded = jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, _inputs())
    return encoded, *gradients


def _compare(results: tuple, expected: tuple, what: str) -> None:
    """Raises a CheckFailed if two ways to run a cell differ."""
    names = "outputs", "gradients of the parameters", "gradient of the inputs"
    tolerances = _VALUES, _GRADIENTS, _GRADIENTS
    for name, tolerance, one, other in zip(names, tolerances, results, expected, strict=True):
        _close(f"the {name} {what}", one, other, tolerance)


def _close(what, actual, expected, tolerance) -> None:
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        one, other = jax.device_get((one, other))
        difference, largest = abs(one - other).max(), abs(other).max()
        if not difference <= tolerance * max(largest, 1):
            raise CheckFailed(f"{what} differ by {difference:.2g}, where {largest:.2g} is largest")


def microseconds_per_step(cell_class: type[base.Cell]) -> float:
    """The time of a training step's two passes, with 128 sequences, 64 inputs and 64 units."""
    cell = contract.make(cell_class, 64, 64, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(cell, nnx.Param)
    x_TxDxB = jax.random.normal(jax.random.key(0), (_TIMED_STEPS, 64, 128))

    @jax.jit
    def gradients(params, x_TxDxB):
        def loss(params, x_TxDxB):
            cell, lengths_B = nnx.merge(graphdef, params), jnp.full(128, _TIMED_STEPS)
            return _run_by(engines.AUTO, cell, x_TxDxB, lengths_B).last_HxB.sum()

        return jax.grad(loss, argnums=(0, 1))(params, x_TxDxB)

    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        jax.block_until_ready(gradients(params, x_TxDxB))
        seconds.append(time.perf_counter() - start)
    return 1e6 * min(seconds[1:]) / _TIMED_STEPS


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m seqmodels.check_cell", description="Checks that a cell keeps its contract."
    )
    parser.add_argument("cell", help="a module in seqmodels/cells, or the path of a file")
    name = parser.parse_args(argv).cell
    try:
        program.configure_jax()
    except ValueError as error:
        sys.exit(f"error: {error}")
    try:
        cell = make(name)
    except ValueError as error:
        print(f"BROKEN  {error}")
        return 1
    print("ok      keeps the contract")
    failed = checking.print_outcomes(
        checking.outcomes(
            CHECKS, cell, lambda error: str(error) if isinstance(error, CheckFailed) else None
        )
    )
    print(
        f"engines: {', '.join(qualified(cell))}; here it runs by "
        f"{engines.choose(engines.AUTO, cell)}"
    )
    mine, lstm = (microseconds_per_step(loading.find_cell(one)) for one in (name, "lstm"))
    print(f"a step of training takes {mine:.0f} us, the LSTM's {lstm:.0f} us ({mine / lstm:.2f}x)")
    return 1 if failed else 0


if __name__ == "__main__":
    with program.lasting_streams():
        sys.exit(main(sys.argv[1:]))
