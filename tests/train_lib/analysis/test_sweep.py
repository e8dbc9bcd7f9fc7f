"""Searches: what is drawn, what is run again, and what is refused."""

import contextlib
import io
import itertools
import json
import math
import pathlib
import shlex
import subprocess
import sys
import tempfile
import types

import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import config_flags

from configs import base
from train_lib import building, sweep
from train_lib import run as train
from train_lib.analysis import search as search_lib
from train_lib.analysis.axes import Axis
from train_lib.analysis.pictures import new_figure
from train_lib.analysis.search import Goal
from train_lib.errors import Diverged, UserError
from train_lib.records.folder import InUse
from train_lib.tasks.classes import Classes
from train_lib.trials import running, workers
from train_lib.trials.draws import Draws

ROOT = pathlib.Path(__file__).parent.parent.parent.parent

RATE = Axis.parse("train.learning_rate=log:1e-4:1e-1")
OVER = [RATE, Axis.parse("model.hidden_sizes=(2,)")]


@pytest.fixture
def config():
    config = base.get_config("small", "tutorial")
    config.model.embedding_size, config.model.hidden_sizes = 2, (2,)
    config.data.update(
        source="generated", train_examples=8, validation_examples=4, test_examples=4,
        max_features=50,
    )  # fmt: skip
    config.train.update(num_epochs=1, batch_size=8)
    return config


def fields(config):
    """All of them, of types that JSON has."""
    return json.loads(json.dumps(config.to_dict()))


def command_in(text):
    """The words after `python main.py` of the command that a search printed."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith("python main.py")]
    return shlex.split(line)[2:]


def resolve(words):
    """The config that the words after `python main.py` make."""
    values, argv = flags.FlagValues(), ["main.py", *words]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    left = problem = None
    try:
        left = values(argv)
    except (flags.Error, ValueError) as error:
        problem = error
    assert left == ["main.py"], problem
    return values.config


def of_two_classes(config):
    """Stands for `building.load_data`, and loads nothing."""
    return None, Classes(["bad", "good"])


def fake_run(accuracy=lambda config: 0.7, diverged=lambda config: 0, metric="accuracy"):
    """Stands for `train.run`, and keeps the configs that it was called with in `.configs`."""

    def run(config, workdir, **_):
        run.configs.append(config)
        lost = diverged(config)
        if lost == config.train.seeds:
            raise Diverged("the loss is not finite")
        mean = accuracy(config)
        return {
            "validation_loss": {"mean": 0.5},
            f"validation_{metric}": {
                "mean": mean, "ci95_low": mean - 0.1, "ci95_high": mean + 0.1
            },
            "model": {"parameters": 9},
            "seconds": {"total": 1.0},
            "seeds": [
                {"seed": number} | ({"diverged_at_step": 1} if number < lost else {})
                for number in range(config.train.seeds)
            ],
        }  # fmt: skip

    run.configs = []
    return run


def search(config, over, count=None):
    """A search in a folder of its own: what it returned and printed, and why it was refused."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as out:
        found, refused = None, ""
        try:
            found = sweep.run(config, [Axis.parse(text) for text in over], count, 0, folder)
        except UserError as error:
            refused = str(error)
    return found, out.getvalue(), refused


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "configs/lstm.py", "--config.train.learning_rate", "0.01"],
        ["-config=configs/stacked.py:tutorial", "-config.model.residual"],
        ["--config=configs/lstm.py", "--config.data.mask_padding", "--noconfig.data.mask_padding"],
        ["--config=configs/stacked.py", "--config.model.hidden_sizes=4",
         "--config.model.hidden_sizes=5", "--config.name=two words and a \"'"],
        ["--config=configs/generated.py", "--config.model.cell_options", "", "--workdir=x"],
    ],
)  # fmt: skip
def test_the_command_makes_the_config_of_the_best_trial(words, start_with, monkeypatch):
    run = fake_run(accuracy=lambda config: 0.9 if config.train.batch_size == 33 else 0.6)
    monkeypatch.setattr(train, "run", run)
    monkeypatch.setattr(search_lib, "draw", lambda *_: new_figure(1, 1))
    monkeypatch.setattr(building, "load_data", of_two_classes)
    _, printed, _ = search(
        start_with(*words).config, ["train.batch_size=32,33,34", "model.pooling=max"]
    )
    (best,) = [config for config in run.configs if config.train.batch_size == 33]
    assert fields(resolve(command_in(printed))) == fields(best)


