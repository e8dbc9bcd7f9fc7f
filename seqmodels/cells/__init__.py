"""One file per cell: one step of one sequence; `base` has the contract.

A new file can be used by its name at once; a line here is needed only for `from seqmodels import`.
"""

from seqmodels.cells.base import (
    AffineCell,
    Cell,
    GatedCell,
    LinearCell,
    MatrixMemoryCell,
    PointwiseCell,
)
from seqmodels.cells.gru import GRU
from seqmodels.cells.gru_reset_before import ResetBeforeGRU
from seqmodels.cells.indrnn import IndRNN
from seqmodels.cells.lstm import LSTM
from seqmodels.cells.lstm_coupled import CoupledLSTM
from seqmodels.cells.lstm_layer_norm import LayerNormLSTM
from seqmodels.cells.lstm_mogrifier import MogrifierLSTM
from seqmodels.cells.lstm_peephole import PeepholeLSTM
from seqmodels.cells.lstm_projected import ProjectedLSTM
from seqmodels.cells.mgu import MGU
from seqmodels.cells.min_gru import MinGRU
from seqmodels.cells.min_lstm import MinLSTM
from seqmodels.cells.mlstm import MLSTM
from seqmodels.cells.qrnn import QRNN
from seqmodels.cells.rg_lru import RGLRU
from seqmodels.cells.simple_rnn import SimpleRNN
from seqmodels.cells.slstm import SLSTM
from seqmodels.cells.sru import SRU

__all__ = [
    "GRU", "LSTM", "MGU", "MLSTM", "QRNN", "RGLRU", "SLSTM", "SRU", "AffineCell", "Cell",
    "CoupledLSTM", "GatedCell", "IndRNN", "LayerNormLSTM", "LinearCell", "MatrixMemoryCell",
    "MinGRU", "MinLSTM", "MogrifierLSTM", "PeepholeLSTM", "PointwiseCell", "ProjectedLSTM",
    "ResetBeforeGRU", "SimpleRNN",
]  # fmt: skip
