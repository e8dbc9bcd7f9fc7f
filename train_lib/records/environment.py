"""What results depend on besides the config and the data: machine, devices, versions."""

import contextlib
import os
import pathlib
import platform
from importlib import metadata

import jax
from jax.sharding import Mesh

from train_lib.training import processes

COMPILER_VARIABLES = (
    "XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
)  # fmt: skip
"""Variables that a user may set, and that affect the last bits of results."""


def describe_mesh(mesh: Mesh) -> str:
    """The devices that results depend on, as in `2 x cpu` or `16 x NVIDIA H100, 2 processes`."""
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}{_several()}"


def describe_device() -> str:
    """What JAX runs on, as in `cpu: AMD EPYC, 2 cores` or `gpu: 1 x NVIDIA H100`."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        count = jax.device_count()
        return f"{device.platform}: {count} x {device.device_kind}{_several()}"
    names = []
    with contextlib.suppress(OSError):
        cpuinfo = pathlib.Path("/proc/cpuinfo").read_text("utf-8", "replace")
        names = [line.partition(":")[2] for line in cpuinfo.splitlines() if "model name" in line]
    name = names[0].strip() if names else platform.machine()
    return f"cpu: {name}, {os.cpu_count()} cores{_several()}"


def _several() -> str:
    return f", {processes.count()} processes" if processes.count() > 1 else ""


def versions() -> dict[str, str]:
    """The versions that results depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
        **{name: os.environ[name] for name in COMPILER_VARIABLES if os.environ.get(name)},
    }
