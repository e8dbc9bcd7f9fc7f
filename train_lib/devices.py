"""What a run computes on."""

import os

import jax
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


def mesh() -> Mesh:
    """All devices, along the axis `batch`."""
    return jax.make_mesh((jax.device_count(),), ("batch",), (AxisType.Auto,))


def layout(batch_size: int, mesh: Mesh) -> Layout:
    """How the rows of a batch are spread over the devices.

    A core works on blocks of so many rows that the arrays of a step stay in its cache. Anything
    else takes all its rows at once.
    """
    max_rows = 128 if mesh.devices.flat[0].platform == "cpu" else float("inf")
    return Layout.of(batch_size, mesh.size, max_rows)


def spread(places_SxPxNxR, mesh: Mesh) -> jax.Array:
    """Places of reviews, each on its device."""
    return jax.device_put(places_SxPxNxR, NamedSharding(mesh, PartitionSpec(None, "batch")))


def replicate(arrays, mesh: Mesh):
    """Arrays whole on every device."""
    return jax.device_put(arrays, NamedSharding(mesh, PartitionSpec()))
