"""From sources of every kind to data sets: splits, encoding, targets, cache."""

import hashlib
import os
import pathlib
import re

import numpy as np
import pytest

from train_lib import files
from train_lib.data import cache, loading
from train_lib.data.dataset import Split
from train_lib.data.examples import SPLITS, Examples, fingerprint
from train_lib.data.finding import find
from train_lib.data.loading import DataSettings, load
from train_lib.data.sources.generated import FINGERPRINTED, Generated
from train_lib.data.vocabulary import FIRST_WORD, START, UNKNOWN, split_words
from train_lib.errors import UserError
from train_lib.tasks.base import BadTarget, Task

IMDB = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "")) / "imdb_reviews" / "plain_text" / "1.0.0"
SIZES = {"train_examples": 40, "validation_examples": 20, "test_examples": 10}
SETTINGS = DataSettings(**SIZES)
GENERATED = Generated(**SIZES)


class Made:
    """A source of examples that are given to it."""

    name = "made"

    def __init__(self, **splits):
        self._splits = splits

    def identity(self):
        return repr(self._splits)

    def splits(self):
        return tuple(self._splits)

    def read(self, split):
        return self._splits[split]


def made(inputs, targets=None, **others):
    """A source with a training split, and others of the same form."""
    targets = [number % 2 for number in range(len(inputs))] if targets is None else targets
    others = {split: Examples.numbered(*pair, f"made {split}") for split, pair in others.items()}
    return Made(train=Examples.numbered(inputs, targets, "made train"), **others)


def refusal(function, *arguments):
    try:
        function(*arguments)
    except UserError as error:
        return str(error)
    return "nothing was refused"


def assert_equal(one, other):
    assert (one.name, one.fingerprint, one.repeated) == (
        other.name,
        other.fingerprint,
        other.repeated,
    )
    assert one.inputs.to_json() == other.inputs.to_json()
    for split in SPLITS:
        ours, theirs = getattr(one, split), getattr(other, split)
        assert ours.targets == theirs.targets
        assert (ours.origin, ours.unit) == (theirs.origin, theirs.unit)
        for field in ("values", "offsets", "rows"):
            assert getattr(ours, field).dtype == getattr(theirs, field).dtype
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))


def sequences(split):
    return [tuple(one.tolist()) for one in np.split(split.values, split.offsets[1:-1])]


# Of the same splits at commit 5c8d0d5, as `digest` makes them.
DIGESTS = {
    "generated": (
        "62578c8549efa42557551c9605f82dda6cd1b1cb90eb2ec9e9217e39636a51a4", 0,
        "64cb5013821da63d85d674bc1c0c23c2452156cdd18d37d52a1d993b940d41b0",
    ),
    "generated, seed 3": (
        "709913de1502b2f7e519b1f87c52811c195cd8d4590863f84dffb708a8592919", 0,
        "666a301dd3a2391a7234450917f877184fada5f720eac8a4f2367becc1e76efe",
    ),
    "temporal_order": (
        "a18d4611237496ea6a8e1c5f60b05ee58490287a3f2b2fd13748b5dccb77a3f6", 0,
        "b126a4ad5ae646912996abbd20eced428b72c3d4cc00774c63ea8b06ecf31c13",
    ),
    "imdb": (
        "69434bcec9f02107c4a9d75605665dc326c8b6d90a2ff189590c08188a39bf5b", 123,
        "e74c94f6edb468165c291b826d9c2d3f39e7a827660a6a7bd879fce5f6dfa8ab",
    ),
}  # fmt: skip
needs_imdb = [
    pytest.mark.slow,
    pytest.mark.skipif(not IMDB.exists(), reason="no prepared IMDB in $TFDS_DATA_DIR"),
]


def digest(data):
    """Of the words, and of tokens, offsets and labels as the first version stored them."""
    found = hashlib.sha256("\n".join(data.inputs.vocabulary.words).encode())
    for split in data.splits:
        labels = np.array([target == "positive" for target in split.targets], np.int8)
        for array in (split.values, split.offsets, labels):
            found.update(f"{array.dtype} {array.shape}\n".encode())
            found.update(array.tobytes())
    return data.fingerprint, data.repeated, found.hexdigest()


