"""Parameters of one model for another: each part by itself, against what stands in the arrays."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from seqmodels import factory
from tests.marks import slow
from train_lib.data.inputs import RESERVED
from train_lib.training.state import path_of
from train_lib.training.transfer import Parameters, transfer

VOCABULARY = 7


def words(text):
    return [*((RESERVED, number) for number in range(4)), *(("words", one) for one in text)]


def arrays_of(model):
    leaves = jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param))
    return {path_of(keys): np.asarray(leaf) for keys, leaf in leaves}


build = functools.cache(factory.build)


def parameters(seed=0, tokens="abc", outputs=("x", "y"), cell="lstm", **changes):
    arguments = {
        "vocabulary_size": VOCABULARY, "embedding_size": 3, "hidden_sizes": (4, 4),
        "num_outputs": len(outputs), "cell": cell,
    }  # fmt: skip
    model = build(seed=seed, **arguments | changes)
    cells = {
        f"encoder.layers.{number}.{direction}{suffix}": cell
        for number in range(len(model.encoder.layers))
        for direction in ("forward", "backward")
        for suffix in ("", "_start")
    }
    return Parameters(arrays_of(model), words(tokens), cells, [("classes", one) for one in outputs])


def begun(old, new):
    arrays, parts = transfer(old, new)
    return arrays, {part.name: part.text for part in parts}


def assert_taken(arrays, old, new, prefixes):
    """What begins with one of these is the old one's, and all else is still the new one's."""
    for path, array in arrays.items():
        origin = old if path.startswith(tuple(prefixes)) else new
        np.testing.assert_array_equal(array, origin.arrays[path], err_msg=path)


@pytest.mark.parametrize("cell", ["gru", "slstm", slow("mlstm"), slow("min_lstm")])
def test_a_model_of_the_same_kind_is_taken_whole(cell):
    options = {
        "cell": cell, "hidden_sizes": (4,), "direction": "bidirectional", "pooling": "attention",
    }  # fmt: skip
    old = parameters(1, **options, learned_initial_state=True)
    new = parameters(2, **options, learned_initial_state=True)
    before = {path: np.array(array) for path, array in new.arrays.items()}
    arrays, told = begun(old, new)
    assert_taken(arrays, old, new, [""])
    assert set(told.values()) == {"all", "3 of 3 words"}
    for path, array in before.items():
        np.testing.assert_array_equal(new.arrays[path], array)


def test_rows_follow_their_words():
    old, new = parameters(1, "cab"), parameters(2, "dca")
    table, told = begun(old, new)[0]["inputs.table"], begun(old, new)[1]
    np.testing.assert_array_equal(table[:4], old.arrays["inputs.table"][:4])
    np.testing.assert_array_equal(table[4], new.arrays["inputs.table"][4])
    np.testing.assert_array_equal(table[5:], old.arrays["inputs.table"][4:6])
    assert told["inputs.table"] == "2 of 3 words"


def test_rows_that_stand_for_nothing_stay():
    old, new = parameters(1, "abc"), parameters(2, "a")
    table = begun(old, new)[0]["inputs.table"]
    np.testing.assert_array_equal(table[:5], old.arrays["inputs.table"][:5])
    np.testing.assert_array_equal(table[5:], new.arrays["inputs.table"][5:])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tokens": "xyz"}, "fresh: 0 of 3 words"),
        ({"embedding_size": 5}, "fresh: vectors have 3 numbers there and 5 here"),
    ],
)
def test_a_table_that_does_not_fit_stays(changes, told):
    old, new = parameters(1), parameters(2, **changes)
    arrays, parts = begun(old, new)
    assert parts["inputs.table"] == told
    np.testing.assert_array_equal(arrays["inputs.table"], new.arrays["inputs.table"])


def test_letters_are_no_words():
    old = parameters(1)
    new = parameters(2)._replace(tokens=[*words("")[:4], ("characters", "a")])
    assert (
        begun(old, new)[1]["inputs.table"] == "fresh: it is of words there and of characters here"
    )


def test_a_forward_layer_becomes_the_forward_direction():
    """The second layer reads both directions of the first, so that it does not fit."""
    old, new = parameters(1), parameters(2, direction="bidirectional")
    arrays, told = begun(old, new)
    assert_taken(arrays, old, new, ["inputs.", "encoder.layers.0.forward."])
    assert told["encoder.layers.0.backward"] == "fresh: it has none"
    assert told["encoder.layers.1.forward"] == (
        "fresh: encoder.layers.1.forward.kernel is [4, 16] there and [8, 16] here"
    )


def test_layers_are_taken_one_by_one():
    old, new = parameters(1, hidden_sizes=(4, 5, 4)), parameters(2, hidden_sizes=(4, 4))
    arrays, told = begun(old, new)
    assert_taken(arrays, old, new, ["inputs.", "encoder.layers.0."])
    assert told["encoder.layers.2.forward"] == "not used: this model has none"
    assert told["head"] == "fresh: it reads an encoder that was not all taken"


def test_another_cell_of_the_same_shapes_is_not_taken():
    old, new = parameters(1, cell="lstm"), parameters(2, cell="slstm")
    assert {path: array.shape for path, array in old.arrays.items()} == {
        path: array.shape for path, array in new.arrays.items()
    }
    arrays, told = begun(old, new)
    assert_taken(arrays, old, new, ["inputs."])
    assert told["encoder.layers.0.forward"] == "fresh: it is lstm there and slstm here"


def test_an_initial_state_is_a_part_of_its_own():
    old, new = parameters(1), parameters(2, learned_initial_state=True)
    arrays, told = begun(old, new)
    layers = [f"encoder.layers.{number}.forward." for number in (0, 1)]
    assert_taken(arrays, old, new, ["inputs.", *layers])
    assert told["encoder.layers.0.forward_start"] == "fresh: it has none"


@pytest.mark.parametrize("per_step", [False, True])
def test_a_head_follows_its_outputs(per_step):
    old = parameters(1, outputs=("x", "y", "z"), per_step=per_step)
    new = parameters(2, outputs=("w", "z", "x"), per_step=per_step)
    arrays, told = begun(old, new)
    for path in ("head.kernel", "head.bias"):
        np.testing.assert_array_equal(arrays[path][..., 0], new.arrays[path][..., 0])
        np.testing.assert_array_equal(arrays[path][..., 1:], old.arrays[path][..., [2, 0]])
    assert told["head"] == "2 of 3 classes"


def test_a_tied_head_has_no_kernel():
    options = {"per_step": True, "tied_head": True, "projection_size": 3, "outputs": "abcdefg"}
    old, new = parameters(1, "cab", **options), parameters(2, "dca", **options)
    arrays, told = begun(old, new)
    for path in ("head.bias", "head.projection"):
        np.testing.assert_array_equal(arrays[path], old.arrays[path])
    assert "head.kernel" not in arrays
    assert told["head"] == "all"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"outputs": ("v", "w")}, "its outputs mean something else there"),
        ({"pooling": "mean_max"}, "head.kernel is [4] there and [8] here"),
        ({"pooling": "attention"}, "head.pooling.attend.query is only here"),
    ],
)
def test_a_head_that_does_not_fit_stays(changes, told):
    old, new = parameters(1), parameters(2, **changes)
    arrays, parts = begun(old, new)
    assert_taken(arrays, old, new, ["inputs.", "encoder."])
    assert parts["head"] == f"fresh: {told}"


def test_nothing_comes_of_nothing():
    new = parameters(2)
    arrays, parts = transfer(Parameters({}), new)
    assert_taken(arrays, new, new, [])
    assert not any(part.is_taken for part in parts)
