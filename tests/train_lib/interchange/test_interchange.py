"""Weights beside the libraries they are for: what these load computes what we do, and back."""

import functools
import json
import os
import pathlib
import re
import sys
import zipfile

import h5py
import jax
import keras
import numpy as np
import pytest
from flax import nnx
from safetensors import numpy as safetensors

from seqmodels import cells, factory
from tests.marks import slow
from train_lib.convert import _arrays
from train_lib.errors import UserError
from train_lib.interchange import formats
from train_lib.interchange.layout import Layout
from train_lib.records import weights

VOCABULARY, WIDTH = 20, 7
LENGTHS_B = np.array([7, 3, 1, 5])
TOKENS_BxT = np.random.default_rng(0).integers(1, VOCABULARY, (len(LENGTHS_B), WIDTH), np.int32)
TOKENS_BxT[np.arange(WIDTH) >= LENGTHS_B[:, None]] = 0

LSTM = {"hidden_sizes": (4,)}
STACKED = {"hidden_sizes": (5, 3), "direction": "bidirectional"}
GRU = {"hidden_sizes": (3, 3), "direction": "bidirectional", "cell": "gru", "num_outputs": 3}
"""The shapes of the references, and what else there is in both libraries."""


def build(**changes):
    """A model none of whose parameters is what it was drawn as, biases least of all."""
    sizes = {"embedding_size": 6, "num_outputs": 1}
    if "input_size" not in changes:
        sizes["vocabulary_size"] = VOCABULARY
    (model,) = factory.build_all(seeds=[0], **sizes | changes)
    rng = np.random.default_rng(1)
    state = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape), state))
    return model


def layout_of(model, masks_zero=True):
    return Layout(model, masks_zero, "sigmoid" if model.head.num_outputs == 1 else "softmax")


def answers(model):
    return np.asarray(_answers(*nnx.split(model, nnx.Param)))


@functools.partial(jax.jit, static_argnums=0)  # Compiled once for each form.
def _answers(graphdef, params):
    return nnx.merge(graphdef, params)(TOKENS_BxT, LENGTHS_B)


def assert_same(taken, model, notes=()):
    """Bit for bit what a model has."""
    ours = _arrays(model)
    assert taken.arrays.keys() == ours.keys()
    for path, array in ours.items():
        np.testing.assert_array_equal(taken.arrays[path], array, err_msg=path)
        assert taken.arrays[path].dtype == np.float32
    assert taken.notes == list(notes)


def read(path, model, **options):
    """What another model of the same form takes."""
    like = {name: np.zeros_like(array) for name, array in _arrays(model).items()}
    return formats.read(str(path), layout_of(model, **options), like)


KERAS = {
    "lstm": LSTM,
    "bilstm": {**LSTM, "direction": "bidirectional"},
    "stacked": STACKED,
    "gru": {**GRU, "merge": "mean", "pooling": "mean"},
    "reset before": {**GRU, "cell": "gru_reset_before", "merge": "product", "num_outputs": 1},
    "simple, per step": {
        **LSTM, "cell": "simple_rnn", "per_step": True, "num_outputs": 3, "projection_size": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "case",
    ["stacked", "gru", "simple, per step", slow("lstm"), slow("bilstm"), slow("reset before")],
)
def test_keras_loads_it_and_back(case, tmp_path):
    model = build(**KERAS[case])
    for end in (".keras", ".weights.h5"):
        formats.write(str(tmp_path / f"ours{end}"), layout_of(model), _arrays(model))
        assert_same(read(tmp_path / f"ours{end}", model), model)
    loaded = keras.saving.load_model(tmp_path / "ours.keras")
    # What is not loaded stays as it is.
    loaded.set_weights([np.zeros_like(one) for one in loaded.get_weights()])
    loaded.load_weights(tmp_path / "ours.weights.h5")
    loaded.compile("adam")
    loaded.optimizer.build(loaded.trainable_variables)
    note = "the state of its optimiser and of its random numbers is left out"
    loaded.save(tmp_path / "theirs.keras")
    loaded.save_weights(tmp_path / "theirs.weights.h5")
    for end in (".keras", ".weights.h5"):
        assert_same(read(tmp_path / f"theirs{end}", model), model, [note])


@pytest.mark.parametrize(
    "case", ["stacked", *(slow(case) for case in KERAS if case != "stacked")]
)  # fmt: skip
def test_keras_computes_what_we_do(case, tmp_path):
    model = build(**KERAS[case])
    formats.write(str(tmp_path / "x.keras"), layout_of(model), _arrays(model))
    theirs = np.asarray(keras.saving.load_model(tmp_path / "x.keras")(TOKENS_BxT))
    is_step_BxT = np.arange(WIDTH) < LENGTHS_B[:, None]
    where = is_step_BxT if model.head.per_step else slice(None)
    np.testing.assert_allclose(theirs[where], answers(model)[where], rtol=0, atol=1e-5)


def tutorial(*layers, vocabulary=VOCABULARY):
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(vocabulary, 6, mask_zero=True),
            *layers,
        ]
    )