@pytest.mark.parametrize(
    ("name", "changes", "fields"),
    [
        ("generated", SIZES, {}),
        ("generated, seed 3", {
            "train_examples": 400, "validation_examples": 200, "test_examples": 100,
            "split_seed": 3, "max_features": 300,
        }, {}),
        ("temporal_order", SIZES, {"length_tokens": 50}),
        pytest.param("imdb", {}, {}, marks=needs_imdb),
    ],
)  # fmt: skip
def test_splits_tokens_and_fingerprints_are_those_of_the_first_version(name, changes, fields):
    source = find(name.partition(",")[0], {**changes, **fields}, {})
    data = load(source, DataSettings(**changes))
    assert digest(data) == DIGESTS[name]
    assert_equal(load(source, DataSettings(**changes)), data)


def test_the_vocabulary_comes_from_training_texts_only():
    settings = SETTINGS._replace(max_features=100_000, train_examples=2)
    source = Generated(2, 20, 10)
    data = load(source, settings)
    assert UNKNOWN not in data.train.values
    assert UNKNOWN in data.validation.values
    everything = {word for text in source.read("train").inputs for word in split_words(text)}
    assert set(data.inputs.vocabulary.words) < everything


def test_another_seed_draws_another_split_of_the_same_data():
    first, second = (load(GENERATED, SETTINGS._replace(split_seed=seed)) for seed in (0, 1))
    assert first.fingerprint == second.fingerprint
    assert set(first.train.rows) != set(second.train.rows)


def test_a_second_start_reads_the_cache(monkeypatch):
    first = load(GENERATED, SETTINGS)
    monkeypatch.setattr(loading, "build", None)
    assert_equal(load(GENERATED, SETTINGS), first)


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [flip, lambda c: c[:-1], lambda c: c[:40], lambda c: b"", lambda c: b"\n" + c]
)
def test_a_damaged_cache_is_built_again(damage, capsys):
    first = load(GENERATED, SETTINGS)
    (path,) = (files.cache_dir() / "tokens").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert_equal(load(GENERATED, SETTINGS), first)
    assert "damaged" in capsys.readouterr().err
    load(GENERATED, SETTINGS)
    assert "damaged" not in capsys.readouterr().err


def test_without_a_cache_folder_it_works_and_says_so(capsys):
    files.cache_dir().parent.mkdir(parents=True)
    files.cache_dir().write_text("not a folder")
    assert len(load(GENERATED, SETTINGS).train) == 40
    assert "not cached" in capsys.readouterr().err


VECTORS = [np.full((1 + number % 3, 2), number / 4) for number in range(60)]


@pytest.mark.parametrize(
    "source",
    [
        made(["a b", "c"] * 30), made([["a", "B"], ["c"]] * 30), made(VECTORS),
        made([np.arange(1 + number) for number in range(60)], [["x"], [1.5, None]] * 30),
    ],
)  # fmt: skip
def test_every_kind_of_input_comes_back_from_the_cache(source):
    first = load(source, DataSettings())
    again = load(source, DataSettings())
    assert_equal(first, again)
    assert [len(split) for split in first.splits] == [43, 5, 12]


def test_test_examples_that_are_among_the_others_are_counted():
    texts = ["One."] * 30 + ["two"] * 30
    data = load(made(texts, test=(["three"] * 5 + ["TWO!"] * 5, [0, 1] * 5)), DataSettings())
    assert data.repeated == 5
    vectors = load(
        made(VECTORS, test=([*VECTORS[:4], np.ones((9, 2))], [0, 1, 0, 1, 0])), DataSettings()
    )
    assert vectors.repeated == 4


def test_long_texts_keep_their_last_tokens():
    whole = load(GENERATED, SETTINGS).train
    cut = load(GENERATED, SETTINGS._replace(max_length_tokens=100)).train
    assert whole.lengths.min() < 100 < whole.lengths.max()
    assert sequences(cut) == [one[-100:] for one in sequences(whole)]
    assert cut.targets == whole.targets
    np.testing.assert_array_equal(cut.cut, np.maximum(whole.lengths - 100, 0))


def test_every_text_keeps_its_words_target_and_row():
    data = load(GENERATED, SETTINGS._replace(max_features=100_000))
    for split, source in (("train", "train"), ("validation", "train"), ("test", "test")):
        read, part = GENERATED.read(source), getattr(data, split)
        for numbers, target, row in zip(sequences(part), part.targets, part.rows, strict=True):
            assert numbers[0] == START
            known = [
                data.inputs.vocabulary.words[number - FIRST_WORD] if number != UNKNOWN else None
                for number in numbers[1:]
            ]
            words = split_words(read.inputs[row])
            # Words that training never saw cannot be told back.
            assert all(one in (None, other) for one, other in zip(known, words, strict=True))
            assert target == read.targets[row]


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_features", 50), ("train_examples", 38), ("validation_examples", 18), ("split_seed", 1),
     ("test_examples", 8), ("text_rules", "unicode")],
)  # fmt: skip
def test_what_shapes_the_data_has_a_cache_of_its_own(field, value, monkeypatch):
    load(GENERATED, SETTINGS)
    changed = load(GENERATED, SETTINGS._replace(**{field: value}))
    monkeypatch.setenv("XDG_CACHE_HOME", str(files.cache_dir().parent / "empty"))
    assert_equal(load(GENERATED, SETTINGS._replace(**{field: value})), changed)


