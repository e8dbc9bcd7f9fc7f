"""Runs that begin with the parameters of another one, or with word vectors."""

import hashlib
import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from configs import base
from seqmodels import loading
from tests.marks import slow
from tests.train_lib import cases
from train_lib import beginning, building, settings, sweep
from train_lib import run as runs
from train_lib.analysis.axes import Axis
from train_lib.errors import UserError
from train_lib.records import weights
from train_lib.records.folder import RunFolder
from train_lib.records.keeper import Keeper

pytestmark = pytest.mark.usefixtures("compiled_once")
WORDS = "a b c d e f g h i j k l m n o p".split()
RESERVED = 4


def write_texts(path, seed, words, labels=("none", "any")):
    rng = np.random.default_rng(seed)
    rows = [
        {"text": " ".join(rng.choice(words, 6)), "label": labels[number % 2]}
        for number in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def config_of(path, **changes):
    config = base.get_config("any", "exact")
    config.model.update(embedding_size=3, hidden_sizes=(4,))
    config.data.update(source=str(path), text_column="text", max_features=14)
    config.train.update(num_epochs=6, batch_size=8, learning_rate=0.05, seeds=2)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory, compiled_once):
    """With texts, and in `lm` a language model of two seeds that knows ten of their words."""
    folder = tmp_path_factory.mktemp("beginning")
    write_texts(folder / "texts.jsonl", 0, WORDS[:12])
    write_texts(folder / "rated.jsonl", 1, WORDS[2:], ("no", "yes"))
    write_texts(folder / "other.jsonl", 2, WORDS, ("bad", "good"))
    config = config_of(folder / "texts.jsonl", **LANGUAGE)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        runs.run(config, str(folder / "lm"))
    return folder


LANGUAGE = {"task.name": "next_token"}


def classifier(folder, **changes):
    """Three seeds that begin with the language model's two."""
    given = {"data.max_features": 20, "train.init_from": str(folder / "lm"), "train.seeds": 3}
    return config_of(folder / "rated.jsonl", **given | changes)


def begin(config, workdir):
    """Fresh models, the same after `begin`, what that tells, and what was read of the data."""
    data, task = building.load_data(config)
    fresh, models = (
        building.build_models(config, data.inputs, task, building.seeds_asked(config))
        for _ in range(2)
    )
    found = beginning.begin(config, RunFolder(workdir), data, task, models)
    assert found is None or not workdir.exists()
    return fresh, models, found and found.parts, data


def arrays_of(model):
    return {path: np.asarray(one) for path, one in weights.named(nnx.state(model, nnx.Param))}


def vocabulary(run):
    return (run / "vocabulary.txt").read_text().split("\n")[:-1]


@pytest.mark.parametrize("direction", ["forward", slow("bidirectional")])
def test_a_classifier_begins_as_the_language_model_ended(folder, direction, tmp_path):
    config = classifier(folder, **{"model.direction": direction})
    fresh, models, told, data = begin(config, tmp_path / "run")
    known, words = vocabulary(folder / "lm"), data.inputs.vocabulary.words
    assert len(known) == 10
    assert len(words) == 14
    both = sorted({*known} & {*words})
    trained = load_file(folder / "lm/model.safetensors")
    for number, (model, as_drawn) in enumerate(zip(models, fresh, strict=True)):
        table, drawn = arrays_of(model)["inputs.table"], arrays_of(as_drawn)["inputs.table"]
        old_VxD = trained["inputs.table"][number % 2]
        for place, word in enumerate(words, RESERVED):
            expected = old_VxD[RESERVED + known.index(word)] if word in both else drawn[place]
            np.testing.assert_array_equal(table[place], expected)
        np.testing.assert_array_equal(table[:RESERVED], old_VxD[:RESERVED])
        np.testing.assert_array_equal(
            table[RESERVED + len(words) :], drawn[RESERVED + len(words) :]
        )
        for path, array in arrays_of(model).items():
            if path.startswith("encoder.layers.0.forward."):
                np.testing.assert_array_equal(array, trained[path][number % 2])
            elif path != "inputs.table":
                np.testing.assert_array_equal(array, arrays_of(as_drawn)[path])
    counts = np.bincount(data.train.values, minlength=20)
    of_known = sum(counts[RESERVED + words.index(word)] for word in both)
    share = 100 * of_known / (counts.sum() - len(data.train))  # Each text begins with START.
    assert told["inputs.table"] == (
        f"{len(both)} of 14 words, {share:.1f} % of the training tokens"
    )
    assert told["encoder.layers.0.forward"] == "all"
    assert told.get("encoder.layers.0.backward", "fresh: it has none") == "fresh: it has none"
    assert told["head"] == "fresh: its outputs mean something else there"