def test_what_keras_made_with_dropout_no_bias_and_a_sigmoid(tmp_path):
    theirs = tutorial(
        keras.layers.SpatialDropout1D(0.3, seed=1),
        keras.layers.LSTM(4, use_bias=False, dropout=0.2),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(1, activation="sigmoid"),
    )
    theirs.save(tmp_path / "x.keras")
    model = build(**LSTM)
    taken = read(tmp_path / "x.keras", model)
    assert any("sigmoid is left to the task" in note for note in taken.notes)
    assert any("lstm/cell has no bias" in note for note in taken.notes)
    np.testing.assert_array_equal(taken.arrays["head.kernel"], theirs.get_weights()[-2])
    assert not taken.arrays["encoder.layers.0.forward.bias"].any()


def unflatten(model, arrays):
    return weights.replaced(nnx.state(model, nnx.Param), arrays)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (
            [keras.layers.Bidirectional(keras.layers.GRU(7, return_sequences=True)),
             keras.layers.Bidirectional(keras.layers.GRU(5)), keras.layers.Dense(1)],
            ["--config.model.cell=gru", "'--config.model.hidden_sizes=(7, 5)'",
             "--config.model.direction=bidirectional", "--config.model.merge=concat"],
        ),
        ([keras.layers.LSTM(4, activation="relu"), keras.layers.Dense(1)], ["activation=relu"]),
        ([keras.layers.LSTM(4, go_backwards=True), keras.layers.Dense(1)], ["go_backwards=True"]),
        ([keras.layers.LSTM(4), keras.layers.LayerNormalization(), keras.layers.Dense(1)],
         ["LayerNormalization"]),
        ([keras.layers.LSTM(4), keras.layers.Dense(1, activation="tanh")], ["activation=tanh"]),
        ([keras.layers.LSTM(4), keras.layers.Dense(2)], ["units=2"]),
    ],
    ids=lambda value: "" if isinstance(value[0], str) else value[0].name,
)  # fmt: skip
def test_another_model_of_keras_is_told_by_its_own_words(layers, words, tmp_path):
    tutorial(*layers).save(tmp_path / "x.keras")
    with pytest.raises(UserError, match="is another model than the config's") as raised:
        read(tmp_path / "x.keras", build(**LSTM))
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_a_mask_must_be_the_same(tmp_path):
    model = build(**LSTM)
    formats.write(str(tmp_path / "x.keras"), layout_of(model), _arrays(model))
    with pytest.raises(UserError, match="mask_zero=False"):
        read(tmp_path / "x.keras", model, masks_zero=False)


# PyTorch.


def guide():
    """The module in the guide."""
    text = pathlib.Path("docs/interchange.md")
    text = (pathlib.Path(__file__).parents[3] / text).read_text("utf-8")
    space: dict = {}
    exec(text.split("```python\n")[1].partition("```")[0], space)
    return space["Model"]


def torch_answers(module):
    import torch

    with torch.no_grad():
        return module(torch.tensor(TOKENS_BxT), torch.tensor(LENGTHS_B)).numpy()


TORCH = [
    LSTM, STACKED, GRU, {**STACKED, "cell": "gru"}, {**STACKED, "hidden_sizes": (3, 3)},
    {**LSTM, "hidden_sizes": (3, 3), "cell": "simple_rnn"},
]  # fmt: skip


