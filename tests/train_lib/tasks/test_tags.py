"""Classes of every step: figures are scikit-learn's on labelled steps, spans those of conlleval."""

import json

import numpy as np
import pytest
import sklearn.metrics

from train_lib import tasks
from train_lib.tasks.common import spans
from train_lib.tasks.tags import Tags

BIO = ["O", "B-X", "I-X", "B-Y", "I-Y"]


def drawn(seed, classes, lengths):
    rng = np.random.default_rng(seed)
    task, offsets = Tags(classes), np.cumsum([0, *lengths])
    targets_N = rng.integers(-1, len(classes), offsets[-1]).astype(np.int32)
    outputs_NxC = rng.normal(size=(offsets[-1], len(classes))).astype(np.float32)
    kept = {name: np.asarray(array) for name, array in task.kept(outputs_NxC, targets_N).items()}
    return task, targets_N, offsets, outputs_NxC, kept


def test_figures_are_those_of_scikit_learn_on_the_columns():
    task, targets_N, offsets, outputs_NxC, kept = drawn(0, BIO, [5, 0, 1, 40, 7])
    columns = task.columns(kept, targets_N, offsets)
    pair = [
        [tag for text in columns[name] for tag in (text or "").split()]
        for name in ("target", "answer")
    ]
    found = task.figures(kept, targets_N, offsets)
    assert len(pair[0]) == found["steps"] == np.sum(targets_N >= 0)
    assert found["accuracy"] == sklearn.metrics.accuracy_score(*pair)
    expected = sklearn.metrics.precision_recall_fscore_support(*pair, average="macro")
    np.testing.assert_allclose(list(found["macro"].values()), expected[:3])
    assert task.measure(outputs_NxC, targets_N)["accuracy"] == pytest.approx(found["accuracy"])
    macro = Tags(BIO, metric="macro_f1").measure(outputs_NxC, targets_N)["macro_f1"]
    assert macro == pytest.approx(found["macro"]["f1"])
    scores, weights = task.example_scores(kept, targets_N, offsets)
    assert weights.tolist() == [len((text or "").split()) for text in columns["target"]]
    assert scores @ weights / weights.sum() == pytest.approx(found["accuracy"])
    assert (scores[1], weights[1], columns["target"][1]) == (0, 0, None)


def test_what_is_kept_of_a_step_is_its_answer_and_how_probable_that_is():
    _, _, _, outputs_NxC, kept = drawn(0, BIO, [6])
    odds_NxC = np.exp(outputs_NxC)
    shares_NxC = odds_NxC / odds_NxC.sum(1, keepdims=True)
    np.testing.assert_array_equal(kept["answer"], shares_NxC.argmax(1))
    np.testing.assert_allclose(kept["probability"], shares_NxC.max(1), rtol=1e-5)
    assert {name: array.ndim for name, array in kept.items()} == {"answer": 1, "probability": 1}


def test_seeds_vote_with_their_probabilities():
    kept_K = [
        {"answer": np.array([1, 0], np.int32), "probability": np.array([0.9, 0.3], np.float32)},
        {"answer": np.array([0, 1], np.int32), "probability": np.array([0.5, 0.7], np.float32)},
        {"answer": np.array([0, 2], np.int32), "probability": np.array([0.5, 0.6], np.float32)},
    ]
    together = Tags(["a", "b", "c"]).average(kept_K)
    assert together["answer"].tolist() == [0, 1]
    np.testing.assert_allclose(together["probability"], [1 / 3, 0.7 / 3], rtol=1e-6)


def test_answers_without_targets_have_every_step():
    task, _, offsets, _, kept = drawn(0, ["a", "b"], [2, 0, 3])
    columns = task.columns(kept, None, offsets)
    assert [len(text.split()) for text in columns["answer"]] == [2, 0, 3]
    assert columns["probability"][1] is None
    assert task.answer(kept, offsets) == columns["answer"]
    task, _, offsets, _, kept = drawn(0, ["a b", "c"], [2, 1])
    answer = task.columns(kept, None, offsets)["answer"]
    assert [len(json.loads(text)) for text in answer] == [2, 1]


