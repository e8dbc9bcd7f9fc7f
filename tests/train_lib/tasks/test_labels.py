"""Several labels at once: figures are scikit-learn's, losses those of plain NumPy."""

import warnings

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MultiLabelBinarizer

from train_lib import tasks
from train_lib.tasks.labels import Labels


def drawn(seed, count, items):
    rng = np.random.default_rng(seed)
    task = Labels(list("abcdef"[:count]))
    targets_NxL = (rng.uniform(size=(items, count)) < 0.4).astype(np.int32)
    outputs_NxL = rng.normal(size=(items, count)) + targets_NxL - 0.5
    return task, targets_NxL, outputs_NxL.astype(np.float32)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_figures_are_those_of_scikit_learn_on_the_columns(seed, count, items):
    task, targets_NxL, outputs_NxL = drawn(seed, count, items)
    kept = {"outputs": outputs_NxL}
    columns, found = task.columns(kept, targets_NxL), task.figures(kept, targets_NxL)
    target, answer = (
        [[name for name in text.split(";") if name] for text in columns[column]]
        for column in ("target", "answer")
    )
    binarizer = MultiLabelBinarizer().fit([*target, *answer])
    if not len(binarizer.classes_):
        assert found["micro"] == found["macro"] == {"precision": None, "recall": None, "f1": None}
        return
    pair = [binarizer.transform(one) for one in (target, answer)]
    pair = [np.append(one, np.zeros_like(one[:, :1]), 1) for one in pair]
    for average in ("micro", "macro", "weighted"):
        expected = sklearn.metrics.precision_recall_fscore_support(
            *pair, average=average, labels=range(len(binarizer.classes_)), zero_division=0
        )
        np.testing.assert_allclose(list(found[average].values()), expected[:3], atol=1e-12)
    assert found["subset_accuracy"] == sklearn.metrics.accuracy_score(*pair)
    expected = sklearn.metrics.f1_score(*pair, average="samples", zero_division=1)
    assert task.score(kept, targets_NxL).mean() == pytest.approx(expected)
    for label, name in enumerate(task.labels):
        is_there_N = targets_NxL[:, label]
        auroc = found["per_label"][name]["auroc"]
        assert (auroc is None) == (len(set(is_there_N)) == 1)
        if auroc is not None:
            expected = sklearn.metrics.roc_auc_score(is_there_N, outputs_NxL[:, label])
            assert auroc == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 4])
def test_metrics_of_sums_are_those_of_scikit_learn(count):
    task, targets_NxL, outputs_NxL = drawn(5, count, 40)
    targets_NxL[3] = targets_NxL[17] = -1
    metrics = task.measure(outputs_NxL, targets_NxL)
    figures = task.figures({"outputs": outputs_NxL}, targets_NxL)
    assert metrics["micro_f1"] == pytest.approx(figures["micro"]["f1"])
    assert metrics["macro_f1"] == pytest.approx(figures["macro"]["f1"])
    known_N = targets_NxL[:, 0] >= 0
    score = task.score({"outputs": outputs_NxL}, targets_NxL)[known_N].mean()
    assert metrics["samples_f1"] == pytest.approx(score)
    losses = np.logaddexp(0, np.where(targets_NxL > 0, -outputs_NxL, outputs_NxL)).mean(1)
    assert metrics["loss"] == pytest.approx(losses[known_N].mean(), rel=1e-5)


def test_an_example_without_labels_is_right_if_none_is_answered():
    task = Labels(["a", "b"])
    targets_NxL = task.encode([[], []])
    outputs_NxL = np.array([[-1.0, -1], [1, -1]], np.float32)
    assert task.score({"outputs": outputs_NxL}, targets_NxL).tolist() == [1, 0]
    assert task.measure(outputs_NxL, targets_NxL)["samples_f1"] == 0.5
    columns = task.columns({"outputs": outputs_NxL}, targets_NxL)
    assert columns["target"] == ["", ""]
    assert task.answer({"outputs": outputs_NxL}) == ["-", "a 0.7311"]


