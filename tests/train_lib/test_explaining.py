"""Which words moved an answer."""

import re
import types

import numpy as np
import pytest
from scipy.special import logit

from configs import base
from train_lib import explaining, predict, run
from train_lib.errors import UserError
from train_lib.restored import Restored
from train_lib.tasks.base import Task

WORDS = {"two": ("bad", "good"), "three": ("bad", "good", "odd"), "number": ("-5", "0", "5")}
TEXT = "A good film: it was <b>7"


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A run in whose texts one word decides; it has two seeds."""
    made = {}

    def of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            words = ("bad", "good", "odd")[: len(WORDS[kind])]
            rows = [
                f"a {word} film it was {number},{WORDS[kind][place]}"
                for number in range(20)
                for place, word in enumerate(words)
            ]
            (folder / "data.csv").write_text("\n".join(["text,target", *rows]), "utf-8")
            config = base.get_config("test", "exact")
            config.model.embedding_size, config.model.hidden_sizes = 3, (4,)
            config.data.source, config.data.target_column = str(folder / "data.csv"), "target"
            config.task.name = "numbers" if kind == "number" else "classes"
            config.train.update(num_epochs=15, batch_size=8, learning_rate=0.05, seeds=2)
            run.run(config, str(folder / "run"))
            made[kind] = str(folder / "run")
        return made[kind]

    return of


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "kind", ["two", pytest.param("three", marks=slow), pytest.param("number", marks=slow)]
)
def test_an_effect_is_what_changes_without_the_word(kind, run_of):
    restored = Restored(run_of(kind))
    found = explaining.explain(restored, TEXT)
    assert found.words == ["a", "good", "film", "it", "was", "b", "7"]
    texts = [" ".join(found.words)]
    texts += [" ".join(found.words[:t] + found.words[t + 1 :]) for t in range(len(found.words))]
    columns = restored.columns(restored.encode(texts, str))
    if kind == "number":
        support = np.array(columns["answer"])
    else:
        of_first = columns["answer"][0]
        probability = np.array(columns.get(f"probability_{of_first}", columns["probability"]))
        support = logit(probability if kind == "three" or of_first == "good" else 1 - probability)
    np.testing.assert_allclose(found.effects_T, support[0] - support[1:], rtol=1e-4, atol=1e-4)
    assert found.answer == predict.predict(run_of(kind), [TEXT])[0]
    if kind != "number":
        assert np.argmax(found.effects_T) == found.words.index("good")
        assert found.named().startswith("good +")


def test_the_command_shows_them_and_writes_a_page(run_of, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    page = tmp_path / "why.html"
    predict.main([f"--workdir={run_of('two')}", "--explain", f"--html={page}", TEXT, "bad", ""])
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"good  \S+  \[2 of 2 seeds\]  A good film: it was <b>7", lines[0])
    assert lines[1].startswith("good +")
    assert lines[3].startswith("bad +")
    assert lines[5] == ""
    text = page.read_text("utf-8")
    shown = re.findall(r'rgba\((\d+), \d+, \d+, ([\d.]+)\)" title="(\S+)">([^<]*)</span>', text)
    found = explaining.explain(Restored(run_of("two")), TEXT)
    assert [word for *_, word in shown] == [*found.words, "bad"]
    for (red, _, effect, _), expected in zip(shown, found.effects_T, strict=False):
        assert float(effect) == pytest.approx(expected, abs=1e-3)
        assert (red == "46") == (expected > 0)
    assert max(float(strength) for _, strength, *_ in shown) == 0.7
    assert "<b>" not in text
    with pytest.raises(UserError, match="already exists"):
        predict.main([f"--workdir={run_of('two')}", "--explain", f"--html={page}", "bad"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--html=x.html", "a text"], "--html is for --explain"),
        (["--explain", "--stream"], "--explain is for texts"),
        (["--explain", "--data=x.csv", "--out=y.csv"], "--explain is for texts"),
    ],
)
def test_it_is_for_texts(arguments, told, capsys):
    with pytest.raises(SystemExit):
        predict.main(["--workdir=x", *arguments])
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("per_step", [{"per_step": True}, {"predicts_inputs": True}])
def test_an_answer_a_step_is_refused(per_step):
    task = types.SimpleNamespace(**{"per_step": False, "predicts_inputs": False} | per_step)
    restored = types.SimpleNamespace(task=task, folder=types.SimpleNamespace(path="runs/tags"))
    with pytest.raises(UserError, match="runs/tags answers every step"):
        explaining.explain(restored, "a text")


@pytest.mark.slow
def test_several_answers_are_refused(run_of, monkeypatch):
    restored = Restored(run_of("two"))
    monkeypatch.setattr(type(restored.task), "support", Task.support)
    restored.together.num_outputs = 2
    with pytest.raises(UserError, match="several answers a text"):
        explaining.explain(restored, "a text")
