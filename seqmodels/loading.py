"""Loads classes by name or from files, and parses options from text, for command lines."""

import ast
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import traceback
import types
from typing import Any

from seqmodels import cells
from seqmodels.cells.base import Cell


def names(package: types.ModuleType) -> list[str]:
    """The names that `find` accepts for a package, in alphabetical order: its modules.

    Excluded are `base`, the programs `check_...`, and names that begin with an underscore.
    """
    modules = (one.name for one in pkgutil.iter_modules(package.__path__) if not one.ispkg)
    return sorted(
        name for name in modules if name != "base" and not name.startswith(("_", "check_"))
    )


def cell_names() -> list[str]:
    """The available cells: the modules in `seqmodels/cells`, in alphabetical order."""
    return names(cells)


def find_cell(name: str) -> type[Cell]:
    """The cell class that `seqmodels/cells/<name>.py`, or a user's own file, defines.

    Raises:
        ValueError: as in `find`.
    """
    return find(name, Cell, cells, "cell")


def find(name: str, base: type, package: types.ModuleType, what: str) -> type[Any]:
    """The class that a module of a package, or a user's own file, defines.

    Args:
        name: the name of a module, or the path of a file that ends in `.py`. The file is executed.
        base: the class it derives from; for a protocol, having its methods is enough. Classes whose
            names begin with an underscore do not count.
        package: the package of the modules.
        what: what messages call the class, such as "cell".

    Raises:
        ValueError: there is no such module or file, it cannot be run, or it does not define exactly
            one such class.
    """
    if name.endswith(".py"):
        module = _run(name, what)
    elif name in names(package):
        module = importlib.import_module(f"{package.__name__}.{name}")
    else:
        raise ValueError(
            f"unknown {what} {name!r}; choose one of {', '.join(names(package))}, or give the path "
            "of a file of your own, which ends in .py"
        )
    defined = [
        value
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and not key.startswith("_")
        and value.__module__ == module.__name__
        and _is_a(value, base)
    ]
    if len(defined) != 1:
        found = ", ".join(one.__name__ for one in defined) or "none"
        raise ValueError(
            f"{module.__file__} must define one subclass of {base.__name__} of {base.__module__}; "
            f"it defines {found}"
        )
    return defined[0]


def _is_a(value: type, base: type) -> bool:
    if base in value.__mro__:
        return True
    methods = [
        name for name, one in vars(base).items() if inspect.isfunction(one) and name[0] != "_"
    ]
    is_protocol = getattr(base, "_is_protocol", False)
    return is_protocol and all(callable(getattr(value, name, None)) for name in methods)


def _run(path: str, what: str) -> types.ModuleType:
    """Runs a file as a module."""
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path!r} to take a {what} from")
    try:
        os.path.abspath(path).encode()
    except UnicodeEncodeError as error:  # JAX would write it into what it compiles.
        raise ValueError(f"the path of the file {path!r} is not UTF-8; rename it") from error
    # One name per file, so that the functions of two files never mix.
    name = f"{what}_file_{os.path.abspath(path)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # It ends in .py.
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # User code may raise anything.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == spec.origin]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else "?"
        text = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}, line {line}, cannot be run: {text}") from error
    return module


def parse_options(text: str, what: str = "cell") -> dict[str, Any]:
    """Parses keyword arguments with literal values, as in a call: `"a=1, b=True, c='x'"`.

    Args:
        text: the arguments.
        what: what the options are for, in messages.

    Raises:
        ValueError: the text is anything else.
    """
    try:
        call = ast.parse(f"options({text})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("these are not keyword arguments")
        options = {one.arg: ast.literal_eval(one.value) for one in call.keywords if one.arg}
        if len(options) != len(call.keywords):
            raise ValueError("a name is missing or given twice")
    except (SyntaxError, TypeError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(
            f"the {what} options {text!r} cannot be read; write names and plain values, as in "
            "\"a=1, b=True, c='x'\""
        ) from error
    return options
