"""The cross-entropy over a very large number of outputs, estimated from a sample of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base
from seqmodels.recurrence import run_all, valid_steps


class Candidates(NamedTuple):
    """Outputs that were drawn independently, and so may contain duplicates.

    Attributes:
        numbers_N: the numbers of the outputs.
        log_counts_N: the logarithm of each one's expected count among the N.
        log_counts_BxT: the same for the correct output of every step.
    """

    numbers_N: jax.Array
    log_counts_N: jax.Array
    log_counts_BxT: jax.Array


def numbers_of(candidates: Candidates, targets_BxT: jax.Array) -> jax.Array:
    """The outputs used, `[N + T * B]`: the candidates, and the correct output of each step."""
    return jnp.concatenate([candidates.numbers_N, targets_BxT.T.reshape(-1)])


def losses(
    y_TxQxB: jax.Array,
    rows_RxQ: jax.Array,
    bias_R: jax.Array,
    candidates: Candidates,
    lengths_B: jax.Array,
) -> jax.Array:
    """The loss of every step, `[B, T]`, zero in the padding.

    For the correct output t and the candidates S, it is

        -o_t + log(sum of exp(o_c) / expected(c) over c in S and t),

    where `expected(c)` is the expected count of c in S (Bengio and Senecal, "Quick training of
    probabilistic neural nets by importance sampling", AISTATS 2003; Jean et al., "On using very
    large target vocabulary for neural machine translation", ACL 2015). On average the sum over S
    is that of exp(o) over all outputs. The correct output is added as if it had been drawn once
    more, and candidates that equal it are kept: then the outputs that minimise the loss are those
    of the full softmax, however few the candidates (Ma and Collins, "Noise contrastive estimation
    and negative sampling for conditional models", EMNLP 2018).

    Only the outputs of one step at a time are in memory.

    Args:
        y_TxQxB: what the kernel is multiplied by; undefined after the longest sequence.
        rows_RxQ: the kernel's vectors for `numbers_of`.
        bias_R: their biases.
        candidates: outputs that stand for all of them.
        lengths_B: steps of each sequence, 0 to T.
    """
    steps, size, rows = y_TxQxB.shape
    count = len(candidates.numbers_N)
    right_TxQxB = rows_RxQ[count:].reshape(steps, rows, size).swapaxes(1, 2)
    right_bias_TxB = bias_R[count:].reshape(steps, rows) - candidates.log_counts_BxT.T
    cell = _Loss(rows_RxQ[:count], bias_R[:count] - candidates.log_counts_N)
    valid_Tx1xB = valid_steps(lengths_B, steps)[:, None]
    # Steps that the loop does not reach must give no gradient.
    right = [jnp.where(valid_Tx1xB, one, 0) for one in (right_TxQxB, right_bias_TxB[:, None])]
    (encoded,) = run_all([cell], [False], [y_TxQxB, *right], lengths_B)
    losses_BxT = encoded.sequence_TxHxB[:, 0].T - candidates.log_counts_BxT
    return jnp.where(valid_Tx1xB[:, 0].T, losses_BxT, 0)


class _Loss(base.Cell):
    """The loss of a step, as a stateless cell.

    It reads a vector, the kernel's column for the correct output, and its bias.
    """

    hidden_size = 1

    def __init__(self, kernel_NxQ: jax.Array, bias_N: jax.Array):
        self.kernel = nnx.Param(kernel_NxQ)
        self.bias = nnx.Param(bias_N)

    def initial_carry(self):
        return ()

    def project(self, x_D):
        size = self.kernel.shape[1]
        right = jnp.sum(x_D[:size] * x_D[size:-1]) + x_D[-1]
        others_N = jnp.dot(self.kernel[...], x_D[:size]) + self.bias
        return (jax.nn.logsumexp(jnp.append(others_N, right)) - right)[None]

    def step(self, carry, z):
        return carry, z