RATES = st.floats(0, 1, exclude_max=True)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(
            st.characters(
                codec="utf-8", exclude_characters="/\\\0\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
            ),
            min_size=1,
            max_size=40,
        ).filter(lambda name: name.isprintable() and name.strip(".")),
        "model.cell_options": st.sampled_from(["", "forget_bias=3.0", "a='b c', d=\"$e\""]),
        "model.residual": st.just(False),
        "model.learned_initial_state": st.booleans(),
        "model.word_dropout": RATES,
        "model.dropout_rates": st.tuples(RATES),
        "data.source": st.sampled_from(["generated", "imdb"]),
        "data.mask_padding": st.booleans(),
        "data.split_seed": st.integers(0, 10**30),
        "train.learning_rate": st.floats(min_value=0, exclude_min=True, allow_infinity=False),
        "train.clip_norm": st.integers(0, 10),
    },
)


@settings(max_examples=25, deadline=None)
@given(before=CHANGES, over=CHANGES)
def test_the_command_makes_any_config(before, over):
    config = base.get_config("small", "exact")
    config.update_from_flattened_dict(before)
    axes = [Axis("train.num_epochs", (3,)), *(Axis(field, (over[field],)) for field in over)]
    run = fake_run()
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()) as out,
    ):
        patch.setattr(train, "run", run)
        patch.setattr(search_lib, "draw", lambda *_: new_figure(1, 1))
        patch.setattr(building, "load_data", of_two_classes)
        patch.setattr("sys.argv", ["sweep", "--config=configs/lstm.py"])
        sweep.run(config, axes, None, 0, folder)
    assert fields(resolve(command_in(out.getvalue()))) == fields(run.configs[0])


@pytest.mark.slow
def test_the_command_runs(config, tmp_path, monkeypatch):
    run = fake_run(accuracy=lambda config: config.model.hidden_sizes[0] / 10)
    monkeypatch.setattr(train, "run", run)
    config.data.max_length_tokens = 20
    _, printed, _ = search(config, ["model.hidden_sizes=(2,),(3,)"])
    words = [*command_in(printed), f"--workdir={tmp_path / 'best'}"]
    subprocess.run([sys.executable, "main.py", *words], cwd=ROOT, check=False, timeout=300)
    assert (tmp_path / "best/result.json").exists(), words
    assert json.loads((tmp_path / "best/config.json").read_text()) == fields(
        next(each for each in run.configs if each.model.hidden_sizes == (3,))
    )


def drawn_of(axes, count, sampler="random", seed=0):
    """The fields of so many trials."""
    axes = [Axis.parse(text) if isinstance(text, str) else text for text in axes]
    return Draws(tuple(axis.checked() for axis in axes), sampler, seed).foreseen(count)


def test_whole_numbers_are_drawn_for_a_field_that_is_one():
    over = [
        "train.batch_size=log:16:256", "model.embedding_size=uniform:2:4",
        "data.train_examples=uniform:100:104", "train.learning_rate=log:1:3",
    ]  # fmt: skip
    found = drawn_of(over, 200)
    drawn = {name: [fields[name] for fields in found] for name in
             ("train.batch_size", "model.embedding_size", "data.train_examples")}  # fmt: skip
    assert {type(number) for numbers in drawn.values() for number in numbers} == {int}
    assert set(drawn["model.embedding_size"]) == {2, 3, 4}
    assert set(drawn["data.train_examples"]) == {100, 101, 102, 103, 104}
    sizes = drawn["train.batch_size"]
    assert 16 <= min(sizes) < 20 < 200 < max(sizes) <= 256
    assert 70 < sum(math.log2(size) < 6 for size in sizes) < 130
    rates = [fields["train.learning_rate"] for fields in found]
    assert sum(rate.is_integer() for rate in rates) < 3


