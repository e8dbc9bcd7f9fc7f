"""What a run computes on."""

import math
import os
import sys
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from seqmodels import program
from train_lib import files
from train_lib.errors import UserError
from train_lib.training import processes
from train_lib.training.batching import Layout


def configure() -> None:
    """Sets JAX up for a program of its own; to be called before JAX is first used.

    Every CPU core becomes a device, up to eight, since a step of a small recurrent model keeps only
    one busy, and a second start finds what the first one compiled. Numbers do not depend on
    environment variables, as `seqmodels.program` says.

    Raises:
        UserError: there is nothing to compute on.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # A share of a batch of 512 below 64 rows no longer fills the vector units.
    jax.config.update("jax_num_cpu_devices", min(cores or 1, 8))
    jax.config.update("jax_compilation_cache_dir", _compiled_dir())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    try:
        program.configure_jax()
    except ValueError as error:
        raise UserError(str(error)) from error


def _compiled_dir() -> str | None:
    """The folder of compiled programs; None, with a note, where it cannot be made."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(files.cache_dir() / "compiled"))
    if folder and not folder.startswith(("gs://", "s3://")):  # JAX reads these two by itself.
        try:
            files.local(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            print(f"note: compiled programs are not kept: {error}", file=sys.stderr)
            return None
    return folder or None


def mesh(num_seeds: int = 1) -> Mesh:
    """All devices of all processes, along the axes `seed` and `batch`.

    Seeds have nothing to wait for from each other, so as many devices as divide them evenly work on
    seeds of their own. Those of a process stand beside each other, so that a batch is spread over
    as few processes as can be.
    """
    of_seeds = math.gcd(num_seeds, jax.device_count())
    shape = of_seeds, jax.device_count() // of_seeds
    return jax.make_mesh(shape, ("seed", "batch"), (AxisType.Auto,) * 2)


def seeds_at_once(num_seeds: int, mesh: Mesh) -> int:
    """How many of its seeds a device computes together.

    On a CPU one after the other: its time is that of the arithmetic, and there is as much
    either way, and each seed has its own lengths. Anything else waits for its memory most of the
    time, which all seeds can share.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return 1 if on_cpu else num_seeds // mesh.shape["seed"]


def layout(batch_size: int, mesh: Mesh, batches: int = 1) -> Layout:
    """How the rows of a batch are spread over the devices that share it.

    A core works on blocks of so many rows that the arrays of a step stay in its cache. Anything
    else takes all its rows at once. Several batches that make one update are blocks too, none of
    which is larger than it is in one batch.
    """
    max_rows = 128 if mesh.devices.flat[0].platform == "cpu" else float("inf")
    of_batch = Layout.of(batch_size, mesh.shape["batch"], max_rows)
    return Layout.of(batch_size * batches, mesh.shape["batch"], of_batch.rows)


def spread(places: np.ndarray, mesh: Mesh) -> jax.Array:
    """Places of examples, each on its device: `[S, P, N, R]` of all seeds or `[K, S, P, N, R]`."""
    axes = (None, "batch") if places.ndim == 4 else ("seed", None, "batch")
    return put(places, NamedSharding(mesh, PartitionSpec(*axes)))


def replicate(arrays, mesh: Mesh):
    """Arrays whole on every device."""
    return jax.tree.map(lambda array: put(array, NamedSharding(mesh, PartitionSpec())), arrays)


def spread_seeds(arrays_K, mesh: Mesh):
    """Arrays with an axis of seeds in front, each seed on its devices."""
    by_seed = NamedSharding(mesh, PartitionSpec("seed"))
    return jax.tree.map(lambda array_K: put(array_K, by_seed), arrays_K)


def spread_rows(arrays_K, mesh: Mesh):
    """Arrays with axes of seeds and of blocks in front, each block on its device."""
    by_block = NamedSharding(mesh, PartitionSpec("seed", "batch"))
    return jax.tree.map(lambda array_K: put(array_K, by_block), arrays_K)


def put(array, sharding: Sharding) -> jax.Array:
    """An array that all processes have, on devices of all of them.

    `jax.device_put` would first compare what they have.
    """
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        numbers = put(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(array))
    on_host = np.asarray(array)
    return jax.make_array_from_callback(on_host.shape, sharding, lambda index: on_host[index])


def whole(arrays):
    """Arrays that every process has whole, where they may lie on devices of several.

    All processes must call it. It does not wait.
    """

    def gather(array):
        if not isinstance(array, jax.Array) or array.is_fully_addressable:
            return array
        assert isinstance(array.sharding, NamedSharding)
        return jax.device_put(array, NamedSharding(array.sharding.mesh, PartitionSpec()))

    return jax.tree.map(gather, arrays)


def fetch(arrays):
    """The same arrays on the host of every process; all of them must call it."""
    return jax.device_get(whole(arrays))


def from_first(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the first process has, bit for bit; the others bring arrays of the same shapes."""
    if processes.count() == 1:
        return list(arrays)
    mesh = Mesh(jax.devices(), "device")  # In the order of processes.
    by_device, everywhere = (
        NamedSharding(mesh, PartitionSpec("device")), NamedSharding(mesh, PartitionSpec()),
    )  # fmt: skip
    # As bytes: numbers are added to zeros on their way, which makes 0.0 of -0.0.
    rows = [np.frombuffer(array.tobytes(), np.uint8) for array in arrays]
    spread = [put(np.broadcast_to(row, (mesh.size, len(row))), by_device) for row in rows]
    take_first = jax.jit(lambda all_rows: [row[0] for row in all_rows], out_shardings=everywhere)
    return [
        np.asarray(received).view(array.dtype).reshape(array.shape)
        for received, array in zip(take_first(spread), arrays, strict=True)
    ]


def connect(mesh: Mesh) -> None:
    """Waits for all processes and lets their devices find each other.

    Those of a CPU wait half a minute for each other when they first meet, and without end from then
    on. To be called before what takes some processes longer than others, as compilation does.
    """
    if processes.count() > 1:
        processes.wait_for_all()
        spec = PartitionSpec("seed", "batch")
        meet = jax.shard_map(
            lambda one: (jax.lax.psum(one, "seed"), jax.lax.psum(one, "batch")),
            mesh=mesh,
            in_specs=spec,
            out_specs=(PartitionSpec(None, "batch"), PartitionSpec("seed")),
        )
        jax.jit(meet)(put(np.ones(mesh.devices.shape), NamedSharding(mesh, spec)))
