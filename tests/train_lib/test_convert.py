"""Runs made of other libraries' weights, and weights of runs."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from configs import base
from tests.marks import slow
from train_lib import beginning, building, convert, predict
from train_lib import run as runs
from train_lib.data.vocabulary import Vocabulary
from train_lib.errors import UserError
from train_lib.evaluate import evaluate
from train_lib.records import finished, weights
from train_lib.records.folder import RunFolder
from train_lib.restored import Restored

pytestmark = pytest.mark.usefixtures("compiled_once")
WORDS = [f"w{number}" for number in range(30)]
FEATURES = 24


def write_texts(path):
    rng = np.random.default_rng(0)
    rows = [
        {"text": " ".join(rng.choice(WORDS[10 * (n % 2) :][:20], rng.integers(2, 9))),
         "label": ("bad", "good")[n % 2]}
        for n in range(60)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def config_of(path, **changes):
    """The tutorial's model and treatment, small."""
    config = base.get_config("tutorial", "tutorial")
    config.model.update(embedding_size=3, hidden_sizes=(4,))
    config.data.update(source=str(path), text_column="text", max_features=FEATURES)
    config.train.update(num_epochs=1, batch_size=8)
    config.update_from_flattened_dict(changes)
    return config


def keras_model(seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"), keras.layers.Embedding(FEATURES, 3),
            keras.layers.LSTM(4), keras.layers.Dense(1),
        ]
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=one.shape, scale=0.8) for one in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory, compiled_once):
    """Two models of Keras, and `imported`, the run of both."""
    folder = tmp_path_factory.mktemp("convert")
    write_texts(folder / "texts.jsonl")
    models = [keras_model(seed) for seed in (1, 2)]
    for number, model in enumerate(models):
        model.save(folder / f"{number}.keras")
    config = config_of(folder / "texts.jsonl", **{"train.seeds": 2})
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        paths = [str(folder / f"{number}.keras") for number in (0, 1)]
        result = convert.take(config, paths, str(folder / "imported"))
    return folder, models, config, result


def keras_logits(model, split, width):
    """Of the rows that the tutorial makes: padded in front to the longest training text."""
    rows = [split.values[a:b] for a, b in zip(split.offsets, split.offsets[1:], strict=False)]
    return model.predict(keras.utils.pad_sequences(rows, width), verbose=0)[:, 0]


def test_a_run_of_keras_models_is_tested_as_keras_does(made):
    folder, models, config, result = made
    data, _ = building.load_data(config)
    with (folder / "imported/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, model in enumerate(models):
        theirs = keras_logits(model, data.test, data.train.lengths.max())
        ours = [float(row["logit"]) for row in rows if row["seed"] == str(number)]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        accuracy = np.mean((theirs > 0) == (data.test.targets > 0.5))
        assert result["seeds"][number]["test_accuracy"] == pytest.approx(accuracy)
    assert result["model"]["evaluated"] == "imported"
    initial = result["model"]["initial"]
    assert initial["parts"] == {
        "inputs": "all", "encoder.layers.0.forward": "all", "head": "all"
    }  # fmt: skip
    assert initial["source"].count(".keras") == 2
    assert json.loads((folder / "imported/initial.json").read_text()) == initial
    origin = (folder / "imported/README.md").read_text("utf-8").partition("## How it was made")[2]
    assert f"from `{initial['source']}`" in origin
    assert initial["sha256"] in origin
    assert "train it again" not in origin


def test_it_answers_is_evaluated_and_compared(made, tmp_path):
    folder, models, config, result = made
    run = str(folder / "imported")
    assert len(predict.predict(run, ["w1 w2", "nothing known"])) == 2
    restored = Restored(run)
    target = RunFolder(tmp_path / "evaluated")
    target.path.mkdir()
    found = evaluate(restored, str(folder / "texts.jsonl"), target)
    split, kept_K = restored.tested(str(folder / "texts.jsonl"))
    data, _ = building.load_data(config)
    theirs = keras_logits(models[0], split, data.train.lengths.max())
    np.testing.assert_allclose(kept_K[0]["outputs"][:, 0], theirs, rtol=0, atol=1e-5)
    assert found["examples"] == 60
    (one,) = finished.load([run])
    assert one.epochs == []
    assert one.mean_scores().mean() == pytest.approx(result["test_accuracy"]["mean"])


def test_a_run_begins_with_it(made, tmp_path):
    folder, models, config, _ = made
    changes = {"train.init_from": str(folder / "imported"), "model.direction": "bidirectional"}
    config = config_of(folder / "texts.jsonl", **changes)
    data, task = building.load_data(config)
    built = building.build_models(config, data.inputs, task, [0])
    found = beginning.begin(config, RunFolder(tmp_path / "new"), data, task, built)
    assert found.parts["encoder.layers.0.forward"] == "all"
    arrays = convert._arrays(built[0])
    table, kernel, *_ = models[0].get_weights()
    known = 4 + len(data.inputs.vocabulary.words)
    np.testing.assert_array_equal(arrays["inputs.table"][:known], table[:known])
    np.testing.assert_array_equal(arrays["encoder.layers.0.forward.kernel"], kernel)


def test_it_is_finished_and_never_trained(made):
    folder, _, config, result = made
    before = (folder / "imported/SHA256SUMS").read_bytes()
    for epochs in (1, 5):
        config.train.num_epochs = epochs
        found = runs.run(config, str(folder / "imported"))
        assert found["seeds"] == result["seeds"]
    config.train.num_epochs = 1
    assert (folder / "imported/SHA256SUMS").read_bytes() == before


@pytest.mark.parametrize("end", [slow(".keras"), ".safetensors"])
def test_out_and_in_again_is_the_same_run(end, made, tmp_path):
    folder, _, config, _ = made
    for seed in (0, 1):
        assert not convert.give(str(folder / "imported"), str(tmp_path / f"{seed}{end}"), seed=seed)
    paths = [str(tmp_path / f"{seed}{end}") for seed in (0, 1)]
    convert.take(config, paths, str(tmp_path / "again"))
    for name in ("predictions.csv", "vocabulary.txt", "data.json", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / "imported" / name).read_bytes()
    one, other = (
        weights.read_all(RunFolder(path), weights.WEIGHTS)
        for path in (tmp_path / "again", folder / "imported")
    )
    for name, array in other.items():
        np.testing.assert_array_equal(one[name], array)


def test_the_vocabulary_may_be_the_models_own(made, tmp_path):
    """Keras' numbers of words, of more words than the texts have and in another order."""
    folder, models, config, _ = made
    index = {word: rank for rank, word in enumerate([*"xyz", *WORDS[::-1]], 1)}
    (tmp_path / "index.json").write_text(json.dumps(index))
    vocabulary = Vocabulary.read(str(tmp_path / "index.json"), FEATURES)
    (tmp_path / "words.txt").write_text(vocabulary.to_text())
    assert Vocabulary.read(str(tmp_path / "words.txt"), FEATURES).words == vocabulary.words
    paths = [str(folder / f"{number}.keras") for number in (0, 1)]
    words = str(tmp_path / "index.json")
    convert.take(config, paths, str(tmp_path / "run"), vocabulary=words)
    restored = Restored(str(tmp_path / "run"))
    split = restored.encode(["w29 W7 other"], str)
    # As keras.datasets.imdb.load_data: 1 in front, 2 for what is unknown, else the rank and 3.
    number = index["w7"] + 3
    assert split.values.tolist() == [1, index["w29"] + 3, number if number < FEATURES else 2, 2]
    with (tmp_path / "run/predictions.csv").open(newline="") as file:
        logits = [float(row["logit"]) for row in csv.DictReader(file) if row["seed"] == "0"]
    data, _ = building.load_data(config, vocabulary=vocabulary)
    theirs = keras_logits(models[0], data.test, data.train.lengths.max())
    np.testing.assert_allclose(logits, theirs, rtol=0, atol=1e-5)
    learnt, _ = building.load_data(config)
    assert learnt.inputs.vocabulary.words != vocabulary.words


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"a": 1, "b": 3}', "are not 1, 2, 3"), ('{"a": "1"}', "are not 1, 2, 3"),
        ('{"a": 1, "b": null}', "not a JSON object"), ("[1]", "not a JSON object"),
        ("{", "not a JSON object"), ("{}", "has no words"), (b"\xff\xfe\xff", "must be in UTF-8"),
        (None, "cannot be read"),
    ],
)  # fmt: skip
def test_a_vocabulary_that_cannot_be_used(content, why, tmp_path):
    path = tmp_path / "index.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=why):
        Vocabulary.read(str(path), 10)