def test_where_every_trial_diverged_none_is_recommended(config, monkeypatch):
    monkeypatch.setattr(train, "run", fake_run(diverged=lambda config: config.train.seeds))
    _, printed, refused = search(config, ["train.learning_rate=10.0,100.0"])
    assert "main.py" not in printed
    assert "diverged, counts as 0.5" in printed
    assert "every trial diverged, so none is recommended" in refused


def test_a_trial_that_diverged_is_never_recommended(config, monkeypatch):
    run = fake_run(
        accuracy=lambda config: 0.45, diverged=lambda config: config.train.learning_rate > 1
    )
    monkeypatch.setattr(train, "run", run)
    found, printed, _ = search(config, ["train.learning_rate=100.0,0.1"])
    assert resolve(command_in(printed)).train.learning_rate == 0.1
    rates = [row["fields"]["train.learning_rate"] for row in found["trials"]]
    assert rates == [0.1, 100.0]


def test_a_seed_that_diverged_counts_as_a_guess(config, monkeypatch):
    config.train.seeds = 4
    run = fake_run(
        accuracy=lambda config: 0.9 if config.train.learning_rate > 1 else 0.7,
        diverged=lambda config: 3 if config.train.learning_rate > 1 else 0,
    )
    monkeypatch.setattr(train, "run", run)
    found, printed, _ = search(config, ["train.learning_rate=100.0,0.1"])
    accuracies = [row["validation_accuracy"] for row in found["trials"]]
    assert accuracies == pytest.approx([0.7, 0.6])
    assert resolve(command_in(printed)).train.learning_rate == 0.1
    assert "0.6000, seeds that diverged (3) count as 0.5" in printed


def test_a_search_goes_on_that_began_before_there_was_a_field(config, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "run", fake_run())
    axes = [Axis.parse("train.learning_rate=0.1")]
    sweep.run(config, axes, None, 0, str(tmp_path))
    before = json.loads((tmp_path / "search.json").read_text())
    del before["config"]["model"]["zoneout"], before["config"]["data"]["text_rules"]
    (tmp_path / "search.json").write_text(json.dumps(before))
    refused = ""
    try:
        sweep.run(config, axes, None, 0, str(tmp_path))
    except UserError as error:
        refused = str(error)
    assert not refused
    config.model.zoneout = 0.1
    with pytest.raises(UserError, match="not the same config"):
        sweep.run(config, axes, None, 0, str(tmp_path))


def test_a_grid_is_all_combinations():
    axes = ["train.learning_rate=1e-3,0.01", "config.model.hidden_sizes=(16,),(8, 8)",
            "model.pooling=last,mean"]  # fmt: skip
    expected = set(itertools.product([1e-3, 1e-2], [(16,), (8, 8)], ["last", "mean"]))
    found = [tuple(fields.values()) for fields in drawn_of(axes, 8, "grid")]
    assert set(found) == expected
    assert len(found) == len(expected)


def test_draws_stay_in_their_range_and_more_of_them_begin_with_the_same():
    axes = [RATE, "model.word_dropout=uniform:0:0.5", "model.pooling=last,mean"]
    few, many = (drawn_of(axes, count, seed=3) for count in (20, 200))
    assert many[:20] == few
    assert few != drawn_of(axes, 20, seed=4)
    rates = [trial["train.learning_rate"] for trial in many]
    assert 1e-4 <= min(rates) < 1e-3 < 1e-2 < max(rates) <= 1e-1
    # As many below the middle of the logarithms as above.
    assert 70 < sum(rate < 10**-2.5 for rate in rates) < 130
    assert {trial["model.pooling"] for trial in many} == {"last", "mean"}
    assert all(0 <= trial["model.word_dropout"] <= 0.5 for trial in many)