def test_another_source_or_version_has_a_cache_of_its_own(monkeypatch):
    load(GENERATED, SETTINGS)
    for change in (
        lambda: monkeypatch.setattr(Generated, "identity", lambda _: "other reviews"),
        lambda: monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1),
    ):
        before = len(list((files.cache_dir() / "tokens").iterdir()))
        change()
        load(GENERATED, SETTINGS)
        assert len(list((files.cache_dir() / "tokens").iterdir())) == before + 1


def test_the_fingerprint_is_of_the_whole_source():
    parts = GENERATED.read("train"), GENERATED.read("test")
    assert load(GENERATED, SETTINGS).fingerprint == fingerprint(parts, FINGERPRINTED)
    # One target, or where one input ends and the next begins, makes another source.
    pairs = [
        (["ab", "c"], [0, 1]), (["ab", "c"], [1, 1]), (["a", "bc"], [0, 1]),
        (["ab", "c"], ["0", "1"]), ([["ab"], ["c"]], [0, 1]), ([["a", "b"], ["c"]], [0, 1]),
        ([np.array([1, 2])], [0]), ([np.array([1, 3])], [0]), ([np.array([[1.0, 2.0]])], [0]),
        ([np.array([[1.0], [2.0]])], [0]), ([np.array([[1.0], [2.0]])], [[0]]),
    ]  # fmt: skip
    examples = [Examples.numbered(*pair, "") for pair in pairs]
    assert len({fingerprint([one]) for one in examples}) == len(pairs)
    assert fingerprint(examples[:2]) != fingerprint(examples[1::-1])


def test_vectors_are_standardised_by_training_steps_alone():
    rng = np.random.default_rng(0)
    vectors = [np.array([5, 0, 7]) + [3, 1, 0] * rng.normal(size=(n % 5 + 1, 3)) for n in range(80)]
    source = made(vectors, test=([np.full((2, 3), 100.0)] * 3, [0, 1, 0]))
    plain, scaled = (load(source, DataSettings(standardize=value)) for value in (False, True))
    expected = plain.train.values.astype(np.float64)
    mean, scale = expected.mean(0), expected.std(0)
    np.testing.assert_allclose(scaled.train.values[:, :2].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.train.values[:, :2].std(0), 1, rtol=1e-5)
    np.testing.assert_allclose(scaled.train.values[:, 2], 0, atol=1e-5)  # It never changes.
    wanted = (100 - mean) / np.where([True, True, False], scale, 1)
    np.testing.assert_allclose(scaled.test.values, np.tile(wanted, (6, 1)), rtol=1e-5)
    assert (scaled.train.values.dtype, scaled.fingerprint) == (np.float32, plain.fingerprint)


@pytest.mark.parametrize(
    ("source", "changes", "told"),
    [
        (GENERATED, {"standardize": True}, "standardize = True does nothing here: the inputs of"),
        (made(VECTORS), {"max_features": 300}, "max_features = 300 does nothing here"),
        (made([["a"], ["b"]] * 9), {"text_rules": "unicode"}, "the inputs of made are words"),
    ],
)  # fmt: skip
def test_a_setting_that_does_nothing_is_refused(source, changes, told):
    assert told in refusal(load, source, DataSettings(**changes))


class Tags(Task):
    """A number a step, at most 9."""

    num_outputs, per_step = 1, True

    def encode(self, targets):
        for number, of_steps in enumerate(targets):
            if any(target is not None and target > 9 for target in of_steps):
                raise BadTarget(number, "is above 9")
        steps = [target for of_steps in targets for target in of_steps]
        return np.array([-1 if target is None else target for target in steps])


class Numbers(Task):
    num_outputs = 1

    def encode(self, targets):
        for number, target in enumerate(targets):
            if target == "bad":
                raise BadTarget(number, "is bad")
        if "worse" in targets:
            raise BadTarget(None, "They are worse.")
        return np.array(targets)


