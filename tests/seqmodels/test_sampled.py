"""A loss among some of the outputs, against the loss among all: exactly, and on average."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seqmodels import Candidates, sampled
from seqmodels.recurrence import arrays
from tests.marks import slow
from tests.seqmodels.test_heads import assert_close
from tests.seqmodels.test_tied_head import LENGTHS, TOKENS, TOKENS_BxT, build

OUTPUTS = 4
LOGITS_C = jnp.array([1.5, -1.0, 0.2, -0.3])


def losses(logits_C, targets_B, candidates):
    """Of one step a row, all with the same logits: kernel and y are 0, and the bias is all."""
    rows = len(targets_B)
    numbers = sampled.numbers_of(candidates, targets_B[:, None])
    return sampled.losses(
        jnp.zeros((1, 1, rows)),
        jnp.zeros((len(numbers), 1)),
        logits_C[numbers],
        candidates,
        jnp.ones(rows, jnp.int32),
    )[:, 0]


def test_all_outputs_once_have_the_full_loss():
    targets_B = jnp.arange(OUTPUTS)
    # The right output once more counts for nothing where it was expected very often.
    log_counts_BxT = jnp.full((OUTPUTS, 1), 40.0)
    candidates = Candidates(jnp.arange(OUTPUTS), jnp.zeros(OUTPUTS), log_counts_BxT)
    expected = optax.softmax_cross_entropy_with_integer_labels(LOGITS_C[None], targets_B)
    np.testing.assert_allclose(losses(LOGITS_C, targets_B, candidates), expected, rtol=1e-5)


@pytest.mark.parametrize("count", [slow(1), 2, slow(4)])
def test_it_is_least_where_the_full_loss_is_for_any_number_of_candidates(count):
    """Over all that can be drawn and be right, the gradient is 0 where outputs are log p."""
    p_C, q_C = jax.nn.softmax(LOGITS_C), jnp.array([0.1, 0.2, 0.3, 0.4])
    log_counts_C = jnp.log(count * q_C)

    def expected_loss(logits_C):
        targets_B = jnp.arange(OUTPUTS)
        draws = jnp.array(list(itertools.product(range(OUTPUTS), repeat=count)))

        def of_draw(numbers_N):
            candidates = Candidates(
                numbers_N, log_counts_C[numbers_N], log_counts_C[targets_B][:, None]
            )
            return jnp.prod(q_C[numbers_N]) * losses(logits_C, targets_B, candidates) @ p_C

        return jnp.sum(jax.lax.map(of_draw, draws))

    gradient = jax.jit(jax.grad(expected_loss))
    np.testing.assert_allclose(gradient(LOGITS_C), 0, atol=1e-6)
    assert abs(gradient(LOGITS_C.at[0].add(0.5))).max() > 1e-2


@pytest.mark.parametrize(
    "changes", [{}, slow({"tied_head": False, "projection_size": 0})], ids=["tied", "free"]
)
def test_losses_and_gradients_are_those_of_the_outputs_by_hand(changes, monkeypatch):
    graphdef, params = nnx.split(build(**changes), nnx.Param)
    lengths_B = jnp.array(LENGTHS)
    rng = np.random.default_rng(1)
    candidates = Candidates(
        jnp.array([3, 0, 7, 3, 10]),
        jnp.array(rng.normal(size=5), jnp.float32),
        jnp.array(rng.normal(size=TOKENS_BxT.shape), jnp.float32),
    )
    targets_BxT = (TOKENS_BxT * 3 + 1) % TOKENS
    is_step = jnp.arange(TOKENS_BxT.shape[1]) < lengths_B[:, None]

    def among_some(params):
        model = nnx.merge(graphdef, params)
        encoded, _, _ = model.encode_from(None, TOKENS_BxT, lengths_B)
        return model.sampled_losses(encoded, lengths_B, targets_BxT, candidates)

    def by_hand(params):
        outputs_BxTxV = nnx.merge(graphdef, params)(TOKENS_BxT, lengths_B)
        right = jnp.take_along_axis(outputs_BxTxV, targets_BxT[..., None], -1)
        some = outputs_BxTxV[..., candidates.numbers_N] - candidates.log_counts_N
        once_more = right - candidates.log_counts_BxT[..., None]
        of_all = jax.nn.logsumexp(jnp.concatenate([some, once_more], -1), -1)
        return jnp.where(is_step, of_all - right[..., 0], 0)

    def both(losses):
        weights = jnp.arange(1, TOKENS_BxT.size + 1).reshape(TOKENS_BxT.shape)

        def total(params):
            losses_BxT = losses(params)
            return jnp.sum(losses_BxT * weights), losses_BxT

        return jax.jit(jax.grad(total, has_aux=True))(params)

    expected = both(by_hand)
    assert_close(both(among_some), expected)

    def room_of_nan(tree, width, first):
        return jax.tree.map(lambda one: jnp.full((width, *one.shape), jnp.nan), tree)

    monkeypatch.setattr(arrays, "room", room_of_nan)
    assert_close(both(among_some), expected)