@pytest.mark.slow
def test_goes_on_where_it_was_interrupted_and_looks_at_no_test_example(
    config, tmp_path, monkeypatch, capsys
):
    run, workdirs = train.run, []

    def run_until_killed(config, workdir, **options):
        workdirs.append(workdir)
        if len(workdirs) == 2:
            raise KeyboardInterrupt
        return run(config, workdir, **options)

    monkeypatch.setattr(train, "run", run_until_killed)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(config, OVER, 2, 0, str(tmp_path))
    sweep.run(config, OVER, 2, 0, str(tmp_path))
    found = sweep.run(config, OVER, 3, 0, str(tmp_path))
    assert [workdir[-1] for workdir in workdirs] == [*"01", *"12"]
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
    printed = capsys.readouterr().out.rpartition("# small")[2]
    assert resolve(command_in(printed)).train.learning_rate == best
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")

    config.train.num_epochs = 2
    with pytest.raises(UserError, match="another search in it: not the same config"):
        sweep.run(config, OVER, 3, 0, str(tmp_path))


def test_a_trial_that_diverges_is_told_and_the_others_go_on(config, tmp_path, monkeypatch, capsys):
    run = fake_run(diverged=lambda config: config.train.learning_rate == 100)
    monkeypatch.setattr(train, "run", run)
    found = sweep.run(config, [Axis.parse("train.learning_rate=100,0.1")], 4, 0, str(tmp_path))
    rates = [row["fields"]["train.learning_rate"] for row in found["trials"]]
    assert rates == [0.1, 0.1, 100, 100]
    best = [(0.7 + 0.5) / 2, (5 * 0.7 + 0.5) / 6, 0.7, 0.7]  # Of 1, 2, 3 and 4 of the four.
    assert found["expected_best_validation_accuracy"] == pytest.approx(best)
    assert "diverged" in capsys.readouterr().out
    worst = found["trials"][-1]["trial"]
    assert "not finite" in (tmp_path / f"trial-{worst:04}.log").read_text()


def test_a_trial_whose_first_worker_wakes_up_is_run_when_that_has_gone(
    config, tmp_path, monkeypatch
):
    """On one host, where the folder of the run is locked."""
    run, slept = fake_run(), []

    def run_beside(config, workdir, **_):
        if len(slept) < 2:
            raise InUse("another process is at work")
        return run(config, workdir)

    monkeypatch.setattr(train, "run", run_beside)
    monkeypatch.setattr(running.time, "sleep", slept.append)
    found = sweep.run(config, [Axis.parse("train.learning_rate=0.1")], None, 0, str(tmp_path))
    assert [row["trial"] for row in found["trials"]] == [0]
    assert len(run.configs) == 1


def test_where_lower_is_better_the_lowest_wins_and_guessing_is_the_worse(
    config, tmp_path, monkeypatch
):
    config.train.seeds, config.task.metric = 4, "loss"
    values = {0.1: 0.3, 0.2: 0.2, 0.3: 0.1, 100.0: 0.1}
    run = fake_run(
        accuracy=lambda config: values[config.train.learning_rate],
        diverged=lambda config: {100.0: 4, 0.3: 2}.get(config.train.learning_rate, 0),
        metric="loss",
    )
    monkeypatch.setattr(train, "run", run)
    found, printed, _ = search(config, ["train.learning_rate=100.0,0.1,0.2,0.3"])
    assert found["metric"] == "loss"
    assert not found["higher_is_better"]
    rates = [row["fields"]["train.learning_rate"] for row in found["trials"]]
    assert rates == [0.2, 0.1, 0.3, 100.0]
    guess = math.log(2)  # Nats, of two classes with as many examples.
    reached = [0.2, 0.3, (guess + 0.1) / 2, guess]
    assert [row[Goal("loss", False).field] for row in found["trials"]] == pytest.approx(reached)
    assert found["expected_best_validation_loss"] is None  # Of a grid.
    assert resolve(command_in(printed)).train.learning_rate == 0.2
    assert "lower is better" in printed