def test_names_with_a_semicolon_are_written_as_json():
    task = tasks.make("labels", [["a;b", "c"], []], {}, {}, {})
    columns = task.columns({"outputs": np.array([[1.0, 1.0]])}, task.encode([["c"]]))
    assert columns["target"] == ['["c"]']
    assert columns["answer"] == ['["a;b", "c"]']
    assert list(columns) == ["target", "answer", "probability_a;b", "probability_c"]


def test_balanced_weights_make_a_label_weigh_as_much_where_it_is_as_where_it_is_not():
    targets = [["a"], [], ["b"], ["b", "all"], ["b", "all"]]
    targets = [[*target, "all"] if "all" not in target else target for target in targets]
    task = tasks.make("labels", targets, {}, {}, {"class_weights": "balanced"})
    assert task.labels == ["a", "all", "b"]
    np.testing.assert_allclose(task.weights_Lx2, [[5 / 8, 5 / 2], [1, 1], [5 / 4, 5 / 6]])
    encoded_NxL = task.encode(targets)
    outputs_NxL = np.zeros((5, 3), np.float32)
    losses_N = task.training_loss(outputs_NxL, encoded_NxL)
    assert np.mean(losses_N) == pytest.approx(np.log(2), rel=1e-6)
    assert losses_N[0] == pytest.approx(np.log(2) * (5 / 2 + 1 + 5 / 4) / 3, rel=1e-6)
    np.testing.assert_allclose(task.loss(outputs_NxL, encoded_NxL), np.log(2), rtol=1e-6)


def test_seeds_together_answer_by_their_mean_probabilities():
    kept_K = [{"outputs": np.array([[value, -value]])} for value in (30.0, -2.0, 800.0)]
    found = Labels(["a", "b"]).average(kept_K)["outputs"]
    share = np.mean(1 / (1 + np.exp([-30.0, 2.0, -800.0])))
    np.testing.assert_allclose(found, [[np.log(share / (1 - share)), np.log((1 - share) / share)]])


BAD = [
    ([["a"], 3], 1, "is 3, where labels should be: a list of names, or a text"),
    ([["a"], ["b", "b"]], 1, "is ['b', 'b'], which has a label twice"),
    ([["a"], ["b", None]], 1, "is None, where one class should be"),
    ([["a"], "b;;c"], 1, "is an empty text"),
    ([["a"], [float("nan")]], 1, "is nan, which is not a class"),
    ([[], [], None], None, "No training example has a label."),
    ([], None, "No training example has a label."),
    ([["a", "b"], "b;a"], None, "All 2 training examples have the same labels, 'a', 'b'"),
]


@pytest.mark.parametrize(("targets", "number", "message"), BAD)
def test_bad_targets_are_refused(targets, number, message):
    with pytest.raises(tasks.BadTarget) as found:
        tasks.make("labels", targets, {}, {}, {})
    assert found.value.number == number
    assert message in str(found.value)


def test_a_label_that_training_lacks_is_refused():
    task = Labels(["a", "b"])
    with pytest.raises(
        tasks.BadTarget, match="is the label 'c', which no training example"
    ) as found:
        task.encode([["a"], ["a", "c"]])
    assert found.value.number == 1
    with pytest.raises(ValueError, match="metric='f1' is unknown; choose one of samples_f1"):
        Labels(["a", "b"], metric="f1")
    with pytest.raises(ValueError, match="class_weights has weights of 'a'"):
        tasks.make("labels", [["a"], ["b"]], {}, {}, {"class_weights": {"a": 2}})


def test_no_warning_is_given_where_a_figure_is_not_defined():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = Labels(["a", "b"])
        found = task.figures({"outputs": np.full((2, 2), -1.0)}, task.encode([[], []]))
    assert found["per_label"]["a"] == {
        "precision": None, "recall": None, "f1": None, "support": 0, "auroc": None,
        "average_precision": None,
    }  # fmt: skip
    assert found["auroc"] is None
    assert task.figures({"outputs": np.zeros((1, 2))}, task.encode([None])) == {}
