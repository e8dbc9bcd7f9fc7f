"""The LSTM through NVIDIA's cuDNN, by way of `jax.experimental.rnn`.

cuDNN has kernels for the LSTM of `seqmodels.cells.lstm`; only this file relies on that. cuDNN takes
all weights as one vector and supports neither empty sequences nor a single reversed direction: an
empty sequence gets one step whose results are discarded, and to run backwards a sequence is
reversed within its length.

Chetlur et al., "cuDNN: Efficient Primitives for Deep Learning", 2014.
"""

import jax
import jax.numpy as jnp

from seqmodels import precision
from seqmodels.cells import base
from seqmodels.cells.lstm import LSTM
from seqmodels.recurrence.entry import Entry
from seqmodels.recurrence.sequences import Encoded, initial_carry, valid_steps

try:
    from jax.experimental import rnn
except ImportError:  # The module is experimental.
    rnn = None  # type: ignore[assignment]


def available(cell: base.Cell) -> bool:
    """Whether `run` works for this cell on the default device."""
    if jax.default_backend() != "gpu" or why_not(cell) is not None:
        return False
    return "cuda" in jax.local_devices()[0].client.platform_version.lower()


def why_not(cell: base.Cell) -> str | None:
    """Why cuDNN cannot run this cell on any device; None if it can."""
    if rnn is None:
        return "this version of JAX has no jax.experimental.rnn"
    if type(cell) is not LSTM:
        return "it is not the LSTM that cuDNN implements"
    if cell.recurrent_kernel.dtype != jnp.float32:
        return f"its matrix is {cell.recurrent_kernel.dtype}, not float32"
    return None


def run(
    cell: LSTM,
    x_TxDxB: jax.Array,
    lengths_B: jax.Array,
    *,
    reverse: bool = False,
    start: base.Carry = None,
) -> Encoded:
    """`loop.run` for the LSTM; differentiable, but not under `vmap`.

    Products have the precision of `jax.default_matmul_precision` where this is called: float32
    with "highest", else TF32.

    Args:
        cell: a cell for which `why_not` returns None.
        x_TxDxB: the inputs, float32; sequences start at time 0.
        lengths_B: valid steps of each sequence, 0 to T.
        reverse: run from the last valid step to the first.
        start: the carry of every sequence before its first step; None: zeros.
    """
    width, input_size, _ = x_TxDxB.shape
    valid_Tx1xB = valid_steps(lengths_B, width)[:, None]
    # cuDNN guarantees neither that it does not read padding nor that its gradient is zero.
    x_TxDxB = jnp.where(valid_Tx1xB, x_TxDxB, 0)
    if reverse:
        x_TxDxB = _turn(x_TxDxB, lengths_B)
    c_HxB, h_HxB = initial_carry(cell, len(lengths_B), x_TxDxB.dtype, start)
    y_BxTxH, last_1xBxH, _ = rnn.lstm(
        x_TxDxB.transpose(2, 0, 1),
        h_HxB.T[None],
        c_HxB.T[None],
        _packed(cell),
        jnp.maximum(lengths_B, 1).astype(jnp.int32),
        input_size=input_size,
        hidden_size=cell.hidden_size,
        num_layers=1,
        dropout=0.0,
        bidirectional=False,
        precision=precision.current(),  # For its derivative too.
    )
    y_TxHxB = jnp.where(valid_Tx1xB, y_BxTxH.transpose(1, 2, 0), 0)
    if reverse:
        y_TxHxB = _turn(y_TxHxB, lengths_B)
    return Encoded(y_TxHxB, jnp.where(lengths_B > 0, last_1xBxH[0].T, 0))


def _packed(cell: LSTM) -> jax.Array:
    """All weights as cuDNN expects them: W and R transposed, gates i, f, g, o; b; a zero bias."""
    bias_G = cell.bias[...]
    arrays = cell.kernel.T, cell.recurrent_kernel.T, bias_G, jnp.zeros_like(bias_G)
    return jnp.concatenate([array.ravel() for array in arrays])


def _turn(array_TxFxB: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """Reverses every sequence within its length; the padding stays in place."""
    time_Tx1 = jnp.arange(len(array_TxFxB))[:, None]
    source_TxB = jnp.where(time_Tx1 < lengths_B, lengths_B - 1 - time_Tx1, time_Tx1)
    return jnp.take_along_axis(array_TxFxB, source_TxB[:, None], axis=0)


def _why_not_here(cell: base.Cell) -> str | None:
    if available(cell):
        return None
    return why_not(cell) or "there is no NVIDIA GPU"


ENTRY = Entry("cudnn", run, _why_not_here, is_best=available)
