"""Finds the source that a config asks for, and fills in its constructor's arguments.

A source is named (a file in `train_lib/data/sources/`), or given by the path of a Python file that
defines a single source, or it is a file or a folder of data, recognised by its suffix or contents.
"""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from seqmodels import loading
from train_lib import files
from train_lib.data import readers, sources
from train_lib.data.examples import Source
from train_lib.errors import UserError


def names() -> list[str]:
    """The names of the built-in sources."""
    return loading.names(sources)


def find(source: str, fields: Mapping[str, Any], options: Mapping[str, Any]) -> Source:
    """The source that a config asks for, ready to be read.

    Args:
        source: a name, the path of a Python file, or data: see above.
        fields: of `config.data`; the constructor takes those that match its argument names.
        options: more constructor arguments, which take precedence.

    Raises:
        UserError: there is no such source, it has no such option, or it is not available.
    """
    cls, first = _class_of(source)
    arguments = _arguments(cls)
    if unknown := set(options) - set(arguments):
        raise UserError(
            f"the source {source} has no option {', '.join(sorted(unknown))}; those it has: "
            f"{', '.join(sorted(arguments)) or 'none'}."
        )
    given = {name: fields[name] for name in arguments if name in fields} | dict(options)
    if missing := {name for name, has_default in arguments.items() if not has_default} - set(given):
        raise UserError(
            f"the source {source} must be given {', '.join(sorted(missing))}, as in "
            f'config.data.source_options="{min(missing)}=...".'
        )
    found = cls(*first, **given)
    if not isinstance(getattr(found, "name", None), str):
        raise UserError(
            f"the source {source} has no name; give its class one, as in name = 'mine'."
        )
    return found


def find_data(
    path: str, fields: Mapping[str, Any], options: Mapping[str, Any], *, labelled: bool
) -> Source:
    """A file or a folder of data, for a finished run to answer.

    Args:
        path: of the data.
        fields: of `config.data`, as in `find`; nothing is drawn, so groups do not matter.
        options: those of the run's source; this one takes those that it knows.
        labelled: False: targets are not read, and there need not be any.

    Raises:
        UserError: as `find` does.
    """
    reader = readers.reader_of(path)
    if reader is None:
        raise UserError(f"{path}: there is no such file. Data are {readers.KINDS}.")
    taken = {name: value for name, value in options.items() if name in _arguments(reader)}
    fields = {name: value for name, value in fields.items() if name != "group_column"}
    for name, value in (("labelled", labelled), ("whole", True)):
        if name in _arguments(reader):
            taken[name] = value
    return find(path, fields, taken)


def fields_of(source: str) -> frozenset[str]:
    """The names of the arguments that a source takes from fields of `config.data` or options.

    Raises:
        UserError: there is no such source.
    """
    return frozenset(_arguments(_class_of(source)[0]))


def _class_of(source: str) -> tuple[type, tuple]:
    """The class of a source, and its constructor's positional arguments."""
    is_file = source.endswith(".py")
    if is_file or source in names():
        path = str(files.local(source)) if is_file else source
        try:
            return loading.find(path, Source, sources, "source"), ()
        except ValueError as error:
            raise UserError(f"{error}.") from error
    if (reader := readers.reader_of(source)) is not None:
        return reader, (source,)
    close = difflib.get_close_matches(source, names(), 1)
    raise UserError(
        f"config.data.source = {source!r} is not known"
        + (f"; did you mean {close[0]}?" if close else ".")
        + f" It must be one of {', '.join(names())}, the path of a Python file with a source in "
        f"it, or data: {readers.KINDS}."
    )


def _arguments(cls: type) -> dict[str, bool]:
    """The arguments that fields and options may fill, and whether each has a default.

    A reader's first argument, its path, is positional-only.
    """
    return {
        parameter.name: parameter.default is not parameter.empty
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
