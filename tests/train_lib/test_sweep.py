"""Searches: what is drawn, what is run again, and what is refused."""

import itertools
import json

import pytest

from configs import base
from train_lib import loop, sweep
from train_lib.errors import Diverged, UserError
from train_lib.sweep import Axis

RATE = Axis.parse("train.learning_rate=log:1e-4:1e-1")
OVER = [RATE, Axis.parse("model.hidden_sizes=(2,)")]


@pytest.fixture
def config():
    config = base.get_config("small", "tutorial")
    config.model.embedding_size, config.model.hidden_sizes = 2, (2,)
    config.data.update(
        source="generated", train_reviews=8, validation_reviews=4, test_reviews=4, max_features=50
    )
    config.train.update(num_epochs=1, batch_size=8)
    return config


def test_a_grid_is_all_combinations():
    axes = [
        Axis.parse("train.learning_rate=1e-3,0.01"),
        Axis.parse("config.model.hidden_sizes=(16,),(8, 8)"),
        Axis.parse("model.pooling=last,mean"),
    ]
    expected = itertools.product([1e-3, 1e-2], [(16,), (8, 8)], ["last", "mean"])
    assert [tuple(trial.values()) for trial in sweep.trials(axes, None, 0)] == list(expected)


def test_draws_stay_in_their_range_and_more_of_them_begin_with_the_same():
    axes = [RATE, Axis.parse("model.word_dropout=uniform:0:0.5"), Axis.parse("model.pooling=a,b")]
    few, many = (list(sweep.trials(axes, count, 3)) for count in (20, 200))
    assert many[:20] == few
    assert few != list(sweep.trials(axes, 20, 4))
    rates = [trial["train.learning_rate"] for trial in many]
    assert 1e-4 <= min(rates) < 1e-3 < 1e-2 < max(rates) <= 1e-1
    # As many below the middle of the logarithms as above.
    assert 70 < sum(rate < 10**-2.5 for rate in rates) < 130
    assert {trial["model.pooling"] for trial in many} == {"a", "b"}
    assert all(0 <= trial["model.word_dropout"] <= 0.5 for trial in many)


def test_goes_on_where_it_was_interrupted_and_looks_at_no_test_review(
    config, tmp_path, monkeypatch, capsys
):
    run, workdirs = loop.run, []

    def run_until_killed(config, workdir, **options):
        workdirs.append(workdir)
        if len(workdirs) == 2:
            raise KeyboardInterrupt
        return run(config, workdir, **options)

    monkeypatch.setattr(loop, "run", run_until_killed)
    monkeypatch.setattr("sys.argv", ["sweep", "--config", "configs/lstm.py", "--trials=3"])
    with pytest.raises(KeyboardInterrupt):
        sweep.run(config, OVER, 2, 0, str(tmp_path))
    sweep.run(config, OVER, 2, 0, str(tmp_path))
    found = sweep.run(config, OVER, 3, 0, str(tmp_path))
    assert [workdir[-1] for workdir in workdirs] == [*"12", *"12", *"123"]
    assert json.loads(json.dumps(found)) == json.loads((tmp_path / "sweep.json").read_text())
    accuracies = [row["validation_accuracy"] for row in found["trials"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert found["expected_best_validation_accuracy"][-1] == pytest.approx(accuracies[0])
    for row in found["trials"]:
        folder = tmp_path / f"trial-{row['trial']:04}"
        written = json.loads((folder / "config.json").read_text())
        assert written["train"]["learning_rate"] == row["fields"]["train.learning_rate"]
        assert "test_accuracy" not in (folder / "result.json").read_text()
        assert not (folder / "predictions.csv").exists()
    best = found["trials"][0]["fields"]["train.learning_rate"]
    command = "python main.py --config=configs/lstm.py --config.train.learning_rate"
    assert f"{command}={best}" in capsys.readouterr().out
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")

    config.train.num_epochs = 2
    with pytest.raises(UserError, match="another search in it: not the same config"):
        sweep.run(config, OVER, 3, 0, str(tmp_path))


def test_a_trial_that_diverges_is_told_and_the_others_go_on(config, tmp_path, monkeypatch, capsys):
    def diverge(config, workdir, **_):
        if config.train.learning_rate == 100:
            raise Diverged("the loss is not finite")
        accuracy = {"mean": 0.7, "ci95_low": 0.6, "ci95_high": 0.8}
        return {
            "validation_accuracy": accuracy, "validation_loss": {"mean": 0.5},
            "model": {"parameters": 9}, "seconds": {"total": 1.0},
        }  # fmt: skip

    monkeypatch.setattr(loop, "run", diverge)
    found = sweep.run(config, [Axis.parse("train.learning_rate=100,0.1")], None, 0, str(tmp_path))
    assert [row["trial"] for row in found["trials"]] == [2, 1]
    assert found["expected_best_validation_accuracy"] == pytest.approx([0.6, 0.7])
    assert "diverged" in capsys.readouterr().out
    assert "not finite" in (tmp_path / "trial-0001.log").read_text()


@pytest.mark.parametrize(
    ("over", "count", "words"),
    [
        ([], None, "--over"),
        (["train.learning_rate"], None, "a field and its values"),
        (["train.learning_rate="], None, "a field and its values"),
        (["train.learning_rate=log:0:1"], 2, "above 0"),
        (["train.learning_rate=uniform:1"], 2, "low below high"),
        (["train.learning_rate=log:1e-3:1e-2"], None, "--trials"),
        (["train.learning_rate=1e-3"], 0, "at least 1"),
        (["train.rate=1"], None, "no field config.train.rate"),
        (["rate=1"], None, "no field config.rate"),
        (["train.learning_rate=1e-3,fast"], None, "learning_rate = 'fast' must be a number above"),
        (["train.seed=1", "train.seed=2"], None, "more than one"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(
    over, count, words, config, tmp_path
):
    with pytest.raises(UserError, match=words):
        sweep.run(config, [Axis.parse(text) for text in over], count, 0, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_folder_of_something_else_is_left_alone(config, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not a sweep's folder"):
        sweep.run(config, [RATE], 2, 0, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
