"""What a run computes on."""

import os

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from train_lib import files


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


def mesh(batch_size: int) -> Mesh:
    """As many devices as divide a batch evenly, along the axis `batch`."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    return jax.make_mesh((count,), ("batch",), (AxisType.Auto,), devices=devices[:count])


def spread(batch, mesh: Mesh):
    """Arrays with their rows spread over the devices."""
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("batch")))


def replicate(arrays, mesh: Mesh):
    """Arrays whole on every device."""
    return jax.device_put(arrays, NamedSharding(mesh, PartitionSpec()))
