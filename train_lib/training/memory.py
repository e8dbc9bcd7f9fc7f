"""The memory that a training program needs, as its compiler says, and what there is."""

import pathlib
from collections.abc import Iterator
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
        lines = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
        sizes = {name: 1024 * int(size) for name, size, *_ in lines}
        total, available = sizes["MemTotal:"], sizes["MemAvailable:"]
    except (OSError, KeyError, ValueError):
        return None
    for group in _control_groups(root):
        for limit, usage in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),  # Version 1.
        ):
            try:
                most, used = int((group / limit).read_text()), int((group / usage).read_text())
            except (OSError, ValueError):  # There is none, or it is "max".
                continue
            total, available = min(total, most), min(available, most - used)
    return Room(total, max(available, 0))


def _control_groups(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Folders of the groups that this process is in, outer ones too: each may have a limit.

    Inside a container, a path may be the host's, of which only the outermost folder is there.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
            inner = pathlib.PurePosixPath(path.lstrip("/"))
            yield from (top / one for one in (inner, *inner.parents))