SPANS = [
    ("O O", []),
    ("B-X I-X O", [("X", 0, 2)]),
    ("B-X B-X", [("X", 0, 1), ("X", 1, 2)]),
    ("B-X I-Y", [("X", 0, 1), ("Y", 1, 2)]),
    ("I-X I-X O I-Y", [("X", 0, 2), ("Y", 3, 4)]),
    ("I-X B-X I-X", [("X", 0, 1), ("X", 1, 3)]),
    ("O B-X-1 I-X-1", [("X-1", 1, 3)]),
]


@pytest.mark.parametrize(("tags", "expected"), SPANS)
def test_spans_are_read_as_conlleval_reads_them(tags, expected):
    assert spans.spans_of(tags.split()) == expected


def test_a_span_is_right_if_its_kind_and_both_ends_are():
    target = ["B-X I-X O B-Y".split(), "B-X O".split()]
    answer = ["B-X I-X O B-X".split(), "B-X I-X".split()]
    found = spans.figures(target, answer)
    assert found["support"] == 3
    assert (found["precision"], found["recall"], found["f1"]) == (1 / 3, 1 / 3, 1 / 3)
    assert found["per_kind"] == {
        "X": {"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "support": 2},
        "Y": {"precision": None, "recall": 0.0, "f1": 0.0, "support": 1},
    }


def test_spans_end_where_their_example_ends():
    task = Tags(["B-X", "I-X", "O"])
    targets_N = task.encode([["B-X"], ["I-X", "O"]])
    kept = {"answer": targets_N, "probability": np.ones(3)}
    found = task.figures(kept, targets_N, np.array([0, 1, 3]))["spans"]
    assert (found["support"], found["f1"]) == (2, 1.0)
    assert task.figures(kept, targets_N, np.array([0, 3]))["spans"]["support"] == 1


def test_spans_are_counted_only_where_all_tags_are_of_spans():
    assert spans.are_spans(["O", "B-X"])
    for classes in (["O"], ["O", "X"], ["B-", "O"], ["O", "E-X"]):
        assert not spans.are_spans(classes)
    task, targets_N, offsets, _, kept = drawn(0, ["NOUN", "VERB"], [4, 4])
    assert "spans" not in task.figures(kept, targets_N, offsets)


def test_balanced_weights_are_of_steps():
    task = tasks.make("tags", [["a", "a"], ["a", "b", None]], {}, {}, {"class_weights": "balanced"})
    np.testing.assert_allclose(task.class_weights, [4 / 6, 4 / 2])
    losses_N = task.training_loss(np.zeros((2, 2), np.float32), np.array([0, 1]))
    np.testing.assert_allclose(losses_N, np.log(2) * np.array([4 / 6, 2]), rtol=1e-6)


BAD = [
    ([["a"], "b"], 1, "is 'b', where a list should be, of a class for each step"),
    ([["a"], None], 1, "is None, where a list should be"),
    ([["a", "b"], ["a", ""]], 1, "is an empty text"),
    ([["a", "b"], [["a"]]], 1, "is ['a'], where one class should be"),
    ([["a", "a"]], None, "All 2 labelled steps of training have the same class, 'a'"),
    ([[None]], None, "None of the labelled steps of training has a label."),
]


@pytest.mark.parametrize(("targets", "number", "message"), BAD)
def test_bad_targets_are_refused(targets, number, message):
    with pytest.raises(tasks.BadTarget) as found:
        tasks.make("tags", targets, {}, {}, {})
    assert found.value.number == number
    assert message in str(found.value)


def test_a_class_that_training_lacks_is_refused():
    with pytest.raises(tasks.BadTarget, match="is the class 'c', which no training") as found:
        Tags(["a", "b"]).encode([["a"], ["a", "c"]])
    assert found.value.number == 1