# PyTorch is there for the slow tests alone: it is large, and its first import takes seconds.
@pytest.mark.slow
@pytest.mark.parametrize("changes", TORCH, ids=str)
def test_torch_loads_it_and_back(changes, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    model = build(**changes)
    for end in (".pt", ".safetensors"):
        formats.write(str(tmp_path / f"ours{end}"), layout_of(model), _arrays(model))
        assert_same(read(tmp_path / f"ours{end}", model), model)
    sizes = changes["hidden_sizes"]
    kind = {"gru": torch.nn.GRU, "simple_rnn": torch.nn.RNN}.get(changes.get("cell"), torch.nn.LSTM)
    module = guide()(
        kind, VOCABULARY, 6, sizes, model.head.num_outputs, bidirectional="direction" in changes
    )
    for found in (torch.load(tmp_path / "ours.pt", weights_only=True),
                  load_file(tmp_path / "ours.safetensors")):  # fmt: skip
        module.load_state_dict(found)
        np.testing.assert_allclose(torch_answers(module), answers(model), rtol=0, atol=1e-5)

    # And with parameters of its own, in which both biases are drawn.
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    torch.save(module.state_dict(), tmp_path / "theirs.pth")
    save_file(module.state_dict(), tmp_path / "theirs.safetensors")
    expected = torch_answers(module)
    for name in ("theirs.pth", "theirs.safetensors"):
        taken = read(tmp_path / name, model)
        assert not taken.notes
        nnx.update(model, unflatten(model, taken.arrays))
        np.testing.assert_allclose(answers(model), expected, rtol=0, atol=1e-5)
    if changes.get("cell") == "gru":  # Which has both biases, so that nothing is lost.
        formats.write(str(tmp_path / "back.pt"), layout_of(model), taken.arrays)
        back = torch.load(tmp_path / "back.pt", weights_only=True)
        for name, one in module.state_dict().items():
            assert torch.equal(back[name], one), name


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_names_are_the_users_own(ending, tmp_path):
    """Modules in a file may be called anything, lie in another, and be of a checkpoint."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    model = build(**STACKED)
    named = {
        "module.tok_emb.weight": torch.randn(VOCABULARY, 6),
        **{f"module.rnn9.{k}": v for k, v in torch.nn.LSTM(6, 5, bidirectional=True,
                                                            bias=False).state_dict().items()},
        **{f"module.rnn10.{k}": v for k, v in torch.nn.LSTM(10, 3, bidirectional=True)
           .state_dict().items()},
        **{f"module.fc.{k}": v for k, v in torch.nn.Linear(6, 1, bias=False).state_dict().items()},
    }  # fmt: skip
    path = tmp_path / f"x{ending}"
    if ending == ".pt":
        torch.save({"epoch": 3, "state_dict": named}, path)
    else:
        save_file(named, path)
    taken = read(path, model)
    np.testing.assert_array_equal(taken.arrays["inputs.table"], named["module.tok_emb.weight"])
    top = {name: named[f"module.rnn10.{name}_l0_reverse"].numpy()
           for name in ("weight_ih", "bias_ih", "bias_hh")}  # fmt: skip
    np.testing.assert_array_equal(
        taken.arrays["encoder.layers.1.backward.kernel"], top["weight_ih"].T
    )
    np.testing.assert_array_equal(
        taken.arrays["encoder.layers.1.backward.bias"], top["bias_ih"] + top["bias_hh"]
    )
    assert not taken.arrays["encoder.layers.0.forward.bias"].any()
    assert len(taken.notes) == 3  # Two directions and the head have no bias.


def test_safetensors_need_no_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    model = build(**STACKED)
    formats.write(str(tmp_path / "x.safetensors"), layout_of(model), _arrays(model))
    assert_same(read(tmp_path / "x.safetensors", model), model)
    with pytest.raises(UserError, match="pip install torch"):
        formats.write(str(tmp_path / "x.pt"), layout_of(model), _arrays(model))


@pytest.mark.slow
def test_halves_and_doubles_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    model = build(**LSTM)
    formats.write(str(tmp_path / "x.pt"), layout_of(model), _arrays(model))
    found = torch.load(tmp_path / "x.pt", weights_only=True)
    found["head.weight"] = found["head.weight"].bfloat16()
    found["head.bias"] = found["head.bias"].double() + 1e-12
    torch.save(found, tmp_path / "y.pt")
    taken = read(tmp_path / "y.pt", model)
    expected = found["head.weight"].float().numpy().T
    np.testing.assert_array_equal(taken.arrays["head.kernel"], expected)
    assert taken.notes == ["head.bias was rounded to float32"]


# What cannot be used.


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A model, and its file of each kind."""
    folder, model = tmp_path_factory.mktemp("good"), build(**LSTM)
    for end in formats.FORMATS:
        if end in (".pt", ".pth"):
            continue
        formats.write(str(folder / f"x{end}"), layout_of(model), _arrays(model))
    return model, folder


@pytest.mark.parametrize("end", [".keras", ".weights.h5", ".safetensors", slow(".pt")])
@pytest.mark.parametrize("damage", ["empty", "half", "noise", "of another kind", "flipped"])
def test_a_damaged_file_is_refused(end, damage, good, tmp_path):
    model, folder = good
    if end == ".pt":
        pytest.importorskip("torch")
        formats.write(str(tmp_path / "good.pt"), layout_of(model), _arrays(model))
        content = (tmp_path / "good.pt").read_bytes()
    else:
        content = (folder / f"x{end}").read_bytes()
    path = tmp_path / f"x{end}"
    if damage == "flipped":  # In a header, or of .keras in what is in it.
        first = 200 if end == ".keras" else 9
        flipped = bytes(one ^ 0xFF for one in content[first : first + 50])
        path.write_bytes(content[:first] + flipped + content[first + 50 :])
    else:
        other = folder / ("x.keras" if end != ".keras" else "x.safetensors")
        path.write_bytes({
            "empty": b"", "half": content[: len(content) // 2], "noise": os.urandom(2_000),
            "of another kind": other.read_bytes(),
        }[damage])  # fmt: skip
    with pytest.raises(UserError) as raised:
        read(path, model)
    assert str(path) in str(raised.value)


ARRAYS = {
    "missing": (lambda found: found.pop("head.weight"), "head.weight [1, 4] is missing"),
    "extra": (lambda found: found.update({"norm.weight": np.ones(4, np.float32)}),
              r"norm.weight [4] is not used"),
    "another shape": (lambda found: found.update({"rnn.weight_hh_l0": np.ones((16, 5), "f4")}),
                      "rnn.weight_hh_l0 is [16, 5] and must be [16, 4]"),
    "another vocabulary": (lambda found: found.update({"embedding.weight": np.ones((9, 6), "f4")}),
                           "embedding.weight is [9, 6] and must be [20, 6]"),
    "NaN": (lambda found: found["head.weight"].fill(np.nan), "head.weight has numbers that are"),
    "integers": (lambda found: found.update({"head.bias": np.ones(1, np.int32)}),
                 "head.bias is of int32"),
    "one bias of two": (lambda found: found.pop("rnn.bias_hh_l0"),
                        "rnn.bias_hh_l0 [16] is missing"),
    "a layer more": (lambda found: found.update({"rnn.weight_ih_l1": np.ones((16, 4), "f4")}),
                     "rnn.weight_ih_l1 [16, 4] is not used"),
    "nothing": (lambda found: found.clear(), "rnn.weight_ih_l0 [16, 6] is missing"),
}  # fmt: skip


@pytest.mark.parametrize("what", ARRAYS)
def test_arrays_that_do_not_fit_are_named(what, good, tmp_path):
    model, folder = good
    found = {
        name: np.array(one) for name, one in safetensors.load_file(folder / "x.safetensors").items()
    }
    change, told = ARRAYS[what]
    change(found)
    safetensors.save_file(found, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=re.escape(told)):
        read(tmp_path / "x.safetensors", model)


@pytest.mark.parametrize(
    ("what", "told"),
    [("missing", "layers/lstm/cell/vars/1 [4, 16] is missing"),
     ("extra", "layers/dense_1/vars/0 [2, 2] is not used"),
     ("external", "is not stored as Keras stores an array"),
     ("bomb", "is not stored as Keras stores an array")],
)  # fmt: skip
def test_arrays_of_keras_that_do_not_fit_are_named(what, told, good, tmp_path):
    model, folder = good
    path = tmp_path / "x.weights.h5"
    path.write_bytes((folder / "x.weights.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        if what == "extra":
            file["layers/dense_1/vars/0"] = np.ones((2, 2), np.float32)
        elif what == "bomb":
            file.create_dataset("layers/x/vars/0", (1 << 40,), "f4", chunks=(1 << 10,))
        else:
            del file["layers/lstm/cell/vars/1"]
        if what == "external":
            (tmp_path / "secret").write_bytes(bytes(256))
            file.create_dataset(
                "layers/lstm/cell/vars/1", (4, 16), "f4",
                external=[(str(tmp_path / "secret"), 0, 256)],
            )  # fmt: skip
    with pytest.raises(UserError, match=re.escape(told)):
        read(path, model)


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.slow
def test_nothing_in_a_pickle_is_executed(good, tmp_path):
    torch = pytest.importorskip("torch")
    model, _ = good
    for name, content in (
        ("payload", {"head.bias": Payload(tmp_path / "made")}),
        ("module", torch.nn.LSTM(2, 2)),
    ):
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(UserError, match="nothing else is ever loaded"):
            read(tmp_path / f"{name}.pt", model)
    assert not (tmp_path / "made").exists()
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="not a state_dict of names and arrays"):
        read(tmp_path / "list.pt", model)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"config": {"layers": 3}}', b"\xff"])
def test_a_config_that_is_none(content, good, tmp_path):
    model, folder = good
    with (
        zipfile.ZipFile(folder / "x.keras") as old,
        zipfile.ZipFile(tmp_path / "x.keras", "w") as new,
    ):
        for name in old.namelist():
            new.writestr(name, content if name == "config.json" else old.read(name))
    with pytest.raises(UserError, match=r"its config\.json is not a model of layers"):
        read(tmp_path / "x.keras", model)


@pytest.mark.parametrize(
    ("changes", "end", "why"),
    [
        ({"pooling": "attention"}, ".keras", "model.pooling"),
        ({"pooling": "attention"}, ".safetensors", "model.pooling"),
        ({"pooling": "max"}, ".keras", "model.pooling"),
        ({"zoneout": 0.1}, ".keras", "model.zoneout"),
        ({"learned_initial_state": True}, ".keras", "model.learned_initial_state"),
        ({"hidden_sizes": (3, 3), "residual": True}, ".safetensors", "model.residual"),
        ({"cell": "lstm_peephole"}, ".keras", "PeepholeLSTM is not among its cells"),
        ({"cell": "gru_reset_before"}, ".safetensors", "ResetBeforeGRU is not among its cells"),
        ({"direction": "backward"}, ".keras", "model.direction"),
        ({"direction": "bidirectional", "merge": "sum"}, ".safetensors", "model.merge"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_the_reason(changes, end, why, tmp_path):
    model = build(**{"hidden_sizes": (3,)} | changes)
    with pytest.raises(UserError, match="has no counterpart in ") as raised:
        formats.write(str(tmp_path / f"x{end}"), layout_of(model), _arrays(model))
    assert why in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_subclass_is_not_the_cell(tmp_path):
    class Other(cells.LSTM):
        """It may compute something else."""

    model = build(hidden_sizes=(3,), cell=Other)
    with pytest.raises(UserError, match="Other is not among its cells"):
        formats.write(str(tmp_path / "x.keras"), layout_of(model), _arrays(model))


def test_vectors_have_no_embedding(tmp_path):
    model = build(input_size=3, hidden_sizes=(4,))
    layout = layout_of(model, masks_zero=False)
    for end in (".keras", ".safetensors"):
        formats.write(str(tmp_path / f"x{end}"), layout, _arrays(model))
        assert_same(read(tmp_path / f"x{end}", model, masks_zero=False), model)
    assert keras.saving.load_model(tmp_path / "x.keras").input_shape == (None, None, 3)


@pytest.mark.parametrize(
    ("name", "why"),
    [("x.h5", "must end in one of"), ("x.bin", "must end in one of"), ("x.keras", "not a file"),
     ("gs://x/y.keras", "is an address")],
)  # fmt: skip
def test_a_name_that_cannot_be_read(name, why, good, tmp_path):
    path = name if "://" in name else tmp_path / name
    with pytest.raises(UserError, match=why):
        read(path, good[0])


def test_nothing_is_overwritten(good, tmp_path):
    model, _ = good
    path = tmp_path / "x.keras"
    path.write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        formats.write(str(path), layout_of(model), _arrays(model))
    assert path.read_text() == "mine"
    with pytest.raises(UserError, match="cannot be written"):
        formats.write(str(tmp_path / "no/x.keras"), layout_of(model), _arrays(model))
    with zipfile.ZipFile(good[1] / "x.keras") as archive:
        assert json.loads(archive.read("metadata.json"))["keras_version"]
