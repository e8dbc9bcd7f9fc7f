"""Builds a model from plain keyword arguments."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx

from seqmodels import contract, loading
from seqmodels.bidirectional import Bidirectional, Unidirectional
from seqmodels.cells.base import Cell
from seqmodels.dropout import Rates
from seqmodels.encoder import Encoder
from seqmodels.heads import Head, SequenceHead, StepHead
from seqmodels.inputs import Embedding, Inputs, Vectors
from seqmodels.model import SequenceModel
from seqmodels.pooling import POOLINGS, Pooling
from seqmodels.recurrence.engines import Engine, choose

DIRECTIONS = ("forward", "backward", "bidirectional")
"""Of a layer: from a sequence's first step to its last, from its last to its first, or both."""


def build(*, seed: int, **arguments: Any) -> SequenceModel:
    """Builds the model of one seed, as `build_all` does."""
    return build_all(seeds=[seed], **arguments)[0]


def build_all(
    *,
    seeds: Sequence[int],
    hidden_sizes: Sequence[int],
    vocabulary_size: int | None = None,
    input_size: int | None = None,
    embedding_size: int = 16,
    num_outputs: int = 1,
    per_step: bool = False,
    cell: str | type[Cell] = "lstm",
    cell_options: Mapping[str, Any] | None = None,
    direction: str = "forward",
    merge: str = "concat",
    dropout_rates: Sequence[float] | None = None,
    pooling: str | type[Pooling] = "last",
    projection_size: int = 0,
    tied_head: bool = False,
    recurrent_dropout: float = 0.0,
    zoneout: float = 0.0,
    learned_initial_state: bool = False,
    residual: bool = False,
    word_dropout: float = 0.0,
    unknown_token: int | None = None,
    embedding_dropout: float = 0.0,
    output_dropout: float = 0.0,
    weight_drop: float = 0.0,
    engine: str = "auto",
    matrix_dtype: str = "float32",
    segment_steps: int = 1,
) -> list[SequenceModel]:
    """Builds models that differ only in their freshly drawn parameters.

    Args:
        seeds: one for the parameters of each model.
        hidden_sizes: units of each recurrent layer, from the bottom up.
        vocabulary_size: V, the number of distinct tokens, if the model reads tokens.
        input_size: D, the width of a step's vector, if it reads vectors.
        embedding_size: width of a token's vector.
        num_outputs: C, for each sequence or for every step.
        per_step: compute outputs for every step.
        cell: a class, a module in `seqmodels/cells`, or the path of a file.
        cell_options: keyword arguments of the cell's constructor.
        direction: of every layer, one of `DIRECTIONS`.
        merge: how the two outputs of a bidirectional layer are combined: one of
            `seqmodels.bidirectional.MERGES`. Concatenated, its output has twice as many units.
        dropout_rates: for each layer, the dropout rate on its input; None: no dropout.
        pooling: a class, or a name in `seqmodels.pooling.POOLINGS`; `per_step` pools nothing.
        projection_size: width to which the head's input is projected first; 0: no projection.
        tied_head: the outputs, one set per step, are for the tokens that the model reads, and the
            head's kernel is the table of their vectors.
        recurrent_dropout: the rate in all layers, as in `seqmodels.dropout.Rates`.
        zoneout: the same.
        learned_initial_state: make the carry before the first step trainable.
        residual: every layer above the first adds its input to its output.
        word_dropout: the rate at which tokens are replaced by `unknown_token`.
        unknown_token: the token of unknown words; only word dropout needs it.
        embedding_dropout: the rate at which words are dropped from a whole sequence.
        output_dropout: the dropout rate on the head's input.
        weight_drop: the rate at which elements of recurrent matrices are dropped.
        engine: the engine that runs the cells, as in `recurrence.engines.Engine`.
        matrix_dtype: the dtype of matrices in products, as there.
        segment_steps: steps between two carries in memory, as there.

    Raises:
        ValueError: a name is unknown, the cell breaks its contract or lacks an option, the number
            of dropout rates is not that of layers, residual layers differ in width, word dropout
            has no unknown token, the cell has no weights to drop, the engine cannot run the cell on
            this machine, a tied head is not as wide as the embedding, or an argument has no effect
            given the others.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r}; choose one of {', '.join(DIRECTIONS)}")
    if merge != "concat" and direction != "bidirectional":
        raise ValueError(
            f"merge is {merge!r}, but a {direction} layer has only one direction; leave it at "
            "concat"
        )
    if dropout_rates is None:
        dropout_rates = [0.0] * len(hidden_sizes)
    if not hidden_sizes or len(hidden_sizes) != len(dropout_rates):
        raise ValueError(
            f"{len(hidden_sizes)} hidden sizes and {len(dropout_rates)} dropout rates; there must "
            "be one of each for every layer, and at least one layer"
        )
    rates = [Rates(rate, recurrent_dropout, zoneout) for rate in dropout_rates]
    runs_cells = Engine(engine, matrix_dtype, segment_steps)
    cell_class = cell if inspect.isclass(cell) else loading.find_cell(cell)
    options = dict(cell_options or {})
    make_inputs = _inputs(
        vocabulary_size, input_size, embedding_size, word_dropout, unknown_token, embedding_dropout
    )
    make_head = _head(pooling, num_outputs, per_step, projection_size, tied_head)

    def make_layer(width: int, hidden_size: int, make: Callable[..., Cell], rngs: nnx.Rngs):
        common: dict[str, Any] = {
            "engine": runs_cells, "learned_initial_state": learned_initial_state,
        }  # fmt: skip
        first = make(width, hidden_size, rngs=rngs)
        if direction != "bidirectional":
            return Unidirectional(first, backwards=direction == "backward", **common)
        second = cell_class(width, hidden_size, rngs=rngs, **options)
        return Bidirectional(first, second, merge=merge, **common)

    def draw(seed: int, make: Callable[..., Cell]) -> SequenceModel:
        # Published runs depend on this order of draws: cells, table, head.
        rngs = nnx.Rngs(params=seed)
        layers: list[Unidirectional | Bidirectional] = []
        width = embedding_size if input_size is None else input_size
        for hidden_size in hidden_sizes:
            layers.append(make_layer(width, hidden_size, make, rngs))
            width = layers[-1].output_size
        encoder = Encoder(layers, rates, residual=residual, weight_drop=weight_drop)
        inputs = make_inputs(rngs)
        head = make_head(encoder.output_size, rngs)
        return SequenceModel(inputs, encoder, head, output_dropout=output_dropout)

    # Checks of one cell hold for its twin and for all seeds.
    first = draw(seeds[0], functools.partial(contract.make, cell_class, options=options))
    for layer, layer_rates in zip(first.encoder.layers, rates, strict=True):
        choose(runs_cells, layer.cells[0], layer_rates)
    return [first, *(draw(seed, functools.partial(cell_class, **options)) for seed in seeds[1:])]


def _inputs(
    vocabulary_size: int | None,
    input_size: int | None,
    embedding_size: int,
    word_dropout: float,
    unknown_token: int | None,
    embedding_dropout: float,
) -> Callable[[nnx.Rngs], Inputs]:
    """A function that makes a model's inputs."""
    if (vocabulary_size is None) == (input_size is None):
        raise ValueError(
            "a model reads tokens, of vocabulary_size, or vectors, of input_size; give one of the "
            f"two (they are {vocabulary_size} and {input_size})"
        )
    if vocabulary_size is not None:
        return lambda rngs: Embedding(
            vocabulary_size,
            embedding_size,
            rngs=rngs,
            word_dropout=word_dropout,
            unknown_token=unknown_token,
            embedding_dropout=embedding_dropout,
        )
    assert input_size is not None
    width = input_size
    for name, rate in (("word_dropout", word_dropout), ("embedding_dropout", embedding_dropout)):
        if rate > 0:
            raise ValueError(
                f"{name} is {rate}, but vectors have no words to drop; set it to 0. For dropout "
                "on the vectors, use the first of dropout_rates"
            )
    return lambda rngs: Vectors(width)


def _head(
    pooling: str | type[Pooling],
    num_outputs: int,
    per_step: bool,
    projection_size: int,
    tied: bool,
) -> Callable[[int, nnx.Rngs], Head]:
    """A function that makes a model's head."""
    if isinstance(pooling, str) and pooling not in POOLINGS:
        raise ValueError(f"unknown pooling {pooling!r}; choose one of {', '.join(POOLINGS)}")
    if not per_step:
        if tied:
            raise ValueError(
                "tied_head is for outputs per step that are the tokens the model reads; leave it "
                "False"
            )
        pool = POOLINGS[pooling] if isinstance(pooling, str) else pooling
        return lambda width, rngs: SequenceHead(
            pool(width, rngs=rngs), num_outputs, rngs=rngs, projection_size=projection_size
        )
    if pooling != "last":
        raise ValueError(
            f"pooling is {pooling!r}, but a model with outputs per step pools nothing; leave it at "
            "last"
        )
    return lambda width, rngs: StepHead(
        width, num_outputs, rngs=rngs, projection_size=projection_size, tied=tied
    )