def test_targets_of_steps_stand_beside_their_steps():
    words = [["a", "b", "c"], ["d"], ["e", "f"]] * 10
    tags = [[1, 2, 3], [4], [None, 5]] * 10
    data = load(made(words, tags), DataSettings()).encoded(Tags())
    for split in data.splits:
        assert len(split.targets) == len(split.values)
        assert (split.targets[split.offsets[:-1]] == -1).all()  # Of the start, there is none.
    cut = load(made(words, tags), DataSettings(max_length_tokens=2))
    encoded = cut.encoded(Tags())
    for split, raw in zip(encoded.splits, cut.splits, strict=True):
        found = [list(one) for one in np.split(split.targets, split.offsets[1:-1])]
        with_start = [[None, *target][-2:] for target in raw.targets]
        assert found == [[-1 if tag is None else tag for tag in tags] for tags in with_start]
    # Cut after it was encoded, it is the same.
    later = data.map(lambda split: split.last_steps(2))
    for one, other in zip(later.splits, encoded.splits, strict=True):
        np.testing.assert_array_equal(one.targets, other.targets)
        np.testing.assert_array_equal(one.cut, other.cut if other.cut is not None else one.cut)
    tokens = [np.array([1, 2]), np.array([3])] * 10
    plain = load(made(tokens, [[5, 6], [7]] * 10), DataSettings()).encoded(Tags())
    np.testing.assert_array_equal(plain.train.targets, plain.train.values + 4)


def test_a_target_that_a_task_refuses_is_named_with_its_place():
    rows = np.arange(2, 5)
    split = Split(np.zeros(3, np.int32), np.arange(4), [1, 2, "bad"], rows, "mine.csv")
    assert refusal(split.encoded, Numbers(), 0) == "mine.csv, line 4: the target is bad"
    split = Split(np.zeros(3, np.int32), np.arange(4), [1, 2, "worse"], rows, "mine.csv")
    assert refusal(split.encoded, Numbers(), 0) == "mine.csv: They are worse."
    for targets, told in (
        ([[1], [2], [3, 4]], "mine.csv, line 4: every step must have a target, a list of 1 of"),
        ([[1], 2, [3]], "mine.csv, line 3: every step must have a target"),
        ([[1], [10], [3]], "mine.csv, line 3: the target is above 9"),
    ):
        split = Split(np.zeros(3, np.int32), np.arange(4), targets, rows, "mine.csv")
        assert told in refusal(split.encoded, Tags(), 0)
    folder = Split(np.zeros(1, np.int32), np.arange(2), ["bad"], np.array(["pos/1.txt"]), "mine")
    assert refusal(folder.encoded, Numbers(), 0) == "mine/pos/1.txt: the target is bad"


GOOD = ["a text"] * 20


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (made([]), "made train: the train split is empty"),
        (made([*GOOD, " \n"]), "made train, example 20: the text is empty"),
        (made([*GOOD, 3]), "made train, example 20: the input is 3 (int); inputs must all be"),
        (made([None] * 20), "made train, example 0: the input is None (NoneType)"),
        (made([*GOOD, ["a"]]), "example 20: the input is ['a'] (list)"),
        (made([["a"], ["b", 3]] * 9), "example 1: ['b', 3] is not a text or a list of words"),
        (made([["a"], []] * 9), "example 1: a word is empty"),
        (made([["a"], ["b", ""]] * 9), "example 1: a word is empty"),
        (made(GOOD, [0] * 19), "made train: the train split has 20 inputs and 19 targets"),
        (made(GOOD, [None] * 20), "made train: no example of the train split has a target"),
        (made(GOOD, [0.5, float("nan")] * 10), "example 1: the target nan is not a number"),
        (made(GOOD, [0.5, float("inf")] * 10), "example 1: the target inf is not a number"),
        (made(GOOD, [[1.0, float("nan")]] * 20), "example 0: the target nan is not a number"),
        (made(GOOD, [{"a": 1}] * 20), "example 0: the target is {'a': 1} (dict)"),
        (made([np.ones((2, 2)), np.ones((2, 3))] * 9), "vectors have 3 numbers and must have 2"),
        (made([np.ones((2, 2)), np.ones(2)] * 9), "must be [T, D] and is [2]"),
        (made([np.ones((2, 2)), np.ones((0, 2))] * 9), "the sequence is empty"),
        (made([np.ones((2, 2)), np.full((2, 2), np.nan)] * 9), "vector of step 0 has a number"),
        (made([np.ones((2, 2)), np.full((2, 2), 1e39)] * 9), "too large for float32"),
        (made([np.ones(2, int), np.ones((2, 2), int)] * 9), "must be [T] and is [2, 2]"),
        (made([np.ones(2, int), np.array([3, -1])] * 9), "token -1 is below 0"),
        (made([np.ones(2, int), np.array([3, 2**31])] * 9), "token 2,147,483,648 would need"),
        (made(GOOD, test=([["a"]], [0])), "of one kind: text in train, words in test"),
        (made(GOOD, dev=(["a"], [0])), "made has splits called dev; they must be of"),
        (Made(test=Examples.numbered(["a"], [0], "")), "made has no split to train on"),
        (made(GOOD[:2]), "2 examples to take them from"),
    ],
)  # fmt: skip
def test_examples_that_cannot_be_used_are_refused_with_their_place(source, told):
    assert told in refusal(load, source, DataSettings())


