"""Models that classify counted n-grams: linear ones, and the mean of an embedding.

Counts are sparse, `[N, F]`: N examples, F n-grams.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.sparse import csr_array, diags_array

from train_lib.training.optimizers import adam

Options = dict[str, Any]


class Model(NamedTuple):
    """A trained model.

    Attributes:
        parameters: their number.
        logits: maps counts `[N, F]` to logits `[N]`.
    """

    parameters: int
    logits: Callable[[csr_array], np.ndarray]


def train_linear(
    counts_NxF: csr_array, labels_N: np.ndarray, grid: Sequence[Options], seed: int
) -> Iterator[Model]:
    """Logistic regression on weighted counts, with each of several options.

    Args:
        counts_NxF: the counts to train on.
        labels_N: their labels.
        grid: options of `weighting`, one of `WEIGHTINGS`, and `cost`: training minimises half the
            square of the coefficients plus `cost` times the sum of the losses.
        seed: the seed of the order in which the optimum, the same for all, is approached.
    """
    from sklearn.linear_model import LogisticRegression  # Slow to import, and needed only here.

    def train(weighting: str, cost: float) -> Model:
        weigh = WEIGHTINGS[weighting](counts_NxF, labels_N)
        model = LogisticRegression(
            C=cost,
            solver="liblinear",
            dual=counts_NxF.shape[0] < counts_NxF.shape[1],  # The problem with fewer unknowns.
            max_iter=1_000,
            random_state=seed,
        ).fit(weigh(counts_NxF), labels_N)
        parameters = model.coef_.size + model.intercept_.size
        return Model(parameters, lambda counts: model.decision_function(weigh(counts)))

    return (train(**options) for options in grid)


def binary(counts_NxF: csr_array, labels_N: np.ndarray) -> Callable[[csr_array], csr_array]:
    """Weights each n-gram of an example as 1."""
    return lambda counts: (counts > 0).astype(np.float32)


def tf_idf(counts_NxF: csr_array, labels_N: np.ndarray) -> Callable[[csr_array], csr_array]:
    """Weights an n-gram by its count and by how few examples have it; scales examples to norm 1."""
    from sklearn.feature_extraction.text import TfidfTransformer  # Slow to import.

    return TfidfTransformer().fit(counts_NxF).transform


def naive_bayes(counts_NxF: csr_array, labels_N: np.ndarray) -> Callable[[csr_array], csr_array]:
    """Weights each n-gram of an example by its log-count ratio, which makes an NB-SVM.

    Wang and Manning, "Baselines and Bigrams: Simple, Good Sentiment and Topic Classification", ACL
    2012. Logistic regression takes the place of their support vector machine and its interpolation,
    as in Mesnil et al., "Ensemble of Generative and Discriminative Techniques for Sentiment
    Analysis of Movie Reviews", 2014.
    """
    is_there = binary(counts_NxF, labels_N)
    ratio = diags_array(log_count_ratio(counts_NxF, labels_N))
    return lambda counts: is_there(counts) @ ratio


def log_count_ratio(counts_NxF: csr_array, labels_N: np.ndarray) -> np.ndarray:
    """The log ratio of each n-gram's shares in positive and in negative examples: `[F]`.

    Equation 2 of Wang and Manning, with alpha = 1 and each n-gram counted once per example.
    """
    is_there_NxF = counts_NxF > 0
    positive_F, negative_F = (1 + is_there_NxF[labels_N == label].sum(0) for label in (1, 0))
    ratio_F = np.log((positive_F / positive_F.sum()) / (negative_F / negative_F.sum()))
    return ratio_F.astype(np.float32)


def standardised(features_NxF: np.ndarray, targets_N: np.ndarray) -> Callable:
    """Standardises dense features by their means and standard deviations in training."""
    mean_F, deviation_F = features_NxF.mean(0), features_NxF.std(0)
    # A feature that hardly varies in training tells nothing, and may be far off elsewhere.
    scale_F = np.where(deviation_F > 1e-9 * np.maximum(1, np.abs(mean_F)), deviation_F, np.inf)
    return lambda features: (features - mean_F) / scale_F


WEIGHTINGS: dict[str, Callable] = {
    "binary": binary,
    "tf-idf": tf_idf,
    "log-count ratio": naive_bayes,
    "standardised": standardised,
}


class Averaged(NamedTuple):
    """Parameters of `train_averaged`."""

    embedding_FxD: jax.Array
    kernel_D: jax.Array
    bias: jax.Array


_BATCH_SIZE = 64
_ENTRIES = 8_192  # Batches are padded to a multiple of this, to compile few shapes.
_OPTIMIZER = adam(learning_rate=1e-2, epsilon=1e-7)


def train_averaged(
    counts_NxF: csr_array, labels_N: np.ndarray, grid: Sequence[Options], seed: int
) -> Iterator[Model]:
    """A logit from the mean of all n-grams' vectors, after each of several numbers of epochs.

    fastText: Joulin et al., "Bag of Tricks for Efficient Text Classification", EACL 2017; with a
    vector for each n-gram, where theirs share some by hashing, and with Adam.

    Args:
        counts_NxF: the counts to train on.
        labels_N: their labels.
        grid: options of `epochs`, ascending, and `embedding_size`, the same in all.
        seed: the seed of initialisation and order.
    """
    rng = np.random.default_rng(seed)
    shape = counts_NxF.shape[1], grid[0]["embedding_size"]
    params = Averaged(
        embedding_FxD=jnp.asarray(rng.uniform(-0.05, 0.05, shape), jnp.float32),
        kernel_D=jnp.asarray(rng.normal(0, shape[1] ** -0.5, shape[1]), jnp.float32),
        bias=jnp.zeros(()),
    )
    opt_state = _OPTIMIZER.init(params)
    shares_NxF = _shares(counts_NxF)
    epoch = 0
    for options in grid:
        while epoch < options["epochs"]:
            epoch += 1
            order = np.random.default_rng([seed, epoch]).permutation(len(labels_N))
            for examples in np.split(order, range(_BATCH_SIZE, len(order), _BATCH_SIZE)):
                params, opt_state = _step(
                    params, opt_state, *_entries(shares_NxF[examples]),
                    labels_N[examples].astype(np.float32),
                )  # fmt: skip
        yield _averaged_model(params)


def _averaged_model(params: Averaged) -> Model:
    embedding_FxD, kernel_D, bias = map(np.array, params)  # Copies: training continues in place.
    parameters = sum(array.size for array in params)
    return Model(parameters, lambda counts: _shares(counts) @ embedding_FxD @ kernel_D + bias)


def _shares(counts_NxF: csr_array) -> csr_array:
    """Each n-gram's share of those of its example."""
    sums_N = np.maximum(counts_NxF.sum(1), 1)
    return diags_array(1 / sums_N).astype(np.float32) @ counts_NxF


def _entries(matrix_BxF: csr_array) -> tuple[np.ndarray, ...]:
    """Rows, columns and values of a sparse matrix, with zeros after the last of them."""
    rows = np.repeat(np.arange(matrix_BxF.shape[0]), np.diff(matrix_BxF.indptr))
    padding = 0, -matrix_BxF.nnz % _ENTRIES
    return tuple(np.pad(array, padding) for array in (rows, matrix_BxF.indices, matrix_BxF.data))


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _step(params: Averaged, opt_state: optax.OptState, rows, columns, values, labels_B):
    """One step of Adam on a batch whose shares are given as entries."""

    def loss(params: Averaged) -> jax.Array:
        vectors = params.embedding_FxD[columns] * values[:, None]
        mean_BxD = jax.ops.segment_sum(vectors, rows, len(labels_B))
        logits_B = mean_BxD @ params.kernel_D + params.bias
        return optax.sigmoid_binary_cross_entropy(logits_B, labels_B).mean()

    updates, opt_state = _OPTIMIZER.update(jax.grad(loss)(params), opt_state)
    return optax.apply_updates(params, updates), opt_state