@pytest.mark.slow
def test_a_search_asks_the_task(config, tmp_path):
    """Numbers, whose squared error decides; a real search, one of whose trials diverges."""
    lines = [f"{'good ' * (n % 5)}day,{n % 5 + 0.5}" for n in range(40)]
    (tmp_path / "numbers.csv").write_text("\n".join(["text,target", *lines]) + "\n")
    config.data.update(source=str(tmp_path / "numbers.csv"), train_examples=0, test_examples=0)
    config.data.validation_examples = 0
    config.task.name = "numbers"
    found, printed, refused = search(config, ["train.learning_rate=0.01,1e30"])
    assert not refused
    assert "accuracy" not in printed
    assert "review" not in printed
    first, second = found["trials"]
    assert first["trial"] == 1
    assert second["seeds_diverged"] == 1
    data, task = building.load_data(config)
    mean = data.train.targets.mean() * task.deviations[0]
    errors = data.validation.targets * task.deviations[0] - mean
    assert second["validation_mse"] == pytest.approx((errors**2).mean(), rel=1e-5)


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
        (["config.train.seed=1", "train.seed=2"], None, "more than one"),
        (["model.pooling=log:1:2"], 2, "model.pooling must be one of last"),
        (["model.hidden_sizes=uniform:1:2"], 2, "hidden_sizes must be a tuple"),
        (["model.residual=uniform:0:1"], 2, "residual must be True or False"),
        (["train.nothing=uniform:0:1"], 2, "no field config.train.nothing"),
        (["train.batch_size=uniform:0:9"], 2, "both ends .*batch_size must be a whole number"),
        (["train.batch_size=uniform:1.5:9"], 2, "batch_size must be a whole number of at least 1"),
        (["data.train_examples=uniform:-1:15"], 2, "train_examples must be a whole number"),
        (["task.metric=loss,accuracy"], None, "so all must have the same one"),
        (["train.batch_size=uniform:9:1"], 2, "low below high"),
        (["train.batch_size=uniform:9:9"], 2, "low below high"),
        (["train.learning_rate=uniform:-inf:1"], 2, "low below high"),
        (["train.learning_rate=uniform:nan:1"], 2, "low below high"),
        (["model.zoneout=uniform:0:1"], 2, r"zoneout must be a number in \[0, 1\)"),
        (["train.learning_rate={1: 2}"], None, "config.train.learning_rate"),
        (["model.residual=true"], None, "residual = 'true' must be True or False"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(
    over, count, words, config, tmp_path
):
    with pytest.raises(UserError, match=words):
        sweep.run(config, [Axis.parse(text) for text in over], count, 0, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("count", "sampler", "words"),
    [
        (3, "grid", "--trials=3 is for draws"),
        (None, "random", "--sampler=random draws trials: say how many"),
        (None, "tpe", "--sampler=tpe draws trials: say how many"),
    ],
)
def test_a_sampler_that_does_not_go_with_the_number_of_trials_is_refused(
    count, sampler, words, config, tmp_path
):
    with pytest.raises(UserError, match=words):
        sweep.run(config, OVER[1:], count, 0, str(tmp_path / "new"), sampler=sampler)
    assert not (tmp_path / "new").exists()


def test_of_tpe_every_combination_is_checked_before_anything_runs(config, tmp_path):
    axes = [RATE, Axis.parse("model.direction=bidirectional,forward"),
            Axis.parse("model.merge=concat,sum")]  # fmt: skip
    with pytest.raises(UserError, match="merge = 'sum' does nothing"):
        sweep.run(config, axes, 1, 0, str(tmp_path / "new"), sampler="tpe")
    assert not (tmp_path / "new").exists()


def test_a_worker_with_other_flags_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "run", fake_run())
    monkeypatch.setattr(building, "load_data", of_two_classes)
    ours = {"sampler": "tpe", "pruner": "halving"}
    sweep.run(config, OVER, 1, 0, str(tmp_path), **ours)
    for changed, axes, seed in (
        ({"sampler": "random"}, OVER, 0), ({"pruner": "none"}, OVER, 0), ({}, OVER, 1),
        ({}, OVER[:1], 0),
    ):  # fmt: skip
        words = next(iter(changed), "sweep_seed" if seed else "over")
        with pytest.raises(UserError, match=f"another search in it: not the same {words}"):
            sweep.run(config, axes, 1, seed, str(tmp_path), **ours | changed)