@pytest.mark.slow
@pytest.mark.skipif(not IMDB.exists(), reason="no prepared IMDB in $TFDS_DATA_DIR")
def test_imdb():
    data = load(find("imdb", {}, {}), DataSettings())
    assert data.name == "imdb_reviews"
    for split, size in (("train", 15_000), ("validation", 10_000), ("test", 25_000)):
        reviews = getattr(data, split)
        assert len(reviews) == size
        assert reviews.targets.count("positive") == size // 2
        assert 200 < reviews.lengths.mean() < 280
    # The longest review and the start token; it is one of the 25,000 for training.
    longest = max(data.train.lengths.max(), data.validation.lengths.max())
    assert 2_400 < longest < 2_600
    assert data.train.values.max() == 4_999
    assert len(data.inputs.vocabulary.words) == 4_996
    assert re.fullmatch("[0-9a-f]{64}", data.fingerprint)


WITH_UNLABELLED = {
    "inputs": [f"labelled {number}" for number in range(20)],
    "test": (["a test", "another"], ["0", "1"]),
    "unlabelled": ([f"nobody knows {number}" for number in range(40)], None),
}


def test_where_no_target_is_needed_texts_without_one_are_trained_on_too():
    source = made(**WITH_UNLABELLED)
    source.default_sizes = {"train": 5, "validation": 4}  # Of those with a label.
    data = load(source, DataSettings(), labelled=False)
    assert [len(split) for split in data.splits] == [54, 6, 2]
    words = data.inputs.vocabulary.words
    for split in (data.train, data.validation):
        read = {words[number - FIRST_WORD] for number in split.values if number >= FIRST_WORD}
        assert {"labelled", "nobody"} <= read
    assert "test" not in words
    with_label = load(source, DataSettings())
    assert [len(split) for split in with_label.splits] == [5, 4, 2]
    assert "nobody" not in with_label.inputs.vocabulary.words


@pytest.mark.slow
@pytest.mark.skipif(not IMDB.exists(), reason="no prepared IMDB in $TFDS_DATA_DIR")
def test_a_language_model_reads_75000_reviews_of_imdb(monkeypatch):
    """Reading those with a label, and splitting all, takes long and is left out."""
    drawn = {}

    def stop(examples, *_):
        drawn.update(examples)
        raise UserError("enough")

    source = find("imdb", {}, {"labelled": False})
    read = source.read
    labelled = Examples.numbered(["text"] * 25_000, ["a", "b"] * 12_500, "of one split")
    monkeypatch.setattr(
        source, "read", lambda split: read(split) if split == "unlabelled" else labelled
    )
    monkeypatch.setattr(loading, "_encode", stop)
    assert refusal(lambda: load(source, DataSettings(), labelled=False)) == "enough"
    assert {name: len(of.inputs) for name, of in drawn.items()} == {
        "train": 67_500, "validation": 7_500, "test": 25_000,
    }  # fmt: skip
    train, validation = (drawn[name] for name in ("train", "validation"))
    assert not set(train.rows) & set(validation.rows)
    assert train.targets.count(None) + validation.targets.count(None) == 50_000
    assert source.identity() != find("imdb", {}, {}).identity()


@pytest.mark.parametrize(
    ("method", "lie", "told"),
    [
        ("read", lambda self, split: [], r"read of the source made returns \[\] \(list\); it must"),
        ("identity", lambda self: 7, "identity of the source made returns 7"),
        ("splits", lambda self: None, "splits of the source made returns None"),
        ("read", lambda self, split: {}[split], r"fails in read: KeyError: 'train' \(.+line \d+\)"),
    ],
)
def test_what_a_source_returns_is_checked(method, lie, told, monkeypatch):
    monkeypatch.setattr(Made, method, lie)
    with pytest.raises(UserError, match=told):
        load(made(["a", "b"] * 9), DataSettings())
