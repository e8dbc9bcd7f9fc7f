"""What a run computes on."""

import math
import os

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from train_lib import files
from train_lib.data.batches import Layout


def configure() -> None:
    """Sets JAX up for a program of its own; to be called before JAX is first used.

    Every CPU core becomes a device, up to eight, since a step of a small recurrent model keeps only
    one busy, and a second start finds what the first one compiled.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # A share of a batch of 512 below 64 rows no longer fills the vector units.
    jax.config.update("jax_num_cpu_devices", min(cores or 1, 8))
    jax.config.update("jax_compilation_cache_dir", str(files.cache_dir() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def mesh(num_seeds: int = 1) -> Mesh:
    """All devices, along the axes `seed` and `batch`.

    Seeds have nothing to wait for from each other, so as many devices as divide them evenly work on
    seeds of their own.
    """
    of_seeds = math.gcd(num_seeds, jax.device_count())
    shape = of_seeds, jax.device_count() // of_seeds
    return jax.make_mesh(shape, ("seed", "batch"), (AxisType.Auto,) * 2)


def seeds_at_once(num_seeds: int, mesh: Mesh) -> int:
    """How many of its seeds a device computes together.

    On a CPU one after the other: its time is that of the arithmetic, of which there is as much
    either way, and each seed has its own lengths. Anything else waits for its memory most of the
    time, which all seeds can share.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return 1 if on_cpu else num_seeds // mesh.shape["seed"]


def layout(batch_size: int, mesh: Mesh) -> Layout:
    """How the rows of a batch are spread over the devices that share it.

    A core works on blocks of so many rows that the arrays of a step stay in its cache. Anything
    else takes all its rows at once.
    """
    max_rows = 128 if mesh.devices.flat[0].platform == "cpu" else float("inf")
    return Layout.of(batch_size, mesh.shape["batch"], max_rows)


def spread(places: np.ndarray, mesh: Mesh) -> jax.Array:
    """Places of reviews, each on its device: `[S, P, N, R]` for all seeds, or `[K, S, P, N, R]`."""
    axes = (None, "batch") if places.ndim == 4 else ("seed", None, "batch")
    return jax.device_put(places, NamedSharding(mesh, PartitionSpec(*axes)))


def replicate(arrays, mesh: Mesh):
    """Arrays whole on every device."""
    return jax.device_put(arrays, NamedSharding(mesh, PartitionSpec()))


def spread_seeds(arrays_K, mesh: Mesh):
    """Arrays with an axis of seeds in front, each seed on its devices."""
    return jax.device_put(arrays_K, NamedSharding(mesh, PartitionSpec("seed")))
