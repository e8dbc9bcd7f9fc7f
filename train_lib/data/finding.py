"""Finds the source that a config asks for, and fills the arguments of its constructor.

A source is found by its name (a file in `train_lib/data/sources/`), by the path of a Python file
with one source of a user's own in it, or it is a file or a folder of data, found by its suffix or
by what is in it.
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
    """The names by which sources are found."""
    return loading.names(sources)


def find(source: str, fields: Mapping[str, Any], options: Mapping[str, Any]) -> Source:
    """The source that a config asks for, ready to be read.

    Args:
        source: a name, the path of a Python file, or data: see above.
        fields: of `config.data`; the constructor takes those that have the names of its arguments.
        options: more arguments of the constructor, which win.

    Raises:
        UserError: there is no such source, it has no such option, or it cannot be had.
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
            f"the source {source} must be told {', '.join(sorted(missing))}, as in "
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
        fields: of `config.data`, as in `find`; nothing is drawn, so that groups do not matter.
        options: of the source of the run; this one takes those that it has.
        labelled: False: targets are not read, nor need there be any.

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
    """The names of the arguments that a source takes, from fields of `config.data` or options.

    Raises:
        UserError: there is no such source.
    """
    return frozenset(_arguments(_class_of(source)[0]))


def _class_of(source: str) -> tuple[type, tuple]:
    """The class of a source, and what its constructor takes before the fields."""
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
    """The arguments of a constructor that fields and options may fill, and if each has a default.

    The first of a reader is its path, which it takes by place alone.
    """
    return {
        parameter.name: parameter.default is not parameter.empty
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
