"""What a run exports is run by JAX alone; and a copy of what its card lists still answers."""

import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from tests.marks import slow
from tests.train_lib import cases
from tests.train_lib.cases import Case
from tests.train_lib.conftest import TASKS
from train_lib import building, export
from train_lib.data.inputs import Text, Vectors
from train_lib.data.inputs import split as split_words
from train_lib.data.vocabulary import Vocabulary
from train_lib.errors import UserError
from train_lib.predict import predict
from train_lib.records import card, description, weights
from train_lib.records.folder import RunFolder
from train_lib.restored import Restored
from train_lib.training import state

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPTS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text("utf-8"), re.S)
READS = Text(Vocabulary([f"w{number}" for number in range(12)]), "keras")
TEXTS = ["Not dull, but clever.", "", "w3", "w1-W2 w9 " * 50]

JAX = (
    "jax", "jaxlib", "numpy", "numpy.libs", "ml_dtypes", "opt_einsum", "scipy", "scipy.libs",
    "flatbuffers",
)  # fmt: skip
"""What JAX needs, and what it reads programs with."""


@pytest.fixture
def make_run(write_run, compiled_once):
    """Makes the folder of a finished run of two seeds, as it would be had training done nothing."""

    def make(changes=None, kind="two", inputs=READS):
        sizes = {"model.embedding_size": 3, "model.hidden_sizes": (4,), "train.seeds": 2}
        changes = sizes | (changes or {})
        folder = RunFolder(write_run("small", (0, 1), changes=changes, kind=kind, lengths=13))
        config, task = folder.read_config(), TASKS[kind]
        _, params_K = state.split(building.build_models(config, inputs, task, (0, 1)))
        description.write(folder, inputs, task)
        for factor, name in zip((4, -2), weights.NAMES, strict=True):
            weights.write(folder, name, jax.tree.map(lambda leaf, by=factor: by * leaf, params_K))
        result = folder.read_json("result.json")
        card.write(folder, result)
        folder.finish(result)
        return folder.path, result

    return make


@pytest.fixture
def finished(make_run):
    """The folder of such a run of texts, and its result."""
    return make_run({"model.pooling": "mean"})


def in_rows(answering, inputs):
    """Inputs as a user has them, in rows, and their lengths: tokens of texts, or vectors."""
    if isinstance(inputs[0], str):
        words = [split_words(text, answering.inputs.rules) for text in inputs]
        inputs = [answering.inputs.vocabulary.encode(one) for one in words]
    lengths_B = np.array([len(one) for one in inputs], np.int32)
    x = np.zeros((len(inputs), lengths_B.max(), *inputs[0].shape[1:]), inputs[0].dtype)
    for row, one in zip(x, inputs, strict=True):
        row[: len(one)] = one
    return x, lengths_B


def run_alone(folder, script):
    """Runs a script where there is JAX, and nothing else but Python itself."""
    packages = folder / "packages"
    packages.mkdir()
    site = pathlib.Path(jax.__file__).parent.parent
    for name in JAX:
        if (site / name).is_dir():
            (packages / name).symlink_to(site / name)
    start = f"import sys; sys.path.insert(0, {str(packages)!r})\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start + script],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_described(content, folder, workdir):
    """That `model.json` says what goes in and what comes out."""
    assert json.loads((folder / export.NAME).read_text("utf-8")) == content
    assert content["seed"] == 1
    assert content["task_fields"]["classes"] == ["bad", "good"]
    whole, step = (content["programs"][name] for name in ("model", "step"))
    assert whole["arguments"] == {"x": "int32[B, T]", "lengths": "int32[B]"}
    assert whole["results"] == {"outputs": "float32[B, 1]"}
    assert step["arguments"]["carry"] == step["results"]["carry"]
    assert step["results"]["carry"][0] == "float32[4, B]"
    words = (folder / "vocabulary.txt").read_text("utf-8")
    assert words == (workdir / "vocabulary.txt").read_text("utf-8")


def test_jax_alone_answers_as_predict_does(finished, tmp_path):
    """By the scripts of docs/export.md, and then many rows at once."""
    folder = tmp_path / "elsewhere/exported"
    content = export.export(str(finished[0]), str(folder), seed=1)
    assert_described(content, folder, finished[0])
    answering = Restored(str(finished[0]))
    x_BxT, lengths_B = in_rows(answering, TEXTS)
    np.savez(folder / "rows.npz", x=x_BxT, lengths=lengths_B)
    script = "\n".join(
        [
            *SCRIPTS,
            "rows = np.load('exported/rows.npz')",
            "many = model(rows['x'], rows['lengths'])",
            "np.savez('exported/answers.npz', whole=many, one=logit, end=outputs)",
            "from importlib.util import find_spec",
            "assert not any(map(find_spec, ('flax', 'optax', 'seqmodels', 'train_lib')))",
        ]
    )
    told = run_alone(folder.parent, script)
    found = np.load(folder / "answers.npz")
    expected_Bx1 = answering.answer(answering.encode(TEXTS, str))[1]["outputs"]  # Of seed 1.
    assert lengths_B.tolist() == [5, 1, 2, 151]
    np.testing.assert_allclose(found["whole"], expected_Bx1, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found["one"], expected_Bx1[0, 0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found["end"][0], expected_Bx1[0], rtol=1e-5, atol=1e-6)
    assert told.split()[0] == ("bad", "good")[int(expected_Bx1[0, 0] > answering.tasks_K[1].cut)]


def test_what_cannot_be_exported_is_refused(finished, tmp_path, monkeypatch):
    workdir = str(finished[0])
    with pytest.raises(UserError, match=r"seed=7: .* no model of this seed; its seeds are 0, 1\."):
        export.export(workdir, str(tmp_path / "out"), seed=7)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").touch()
    with pytest.raises(UserError, match="is not empty"):
        export.export(workdir, str(tmp_path / "full"))
    monkeypatch.setattr(export, "PACKAGE", "flatbuffers_that_are_not_there")
    with pytest.raises(UserError, match="pip install flatbuffers"):
        export.export(workdir, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        slow({"data.mask_padding": False, "data.padding_side": "pre"}),
        slow({"data.max_length_tokens": 6}),
        slow({"model.direction": "bidirectional", "model.engine": "scan"}),
    ],
    ids=str,
)
def test_it_reads_of_a_text_what_predict_reads(make_run, tmp_path, changes):
    assert_answers_as_predict(make_run(changes)[0], TEXTS, tmp_path / "out", steps=False)


