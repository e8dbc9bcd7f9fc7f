"""Files of weights: `.keras`, `.weights.h5`, `.pt` or `.pth`, and `.safetensors`.

No file is trusted: only `torch.load(weights_only=True)` unpickles anything, and only arrays that
lie in an HDF5 file itself are read from it.
"""

import datetime
import importlib
import io
import json
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from train_lib import files
from train_lib.errors import UserError
from train_lib.interchange import keras, torch
from train_lib.interchange.layout import Arrays, Layout, Taken

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
"""The files in a `.keras` file."""

_VERSION = "3.12.0"
"""The first version of Keras that the tests were run with: files are written in its form."""


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        needs: the package that reads and writes it.
        read: takes a path, a layout and arrays of the right shapes.
        write: takes a layout and its arrays.
    """

    needs: str
    read: Callable[[pathlib.Path, Layout, Arrays], Taken]
    write: Callable[[Layout, Arrays], bytes]


def read(name: str, layout: Layout, like: Arrays) -> Taken:
    """Reads the parameters of a model from another library's file.

    Args:
        name: the name of the file; its suffix says of what kind it is.
        layout: the model's layout.
        like: arrays of the right shapes, by our paths.

    Raises:
        UserError: the file cannot be read, or is not of such a model; the message says what
            differs.
    """
    path, chosen = files.local(name), find(name)
    if not path.is_file():
        raise UserError(f"{path} is not a file.")
    try:
        return chosen.read(path, layout, like)
    except UserError:
        raise
    except Exception as error:  # A library may raise anything for a damaged file.
        text = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {text:.300}). It is damaged, or not "
            "what its name says."
        ) from error


def write(name: str, layout: Layout, arrays: Arrays) -> None:
    """Writes the parameters of a model for another library.

    Args:
        name: the name of the file, which must be new; its suffix says of what kind it is.
        layout: the model's layout.
        arrays: the arrays, by our paths.

    Raises:
        UserError: it exists already or cannot be written, or the model has no counterpart.
    """
    path, chosen = files.local(name), find(name)
    if path.exists():
        raise UserError(f"{path} already exists and will not be overwritten; choose another name.")
    content = chosen.write(layout, arrays)
    try:
        files.write(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error


def find(name: str) -> Format:
    """The format of a file by the suffix of its name.

    Raises:
        UserError: there is none, or its package is not installed.
    """
    chosen = next((one for end, one in FORMATS.items() if name.lower().endswith(end)), None)
    if chosen is None:
        raise UserError(
            f"{name} is not a weight file that can be read or written: its name must end in one "
            f"of {', '.join(FORMATS)}. Save what Keras saved as .h5 again, as .keras."
        )
    try:
        importlib.import_module(chosen.needs)
    except ImportError as error:
        raise UserError(
            f"{name} needs the package {chosen.needs}, which is not installed: pip install "
            f"{chosen.needs}"
        ) from error
    return chosen


def _read_keras(path: pathlib.Path, layout: Layout, like: Arrays) -> Taken:
    with zipfile.ZipFile(path) as archive:
        notes = keras.check_config(layout, archive.read(_CONFIG), str(path))
        arrays = _of_hdf5(io.BytesIO(archive.read(_WEIGHTS)), str(path))
    taken = keras.of_keras(layout, arrays, str(path), like)
    return taken._replace(notes=notes + taken.notes)


def _write_keras(layout: Layout, arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    saved = f"{datetime.datetime.now():%Y-%m-%d@%H:%M:%S}"
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(_METADATA, json.dumps({"keras_version": _VERSION, "date_saved": saved}))
        archive.writestr(_CONFIG, json.dumps(keras.config_of(layout)))
        archive.writestr(_WEIGHTS, _write_hdf5(layout, arrays))
    return buffer.getvalue()


def _read_hdf5(path: pathlib.Path, layout: Layout, like: Arrays) -> Taken:
    return keras.of_keras(layout, _of_hdf5(str(path), str(path)), str(path), like)


def _of_hdf5(file: Any, where: str) -> Arrays:
    """All arrays of an HDF5 file, by their paths in it."""
    import h5py

    arrays: Arrays = {}

    def take(name: str, one: Any) -> None:  # It is not called for links.
        if not isinstance(one, h5py.Dataset):
            return
        # Else bytes of other files, or shapes without bytes, would be read as well.
        if one.external or one.is_virtual or one.id.get_storage_size() != one.nbytes:
            raise UserError(f"{where}: {name} is not stored as Keras stores an array.")
        arrays[name] = one[...]

    with h5py.File(file, "r") as opened:
        opened.visititems(take)
    return arrays


def _write_hdf5(layout: Layout, arrays: Arrays) -> bytes:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as opened:
        for name, array in keras.to_keras(layout, arrays).items():
            opened.create_dataset(name, data=array)
    return buffer.getvalue()


def _read_torch(path: pathlib.Path, layout: Layout, like: Arrays) -> Taken:
    import torch as library

    try:
        found = library.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # For example, pickled objects that are not arrays.
        text = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path} cannot be read as arrays alone, and nothing else is ever loaded "
            f"({type(error).__name__}: {text:.200}). It is damaged, or a whole module was saved: "
            "save its arrays, by torch.save(module.state_dict(), FILE)."
        ) from error
    for name in ("state_dict", "model_state_dict"):  # A checkpoint has more.
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(one, library.Tensor) for name, one in found.items()
    ):
        raise UserError(
            f"{path} is not a state_dict of names and arrays; save it by "
            "torch.save(module.state_dict(), FILE)."
        )
    halves = (library.bfloat16, library.float16)  # NumPy lacks the first.
    arrays = {
        name: (one.float() if one.dtype in halves else one).detach().numpy()
        for name, one in found.items()
    }
    return torch.of_torch(layout, arrays, str(path), like)


def _write_torch(layout: Layout, arrays: Arrays) -> bytes:
    import torch as library

    buffer = io.BytesIO()
    found = torch.to_torch(layout, arrays)
    library.save({name: library.tensor(array) for name, array in found.items()}, buffer)
    return buffer.getvalue()


def _read_safetensors(path: pathlib.Path, layout: Layout, like: Arrays) -> Taken:
    from safetensors import numpy as library

    found = library.load_file(path)

    def in_order(name: str) -> list:  # The file does not keep it: lstm2 before lstm10.
        return [(len(one), one) if one.isdigit() else (0, one) for one in re.split(r"(\d+)", name)]

    arrays = {name: np.asarray(found[name]) for name in sorted(found, key=in_order)}
    return torch.of_torch(layout, arrays, str(path), like)


def _write_safetensors(layout: Layout, arrays: Arrays) -> bytes:
    from safetensors import numpy as library

    return library.save(torch.to_torch(layout, arrays), {"format": "pt"})


_TORCH = Format("torch", _read_torch, _write_torch)

FORMATS: dict[str, Format] = {
    ".keras": Format("h5py", _read_keras, _write_keras),
    ".weights.h5": Format("h5py", _read_hdf5, _write_hdf5),
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".safetensors": Format("safetensors", _read_safetensors, _write_safetensors),
}
"""By the suffix of a file's name."""
