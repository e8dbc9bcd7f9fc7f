"""Classes of a sequence: figures are scikit-learn's, losses those of plain NumPy."""

import itertools
import re

import jax
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from train_lib import tasks
from train_lib.tasks.classes import Classes
from train_lib.tasks.common import confusion, threshold

LETTERS = "abcdefgh"


def drawn(seed, count, items, scale=2.0):
    """A task of so many classes, numbers of right ones, and outputs that have to do with them."""
    rng = np.random.default_rng(seed)
    task = Classes(list(LETTERS[:count]))
    right_N = rng.integers(0, count, items)
    outputs_NxC = rng.normal(size=(items, task.num_outputs)) * scale
    if count == 2:
        outputs_NxC[:, 0] += right_N
    else:
        outputs_NxC[np.arange(items), right_N] += 1
    targets_N = task.encode([LETTERS[right] for right in right_N])
    return task, targets_N, outputs_NxC.astype(np.float32)


def cross_entropies(outputs_NxC, right_N):
    """Of plain NumPy, in float64."""
    logits_NxC = outputs_NxC.astype(np.float64)
    if logits_NxC.shape[1] == 1:
        logits_NxC = np.append(np.zeros_like(logits_NxC), logits_NxC, 1)
    odds_NxC = np.exp(logits_NxC - logits_NxC.max(1, keepdims=True))
    shares_NxC = odds_NxC / odds_NxC.sum(1, keepdims=True)
    return -np.log(shares_NxC[np.arange(len(right_N)), right_N]), shares_NxC


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_loss_is_the_cross_entropy(count):
    task, targets_N, outputs_NxC = drawn(0, count, 50)
    expected_N, _ = cross_entropies(outputs_NxC, targets_N.astype(int))
    np.testing.assert_allclose(task.loss(outputs_NxC, targets_N), expected_N, rtol=2e-5, atol=1e-6)


def test_two_classes_have_the_sums_of_a_logit_and_nothing_else():
    task, targets_N, outputs_NxC = drawn(0, 2, 9)
    assert targets_N.dtype == np.float32
    sums = task.sums(outputs_NxC, targets_N, np.ones(9, np.float32))
    assert list(sums) == ["accuracy"]
    assert sums["accuracy"] == np.sum((outputs_NxC[:, 0] > 0) == (targets_N > 0.5))
    sums = jax.make_jaxpr(task.sums)(outputs_NxC, targets_N, np.ones(9, np.float32))
    assert str(sums).count(" gt ") == 2  # One for the logit, one for the label.


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_figures_are_those_of_scikit_learn(seed, count, items):
    task, targets_N, outputs_NxC = drawn(seed, count, items)
    kept = {"outputs": outputs_NxC}
    columns, found = task.columns(kept, targets_N), task.figures(kept, targets_N)
    pair = columns["target"], columns["answer"]
    assert found["accuracy"] == sklearn.metrics.accuracy_score(*pair)
    for average in ("macro", "weighted"):
        expected = sklearn.metrics.precision_recall_fscore_support(
            *pair, average=average, zero_division=0
        )
        np.testing.assert_allclose(list(found[average].values()), expected[:3], atol=1e-12)
    report = sklearn.metrics.classification_report(*pair, output_dict=True, zero_division=0)
    for name, of_class in found["per_class"].items():
        expected = report.get(name, {"precision": 0, "recall": 0, "f1-score": 0, "support": 0})
        assert [value or 0 for value in of_class.values()] == pytest.approx([*expected.values()])
        assert (of_class["recall"] is None) == (name not in columns["target"])
        assert (of_class["precision"] is None) == (name not in columns["answer"])
    expected = sklearn.metrics.confusion_matrix(*pair, labels=task.classes)
    np.testing.assert_array_equal(found["confusion"], expected)


