"""Every task keeps the contract, whatever its options; and who breaks it is told so."""

import numpy as np
import pytest

from train_lib import tasks
from train_lib.tasks import check_task
from train_lib.tasks.base import Task
from train_lib.tasks.common import checks

pytestmark = pytest.mark.slow

TWO = ["no", "yes", "no", "no", "yes"]
CASES = [
    *((name, None, {}) for name in tasks.names()),
    ("classes", TWO, {}),
    ("classes", TWO, {"class_weights": "balanced", "metric": "f1", "threshold": 0.3}),
    ("classes", [1, 0, 1, 1.0, 0], {"metric": "loss", "names": ("negative", "positive")}),
    ("classes", ["a", "b", "c", "a"], {"class_weights": "balanced", "metric": "macro_f1"}),
    ("classes", list(range(60)) * 3, {}),
    ("labels", [["a;b"], ["c"], []], {"class_weights": "balanced", "metric": "micro_f1"}),
    ("labels", ["x; y", "", "y", "x"], {"class_weights": {"x": 1, "y": 3}, "metric": "loss"}),
    ("labels", [["only"], []], {"metric": "macro_f1"}),
    ("numbers", [1e9, 1e9 + 1, 1e9 + 5], {"metric": "mae"}),
    ("numbers", ["1e-7", "3e-7", "-2e-7"], {"metric": "r2"}),
    ("numbers", [[1, 200.0], [2, 100.0], [4, 150.0]], {"names": ("height", "weight")}),
    ("tags", [[1, 2], [2, None, 1]], {"class_weights": "balanced", "metric": "macro_f1"}),
    ("tags", [["a noun", "a verb"], ["a verb"]], {"classes": ("a verb", "a noun")}),
]


@pytest.mark.parametrize(("name", "targets", "options"), CASES)
def test_a_task_keeps_the_contract(name, targets, options):
    targets = list(targets or tasks.find(name).examples)
    task = tasks.make(name, targets, {}, {}, options)
    failures = [
        f"{words}: {failure}"
        for words, failure in checks.check(checks.make(task, targets))
        if failure
    ]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_has_examples_of_its_own(name, capsys):
    assert check_task.main([name]) == 0
    out = capsys.readouterr().out
    assert "guessing gives the metrics loss" in out
    assert out.count("ok ") == len(checks.CHECKS)


class Sound(Task):
    """The smallest task there is."""

    num_outputs = 1

    def encode(self, targets):
        return np.array([np.nan if one is None else one for one in targets], np.float32)

    def loss(self, outputs_NxC, targets_N):
        return (outputs_NxC[:, 0] - targets_N) ** 2


class CompanyMatters(Sound):
    def loss(self, outputs_NxC, targets_N):
        return super().loss(outputs_NxC, targets_N) + outputs_NxC.mean()


class OneLoss(Sound):
    def loss(self, outputs_NxC, targets_N):
        return super().loss(outputs_NxC, targets_N).mean()


class ZeroIsSingular(Sound):
    def loss(self, outputs_NxC, targets_N):
        return super().loss(outputs_NxC, targets_N) / targets_N


class ForgetsWeights(Sound):
    def sums(self, outputs_NxC, targets_N, weights_N):
        return {"error": abs(outputs_NxC[:, 0] - targets_N).sum()}


class Means(Sound):
    def sums(self, outputs_NxC, targets_N, weights_N):
        return {"error": (abs(outputs_NxC[:, 0] - targets_N) * weights_N).mean()}


class LacksItsMetric(Sound):
    metric = "error"


class UnknownIsZero(Sound):
    def encode(self, targets):
        return np.array([one or 0 for one in targets], np.float32)


class HasASet(Sound):
    def __init__(self):
        self.seen = {1, 2}


class ChoosesOnTheHost(Sound):
    def training_loss(self, outputs_NxC, targets_N):
        factor = 2 if float(outputs_NxC[0, 0]) > 0 else 1
        return factor * self.loss(outputs_NxC, targets_N)


class GuessesBadly(Sound):
    def guess(self, targets_N):
        return np.array([100.0])


class HasNaN(Sound):
    def figures(self, kept, targets_N, offsets=None):
        return {"r2": float("nan")}


class Warns(Sound):
    def figures(self, kept, targets_N, offsets=None):
        return {"r2": float(np.float64(0) / np.float64(0))}


class Disagrees(Sound):
    def figures(self, kept, targets_N, offsets=None):
        return {"loss": 12345.0}


class ScoresInPairs(Sound):
    def score(self, kept, targets_N):
        return np.zeros((len(targets_N), 2))


class AnswersOnce(Sound):
    def answer(self, kept, offsets=None):
        return ["all of them"]


class FirstSeedDecides(Sound):
    def average(self, kept_K):
        return kept_K[0]


class Fails(Sound):
    def columns(self, kept, targets_N=None, offsets=None):
        return {"answer": [1 / 0]}


class NoLoss(Task):
    num_outputs = 1
    encode = Sound.encode


BROKEN = {
    CompanyMatters: "alone",
    OneLoss: "must be [N]",
    ZeroIsSingular: "is not finite",
    ForgetsWeights: "with and without unlabelled items",
    Means: "of all items and of two parts",
    LacksItsMetric: "metrics has no 'error'; it has loss",
    UnknownIsZero: "for a target that is None",
    HasASet: "is not a JSON value",
    ChoosesOnTheHost: "ConcretizationTypeError",
    GuessesBadly: "guess has a loss of",
    HasNaN: "cannot be written as JSON",
    Warns: "RuntimeWarning",
    Disagrees: "among figures and metrics",
    ScoresInPairs: "score must be [N]",
    AnswersOnce: "must return a text for each",
    FirstSeedDecides: "in one order and in the other",
    Fails: "ZeroDivisionError: division by zero (",
    NoLoss: "loss is not defined",
}


def failures(task_class):
    targets = [1.0, 2.5, -1.0]
    try:
        for _, failure in checks.check(checks.make(task_class(), targets)):
            yield failure
    except checks.CheckFailed as error:
        yield str(error)


def test_a_sound_task_is_not_blamed():
    assert not any(failures(Sound))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("broken", "message"), BROKEN.items(), ids=lambda one: str(one)[-30:])
def test_a_broken_task_is_told_what_is_wrong(broken, message):
    assert any(message in failure for failure in failures(broken))