def test_a_text_is_encoded_as_by_the_language_model(folder, tmp_path):
    """The new encoder makes of the words that both know what the old one does, bit for bit."""
    config = classifier(folder)
    _, models, _, data = begin(config, tmp_path / "new")
    old = RunFolder(config.train.init_from)
    known, words = vocabulary(old.path), data.inputs.vocabulary.words
    both = [word for word in words if word in known]
    described = beginning.description.read(old, "next_token")
    (reader,) = building.build_models(old.read_config(), *described, [0])
    for number, model in enumerate(models):
        of_seed = {
            path: of[number % 2] for path, of in weights.read_all(old, weights.WEIGHTS).items()
        }
        nnx.update(reader, weights.replaced(nnx.state(reader, nnx.Param), of_seed))
        encoded = []
        for one, numbers in ((reader, known), (model, words)):
            rows = jnp.array([RESERVED + numbers.index(word) for word in both])
            encoded.append(one.encoder(one.inputs.table[...][rows][None]).sequence_BxTxH)
        np.testing.assert_array_equal(*encoded)
        assert np.abs(encoded[0]).max() > 0.001


@pytest.mark.slow
def test_a_language_model_begins_with_another_one_word_by_word(folder, tmp_path):
    config = classifier(folder, **LANGUAGE, **{"train.seeds": 1})
    (fresh,), (model,), told, data = begin(config, tmp_path / "run")
    known, words = vocabulary(folder / "lm"), data.inputs.vocabulary.words
    arrays, drawn = arrays_of(model), arrays_of(fresh)
    file = load_file(folder / "lm/model.safetensors")
    for path in ("head.kernel", "head.bias"):
        for place, word in enumerate(words, RESERVED):
            expected = drawn[path][..., place]
            if word in known:
                expected = file[path][0][..., RESERVED + known.index(word)]
            np.testing.assert_array_equal(arrays[path][..., place], expected)
    assert told["head"] == f"{len({*known} & {*words})} of 14 words"


def killed_after(calls, config, workdir):
    """Runs, and ends without a word after so many calls; what is being saved is saved."""
    after_call, made = Keeper.after_call, []

    def kill(keeper, *arguments):
        after_call(keeper, *arguments)
        made.append(None)
        if len(made) == calls:
            keeper._checkpoints.wait()
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keeper, "after_call", kill)
        with pytest.raises(KeyboardInterrupt):
            runs.run(config, str(workdir))


def without_seconds(run):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found.append(json.loads((run / "result.json").read_text()))
    return [{name: value for name, value in one.items() if name != "seconds"} for one in found]


