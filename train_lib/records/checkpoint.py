"""Checkpoints: a run resumes from the last one after a kill, a full disk or a damaged file.

Orbax writes the arrays. It neither detects flipped bits in them nor falls back to an earlier
checkpoint, so this module does both.
"""

import contextlib
import functools
import json
import logging
import pathlib
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from train_lib import files
from train_lib.errors import UserError
from train_lib.files import Damaged
from train_lib.records import legacy
from train_lib.training import devices, processes

_NAME = re.compile(r"(\d+)-step-\d+")
_ARRAYS, _MANIFEST = "arrays", "manifest.json"


class Checkpoint(NamedTuple):
    """What a run needs to resume.

    Attributes:
        step: updates made.
        state: the arrays, as they were, on the devices that were asked for.
        position: where the run stood, as it was passed to `save`.
    """

    step: int
    state: Any
    position: dict


class Checkpoints:
    """The checkpoints of one run; only the last ones are kept.

    The seventh to be saved, say after 512 steps, is the folder `000007-step-512`:

        arrays/         as Orbax writes them
        manifest.json   step, position, and the dtype and shape of every array
        SHA256SUMS      of every other file; `sha256sum -c SHA256SUMS` checks them by hand

    It gets its name once all of it is on disk. Before that, and while it is being deleted, the name
    begins with a dot, and nothing reads it.

    Args:
        folder: made by the first `save`. No other process may save to it at the same time.
        keep: how many of the last ones are kept, 1 or more.
    """

    def __init__(self, folder: pathlib.Path, keep: int = 2):
        self._folder = folder.absolute()  # As Orbax requires.
        self._keep = keep
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future | None = None

    def save(self, step: int, state: Any, position: dict) -> None:
        """Saves in the background.

        Returns as soon as `state` has been computed and copied, so that its memory can be
        donated. Waits for the previous save, so there is never more than one copy.

        Args:
            step: updates made.
            state: a pytree of `jax.Array`s, keys among them.
            position: whatever else the run needs to resume, as JSON types.

        Raises:
            UserError: the previous save failed.
        """
        self.wait()
        leaves = _named(state)
        manifest = {
            "step": step,
            "position": json.loads(json.dumps(position)),  # The caller may change it later.
            "arrays": {name: _signature(leaf) for name, leaf in leaves.items()},
        }
        # The host's own copy: on a CPU, `device_get` returns the device's memory.
        values = [np.array(value) for value in devices.fetch([*map(_data, leaves.values())])]
        arrays = dict(zip(leaves, values, strict=True))
        if processes.is_first():
            self._writing = self._writer.submit(self._write, manifest, arrays)

    def wait(self) -> None:
        """Waits until everything saved is on disk.

        Call it before the program ends, even with an error: otherwise a save that is still being
        written is lost.

        Raises:
            UserError: it could not be written.
        """
        if self._writing:
            error = self._writing.exception()
            self._writing = None
            if error:
                raise error

    def restore(self, like: Any) -> Checkpoint | None:
        """The newest intact checkpoint, or None if there is none at all.

        Damaged ones are skipped, with a notice that names them.

        Args:
            like: a state of the same structure, dtypes and shapes. Its arrays are not read; the
                restored ones lie on the same devices.

        Raises:
            UserError: all are damaged, or the newest intact one does not match this state.
        """
        self.wait()
        leaves = _named(like)
        # The other processes need not have the folder.
        read = self._read(leaves) if processes.is_first() else None
        manifest = processes.from_first(lambda: read and read[0])
        if manifest is None:
            return None
        arrays = devices.from_first(read[1] if read else [*map(_zeros, leaves.values())])
        restored = map(_on_devices_of, leaves.values(), arrays)
        state = jax.tree.unflatten(jax.tree.structure(like), restored)
        return Checkpoint(manifest["step"], state, manifest["position"])

    def _read(self, leaves: dict[str, jax.Array]) -> tuple[dict, list[np.ndarray]] | None:
        """The manifest and the arrays of the newest intact checkpoint, if there is one."""
        damaged = []
        for name in reversed(self._names()):
            path = self._folder / name
            try:
                manifest = _check(path)
                return manifest, _load(path, manifest, leaves)
            except Damaged as error:
                damaged.append(f"{path} is damaged: {error}")
                print(f"notice: checkpoint {damaged[-1]}; passed over", flush=True)
        if damaged:
            raise UserError(
                "\n  ".join([f"{self._folder} has no intact checkpoint:", *damaged])
                + "\nRestore a copy of it, or train in a new folder."
            )
        return None

    def newest(self) -> pathlib.Path | None:
        """The folder of the last one saved."""
        self.wait()
        names = self._names()
        return self._folder / names[-1] if names else None

    def _names(self) -> list[str]:
        """The names of the checkpoints, in the order in which they were saved."""
        if not self._folder.is_dir():
            return []
        names = [path.name for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(names, key=_number)

    def _write(self, manifest: dict, arrays: dict[str, np.ndarray]) -> None:
        step = manifest["step"]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for leftover in self._folder.glob(".*-step-*"):
                shutil.rmtree(leftover)
            # Numbered, since a step may be saved again, with another position.
            number = max(map(_number, self._names()), default=0) + 1
            name = f"{number:06}-step-{step}"
            hidden = self._folder / f".{name}"
            hidden.mkdir()
            # Orbax refuses arrays without elements, which have nothing to save.
            _orbax().save(hidden / _ARRAYS, {key: a for key, a in arrays.items() if a.size})
            files.write(hidden / _MANIFEST, json.dumps({"name": name, **manifest}, indent=1))
            files.write(hidden / files.SUMS, files.sums(hidden, _files(hidden)))
            files.publish(hidden, self._folder / name)
            self._delete_old()
        except Exception as error:  # On a full disk, Orbax raises a ValueError.
            raise UserError(
                f"the checkpoint of step {step} could not be saved in {self._folder}: {error}\n"
                "Earlier checkpoints are untouched. Make sure that there is room and that the "
                "folder can be written to, and start the run again to resume from the last one."
            ) from error

    def _delete_old(self) -> None:
        """Deletes all but the last intact ones.

        Raises:
            Damaged: the one just saved does not read as it was written; nothing is deleted.
        """
        newest, *earlier = reversed(self._names())
        _check(self._folder / newest)
        intact = [newest]
        for name in earlier:
            if len(intact) < self._keep:
                with contextlib.suppress(Damaged):
                    _check(self._folder / name)
                    intact.append(name)
        for name in set(earlier) - set(intact):
            shutil.rmtree((self._folder / name).rename(self._folder / f".{name}"))


def _number(name: str) -> int:
    return int(name.partition("-")[0])


def _check(path: pathlib.Path) -> dict:
    """The manifest of a checkpoint, whose files it compares with their digests.

    Raises:
        Damaged: some are not as they were written; it has their names.
    """
    files.check_sums(path, _files(path))
    manifest = json.loads((path / _MANIFEST).read_text("utf-8"))
    if manifest["name"] != path.name:
        raise Damaged(f"these are the files of {manifest['name']}")
    return manifest


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files of a checkpoint except their digests."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in paths if path != folder / files.SUMS]


def _load(path: pathlib.Path, manifest: dict, leaves: dict[str, jax.Array]) -> list[np.ndarray]:
    """Loads the arrays of a checkpoint whose files are intact."""
    # By their current names, whatever version saved them.
    names = {legacy.array_name(name): name for name in manifest["arrays"]}
    saved = {name: manifest["arrays"][there] for name, there in names.items()}
    wanted = {name: _signature(leaf) for name, leaf in leaves.items()}
    differing = [
        f"{name}: {saved.get(name, 'none')} there, {wanted.get(name, 'none')} in this run"
        for name in {**wanted, **saved}
        if saved.get(name) != wanted.get(name)
    ]
    if differing:
        raise UserError(
            f"the checkpoint {path} is not of the same model, optimizer and seeds:\n  "
            + "\n  ".join(differing[:5])
            + (f"\n  and {len(differing) - 5} more" if len(differing) > 5 else "")
            + "\nResume with the config it was made with, or start in a new folder."
        )
    try:
        arrays = _orbax().restore(path / _ARRAYS)
    except Exception as error:  # Orbax may raise anything if it cannot read.
        raise Damaged(f"Orbax cannot read it: {error}") from error
    return [arrays[names[name]] if leaf.size else _zeros(leaf) for name, leaf in leaves.items()]


def _named(state: Any) -> dict[str, jax.Array]:
    """Every array under its path, as in `.params['head']['kernel'].value`; no two share one."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _signature(array: jax.Array) -> str:
    """Dtype and shape, as in `float32[10, 16]` or `key<fry>[10]`."""
    return f"{array.dtype}{list(array.shape)}"


def _is_key(array: jax.Array) -> bool:
    return jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)


def _data(array: jax.Array) -> jax.Array:
    """The numbers of an array; those of a key are unsigned integers."""
    return jax.random.key_data(array) if _is_key(array) else array


def _zeros(array: jax.Array) -> np.ndarray:
    """As many zeros as an array has numbers."""
    return np.zeros(_data(array).shape, _data(array).dtype)


def _on_devices_of(array: jax.Array, value: np.ndarray) -> jax.Array:
    """The numbers as an array of the kind and with the sharding of another."""
    numbers = devices.put(value, array.sharding)
    if _is_key(array):
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(array))
    return numbers


@functools.cache
def _orbax():
    """Orbax, imported late since that takes longer than a save; it waits for no process."""
    from orbax import checkpoint

    # It prints the tracebacks of its errors before it raises them.
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    # Its next version, `checkpoint.v1`, compares the folders of all processes, whatever it is told.
    alone = checkpoint.options.MultiprocessingOptions(active_processes={0})
    handler = checkpoint.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return checkpoint.Checkpointer(handler, multiprocessing_options=alone)