@pytest.mark.slow
def test_it_answers_every_step_as_predict_does(make_run, tmp_path):
    inputs = Vectors(cases.WIDTH, (0.5, -3.0, 20.0), (0.1, 2.0, 5.0))
    run, _ = make_run(kind="tags", inputs=inputs)
    vectors = cases.examples(Case("tags", "vectors"), 6, longest=3 * 13).inputs
    assert_answers_as_predict(run, vectors, tmp_path / "out", steps=True)


def assert_answers_as_predict(run, inputs, out, *, steps):
    content = export.export(str(run), str(out))
    assert ("step" in content["programs"]) == steps != ("no_steps" in content)
    answering = Restored(str(run))
    split = answering.encode(inputs, str)
    x, lengths_B = in_rows(answering, inputs)
    program = jax.export.deserialize((out / "model.jaxexport").read_bytes())
    outputs = np.asarray(program.call(x, lengths_B))
    if answering.task.per_step:
        outputs = outputs[np.arange(x.shape[1]) < lengths_B[:, None]]
    found = answering.task.kept(outputs, answering.task.zero_unlabelled(split.targets))
    for name, expected in answering.answer(split)[0].items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


def card_of(folder):
    """What the Hub reads of a card, and what stands below it."""
    _, head, text = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def copy_of_listed(folder, copy):
    """Copies what a card lists, and nothing else."""
    copy.mkdir()
    listed = re.findall(r"^\| `(.*?)` \|", card_of(folder)[1], re.M)
    for name in listed:
        shutil.copy(folder / name, copy)
    return listed


def test_a_card_has_the_figures_of_the_run(finished):
    folder, result = finished
    head, text = card_of(folder)
    assert head["library_name"] == "seqmodels"
    assert head["pipeline_tag"] == "text-classification"
    assert "lstm" in head["tags"]
    (model,) = head["model-index"]
    (of_data,) = model["results"]
    assert of_data["task"]["type"] == "text-classification"
    assert of_data["dataset"]["split"] == "test"
    found = {one["type"]: one["value"] for one in of_data["metrics"]}
    assert found.keys() == set(head["metrics"]) >= {"accuracy", "loss"}
    for metric, value in found.items():
        assert value == pytest.approx(result[f"test_{metric}"]["mean"], abs=5e-5)
    accuracy = result["test_accuracy"]
    assert f"[{accuracy['ci95_low']:.4f}, {accuracy['ci95_high']:.4f}]" in text
    for words in ("2 seeds", "`bad`, `good`", "train.seeds = 2", "python -m train_lib.predict"):
        assert words in text


def test_a_copy_of_what_the_card_lists_answers(finished, tmp_path):
    folder, _ = finished
    listed = copy_of_listed(folder, tmp_path / "copy")
    assert not {"metrics.jsonl", "predictions.csv", "README.md"} & set(listed)
    texts = TEXTS[:1]
    expected = predict(str(folder), texts)
    assert predict(str(tmp_path / "copy"), texts) == expected
    assert predict(str(tmp_path / "copy"), texts, best=True) == predict(
        str(folder), texts, best=True
    )
    (tmp_path / "copy/data.json").write_text("{}")
    with pytest.raises(UserError, match=r"is damaged: changed since they were written: data\.json"):
        predict(str(tmp_path / "copy"), texts)


def test_what_its_card_says_begins_the_same_run_again(finished, tmp_path):
    (tmp_path / "again").mkdir()
    for name in re.findall(r"FOLDER/(\S+) ", card_of(finished[0])[1].partition("mkdir")[2]):
        shutil.copy(finished[0] / name, tmp_path / "again")
    config = RunFolder(tmp_path / "again").read_config()
    assert config.to_dict() == RunFolder(finished[0]).read_config().to_dict()
    with contextlib.closing(RunFolder.open(str(tmp_path / "again"), config)) as folder:
        assert folder.is_begun()
        assert not folder.is_finished()


def test_a_card_may_be_edited(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "README.md").write_text("my own")
    RunFolder.open_finished(str(folder))
    export.main([f"--workdir={folder}", "--card"])
    assert card_of(folder) == card_of(finished[0])


def test_a_run_of_an_older_version_gets_a_card_and_answers(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    for name in ("model", "best_model"):
        arrays = load_file(folder / f"{name}.safetensors")
        arrays["embedding"] = arrays.pop("inputs.table")  # As it was called once.
        np.savez(folder / f"{name.replace('model', 'weights')}.npz", **arrays)
        (folder / f"{name}.safetensors").unlink()
    (folder / "README.md").unlink()
    RunFolder(folder).finish(RunFolder(folder).read_json("result.json"))
    assert export.write_card(str(folder)) == folder / "README.md"
    listed = copy_of_listed(folder, tmp_path / "copy")
    assert {"weights.npz", "best_weights.npz"} <= set(listed)
    assert predict(str(tmp_path / "copy"), TEXTS[:1]) == predict(str(finished[0]), TEXTS[:1])
