"""The GPU kernels of the fused recurrence: one for each pass, in Pallas for Triton.

A kernel's arrays are in the GPU's memory; only what is read from them is in registers. There all
sizes are powers of two, and arrays can be neither split nor concatenated: hence `gatewise`, and
hence a product over pieces of h reads them from where h was written.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.extend import core

from seqmodels.recurrence import gatewise

Algorithm = jax.lax.DotAlgorithmPreset

try:
    from jax.experimental.pallas import triton
except ImportError:  # JAX has announced that it will remove it.
    triton = None  # type: ignore[assignment]

COLUMNS = 16  # Sequences per program: the least width that the matrix units support.
SLICE = 128  # Units that a program takes at once if it cannot hold all.
_MOST_HELD = 6 * SLICE  # Units of all vectors of a step, as of an LSTM that has 128.
_HELD = 64 * 2**10  # Bytes of R that a program holds; GPUs like the A10 and L4 fit no more.
_PIECE = 64 * 64  # Elements of R, per gate, that it reads at a time if it does not hold R.


def run_here() -> bool:
    """Whether kernels run on the default device: on NVIDIA GPUs from Ampere on."""
    if jax.default_backend() != "gpu":
        return False
    capability = str(jax.local_devices()[0].compute_capability)  # "9.0", or "gfx942" on AMD.
    return capability[0].isdigit() and float(capability) >= 8


class Plan(NamedTuple):
    """Everything a kernel needs, except arrays.

    Attributes:
        size: H.
        lanes: H, padded to a power of two.
        gates: N.
        carries: C, the number of vectors in a carry.
        own: number and shape of each leaf of the cell's parameters that `update` reads.
        step: `(*carry, *own, z, u) -> carry`.
        pull_back: `(*carry, *own, z, u, *d_carry) -> (*d_carry, *d_own, d_z, d_u)`.
        precision: of products of float32, as in `jax.default_matmul_precision`.
        matrix_dtype: the dtype of both factors of a product, float32 or bfloat16; all else is
            float32, and so is the product.
        combines: `update` or its derivative combines units, as a normalisation does.
    """

    size: int
    lanes: int
    gates: int
    carries: int
    own: tuple[tuple[int, jax.ShapeDtypeStruct], ...]
    step: core.ClosedJaxpr
    pull_back: core.ClosedJaxpr
    precision: str | None
    matrix_dtype: str
    combines: bool
    interpret: bool

    @property
    def adds_up(self) -> bool:
        """Whether `update` uses only the sum z + u, so that their gradients are the same."""
        *_, d_z, d_u = self.pull_back.jaxpr.outvars
        return d_z is d_u

    @property
    def holds_matrix(self) -> bool:
        """Whether a program reads R only once; else every step reads it piece by piece."""
        return self.gates * self.lanes**2 * jnp.dtype(self.matrix_dtype).itemsize <= _HELD

    def fixed_units(self) -> list[int]:
        """For the initial carry and each part of the own parameters: H, or 1 for scalars."""
        units = [self.size] * self.carries
        for _, leaf in self.own:
            count = gatewise.count(leaf, self.size)
            units += [leaf.size // count] * count
        return units

    @property
    def sliced(self) -> bool:
        """Whether the units are taken slice by slice, by the kernels of `fused_slices`.

        So they are if the gates, carries and own parameters do not all fit into registers, and if
        `update` combines units: registers would have to hold all from one sum to the next.
        """
        held = self.lanes * (self.gates + len(self.fixed_units()))
        return self.lanes > SLICE or held > _MOST_HELD or self.combines

    @property
    def tile(self) -> tuple[int, int]:
        """The shape of what a program computes at once: units and sequences."""
        return min(self.lanes, SLICE // 2 if self.combines else SLICE), COLUMNS

    @property
    def warps(self) -> int:
        """The number of warps; twice as many where units are combined, which takes registers."""
        warps = self.tile[0] // 16
        return 2 * warps if self.combines else warps

    def evaluate(self, jaxpr: core.ClosedJaxpr, parts: gatewise.Parts, sliced=None):
        return gatewise.evaluate(jaxpr, parts, self.size, self.tile, sliced)


def call(plan: Plan, kernel, out_shapes, whole, columns) -> list[jax.Array]:
    """Calls a kernel for every 16 sequences.

    Args:
        plan: the kernel's plan.
        kernel: `forward` or `backward`.
        out_shapes: the shapes of the results, all with the batch as the last axis.
        whole: arrays that every program gets.
        columns: arrays whose last axis is the batch; every program gets its part.
    """

    def part(shape):
        return pl.BlockSpec((*shape[:-1], COLUMNS), lambda block: (*(0 for _ in shape[1:]), block))

    return pl.pallas_call(
        functools.partial(kernel, plan),
        out_shape=[jax.ShapeDtypeStruct(shape, columns[1].dtype) for shape in out_shapes],
        grid=(columns[0].shape[0] // COLUMNS,),
        in_specs=[pl.BlockSpec()] * len(whole) + [part(array.shape) for array in columns],
        out_specs=[part(shape) for shape in out_shapes],
        # One stage: prefetching would read what this step has not written yet.
        compiler_params=triton.CompilerParams(num_warps=plan.warps, num_stages=1),
        interpret=plan.interpret,
    )(*whole, *columns)


def forward(plan, reverse, matrix, fixed, lengths, z, y, last, carries) -> None:
    """From `matrix_NxHxH, fixed_FxH, lengths_B, z_TxNxHxB`: `y_Tx1xHxB, last_HxB, carries_TxCxHxB`.

    `carries` are those before every step. Results are zero after the end, so all is written.
    `reverse_1` says whether steps are taken from the last valid one to the first.
    """
    lengths_B, backwards = lengths[...], reverse[0] > 0
    num_steps = lengths_B.max()
    start, own = _fixed(plan, fixed)
    tiles = [matrix[gate] for gate in range(plan.gates)] if plan.holds_matrix else []

    def product(h, time):
        def add(units, u):
            piece = carries[time, plan.carries - 1, units]
            return [u[i] + dot(plan, matrix[i, units], piece, axis=0) for i in range(plan.gates)]

        if plan.holds_matrix:
            return [dot(plan, tile, h, axis=0) for tile in tiles]
        return _over_pieces(plan, add, [jnp.zeros_like(h)] * plan.gates)

    def body(number, carry):
        time = jnp.where(backwards, num_steps - 1 - number, number)
        _store(carries, time, carry)
        z_parts = _load(z, time)
        new = plan.evaluate(plan.step, [*carry, *own, *z_parts, *product(carry[-1], time)])
        valid = _valid(plan, time, lengths_B)
        _store(y, time, [jnp.where(valid, new[-1], 0)])
        return [jnp.where(valid, *pair) for pair in zip(new, carry, strict=True)]

    carry = jax.lax.fori_loop(0, num_steps, body, start)
    last[...] = jnp.where(lengths_B > 0, carry[-1], 0)
    _clear(plan, num_steps, y, carries)


def backward(
    plan, reverse, matrix, fixed, lengths, z, u, carries, d_y, d_last, d_fixed, d_z, d_u=None
) -> None:
    """The gradients `d_fixed_FxHxB`, `d_z_TxNxHxB` and, if it differs, `d_u_TxNxHxB`.

    `u_TxNxHxB` is the product of R with the h of `carries`; the rest is as in `forward`.
    """
    lengths_B, backwards = lengths[...], reverse[0] > 0
    num_steps = lengths_B.max()
    _, own = _fixed(plan, fixed)
    tiles = [matrix[gate] for gate in range(plan.gates)] if plan.holds_matrix else []
    num_carries, num_fixed = plan.carries, len(d_fixed)

    def product(d_parts, time, d_h):
        def add(units, d_h):
            for gate in range(plan.gates):
                piece = (d_z if d_u is None else d_u)[time, gate, units]
                d_h += dot(plan, matrix[gate, :, units], piece, axis=1)
            return d_h

        if plan.holds_matrix:
            return sum((dot(plan, *pair, axis=1) for pair in zip(tiles, d_parts, strict=True)), d_h)
        return _over_pieces(plan, add, d_h)

    def body(number, d_fixed):
        time = jnp.where(backwards, number, num_steps - 1 - number)
        valid = _valid(plan, time, lengths_B)
        d_new = [*d_fixed[: num_carries - 1], d_fixed[num_carries - 1] + d_y[time]]
        d_new = [jnp.where(valid, part, 0) for part in d_new]
        inputs = [*_load(carries, time), *own, *_load(z, time), *_load(u, time)]
        results = plan.evaluate(plan.pull_back, [*inputs, *d_new])
        results = [jnp.where(valid, part, 0) for part in results]
        d_gates = results[-plan.gates :]
        _store(d_z, time, results[num_fixed : num_fixed + plan.gates])
        if d_u is not None:
            _store(d_u, time, d_gates)
        d_carry, d_own = results[:num_carries], results[num_carries:num_fixed]
        d_carry[-1] = product(d_gates, time, d_carry[-1])
        d_carry = [jnp.where(valid, *pair) for pair in zip(d_carry, d_fixed, strict=False)]
        return d_carry + [a + b for a, b in zip(d_fixed[num_carries:], d_own, strict=True)]

    zero = jnp.zeros_like(d_last[...])
    d_start = [zero] * num_fixed
    d_start[num_carries - 1] = jnp.where(lengths_B > 0, d_last[...], 0)
    for number, part in enumerate(jax.lax.fori_loop(0, num_steps, body, d_start)):
        d_fixed[number] = part
    _clear(plan, num_steps, *([d_z] if d_u is None else [d_z, d_u]))


def _fixed(plan: Plan, fixed) -> tuple[gatewise.Parts, gatewise.Parts]:
    """The initial carry and the own parameters of every sequence."""
    shape = plan.lanes, COLUMNS
    parts = [jnp.broadcast_to(fixed[i][:, None], shape) for i in range(len(fixed))]
    return parts[: plan.carries], parts[plan.carries :]


def _valid(plan: Plan, time, lengths_B) -> jax.Array:
    """True for the units of the sequences that have this step: `[H, B]`."""
    valid_B = jnp.broadcast_to(time < lengths_B, (plan.lanes, COLUMNS))
    return valid_B & (jnp.arange(plan.lanes) < plan.size)[:, None]


def _over_pieces(plan: Plan, add, start):
    """Sums a product over pieces of h; kernels cannot split an array, so `add` reads each piece."""
    barrier(plan)
    piece = min(_PIECE // plan.lanes, plan.lanes)
    return jax.lax.fori_loop(
        0, plan.lanes // piece, lambda number, sums: add(pl.ds(number * piece, piece), sums), start
    )


def barrier(plan: Plan) -> None:
    """Waits until all threads of the program have stored their parts."""
    if not plan.interpret:
        triton.debug_barrier()


def dot(plan: Plan, tile, part, axis: int) -> jax.Array:
    """A product of two tiles, over an axis of the first and the first axis of the second.

    Args:
        plan: the kernel's plan.
        tile: of a matrix, in `plan.matrix_dtype`.
        part: float32.
        axis: of `tile`.
    """
    algorithm = None
    if not plan.interpret:
        exact = plan.precision in ("highest", "float32")
        # Without its matrix units, a GPU would need many times as long for float32.
        algorithm = Algorithm.TF32_TF32_F32_X3 if exact else Algorithm.TF32_TF32_F32
        if plan.matrix_dtype == "bfloat16":
            algorithm = Algorithm.BF16_BF16_F32
    return jax.lax.dot_general(
        tile,
        part.astype(plan.matrix_dtype),
        (((axis,), (0,)), ((), ())),
        precision=algorithm,
        preferred_element_type=part.dtype,
    )


def _load(array, time) -> gatewise.Parts:
    return [array[time, i] for i in range(array.shape[1])]


def _store(array, time, parts: gatewise.Parts) -> None:
    for i, part in enumerate(parts):
        array[time, i] = part


def _clear(plan: Plan, start, *arrays) -> None:
    """Fills arrays with zero from time `start` on."""

    def body(time, _):
        for array in arrays:
            zero = jnp.zeros((plan.lanes, COLUMNS), array.dtype)
            _store(array, time, [zero] * array.shape[1])

    jax.lax.fori_loop(start, len(arrays[0]), body, None)
