"""Plain keyword arguments to a model."""

import ast
import functools
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx

from seqmodels import cells, contract
from seqmodels.bidirectional import Bidirectional, Unidirectional
from seqmodels.cells.base import Cell
from seqmodels.classifier import Classifier
from seqmodels.dropout import Rates
from seqmodels.encoder import Encoder
from seqmodels.pooling import POOLINGS
from seqmodels.recurrence.engines import Engine, choose

DIRECTIONS = ("forward", "backward", "bidirectional")
"""Of a layer: from a sequence's first step on, from its last one back, or both side by side."""


def cell_names() -> list[str]:
    """The cells there are: the modules in `seqmodels/cells`, in alphabetical order."""
    return sorted(
        module.name for module in pkgutil.iter_modules(cells.__path__) if module.name != "base"
    )


def find_cell(name: str) -> type[Cell]:
    """The cell class that `seqmodels/cells/<name>.py` defines, or a file of the user's own.

    Args:
        name: of a module, or the path of a file that ends in `.py`. The file is executed.

    Raises:
        ValueError: there is none, it cannot be run, or it does not define exactly one cell.
    """
    if name.endswith(".py"):
        module = _run(name)
    elif name in cell_names():
        module = importlib.import_module(f"seqmodels.cells.{name}")
    else:
        raise ValueError(
            f"unknown cell {name!r}; choose one of {', '.join(cell_names())}, or give the path of "
            "a file of your own, which ends in .py"
        )
    defined = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Cell)
        and value.__module__ == module.__name__
    ]
    if len(defined) != 1:
        found = ", ".join(one.__name__ for one in defined) or "none"
        raise ValueError(
            f"{module.__file__} must define one subclass of Cell of seqmodels.cells.base; it "
            f"defines {found}"
        )
    return defined[0]


def _run(path: str) -> types.ModuleType:
    """The module that a file is."""
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path!r} to take a cell from")
    try:
        os.path.abspath(path).encode()
    except UnicodeEncodeError as error:  # JAX would write it into what it compiles.
        raise ValueError(f"the path of the file {path!r} is not UTF-8; rename it") from error
    # One name a file, so that the functions of two files never mix.
    name = f"cell_file_{os.path.abspath(path)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # It ends in .py.
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # It is a researcher's code: whatever it raises.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == spec.origin]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else "?"
        text = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}, line {line}, cannot be run: {text}") from error
    return module


def parse_options(text: str) -> dict[str, Any]:
    """Keyword arguments as they are written in a call, `"a=1, b=True, c='x'"`, of literals alone.

    Raises:
        ValueError: it is anything else.
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
            f"the cell options {text!r} cannot be read; write names and plain values, as in "
            "\"a=1, b=True, c='x'\""
        ) from error
    return options


def build(*, seed: int, **arguments: Any) -> Classifier:
    """The classifier of one seed, as `build_all` builds it."""
    return build_all(seeds=[seed], **arguments)[0]


def build_all(
    *,
    vocabulary_size: int,
    embedding_size: int,
    cell: str,
    hidden_sizes: Sequence[int],
    direction: str,
    dropout_rates: Sequence[float],
    pooling: str,
    seeds: Sequence[int],
    recurrent_dropout: float = 0.0,
    zoneout: float = 0.0,
    cell_options: str = "",
    learned_initial_state: bool = False,
    residual: bool = False,
    word_dropout: float = 0.0,
    unknown_token: int | None = None,
    embedding_dropout: float = 0.0,
    weight_drop: float = 0.0,
    engine: str = "auto",
    matrix_dtype: str = "float32",
    segment_steps: int = 1,
) -> list[Classifier]:
    """Builds classifiers that differ in their freshly drawn parameters alone.

    Args:
        vocabulary_size: V, distinct tokens.
        embedding_size: width of a token's vector.
        cell: a module in `seqmodels/cells`, or the path of a file.
        hidden_sizes: units of each recurrent layer, from the bottom up; twice as many come out of
            a bidirectional one.
        direction: of every layer, one of `DIRECTIONS`.
        dropout_rates: for each layer, the dropout rate on its input.
        pooling: a name in `seqmodels.pooling.POOLINGS`.
        seeds: of the parameters of each of them.
        recurrent_dropout, zoneout: of all layers, as in `seqmodels.dropout.Rates`.
        cell_options: keyword arguments of the cell's constructor, as `parse_options` reads them.
        learned_initial_state: the carry before the first step is parameters.
        residual: every layer above the first adds its input to its output.
        word_dropout: the rate at which tokens are replaced by `unknown_token`.
        unknown_token: the token of unknown words; only word dropout needs it.
        embedding_dropout: the rate at which words are dropped wherever they stand.
        weight_drop: the rate at which elements of recurrent matrices are dropped.
        engine, matrix_dtype, segment_steps: what runs the cells, as in `recurrence.engines.Engine`.

    Raises:
        ValueError: an unknown name, a cell that breaks its contract, an option that it does not
            have, not one dropout rate a layer, residual layers of different widths, word dropout
            without an unknown word, a drop of weights that the cell does not have, or an engine
            that cannot run the cell on this machine.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"unknown pooling {pooling!r}; choose one of {', '.join(POOLINGS)}")
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r}; choose one of {', '.join(DIRECTIONS)}")
    if not hidden_sizes or len(hidden_sizes) != len(dropout_rates):
        raise ValueError(
            f"{len(hidden_sizes)} hidden sizes and {len(dropout_rates)} dropout rates; there must "
            "be one of each for every layer, and at least one layer"
        )
    rates = [Rates(rate, recurrent_dropout, zoneout) for rate in dropout_rates]
    runs_cells = Engine(engine, matrix_dtype, segment_steps)
    cell_class, options = find_cell(cell), parse_options(cell_options)

    def draw(seed: int, make: Callable[..., Cell]) -> Classifier:
        rngs = nnx.Rngs(params=seed)
        layers: list[Unidirectional | Bidirectional] = []
        input_size = embedding_size
        for hidden_size in hidden_sizes:
            made = [make(input_size, hidden_size, rngs=rngs)]
            if direction == "bidirectional":
                made.append(cell_class(input_size, hidden_size, rngs=rngs, **options))
            learned = learned_initial_state
            layers.append(
                Bidirectional(*made, engine=runs_cells, learned_initial_state=learned)
                if direction == "bidirectional"
                else Unidirectional(
                    *made,
                    backwards=direction == "backward",
                    engine=runs_cells,
                    learned_initial_state=learned,
                )
            )
            input_size = layers[-1].output_size
        encoder = Encoder(layers, rates, residual=residual, weight_drop=weight_drop)
        return Classifier(
            vocabulary_size=vocabulary_size,
            embedding_size=embedding_size,
            word_dropout=word_dropout,
            unknown_token=unknown_token,
            embedding_dropout=embedding_dropout,
            encoder=encoder,
            pooling=POOLINGS[pooling](encoder.output_size, rngs=rngs),
            rngs=rngs,
        )

    # What is checked of one cell holds for its twin and for all seeds.
    first = draw(seeds[0], functools.partial(contract.make, cell_class, options=options))
    for layer, layer_rates in zip(first.encoder.layers, rates, strict=True):
        choose(runs_cells, layer.cells[0], layer_rates)
    return [first, *(draw(seed, functools.partial(cell_class, **options)) for seed in seeds[1:])]