def assert_same(one, other):
    for name in ("model.safetensors", "best_model.safetensors", "predictions.csv", "initial.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert without_seconds(one) == without_seconds(other)


@pytest.fixture(scope="module")
def whole(folder, compiled_once):
    """A run that began with a copy of the language model, and did the same again."""
    shutil.copytree(folder / "lm", folder / "copy")
    runs.run(resuming(folder), str(folder / "whole"))
    return folder / "whole"


def resuming(folder):
    """Six epochs, in a call each; every second one is saved."""
    source = {"train.init_from": str(folder / "copy"), "train.checkpoint_every_steps": 7}
    return config_of(folder / "texts.jsonl", **LANGUAGE, **source)


def test_a_run_resumes_without_what_it_began_with(folder, whole, tmp_path, monkeypatch, capsys):
    config = resuming(folder)
    killed_after(1, config, tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()
    hidden = folder / "hidden"
    (folder / "copy").rename(hidden)
    with pytest.raises(
        UserError, match=r"config\.train\.init_from = .* is not the folder of a fin"
    ):
        runs.run(config, str(tmp_path / "run"))
    hidden.rename(folder / "copy")
    killed_after(3, config, tmp_path / "run")
    assert (tmp_path / "run/checkpoints").exists()
    monkeypatch.setattr(beginning, "_of_run", None)
    capsys.readouterr()
    runs.run(config, str(tmp_path / "run"))
    output = capsys.readouterr().out
    assert "resuming from step" in output
    assert f"begins at {folder / 'copy'}\n  encoder.layers.0.forward  all\n" in output
    assert_same(tmp_path / "run", whole)


def test_a_run_tells_with_what_it_began(folder, whole):
    initial = json.loads((whole / "initial.json").read_text())
    assert initial["source"] == str(folder / "copy")
    assert initial["parts"]["encoder.layers.0.forward"] == "all"
    assert json.loads((whole / "result.json").read_text())["model"]["initial"] == initial
    assert " initial.json\n" in (whole / "SHA256SUMS").read_text()


def test_a_run_that_was_not_saved_begins_with_the_same_again_or_not_at_all(folder, whole, tmp_path):
    config = resuming(folder)
    killed_after(1, config, tmp_path / "run")
    kept = folder / "kept"
    (folder / "copy").rename(kept)
    try:
        shutil.copytree(kept, folder / "copy")
        file = load_file(kept / "model.safetensors")
        changed = {path: array + (path == "head.bias") for path, array in file.items()}
        save_file(changed, folder / "copy/model.safetensors")
        with pytest.raises(
            UserError, match=r"is damaged: changed since they were written: model\.safetensors"
        ):
            runs.run(config, str(tmp_path / "run"))
        refinish(folder / "copy")
        with pytest.raises(UserError, match=r"it is no longer what .* began with"):
            runs.run(config, str(tmp_path / "run"))
    finally:
        shutil.rmtree(folder / "copy")
        kept.rename(folder / "copy")
    runs.run(config, str(tmp_path / "run"))
    assert_same(tmp_path / "run", whole)


def refinish(path, change=lambda result: None):
    """Writes a finished run's result and digests anew."""
    run = RunFolder(path)
    result = run.read_json("result.json")
    change(result)
    run.finish(result)


@pytest.mark.slow
def test_training_goes_on_from_there(folder, whole, tmp_path):
    config = resuming(folder)
    config.train.init_from = ""
    runs.run(config, str(tmp_path / "fresh"))
    assert not (tmp_path / "fresh/initial.json").exists()
    assert "initial" not in json.loads((tmp_path / "fresh/result.json").read_text())["model"]
    first = [
        json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["seeds"]["train_loss"]
        for run in (folder / "lm", tmp_path / "fresh", whole)
    ]
    assert first[0] == first[1]
    assert all(np.array(first[2]) < np.array(first[1]) - 0.01)


@pytest.mark.slow
def test_a_head_is_taken_where_it_answers_the_same(folder, tmp_path):
    config = classifier(folder)
    runs.run(config, str(tmp_path / "classifier"))
    config.train.init_from, config.task.metric = str(tmp_path / "classifier"), "loss"
    _, models, told, _ = begin(config, tmp_path / "run")
    assert {name: text for name, text in told.items() if name != "inputs.table"} == {
        "encoder.layers.0.forward": "all", "head": "all"
    }  # fmt: skip
    file = load_file(tmp_path / "classifier/model.safetensors")
    for number, model in enumerate(models):
        for path, array in arrays_of(model).items():
            rows = slice(RESERVED + 14 if path == "inputs.table" else None)
            np.testing.assert_array_equal(array[rows], file[path][number][rows])
    config.data.source = str(folder / "other.jsonl")
    assert begin(config, tmp_path / "run")[2]["head"].startswith("fresh: its outputs mean")


def test_a_seed_that_diverged_is_passed_over(folder, tmp_path):
    shutil.copytree(folder / "lm", tmp_path / "lm")
    refinish(tmp_path / "lm", lambda result: result["seeds"][0].update(diverged_at_step=3))
    config = classifier(folder, **{"train.init_from": str(tmp_path / "lm")})
    _, models, _, _ = begin(config, tmp_path / "run")
    file = load_file(tmp_path / "lm/model.safetensors")
    expected = file["encoder.layers.0.forward.bias"][1]
    for model in models:
        np.testing.assert_array_equal(model.encoder.layers[0].forward.bias[...], expected)


OWN = """from seqmodels.cells.lstm import LSTM

class Mine(LSTM):
    def __init__(self, input_size, hidden_size, *, rngs, power=1.0):
        super().__init__(input_size, hidden_size, rngs=rngs)
        self.power = power
"""


def test_what_a_cell_computes_is_compared(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "yours.py").write_text(OWN + "# Another file.\n")
    told = {
        beginning._describe_cell(name, loading.find_cell(name)(2, 3, rngs=nnx.Rngs(0), **options))
        for name, options in (
            (str(tmp_path / "mine.py"), {}), (str(tmp_path / "mine.py"), {"power": 2.0}),
            (str(tmp_path / "yours.py"), {}), ("lstm", {}), ("lstm", {"forget_bias": 2.0}),
        )
    }  # fmt: skip
    digest = hashlib.sha256(OWN.encode()).hexdigest()[:12]
    assert len(told) == 4
    assert "lstm(hidden_size=3)" in told
    assert f"Mine of a file with the SHA-256 {digest}(hidden_size=3, power=2.0)" in told


def test_a_run_that_cannot_be_used_is_refused(folder, write_run, tmp_path):
    shutil.copytree(folder / "lm", tmp_path / "unfinished")
    (tmp_path / "unfinished/SHA256SUMS").unlink()
    shutil.copytree(folder / "lm", tmp_path / "damaged")
    (tmp_path / "damaged/vocabulary.txt").write_text("other\n")
    for source, told in {
        tmp_path / "none": "is not the folder of a finished run",
        tmp_path / "unfinished": "is not the folder of a finished run",
        tmp_path / "damaged": "is damaged: changed since they were written: vocabulary.txt",
        write_run("baseline"): "has no model.safetensors; a baseline has no parameters",
    }.items():
        refused(classifier(folder, **{"train.init_from": str(source)}), tmp_path, told)


def refused(config, tmp_path, *told):
    config.train.seeds = 1
    with pytest.raises(UserError) as error:
        runs.run(config, str(tmp_path / "run"))
    for words in told:
        assert words in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_run_of_which_nothing_fits_is_refused_with_the_reasons(folder, tmp_path):
    refused(
        classifier(folder, **{"model.embedding_size": 5, "model.hidden_sizes": (6,)}), tmp_path,
        "nothing of it fits this model:\n  encoder.layers.0.forward  fresh: it is lstm(hidden_size",
        "\n  inputs.table  fresh: vectors have 3 numbers there and 5 here",
    )  # fmt: skip


VECTORS = {word: [number, 1.5, -number] for number, word in enumerate("c e m zz d".split(), 1)}


def with_vectors(folder, path, **changes):
    path.write_text("".join(f"{word} {' '.join(map(str, of))}\n" for word, of in VECTORS.items()))
    given = {"train.init_from": "", "train.init_vectors": str(path)}
    return classifier(folder, **given | changes)


def test_an_embedding_begins_with_the_vectors_of_its_words(folder, tmp_path):
    path = tmp_path / "vectors.txt"
    fresh, models, told, data = begin(with_vectors(folder, path), tmp_path / "run")
    words = data.inputs.vocabulary.words
    for model, as_drawn in zip(models, fresh, strict=True):
        expected = arrays_of(as_drawn)
        for word, vector in VECTORS.items():
            if word in words:
                expected["inputs.table"] = expected["inputs.table"].copy()
                expected["inputs.table"][RESERVED + words.index(word)] = vector
        for name, array in arrays_of(model).items():
            np.testing.assert_array_equal(array, expected[name])
    assert list(told) == ["inputs.table"]
    assert re.fullmatch(r"4 of 14 words, \d\d\.\d % of the training tokens", told["inputs.table"])
    path.write_text(path.read_text() + "c 0 0 0\n")
    told = begin(
        classifier(folder, **{"train.init_from": "", "train.init_vectors": str(path)}),
        tmp_path / "run",
    )[2]
    assert told["repeated"] == "1 of these words; the first vector counts"


def test_vectors_that_cannot_be_used_are_refused(folder, tmp_path):
    path = tmp_path / "vectors.txt"
    config = with_vectors(folder, path)
    for changes, told in {
        ("model.embedding_size", 7): "set it to 3",
        ("data.text_rules", "characters"): "has vectors of words, and the inputs are characters",
        ("data.text_rules", "bytes"): "the inputs are bytes; leave it empty",
        ("data.max_features", 5): "it has none of the 1 words in training",
        ("train.init_from", str(folder / "lm")): "leave one of them empty",
    }.items():
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(dict([changes]))
        if changes[0] == "data.max_features":
            path.write_text("zz 1 2 3\n")
        refused(changed, tmp_path, told)
    for inputs in ("tokens", "vectors"):
        of_numbers = base.get_config("any", "exact")
        options = cases.options(cases.Case("two", inputs))
        of_numbers.data.update(source=cases.PATH, source_options=options)
        of_numbers.train.init_vectors = str(path)
        refused(
            of_numbers, tmp_path, f"it has vectors of words, and the inputs are {inputs}; leave"
        )


@pytest.mark.slow
def test_frozen_vectors_stay_as_they_are(folder, tmp_path):
    """With decay, an average and a clip; what is not frozen learns."""
    config = with_vectors(
        folder, tmp_path / "vectors.txt",
        **{"train.optimizer": "adamw", "train.weight_decay": 0.1, "train.ema_decay": 0.9,
           "train.clip_norm": 1.0, "train.patience": 2,
           "train.groups": '{"inputs.*": {"frozen_epochs": 1000000000}}'},
    )  # fmt: skip
    _, models, _, _ = begin(config, tmp_path / "run")
    runs.run(config, str(tmp_path / "run"))
    for name in ("model.safetensors", "best_model.safetensors"):
        file = load_file(tmp_path / "run" / name)
        for number, model in enumerate(models):
            begun = arrays_of(model)
            np.testing.assert_array_equal(file["inputs.table"][number], begun["inputs.table"])
            assert np.abs(file["head.kernel"][number] - begun["head.kernel"]).max() > 0.001


@pytest.mark.slow
def test_a_classifier_of_every_recipe_resumes_without_what_it_began_with(folder, tmp_path):
    shutil.copytree(folder / "lm", tmp_path / "lm")
    config = classifier(folder, **{
        "train.init_from": str(tmp_path / "lm"), "train.ema_decay": 0.5, "train.patience": 3,
        "train.plateau_patience": 1, "train.checkpoint_every_steps": 6,
        "train.groups": '{"inputs.*": {"rate": 0.5, "frozen_epochs": 1}}',
    })  # fmt: skip
    runs.run(config, str(tmp_path / "whole"))
    killed_after(5, config, tmp_path / "run")
    shutil.rmtree(tmp_path / "lm")
    runs.run(config, str(tmp_path / "run"))
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_search_may_be_over_beginnings(folder, tmp_path):
    config = classifier(folder, **{"train.init_from": ""})
    axis = Axis.parse(f"train.init_from='','{folder / 'lm'}'")
    content = sweep.run(config, [axis], None, 0, str(tmp_path / "sweep"))
    assert len(content["trials"]) == 2
    for row in content["trials"]:
        initial = tmp_path / f"sweep/trial-{row['trial']:04}/initial.json"
        assert initial.exists() == bool(row["fields"]["train.init_from"])


def test_a_field_of_a_path_is_text():
    config = base.get_config("any", "exact")
    for field in ("init_from", "init_vectors"):
        config.train[field] = "\ud800"
        with pytest.raises(UserError, match=f"config.train.{field} = .* must be text in UTF-8"):
            settings.check(config)
        config.train[field] = ""
