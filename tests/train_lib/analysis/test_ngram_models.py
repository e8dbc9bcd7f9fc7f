"""Models of counted n-grams against hand computations and dense arrays."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.sparse import csr_array

from train_lib.analysis import ngram_models
from train_lib.analysis.ngram_models import Averaged, log_count_ratio, train_linear

# Of positive examples two have the first n-gram and one the second; of negative ones one has the
# second and two the third.
COUNTS = csr_array(np.array([[3, 0, 0], [1, 1, 0], [0, 0, 1], [0, 5, 2]], np.float32))
LABELS = np.array([1, 1, 0, 0], np.int8)


def test_log_count_ratio_is_the_one_computed_by_hand():
    # p = (1 + 2, 1 + 1, 1 + 0) / 6 and q = (1 + 0, 1 + 1, 1 + 2) / 6.
    expected = [math.log(3), 0, -math.log(3)]
    np.testing.assert_allclose(log_count_ratio(COUNTS, LABELS), expected, atol=1e-6)


@pytest.mark.parametrize("weighting", ["binary", "log-count ratio"])
@pytest.mark.parametrize("examples", [[0, 3], [0, 1, 2, 3]])  # Fewer than n-grams, and more.
def test_a_linear_model_is_at_the_minimum_of_penalty_and_losses(weighting, examples):
    counts, labels = COUNTS[examples], LABELS[examples]
    (model,) = train_linear(counts, labels, [{"weighting": weighting, "cost": 0.5}], 0)
    assert model.parameters == 3 + 1
    weights = np.ones(3) if weighting == "binary" else log_count_ratio(counts, labels)
    features = np.hstack([(counts.toarray() > 0) * weights, np.ones((len(labels), 1))])
    # Of nothing the logit is the intercept; of an n-gram its coefficient is added.
    *single, intercept = model.logits(csr_array(np.vstack([np.eye(3), np.zeros(3)])))
    effects = np.array(single) - intercept
    kernel = np.divide(effects, weights, out=np.zeros(3), where=weights != 0)
    errors = 1 / (1 + np.exp(-model.logits(counts))) - labels
    gradient = np.append(kernel, intercept) + 0.5 * features.T @ errors
    np.testing.assert_allclose(gradient, 0, atol=1e-3)


def test_a_sparse_step_is_a_dense_one():
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.3, (20, 30)).astype(np.float32)
    counts[3] = 0
    labels = rng.integers(0, 2, 20).astype(np.float32)
    params = Averaged(
        *(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((30, 4), (4,), ()))
    )
    opt_state = ngram_models._OPTIMIZER.init(params)
    means = counts / np.maximum(counts.sum(1, keepdims=True), 1)

    def loss(params):
        logits = means @ params.embedding_FxD @ params.kernel_D + params.bias
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

    expected, _ = ngram_models._OPTIMIZER.update(jax.grad(loss)(params), opt_state)
    expected = optax.apply_updates(params, expected)
    entries = ngram_models._entries(ngram_models._shares(csr_array(counts)))
    after, _ = ngram_models._step(params, opt_state, *entries, labels)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after, expected)
    model = ngram_models._averaged_model(after)
    expected_logits = means @ expected.embedding_FxD @ expected.kernel_D + expected.bias
    np.testing.assert_allclose(model.logits(csr_array(counts)), expected_logits, atol=1e-4)
    assert model.parameters == 30 * 4 + 4 + 1
