"""Plain keyword arguments to a model."""

import importlib
import inspect
import pkgutil
from collections.abc import Sequence

from flax import nnx

from seqmodels import cells
from seqmodels.bidirectional import Bidirectional, Unidirectional
from seqmodels.cells.base import Cell
from seqmodels.classifier import Classifier
from seqmodels.encoder import Encoder
from seqmodels.engines import Engine, choose
from seqmodels.pooling import POOLINGS


def cell_names() -> list[str]:
    """The cells there are: the modules in `seqmodels/cells`, in alphabetical order."""
    return sorted(
        module.name for module in pkgutil.iter_modules(cells.__path__) if module.name != "base"
    )


def find_cell(name: str) -> type[Cell]:
    """The cell class that `seqmodels/cells/<name>.py` defines.

    Raises:
        ValueError: there is no such module, or it does not define exactly one cell.
    """
    if name not in cell_names():
        raise ValueError(f"unknown cell {name!r}; choose one of {', '.join(cell_names())}")
    module = importlib.import_module(f"seqmodels.cells.{name}")
    defined = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Cell)
        and value.__module__ == module.__name__
    ]
    if len(defined) != 1:
        raise ValueError(f"{module.__file__} must define one subclass of Cell, not {len(defined)}")
    return defined[0]


def build(
    *,
    vocabulary_size: int,
    embedding_size: int,
    cell: str,
    hidden_sizes: Sequence[int],
    bidirectional: bool,
    dropout_rates: Sequence[float],
    pooling: str,
    seed: int,
    engine: str = "auto",
    matrix_dtype: str = "float32",
) -> Classifier:
    """Builds a classifier with freshly drawn parameters.

    Args:
        vocabulary_size: V, distinct tokens.
        embedding_size: width of a token's vector.
        cell: a module in `seqmodels/cells`.
        hidden_sizes: units of each recurrent layer, from the bottom up; twice as many come out of
            a bidirectional one.
        bidirectional: run every layer in both directions.
        dropout_rates: for each layer, the dropout rate on its input.
        pooling: a name in `seqmodels.pooling.POOLINGS`.
        seed: of the parameters.
        engine, matrix_dtype: what runs the cells, as in `seqmodels.engines.Engine`.

    Raises:
        ValueError: an unknown name, not one dropout rate a layer, or an engine that cannot run the
            cell on this machine.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"unknown pooling {pooling!r}; choose one of {', '.join(POOLINGS)}")
    if not hidden_sizes or len(hidden_sizes) != len(dropout_rates):
        raise ValueError(
            f"{len(hidden_sizes)} hidden sizes and {len(dropout_rates)} dropout rates; there must "
            "be one of each for every layer, and at least one layer"
        )
    rngs = nnx.Rngs(params=seed)
    runs_cells = Engine(engine, matrix_dtype)
    cell_class = find_cell(cell)
    layers: list[Unidirectional | Bidirectional] = []
    input_size = embedding_size
    for hidden_size in hidden_sizes:
        forward = cell_class(input_size, hidden_size, rngs=rngs)
        choose(runs_cells, forward)
        if bidirectional:
            backward = cell_class(input_size, hidden_size, rngs=rngs)
            layers.append(Bidirectional(forward, backward, engine=runs_cells))
        else:
            layers.append(Unidirectional(forward, engine=runs_cells))
        input_size = layers[-1].output_size
    return Classifier(
        vocabulary_size=vocabulary_size,
        embedding_size=embedding_size,
        encoder=Encoder(layers, dropout_rates),
        pooling=POOLINGS[pooling],
        rngs=rngs,
    )