@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_figures_of_probabilities_are_those_of_scikit_learn(seed, count, items):
    task, targets_N, outputs_NxC = drawn(seed, count, items)
    right_N = targets_N.astype(int)
    found = task.figures({"outputs": outputs_NxC}, targets_N)
    losses_N, shares_NxC = cross_entropies(outputs_NxC, right_N)
    assert found["log_loss"] == pytest.approx(losses_N.mean())
    if count == 2 and len(set(right_N)) == 2:
        pair = right_N, shares_NxC[:, 1]
        assert found["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(*pair))
        expected = sklearn.metrics.average_precision_score(*pair)
        assert found["average_precision"] == pytest.approx(expected)
        assert found["brier"] == pytest.approx(sklearn.metrics.brier_score_loss(*pair))
    elif count == 2:
        assert found["auroc"] is None
    elif len(set(right_N)) == count:
        expected = sklearn.metrics.roc_auc_score(right_N, shares_NxC, multi_class="ovr")
        assert found["auroc"] == pytest.approx(expected)
        expected = sklearn.metrics.brier_score_loss(right_N, shares_NxC, scale_by_half=False)
        assert found["brier"] == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
@pytest.mark.parametrize("count", [2, 4])
def test_metrics_of_sums_are_those_of_scikit_learn(metric, count):
    drawn_task, targets_N, outputs_NxC = drawn(3, count, 60)
    task = Classes(drawn_task.classes, metric=metric)
    targets_N[::7] = np.nan if count == 2 else -1
    kept = {"outputs": outputs_NxC}
    columns = task.columns(kept, targets_N)
    known = [number for number, one in enumerate(columns["target"]) if one is not None]
    pair = ([columns[name][number] for number in known] for name in ("target", "answer"))
    expected = {
        "accuracy": sklearn.metrics.accuracy_score,
        "macro_f1": lambda *pair: sklearn.metrics.f1_score(*pair, average="macro"),
    }[metric]
    assert task.measure(outputs_NxC, targets_N)[metric] == pytest.approx(expected(*pair))


@pytest.mark.parametrize("count", [2, 3])
def test_balanced_weights_are_those_of_scikit_learn_and_touch_training_alone(count):
    targets = list("aaaabbbcc"[: 7 if count == 2 else 9])
    task = tasks.make("classes", targets, {}, {}, {"class_weights": "balanced"})
    expected = sklearn.utils.class_weight.compute_class_weight(
        "balanced", classes=np.array(task.classes), y=targets
    )
    np.testing.assert_allclose(task.class_weights, expected)
    encoded_N = task.encode(targets)
    weights_N = np.array(task.class_weights)[encoded_N.astype(int)]
    assert weights_N.mean() == pytest.approx(1)
    outputs_NxC = np.random.default_rng(0).normal(size=(len(targets), task.num_outputs))
    outputs_NxC = outputs_NxC.astype(np.float32)
    losses_N = np.asarray(task.loss(outputs_NxC, encoded_N))
    np.testing.assert_allclose(
        task.training_loss(outputs_NxC, encoded_N), losses_N * weights_N, 1e-6
    )
    plain = Classes(task.classes)
    np.testing.assert_array_equal(plain.training_loss(outputs_NxC, encoded_N), losses_N)


@pytest.mark.parametrize("given_weights", [{"a": 1, "b": 2.5}, '{"a": 1, "b": 2.5}'])
def test_weights_can_be_given(given_weights):
    task = tasks.make("classes", ["b", "a"], {}, {}, {"class_weights": given_weights})
    assert task.class_weights == [1, 2.5]


@pytest.mark.parametrize("name", ["classes", "tags"])
@pytest.mark.parametrize("count", [2, 4])
def test_smoothed_labels_leave_every_class_a_share_in_training_alone(name, count):
    rng = np.random.default_rng(0)
    numbers_N = rng.integers(0, count, 20)
    targets = ["abcd"[number] for number in numbers_N]
    targets = [targets[:count] + list("abcd"[:count]), targets] if name == "tags" else targets
    task = tasks.make(name, targets, {"label_smoothing": 0.2}, {"label_smoothing": 0.0}, {})
    encoded_N = task.encode(targets)
    outputs_NxC = rng.normal(size=(len(encoded_N), task.num_outputs)).astype(np.float32)
    logits_NxC = outputs_NxC.astype(np.float64)
    if task.num_outputs == 1:
        logits_NxC = np.concatenate([0 * logits_NxC, logits_NxC], 1)
    shares_NxC = np.full((len(encoded_N), count), 0.2 / count)
    shares_NxC[np.arange(len(encoded_N)), encoded_N.astype(int)] += 0.8
    log_NxC = logits_NxC - np.log(np.exp(logits_NxC).sum(1, keepdims=True))
    expected_N = -(shares_NxC * log_NxC).sum(1)
    np.testing.assert_allclose(task.training_loss(outputs_NxC, encoded_N), expected_N, rtol=1e-5)
    plain = type(task)(task.classes)
    assert not np.allclose(plain.training_loss(outputs_NxC, encoded_N), expected_N, rtol=1e-2)
    np.testing.assert_array_equal(
        task.loss(outputs_NxC, encoded_N), plain.training_loss(outputs_NxC, encoded_N)
    )
    weights = dict(zip(task.classes, range(1, count + 1), strict=True))
    options = {"label_smoothing": 0.2, "class_weights": weights}
    weighted = tasks.make(name, targets, {}, {}, options).training_loss(outputs_NxC, encoded_N)
    np.testing.assert_allclose(weighted, expected_N * (encoded_N + 1), rtol=1e-5)


@pytest.mark.parametrize("name", ["labels", "numbers"])
def test_what_has_no_classes_has_no_smoothing(name):
    targets = [["a"], ["b"], ["a"], ["b"]] if name == "labels" else [1.0, 2.0]
    with pytest.raises(ValueError, match=f"the task {name} has no option 'label_smoothing'"):
        tasks.make(name, targets, {"label_smoothing": 0.1}, {"label_smoothing": 0.0}, {})


def test_a_task_of_an_older_version_has_no_smoothing():
    fields = Classes(["a", "b"]).to_json()
    del fields["label_smoothing"]
    outputs_NxC, targets_N = np.ones((2, 1), np.float32), np.float32([0, 1])
    losses_N = Classes.from_json(fields).training_loss(outputs_NxC, targets_N)
    np.testing.assert_array_equal(losses_N, Classes(["a", "b"]).loss(outputs_NxC, targets_N))


def test_an_item_without_a_label_has_no_gradient():
    for name in tasks.names():
        task_class = tasks.find(name)
        task = task_class.of_targets(task_class.examples)
        targets_N = task.encode([*task_class.examples, [None] if task.per_step else None])
        outputs_NxC = np.random.default_rng(0).normal(size=(len(targets_N), task.num_outputs))
        gradient = jax.jit(jax.grad(lambda *pair, task=task: task.all_sums(*pair)["loss"]))
        gradient_NxC = gradient(outputs_NxC.astype(np.float32), targets_N)
        is_known_N = np.asarray(task.labelled(targets_N))
        assert not is_known_N[-1]
        np.testing.assert_array_equal(np.any(gradient_NxC, axis=-1), is_known_N)


def test_classes_stand_in_a_sensible_order():
    def classes(targets, **options):
        return tasks.make("classes", targets, {}, {}, options).classes

    assert classes(["10", "9", "1"]) == ["1", "9", "10"]
    assert classes([2, 1.0, "10", 1]) == ["1", "2", "10"]
    assert classes([0.5, -1, 0]) == ["-1", "0", "0.5"]
    assert classes(["10", "9", "a"]) == ["10", "9", "a"]
    assert classes([True, False]) == ["false", "true"]
    assert classes(["bad", "good"], classes=["good", "bad"]) == ["good", "bad"]


def test_names_are_what_people_read():
    task = tasks.make("classes", [0, 1, 1], {}, {}, {"names": ("negative", "positive")})
    kept = {"outputs": np.array([[2.605], [-1.0]], np.float32)}
    assert task.answer(kept) == ["positive  0.9312", "negative  0.7311"]
    columns = task.columns(kept, task.encode([0, None]))
    assert columns["target"] == ["negative", None]
    assert columns["answer"] == ["positive", "negative"]
    assert list(columns) == ["target", "answer", "logit", "probability"]
    np.testing.assert_allclose(columns["logit"], [2.605, -1], rtol=1e-6)
    plain = tasks.make("classes", [0, 1, 1], {}, {}, {})
    assert plain.columns(kept, plain.encode([1, 0]))["target"] == ["1", "0"]


@given(st.integers(0, 10**6), st.integers(2, 5), st.sampled_from(["accuracy", "f1", "macro_f1"]))
@settings(max_examples=60, deadline=None)
def test_no_threshold_is_better_than_the_one_that_validation_chooses(seed, items, metric):
    rng = np.random.default_rng(seed)
    task = Classes(["a", "b"], metric=metric, threshold="validation")
    targets_N = rng.integers(0, 2, items * 3).astype(np.float32)
    outputs_Nx1 = np.round(rng.normal(size=(items * 3, 1)) + targets_N[:, None], 1)
    outputs_Nx1 = outputs_Nx1.astype(np.float32)
    targets_N[0] = np.nan
    known_N = targets_N == targets_N

    def value(cut):
        counts_2x2 = confusion.counted(
            targets_N[known_N], (outputs_Nx1[known_N, 0] > cut).astype(int), 2
        )
        f1_2 = confusion.f1_of_classes(counts_2x2)
        return {
            "accuracy": np.trace(counts_2x2) / counts_2x2.sum(),
            "f1": np.nan_to_num(f1_2[1], nan=-1),
            "macro_f1": np.nan_to_num(f1_2.mean(), nan=-1),
        }[metric]

    decided = task.decided({"outputs": outputs_Nx1}, targets_N)
    levels = [-9.0, *np.unique(outputs_Nx1), 0.0]
    assert value(decided.cut) == pytest.approx(max(map(value, levels)))
    assert task.cut == 0
    if value(0.0) == pytest.approx(value(decided.cut)):
        assert decided.cut == 0
    again = Classes.from_json(decided.to_json())
    np.testing.assert_array_equal(
        again.answers({"outputs": outputs_Nx1}), outputs_Nx1[:, 0] > decided.cut
    )


def test_a_threshold_moves_answers_and_right_ones_and_not_the_loss():
    strict, plain = Classes(["a", "b"], threshold="0.9"), Classes(["a", "b"])
    outputs_Nx1, targets_N = np.array([[2.0], [2.3]], np.float32), np.ones(2, np.float32)
    assert strict.measure(outputs_Nx1, targets_N)["accuracy"] == 0.5
    loss = plain.measure(outputs_Nx1, targets_N)["loss"]
    assert strict.measure(outputs_Nx1, targets_N)["loss"] == loss
    assert strict.columns({"outputs": outputs_Nx1})["answer"] == ["a", "b"]
    assert strict.figures({"outputs": outputs_Nx1}, targets_N)["threshold"] == pytest.approx(0.9)
    assert plain.decided({"outputs": outputs_Nx1}, targets_N) is plain


def test_cuts_separate_neighbouring_numbers():
    ones = np.float32([1, np.nextafter(np.float32(1), np.float32(2))])
    assert np.float32(1) <= threshold.best_cut(ones.astype(float), np.array([0, 1]), "f1") < ones[1]


@pytest.mark.parametrize("count", [2, 4])
def test_seeds_together_answer_by_their_mean_probabilities(count):
    several = [drawn(seed, count, 30, scale=40.0) for seed in range(3)]
    task = several[0][0]
    kept_K = [{"outputs": outputs_NxC} for _, _, outputs_NxC in several]
    together = task.probabilities(task.average(kept_K))
    expected = np.mean([task.probabilities(kept) for kept in kept_K], axis=0)
    np.testing.assert_allclose(together, expected, rtol=1e-9, atol=1e-15)
    assert task.average(kept_K[:1]) is kept_K[0]


@pytest.mark.parametrize("count", [2, 3])
def test_a_guess_answers_the_most_frequent_class(count):
    targets = list("abbbcab"[: 5 if count == 3 else 4])
    task = tasks.make("classes", targets, {}, {}, {})
    found = task.measure(task.guess(task.encode(targets)), task.encode(targets))
    _, shares = np.unique(targets, return_counts=True)
    shares = shares / len(targets)
    assert found["accuracy"] == pytest.approx(shares.max())
    assert found["loss"] == pytest.approx(-shares @ np.log(shares), rel=1e-5)


BAD = [
    ([None, "", "a"], 1, "is an empty text"),
    (["a", "b", float("nan")], 2, "is nan, which is not a class"),
    (["a", ["b"]], 1, "is ['b'], where one class should be"),
    (["a", {"b": 1}], 1, "is {'b': 1}, where one class should be"),
    (
        ["a", "a"],
        None,
        "All 2 training examples have the same class, 'a'; there must be at least two.",
    ),
    ([None, None], None, "None of the training examples has a label."),
    ([], None, "None of the training examples has a label."),
    (np.arange(200) / 7, None, "have 200 different targets, too many to be classes"),
]


@pytest.mark.parametrize(("targets", "number", "message"), BAD, ids=lambda one: str(one)[:20])
def test_bad_targets_are_refused(targets, number, message):
    with pytest.raises(tasks.BadTarget) as found:
        tasks.make("classes", list(targets), {}, {}, {})
    assert found.value.number == number
    assert message in str(found.value)


def test_a_class_that_training_lacks_is_refused():
    task = tasks.make("classes", ["a", "b"], {}, {}, {})
    with pytest.raises(
        tasks.BadTarget, match="is the class 'c', which no training example"
    ) as found:
        task.encode(["a", None, "c"])
    assert found.value.number == 2


BAD_OPTIONS = [
    ({"metric": "f2"}, "metric='f2' is unknown; choose one of accuracy, macro_f1, loss"),
    ({"metric": "f1"}, "metric='f1' is unknown"),
    ({"threshold": 0.4}, "threshold=0.4 is for two classes, and there are 3"),
    ({"threshold": "validation"}, "threshold='validation' is for two classes"),
    ({"threshold": 1.5}, "threshold=1.5 must be a probability between 0 and 1"),
    ({"threshold": "half"}, "threshold='half' must be a probability"),
    ({"names": ("x", "y")}, "a list with a different name for each of the 3 classes 'a', 'b', 'c'"),
    ({"names": {"a": "x", "b": "y", "c": "z"}}, "must be a list with a different name"),
    ({"names": ("a", "c", "b")}, "are the classes themselves in another order"),
    ({"names": "xyz"}, "must be a list with a different name"),
    ({"names": ("x", "x", "y")}, "must be a list with a different name"),
    ({"classes": ("a", "b", "d")}, "The classes given are 'a', 'b', 'd', and those of the train"),
    ({"label_smoothing": 1.0}, "label_smoothing=1.0 must be a number in [0, 1)"),
    ({"class_weights": "heavy"}, "class_weights='heavy' must be 'balanced', or the weight of each"),
    ({"class_weights": {"a": 1}}, "class_weights has weights of 'a', and the classes are 'a', 'b'"),
    ({"class_weights": {"a": -1, "b": 1, "c": 1}}, "must be from 0 to 1e6, and not all 0"),
    ({"class_weights": {"a": 1e300, "b": 1, "c": 1}}, "must be from 0 to 1e6"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tasks.make("classes", ["a", "b", "c"], {}, {}, options)


def test_a_loss_has_no_threshold():
    with pytest.raises(ValueError, match="needs a metric that depends on it"):
        Classes(["a", "b"], metric="loss", threshold="validation")


@pytest.mark.parametrize("count", [2, 12, 30, 100])
def test_a_confusion_matrix_is_drawn(count, tmp_path):
    names = [f"class ${number}" for number in range(count)]
    rng = np.random.default_rng(0)
    targets_N, task = rng.integers(0, count, 4 * count), Classes(names)
    outputs_NxC = rng.normal(size=(4 * count, task.num_outputs))
    drawn = task.pictures({"outputs": outputs_NxC}, targets_N)
    drawn["confusion"].savefig(tmp_path / "confusion.png")
    figure = drawn["confusion"]
    width, height = figure.get_size_inches()
    assert max(width, height) < 15
    (axes, _) = figure.axes
    assert len(axes.get_xticks()) == min(count, 30)
    assert bool(axes.get_title()) == (count > 30)
    found = task.figures({"outputs": outputs_NxC}, targets_N)
    assert ("confusion" in found) == (count <= 50)
    if count == 100:
        first = found["most_confused"][0]
        wrong = [
            (target, answer)
            for target, answer in zip(
                *(task.columns({"outputs": outputs_NxC}, targets_N)[name]
                  for name in ("target", "answer")),
                strict=True,
            )
            if target != answer
        ]  # fmt: skip
        counts = [len(list(group)) for _, group in itertools.groupby(sorted(wrong))]
        assert first["count"] == max(counts)


def test_without_labels_there_are_no_figures():
    task = Classes(["a", "b"])
    kept, targets_N = {"outputs": np.zeros((2, 1))}, task.encode([None, None])
    assert task.figures(kept, targets_N) == task.pictures(kept, targets_N) == {}
