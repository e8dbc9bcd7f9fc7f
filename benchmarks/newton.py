"""The iterations that the engine `newton` needs, with initial parameters, for each pointwise cell.

Where it says "loop", there are too many, and a loop takes the steps.

python -m benchmarks.newton
python -m benchmarks.newton indrnn --options="memory_steps=500"
"""

import argparse
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import contract, loading
from seqmodels.cells import base
from seqmodels.recurrence import newton

_STEPS = (256, 512, 1024, 2048, 4096)
_SIZE, _BATCH = 64, 16  # Inputs and units; sequences.


@functools.partial(jax.jit, static_argnums=0)
def _iterations(graphdef, params, x_TxDxB):
    lengths_B = jnp.full(_BATCH, len(x_TxDxB))
    return newton.iterations(nnx.merge(graphdef, params), x_TxDxB, lengths_B)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.newton", description=__doc__)
    parser.add_argument("cells", nargs="*", help="names of cells; none: all pointwise ones")
    parser.add_argument("--options", default="", help="options of the cells' constructors")
    arguments = parser.parse_args()
    names = arguments.cells or [
        name
        for name in loading.cell_names()
        if issubclass(loading.find_cell(name), base.PointwiseCell)
    ]
    options = loading.parse_options(arguments.options)
    print(f"{'T':12}" + "".join(f"{steps:6}" for steps in _STEPS))
    for name in names:
        cell = contract.make(
            loading.find_cell(name), _SIZE, _SIZE, rngs=nnx.Rngs(0), options=options
        )
        counts = [
            int(
                _iterations(
                    *nnx.split(cell, nnx.Param),
                    jax.random.normal(jax.random.key(0), (steps, _SIZE, _BATCH)),
                )
            )
            for steps in _STEPS
        ]
        words = (str(count) if count < newton.MAX_ITERATIONS else "loop" for count in counts)
        print(f"{name:12}" + "".join(f"{word:>6}" for word in words), flush=True)


if __name__ == "__main__":
    main()