SUBMITTED = [
    "--config=configs/lstm.py", "--over=train.seed=1,2", "--submitit=slurm", "--workers=3",
    "--submitit_options=timeout_min=60, slurm_qos='low'",
]  # fmt: skip
OF_A_WORKER = ["--submitit=none", "--workers=1"]


def test_submitit_is_given_the_command_of_a_worker(
    config, tmp_path, monkeypatch, start_with, capsys
):
    job, given = types.SimpleNamespace(job_id="17"), []
    monkeypatch.setattr(workers, "submit", lambda *args: given.extend(args) or [job] * 3)
    monkeypatch.setattr(building, "load_data", of_two_classes)
    sweep._main(start_with(*SUBMITTED).config, str(tmp_path / "new"))
    words = [sys.executable, "-m", "train_lib.sweep", *SUBMITTED, *OF_A_WORKER]
    options = {"timeout_min": 60, "slurm_qos": "low"}
    assert given == [tmp_path / "new/workers", words, 3, "slurm", options]
    assert "jobs 17, 17, 17" in capsys.readouterr().out


def test_a_worker_that_submitit_starts_is_one_of_this_process(tmp_path, monkeypatch, start_with):
    run = fake_run()
    monkeypatch.setattr(train, "run", run)
    monkeypatch.setattr(building, "load_data", of_two_classes)
    monkeypatch.setattr(search_lib, "draw", lambda *_: new_figure(1, 1))
    (tmp_path / "new").mkdir()
    sweep._main(start_with(*SUBMITTED, *OF_A_WORKER).config, str(tmp_path / "new"))
    assert sorted(each.train.seed for each in run.configs) == [1, 2]


@pytest.mark.parametrize("words", [["--workers=2"], ["--submitit_options=timeout_min=3"]])
def test_workers_without_submitit_are_refused(words, start_with, tmp_path):
    asked = ["--config=configs/lstm.py", "--over=train.seed=1,2"]
    with pytest.raises(UserError, match="are for --submitit=local or slurm"):
        sweep._main(start_with(*asked, *words).config, str(tmp_path / "new"))


@pytest.mark.slow
def test_halving_ends_trials_that_fall_behind_after_an_epoch(config, tmp_path, capsys):
    config.task.metric, config.train.num_epochs = "loss", 2
    axes = [Axis.parse("train.learning_rate=1e-4,0.03,0.06")]
    found = sweep.run(config, axes, None, 0, str(tmp_path), pruner="halving")
    rows = sorted(found["trials"], key=lambda row: row["trial"])
    losses = []
    for row in rows:
        folder = tmp_path / f"trial-{row['trial']:04}"
        epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses.append(epochs[0]["validation_loss"])
        is_behind = losses[-1] > min(losses)
        assert (row["state"] == "pruned") == is_behind
        assert len(epochs) == (1 if is_behind else 2)
        assert (folder / "result.json").exists() != is_behind
    assert {row["state"] for row in rows} == {"pruned", "complete"}
    assert found["trials"][0]["state"] == "complete"
    assert "pruned after epoch 1" in (tmp_path / "sweep.md").read_text()
    assert "Expected best" not in capsys.readouterr().out


def test_a_seed_of_draws_is_refused_where_nothing_is_drawn(config, tmp_path):
    with pytest.raises(UserError, match="--sweep_seed=3 is for draws"):
        sweep.run(config, [Axis.parse("train.seed=1")], None, 3, str(tmp_path))


def test_a_folder_of_something_else_is_left_alone(config, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not a sweep's folder"):
        sweep.run(config, [RATE], 2, 0, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
