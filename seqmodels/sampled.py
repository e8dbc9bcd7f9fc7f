"""The cross-entropy of one among very many outputs, estimated from some of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base
from seqmodels.recurrence import run_all, valid_steps


class Candidates(NamedTuple):
    """Outputs that were drawn independently of each other, and so may be there more than once.

    Attributes:
        numbers_N: which they are.
        log_counts_N: the logarithm of how often each was expected among the N.
        log_counts_BxT: the same of the right output of every step.
    """

    numbers_N: jax.Array
    log_counts_N: jax.Array
    log_counts_BxT: jax.Array


def numbers_of(candidates: Candidates, targets_BxT: jax.Array) -> jax.Array:
    """The outputs that take part, `[N + T * B]`: candidates, and the right one of each step."""
    return jnp.concatenate([candidates.numbers_N, targets_BxT.T.reshape(-1)])


def losses(
    y_TxQxB: jax.Array,
    rows_RxQ: jax.Array,
    bias_R: jax.Array,
    candidates: Candidates,
    lengths_B: jax.Array,
) -> jax.Array:
    """The loss of every step, `[B, T]`, zero in the padding.

    Where the output t is right and S are the candidates it is

        -o_t + log(sum of exp(o_c) / expected(c) over c in S and t),

    `expected(c)` being how often c was expected in S (Bengio and Senecal, "Quick training of
    probabilistic neural nets by importance sampling", AISTATS 2003; Jean et al., "On using very
    large target vocabulary for neural machine translation", ACL 2015). On average the sum over S
    is that of exp(o) over all outputs. The right one is added as if it had been drawn once more,
    and candidates that are the right one stay: then the outputs with the least loss are those of
    the full softmax, however few the candidates (Ma and Collins, "Noise contrastive estimation and
    negative sampling for conditional models", EMNLP 2018).

    Outputs of one step at a time are in memory.

    Args:
        y_TxQxB: what the kernel is multiplied with; undefined after the longest sequence.
        rows_RxQ: what the kernel has for `numbers_of`.
        bias_R: what the bias has for them.
        candidates: that stand for all outputs.
        lengths_B: steps of each sequence, 0 to T.
    """
    steps, size, rows = y_TxQxB.shape
    count = len(candidates.numbers_N)
    right_TxQxB = rows_RxQ[count:].reshape(steps, rows, size).swapaxes(1, 2)
    right_bias_TxB = bias_R[count:].reshape(steps, rows) - candidates.log_counts_BxT.T
    cell = _Loss(rows_RxQ[:count], bias_R[:count] - candidates.log_counts_N)
    valid_Tx1xB = valid_steps(lengths_B, steps)[:, None]
    # No gradient comes from where the loop does not go.
    right = [jnp.where(valid_Tx1xB, one, 0) for one in (right_TxQxB, right_bias_TxB[:, None])]
    (encoded,) = run_all([cell], [False], [y_TxQxB, *right], lengths_B)
    losses_BxT = encoded.sequence_TxHxB[:, 0].T - candidates.log_counts_BxT
    return jnp.where(valid_Tx1xB[:, 0].T, losses_BxT, 0)


class _Loss(base.Cell):
    """The loss of a step, as a cell that remembers nothing.

    It reads a vector, the kernel's column of the right output, and its bias.
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
