"""Recurrent sequence models: arrays in, arrays out.

    from flax import nnx
    from seqmodels import LSTM, Bidirectional, Encoder

    rngs = nnx.Rngs(0)
    encoder = Encoder([Bidirectional(LSTM(12, 32, rngs=rngs), LSTM(12, 32, rngs=rngs))])
    sequence_BxTxH, last_BxH = encoder(x_BxTxD, lengths_B)

An `Encoder` runs cells over sequences of vectors; a `SequenceModel` adds inputs before it and a
head after it. `seqmodels.recurrence.run` runs one cell. A cell alone is the mathematics of one step
of one sequence, which you can scan yourself:

    def step(carry, x_D):
        return cell.step(carry, cell.project(x_D))

    last_carry, y_TxH = jax.lax.scan(step, cell.initial_carry(), x_TxD)

Array names carry their shape: B batch, T time, D input features, H hidden units, G gates x hidden,
C outputs, V vocabulary. Public functions take and return arrays with the batch first. Inside, time
comes first and the batch last, as in `x_TxDxB`: a time step is then one block of memory in which
each feature is contiguous over all sequences, so pointwise work vectorises whatever H is (on a CPU
five times faster than features last, at H = 16).
"""

import sys

try:
    import flax  # noqa: F401  Imports JAX too; both raise if they cannot parse their variables.
except ModuleNotFoundError as error:
    raise SystemExit(
        f"error: {error.name} is not installed for {sys.executable}; activate the environment, as "
        "in `. .venv/bin/activate`, or install it with `pip install -r requirements.txt`"
    ) from None
except ValueError as error:
    raise SystemExit(f"error: an environment variable cannot be used: {error}") from None

from seqmodels.bidirectional import Bidirectional, Unidirectional
from seqmodels.cells import (
    GRU,
    LSTM,
    MGU,
    MLSTM,
    QRNN,
    RGLRU,
    SLSTM,
    SRU,
    AffineCell,
    Cell,
    CoupledLSTM,
    GatedCell,
    IndRNN,
    LayerNormLSTM,
    LinearCell,
    MatrixMemoryCell,
    MinGRU,
    MinLSTM,
    MogrifierLSTM,
    PeepholeLSTM,
    PointwiseCell,
    ProjectedLSTM,
    ResetBeforeGRU,
    SimpleRNN,
)
from seqmodels.dropout import Rates
from seqmodels.encoder import Encoder, Encoding
from seqmodels.heads import SequenceHead, StepHead
from seqmodels.inputs import Embedding, Vectors
from seqmodels.model import SequenceModel
from seqmodels.pooling import Attention, Last, Max, Mean, MeanMax
from seqmodels.recurrence.engines import Engine
from seqmodels.sampled import Candidates

__all__ = [
    "GRU", "LSTM", "MGU", "MLSTM", "QRNN", "RGLRU", "SLSTM", "SRU", "AffineCell", "Attention",
    "Bidirectional", "Candidates", "Cell", "CoupledLSTM", "Embedding", "Encoder", "Encoding",
    "Engine", "GatedCell", "IndRNN", "Last", "LayerNormLSTM", "LinearCell", "MatrixMemoryCell",
    "Max", "Mean", "MeanMax", "MinGRU", "MinLSTM", "MogrifierLSTM", "PeepholeLSTM", "PointwiseCell",
    "ProjectedLSTM", "Rates", "ResetBeforeGRU", "SequenceHead", "SequenceModel", "SimpleRNN",
    "StepHead", "Unidirectional", "Vectors",
]  # fmt: skip
