"""The devices that a run computes on."""

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
    """Configures JAX for a standalone program; call it before JAX is first used.

    Every CPU core becomes a device, up to eight, since a step of a small recurrent model keeps only
    one busy. A second start reuses what the first one compiled. Results do not depend on
    environment variables; see `seqmodels.program`.

    Raises:
        UserError: there is no device to compute on.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # With more, a device's share of a batch of 512, below 64 rows, would not fill the vector units.
    jax.config.update("jax_num_cpu_devices", min(cores or 1, 8))
    jax.config.update("jax_compilation_cache_dir", _compiled_dir())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    try:
        program.configure_jax()
    except ValueError as error:
        raise UserError(str(error)) from error


def _compiled_dir() -> str | None:
    """The folder of compiled programs; None, with a note, if it cannot be created."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(files.cache_dir() / "compiled"))
    if folder and not folder.startswith(("gs://", "s3://")):  # JAX handles these two itself.
        try:
            files.local(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            print(f"note: compiled programs are not kept: {error}", file=sys.stderr)
            return None
    return folder or None


def mesh(num_seeds: int = 1, rows: int | None = None) -> Mesh:
    """All devices of all processes, along the axes `seed` and `batch`.

    A CPU whose cores would wait for one that has a row leaves them out.

    Seeds never wait for each other, so they are split over as many groups of devices as divide
    them evenly. The devices of a process are adjacent, so that a batch is spread over as few
    processes as possible.
    """
    of_seeds = math.gcd(num_seeds, jax.device_count())
    of_batch = jax.device_count() // of_seeds
    if rows is not None and processes.count() == 1 and jax.default_backend() == "cpu":
        of_batch = min(of_batch, rows)  # Those of a TPU must form a cuboid.
    return jax.make_mesh(
        (of_seeds, of_batch),
        ("seed", "batch"),
        (AxisType.Auto,) * 2,
        devices=jax.devices()[: of_seeds * of_batch],
    )


def seeds_at_once(num_seeds: int, mesh: Mesh) -> int:
    """The number of seeds that a device computes together.

    On a CPU one after another: arithmetic dominates there, there is as much of it either way, and
    each seed has its own lengths. Any other device mostly waits for memory, and all seeds can share
    that wait.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return 1 if on_cpu else num_seeds // mesh.shape["seed"]


def layout(batch_size: int, mesh: Mesh, batches: int = 1) -> Layout:
    """How the rows of a batch are spread over the devices that share it.

    A CPU core works on blocks small enough for the arrays of a step to stay in its cache. Any other
    device takes all its rows at once. If several batches make one update, they are blocks too, no
    larger than those of a single batch.
    """
    max_rows = 128 if mesh.devices.flat[0].platform == "cpu" else float("inf")
    of_batch = Layout.of(batch_size, mesh.shape["batch"], max_rows)
    return Layout.of(batch_size * batches, mesh.shape["batch"], of_batch.rows)


def spread(places: np.ndarray, mesh: Mesh) -> jax.Array:
    """Puts places of examples, `[S, P, N, R]` of all seeds or `[K, S, P, N, R]`, on devices."""
    axes = (None, "batch") if places.ndim == 4 else ("seed", None, "batch")
    return put(places, NamedSharding(mesh, PartitionSpec(*axes)))


def replicate(arrays, mesh: Mesh):
    """Copies whole arrays to every device."""
    return jax.tree.map(lambda array: put(array, NamedSharding(mesh, PartitionSpec())), arrays)


def spread_seeds(arrays_K, mesh: Mesh):
    """Puts each seed of arrays with a leading axis of seeds on its devices."""
    by_seed = NamedSharding(mesh, PartitionSpec("seed"))
    return jax.tree.map(lambda array_K: put(array_K, by_seed), arrays_K)


def spread_rows(arrays_K, mesh: Mesh):
    """Puts each block of arrays with leading axes of seeds and blocks on its device."""
    by_block = NamedSharding(mesh, PartitionSpec("seed", "batch"))
    return jax.tree.map(lambda array_K: put(array_K, by_block), arrays_K)


def put(array, sharding: Sharding) -> jax.Array:
    """Puts an array that all processes have on devices of all of them.

    `jax.device_put` would first compare their copies.
    """
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        numbers = put(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(array))
    on_host = np.asarray(array)
    return jax.make_array_from_callback(on_host.shape, sharding, lambda index: on_host[index])


def whole(arrays):
    """Gives every process whole arrays, which may be spread over devices of several processes.

    All processes must call it. It does not wait.
    """

    def gather(array):
        if not isinstance(array, jax.Array) or array.is_fully_addressable:
            return array
        assert isinstance(array.sharding, NamedSharding)
        return jax.device_put(array, NamedSharding(array.sharding.mesh, PartitionSpec()))

    return jax.tree.map(gather, arrays)


def fetch(arrays):
    """Copies arrays to the host of every process; all processes must call it."""
    return jax.device_get(whole(arrays))


def from_first(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The first process's arrays, bit for bit; the others pass arrays of the same shapes."""
    if processes.count() == 1:
        return list(arrays)
    mesh = Mesh(jax.devices(), "device")  # In the order of processes.
    by_device, everywhere = (
        NamedSharding(mesh, PartitionSpec("device")), NamedSharding(mesh, PartitionSpec()),
    )  # fmt: skip
    # As bytes: the transfer adds numbers to zeros, which turns -0.0 into 0.0.
    rows = [np.frombuffer(array.tobytes(), np.uint8) for array in arrays]
    spread = [put(np.broadcast_to(row, (mesh.size, len(row))), by_device) for row in rows]
    take_first = jax.jit(lambda all_rows: [row[0] for row in all_rows], out_shardings=everywhere)
    return [
        np.asarray(received).view(array.dtype).reshape(array.shape)
        for received, array in zip(take_first(spread), arrays, strict=True)
    ]


def connect(mesh: Mesh) -> None:
    """Waits for all processes and connects their devices.

    CPU devices wait for each other for half a minute when they first connect, and indefinitely from
    then on. Call this before anything that takes some processes longer than others, such as
    compilation.
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