def test_words_that_are_there_twice(tmp_path):
    (tmp_path / "words.txt").write_text("a\nb\na")
    with pytest.raises(UserError, match="'a' twice"):
        Vocabulary.read(str(tmp_path / "words.txt"), 10)


@pytest.mark.parametrize(
    ("changes", "paths", "why"),
    [
        ({}, ["0.keras", "1.keras"], "seeds = 1, and there are 2 files"),
        ({"model.hidden_sizes": (5,)}, ["0.keras"], "hidden_sizes=(4,)"),
        ({"data.mask_padding": True}, ["0.keras"], "mask_padding=False"),
        ({}, ["texts.jsonl"], "must end in one of"),
        ({}, ["2.keras"], "is not a file"),
    ],
)
def test_what_cannot_be_taken_leaves_no_folder(changes, paths, why, made, tmp_path):
    folder, *_ = made
    config = config_of(folder / "texts.jsonl", **changes)
    with pytest.raises(UserError) as raised:
        convert.take(config, [str(folder / path) for path in paths], str(tmp_path / "run"))
    assert why in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_there_stays(made, tmp_path):
    folder, _, config, _ = made
    before = (folder / "imported/result.json").read_bytes()
    with pytest.raises(UserError, match="has a run in it already"):
        convert.take(config, [str(folder / f"{n}.keras") for n in (0, 1)], str(folder / "imported"))
    assert (folder / "imported/result.json").read_bytes() == before
    with pytest.raises(UserError, match=r"seed=7: .*imported has no model of this seed"):
        convert.give(str(folder / "imported"), str(tmp_path / "x.keras"), seed=7)
    with pytest.raises(UserError, match="must end in one of"):
        convert.give(str(folder / "imported"), str(tmp_path / "x.h5"))
    assert not list(tmp_path.iterdir())


ROOT = pathlib.Path(__file__).parents[2]


def call(*words):
    return subprocess.run(
        [sys.executable, "-m", "train_lib.convert", *words],
        cwd=ROOT, capture_output=True, text=True, env=os.environ,
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_line(made, tmp_path):
    folder, *_ = made
    texts = f"--config.data.source={folder / 'texts.jsonl'}"
    done = call(
        "--config=configs/lstm.py:tutorial", texts, "--config.model.embedding_size=3",
        "--config.model.hidden_sizes=(4,)", f"--config.data.max_features={FEATURES}",
        f"--from={folder / '0.keras'}", f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "evaluated:  each seed's imported parameters" in done.stdout
    to = f"--to={tmp_path / 'x.weights.h5'}"
    done = call(f"--workdir={tmp_path / 'run'}", to)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'x.weights.h5'} has the weights of" in done.stdout
    done = call("--config=configs/lstm.py", to)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --to goes with --workdir")
