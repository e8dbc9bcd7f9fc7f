"""What a run exports is run by JAX alone; and a copy of what its card lists still answers."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from configs import base
from tests.marks import slow
from tests.train_lib import cases
from train_lib import export, restored
from train_lib import run as runs
from train_lib.errors import UserError
from train_lib.predict import predict
from train_lib.records.folder import RunFolder
from train_lib.restored import Restored

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPTS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text("utf-8"), re.S)
TEXTS = ["Not dull, but clever.", "", "w3", "w1-W2 w9 " * 50]

ALONE = """
import sys

class Refuse:
    allowed = {"jax", "jaxlib", "numpy", "ml_dtypes", "opt_einsum", "scipy", "flatbuffers"}

    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in self.allowed | sys.stdlib_module_names:
            raise ModuleNotFoundError(f"{name} is not there", name=name)

sys.meta_path.insert(0, Refuse())
"""
"""In front of a script: it finds JAX and what JAX needs, and nothing else."""


def config_of(folder, seeds=2, treatment="exact"):
    """A run of texts, none of them longer than a dozen words."""
    path = folder / "mine.csv"
    if not path.exists():
        rng = np.random.default_rng(0)
        rows = [
            f"{' '.join(f'w{n}' for n in rng.integers(12, size=rng.integers(1, 13)))},{'yn'[i % 2]}"
            for i in range(60)
        ]
        path.write_text("\n".join(["text,label", *rows, ""]))
    config = base.get_config("small", treatment)
    config.data.source = str(path)
    config.model.update(embedding_size=3, hidden_sizes=(4,), pooling="mean")
    config.train.update(num_epochs=2, batch_size=8, learning_rate=0.1, seeds=seeds)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of two seeds, and its result."""
    folder = tmp_path_factory.mktemp("finished")
    return folder / "run", runs.run(config_of(folder), str(folder / "run"))


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere") / "exported"
    return folder, export.export(str(finished[0]), str(folder), seed=1)


def rows_of(split):
    """A split as rows, and their lengths."""
    x = np.zeros((len(split), split.lengths.max(), *split.values.shape[1:]), split.values.dtype)
    for number, (start, length) in enumerate(zip(split.offsets, split.lengths, strict=False)):
        x[number, :length] = split.values[start : start + length]
    return x, split.lengths.astype(np.int32)


def run_alone(folder, script, *arguments):
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE + script, *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_jax_alone_answers_as_predict_does(finished, exported):
    """By the scripts of docs/export.md, and then many rows at once."""
    folder, _ = exported
    answering = Restored(str(finished[0]))
    split = answering.encode(TEXTS, str)
    x_BxT, lengths_B = rows_of(split)
    np.savez(folder / "rows.npz", x=x_BxT, lengths=lengths_B)
    script = "\n".join(
        [
            *SCRIPTS,
            "rows = np.load('exported/rows.npz')",
            "many = model(rows['x'], rows['lengths'])",
            "np.savez('exported/answers.npz', whole=many, one=logit, end=outputs)",
            "assert not {'flax', 'seqmodels', 'train_lib', 'optax'} & set(sys.modules)",
        ]
    )
    told = run_alone(folder.parent, script)
    found = np.load(folder / "answers.npz")
    expected_Bx1 = answering.answer(split)[1]["outputs"]  # Of seed 1.
    assert lengths_B.tolist() == [5, 1, 2, 151] > [answering._longest]
    np.testing.assert_allclose(found["whole"], expected_Bx1, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found["one"], expected_Bx1[0, 0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found["end"][0], expected_Bx1[0], rtol=1e-5, atol=1e-6)
    assert told.split()[0] == "ny"[int(expected_Bx1[0, 0] > answering.tasks_K[1].cut)]


def test_it_says_what_goes_in_and_what_comes_out(finished, exported):
    folder, content = exported
    assert json.loads((folder / export.NAME).read_text("utf-8")) == content
    assert content["seed"] == 1
    assert content["task_fields"]["classes"] == ["n", "y"]
    whole, step = (content["programs"][name] for name in ("model", "step"))
    assert whole["arguments"] == {"x": "int32[B, T]", "lengths": "int32[B]"}
    assert whole["results"] == {"outputs": "float32[B, 1]"}
    assert step["arguments"]["carry"] == step["results"]["carry"]
    assert step["results"]["carry"][0] == "float32[4, B]"
    words = (folder / "vocabulary.txt").read_text("utf-8")
    assert words == (finished[0] / "vocabulary.txt").read_text("utf-8")


def test_what_cannot_be_exported_is_refused(finished, tmp_path, monkeypatch):
    workdir = str(finished[0])
    with pytest.raises(UserError, match=r"has no seed 7; its seeds are 0, 1\."):
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
        slow({"treatment": "tutorial"}),
        slow({"data.max_length_tokens": 6}),
        slow({"model.direction": "bidirectional", "model.engine": "scan"}),
        slow({"task.name": "tags", "case": "tags-vectors"}),
    ],
    ids=str,
)
def test_whatever_a_run_reads_its_program_reads_too(changes, tmp_path):
    config = config_of(tmp_path, seeds=1, treatment=changes.pop("treatment", "exact"))
    inputs = TEXTS
    if changes.pop("case", ""):
        case = cases.Case("tags", "vectors")
        config.data.update(source=cases.PATH, source_options=cases.options(case), standardize=True)
        inputs = cases.examples(case, 6, longest=3 * cases.LONGEST).inputs
    config.update_from_flattened_dict(changes)
    runs.run(config, str(tmp_path / "run"))
    answering = Restored(str(tmp_path / "run"))
    content = export.export(str(tmp_path / "run"), str(tmp_path / "out"))
    assert ("no_steps" in content) == (config.task.name != "tags")
    whole = answering.encode(inputs, str)
    expected = answering.answer(whole)[0]["outputs"]
    # What is read of it, the program is to find out itself.
    x, lengths_B = raw_rows(answering, inputs)
    from jax import export as jax_export

    program = jax_export.deserialize((tmp_path / "out/model.jaxexport").read_bytes())
    found = np.asarray(program.call(x, lengths_B))
    if config.task.name == "tags":
        found = found[np.arange(x.shape[1]) < lengths_B[:, None]]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def raw_rows(answering, inputs):
    """Inputs as a user has them, in rows: tokens of whole texts, or vectors of the data."""
    if isinstance(inputs[0], str):
        split = restored.split_words
        words = [split(text, answering.inputs.rules) for text in inputs]
        rows = [answering.inputs.vocabulary.encode(one) for one in words]
    else:
        rows = inputs
    lengths_B = np.array([len(row) for row in rows], np.int32)
    x = np.zeros((len(rows), lengths_B.max(), *rows[0].shape[1:]), rows[0].dtype)
    for number, row in enumerate(rows):
        x[number, : len(row)] = row
    return x, lengths_B


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
    for words in ("2 seeds", "`n`, `y`", "train.seeds = 2", "python -m train_lib.predict"):
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
    with pytest.raises(UserError, match=r"is damaged: not as they were written: data\.json"):
        predict(str(tmp_path / "copy"), texts)


def test_what_its_card_says_trains_the_same_run_again(finished, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(finished[0] / "config.json", again)
    runs.run(RunFolder(again).read_config(), str(again))
    name = "model.safetensors"
    assert (again / name).read_bytes() == (finished[0] / name).read_bytes()


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
    for workdir in (folder, tmp_path / "copy"):
        assert predict(str(workdir), TEXTS[:1]) == predict(str(finished[0]), TEXTS[:1])
