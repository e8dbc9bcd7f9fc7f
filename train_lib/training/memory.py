"""The memory that a training program needs, as its compiler says, and what there is."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train_lib.data.dataset import Split
from train_lib.training import fitting
from train_lib.training.batching import DeviceSplit
from train_lib.training.program import Program
from train_lib.training.state import TrainState


class Room(NamedTuple):
    """Bytes of memory of a machine, or of the smallest device.

    Attributes:
        total: all of it that this process may use.
        available: what is not taken.
    """

    total: int
    available: int


def needed(
    program: Program, state: TrainState, train: Split, widths: tuple[int, ...]
) -> int | None:
    """The bytes that training needs: on a device, or of a machine whose processor it uses.

    It compiles the program that `fitting.fit` then calls.

    Args:
        program: what is trained.
        state: its state at the start.
        train: the training examples.
        widths: the row widths allowed.

    Returns:
        The bytes; None: the compiler does not say.
    """
    mesh, layout = program.mesh, program.layout

    def placed(array: np.ndarray, *axes: str | None) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    split = DeviceSplit.of(train, program.task, training=True)
    steps = fitting.steps_a_call(program)
    shape = program.num_seeds, steps, layout.devices, layout.blocks, layout.rows
    places = placed(np.broadcast_to(np.int32(0), shape), "seed", None, "batch")
    compiled = program.compiled.train.lower(  # type: ignore[attr-defined]
        state, jax.tree.map(placed, split), places, steps, widths
    ).compile()
    sizes = compiled.memory_analysis()
    if sizes is None:
        return None
    of_device = (
        sizes.temp_size_in_bytes
        + sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
    )
    return int(of_device) * (mesh.local_mesh.size if _on_cpu(mesh) else 1)


def room(mesh: Mesh) -> Room | None:
    """What there is for a program on a mesh; None: unknown."""
    if _on_cpu(mesh):
        return _of_machine(pathlib.Path("/"))
    found = []
    for device in mesh.local_mesh.devices.flat:
        stats = device.memory_stats() or {}
        if "bytes_limit" not in stats:
            return None
        limit = stats["bytes_limit"]
        found.append(Room(limit, limit - stats.get("bytes_in_use", 0)))
    return Room(min(one.total for one in found), min(one.available for one in found))


def _on_cpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "cpu"


def _of_machine(root: pathlib.Path) -> Room | None:
    """A machine's memory, or what its control group (a container, a job) may use of it."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in map(_parted, lines)}
        total, available = sizes["MemTotal"], sizes["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        return None
    groups = root / "sys/fs/cgroup"
    for limit, usage in (
        (groups / "memory.max", groups / "memory.current"),
        (groups / "memory/memory.limit_in_bytes", groups / "memory/memory.usage_in_bytes"),
    ):
        try:
            most, used = int(limit.read_text()), int(usage.read_text())
        except (OSError, ValueError):  # There is none, or it is "max".
            continue
        total, available = min(total, most), min(available, most - used)
    return Room(total, max(available, 0))


def _parted(line: str) -> tuple[str, str, str]:
    return line.partition(":")
