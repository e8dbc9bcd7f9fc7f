"""Figures of answers against scikit-learn's, on many small and uneven sets of answers."""

import warnings

import numpy as np
import pytest
import sklearn.metrics

from train_lib.tasks.common import figures


@pytest.fixture(params=range(40))
def rng(request):
    return np.random.default_rng(request.param)


def scores(targets, answers, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.UndefinedMetricWarning)
        return np.array(
            sklearn.metrics.precision_recall_fscore_support(targets, answers, **options), float
        )


def test_classes(rng):
    count, classes = rng.integers(1, 12), rng.integers(2, 6)
    targets_N = rng.integers(0, classes, count)
    answers_N = rng.integers(0, rng.integers(1, classes + 1), count)
    found = figures.of_answers(targets_N, answers_N, [f"class {c}" for c in range(classes)])
    for average in ("macro", "weighted"):
        expected = scores(targets_N, answers_N, average=average, zero_division=0)[:3]
        assert list(found[average].values()) == pytest.approx(expected.tolist())
    expected = scores(targets_N, answers_N, labels=range(classes), zero_division=np.nan)
    ours = np.array([list(of_class.values()) for of_class in found["per_class"].values()], float)
    np.testing.assert_allclose(ours, expected.T)


def test_labels(rng):
    count, labels = rng.integers(1, 12), rng.integers(1, 5)
    is_target_NxL = rng.random((count, labels)) < 0.5 * rng.random(labels)
    logits_NxL = rng.normal(-0.5, size=(count, labels))
    found = figures.of_labels(is_target_NxL, logits_NxL, [f"label {c}" for c in range(labels)])
    # With a single column, scikit-learn would take labels for classes.
    targets, answers = (
        np.append(of_labels, np.zeros((count, 1)), 1).astype(int)
        for of_labels in (is_target_NxL, logits_NxL > 0)
    )
    anywhere_L = np.flatnonzero((targets | answers).any(0))
    for average in ("micro", "macro", "weighted"):
        ours = list(found[average].values())
        if not len(anywhere_L):
            assert ours == [None] * 3
            continue
        expected = scores(targets, answers, average=average, zero_division=0, labels=anywhere_L)
        assert ours == pytest.approx(expected[:3].tolist())


def test_rankings_with_ties(rng):
    is_positive_N = np.append([True, False], rng.random(50) < rng.random())
    scores_N = rng.normal(size=52).round(rng.integers(0, 3))
    found = figures.ranking(is_positive_N, scores_N)
    pair = is_positive_N, scores_N
    assert found["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(*pair))
    expected = sklearn.metrics.average_precision_score(*pair)
    assert found["average_precision"] == pytest.approx(expected)
