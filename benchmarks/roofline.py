"""The share of the machine's matrix and memory speed that training reaches.

python -m benchmarks.roofline
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from benchmarks import workload
from train_lib import building
from train_lib.training import Program, batching, devices, fitting, optimizers
from train_lib.training.batching import DeviceSplit

_REPEATS = 5


def seconds_of(call: Callable[[], object]) -> float:
    """The fastest of several runs, after one that compiles."""
    jax.block_until_ready(call())
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def matrix_flops(mesh, size: int = 1536) -> float:
    """Floating-point operations per second of large float32 products, one on every device."""
    spec = PartitionSpec("batch")
    square = jnp.ones((mesh.size, size, size), jnp.float32)
    product = jax.jit(
        jax.shard_map(lambda a: a @ a, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    )
    square = jax.device_put(square, jax.sharding.NamedSharding(mesh, spec))
    return mesh.size * 2 * size**3 / seconds_of(lambda: product(square))


def memory_bytes(mesh, size: int = 2**26) -> float:
    """Bytes per second that all devices together read and write of an array too big for caches."""
    spec = PartitionSpec("batch")
    array = jax.device_put(
        np.ones(mesh.size * size, np.float32), jax.sharding.NamedSharding(mesh, spec)
    )
    passes = 8  # In the same memory: allocating takes longer than writing.
    add = jax.jit(lambda array: jax.lax.fori_loop(0, passes, lambda _, a: a + 1.0, array))
    return passes * 2 * array.nbytes / seconds_of(lambda: add(array))


def flops_a_step(training) -> int:
    """Operations of the products for a step of a review: forwards, and twice that backwards.

    The engine repeats the forward products on the way back; that is not counted as useful.
    """
    cells = [
        2 * (input_size + hidden_size) * 4 * hidden_size * len(training.directions)
        for input_size, hidden_size in zip(training.input_sizes, training.hidden_sizes, strict=True)
    ]
    return 3 * sum(cells)


def kept_bytes_a_step(training) -> int:
    """The least moved through memory for a step of a review, since an epoch's are too many.

    Written once and read once: every layer's input and its gradient, each cell's carry and output.
    """
    floats = 2 * training.input_sizes[0]
    for hidden_size in training.hidden_sizes:
        floats += len(training.directions) * hidden_size * 4  # c, h, y and the gradient of y.
    return 2 * 4 * floats


def epoch_seconds(architecture: str, data, task) -> tuple[float, int]:
    """Seconds of an epoch's updates in the exact treatment, and the steps of all its rows."""
    config = workload.config_of(architecture, masked=True)
    program = Program(
        building.build_models(config, data.inputs, task, [0]),
        task,
        optimizers.adam(config.train.learning_rate, config.train.adam_epsilon),
        batch_size=workload.BATCH_SIZE,
        treatment=building.treatment_of(config),
    )
    train_state = fitting.start(program, [0]).training.state
    lengths = data.train.lengths
    rng = np.random.default_rng(0)
    plans = batching.plans(lengths, program.treatment, workload.BATCH_SIZE, rng)
    places = program.layout.place_all(plans, lengths, len(plans))[None]
    spread = devices.spread(places, program.mesh)
    on_device = devices.replicate(DeviceSplit.of(data.train, task), program.mesh)
    widths = batching.row_widths(data.train, [data.validation, data.test], program.treatment)

    def epoch():
        nonlocal train_state
        train_state, sums = program.compiled.train(
            train_state, on_device, spread, len(plans), widths
        )
        return sums

    return seconds_of(epoch), batching.steps_taken(places, lengths, widths)


def main() -> None:
    devices.configure()
    mesh = devices.mesh()
    data, task = building.load_data(workload.config_of("lstm", masked=True))
    words = int(data.train.lengths.sum())
    matrix, memory = matrix_flops(mesh), memory_bytes(mesh)
    print(f"machine: {workload.machine()['device']}")
    print(f"large float32 products: {matrix / 1e9:.0f} GFLOP/s; memory: {memory / 1e9:.1f} GB/s")
    for architecture in workload.ARCHITECTURES:
        training = workload.training_of(workload.config_of(architecture, masked=True))
        seconds, padded = epoch_seconds(architecture, data, task)
        reached = flops_a_step(training) * padded / seconds
        moved = kept_bytes_a_step(training) * padded / seconds
        print(
            f"{architecture}: epoch {seconds:.2f} s, {words / padded:.0%} of its steps are words; "
            f"useful products {reached / 1e9:.1f} GFLOP/s, {reached / matrix:.0%} of the machine "
            f"({4 / 3 * reached / matrix:.0%} with those computed again); "
            f"kept results {moved / 1e9:.1f} GB/s, {moved / memory:.0%}"
        )


if __name__ == "__main__":
    main()
