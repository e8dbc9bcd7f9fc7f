"""Whatever is written to a file of any kind is read back: inputs, targets, lines, splits."""

import csv
import functools
import json
import os
import pathlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from train_lib.data import readers
from train_lib.data.finding import fields_of, find, find_data
from train_lib.data.loading import DataSettings, load
from train_lib.data.readers import base
from train_lib.errors import UserError

# The same examples on every machine, so that a failure is never luck.
ALWAYS_THE_SAME = settings(
    deadline=None, derandomize=True, database=None, max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
LETTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]) | st.sampled_from(
    "\n\r\t\",' "
)
TEXTS = st.text(LETTERS, min_size=1).filter(str.strip)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)
LABELS = st.sampled_from(["good", "bad, or so", 'the "worst"', "ünicode"])
NUMBERS = st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9)


def write_csv(path, columns):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def write_jsonl(path, columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_parquet(path, columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)


WRITERS = {
    ".csv": write_csv, ".tsv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet,
}  # fmt: skip


def read(path, split="train", **fields):
    return find(str(path), fields, {}).read(split)


@pytest.mark.parametrize("suffix", WRITERS)
@ALWAYS_THE_SAME
@given(st.lists(st.tuples(TEXTS, LABELS, NUMBERS), min_size=1, max_size=20))
def test_any_texts_labels_and_numbers_come_back_from_a_table(tmp_path, suffix, examples):
    texts, labels, numbers = map(list, zip(*examples, strict=True))
    if suffix == ".parquet":
        numbers = [float(number) for number in numbers]
    path = tmp_path / f"mine{suffix}"
    WRITERS[suffix](path, {"more": numbers, "text": texts, "label": labels})
    found = read(path)
    assert (found.inputs, found.targets) == (texts, labels)
    assert read(path, target_column="more").targets == numbers
    both = read(path, target_column="more, more")
    assert both.targets == [[number, number] for number in numbers]
    assert read(path, group_column="label").groups == labels
    # Each example stands where its place says.
    if suffix == ".jsonl":
        lines = path.read_text("utf-8").split("\n")
        assert [json.loads(lines[row - 1])["text"] for row in found.rows] == texts
    elif suffix != ".parquet":
        with path.open(encoding="utf-8", newline="") as file:
            starts = [repr(numbers[n]) for n in range(len(texts))]
            lines = file.readlines()
        assert all(lines[row - 1].startswith(s) for row, s in zip(found.rows, starts, strict=True))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@ALWAYS_THE_SAME
@given(st.lists(st.lists(st.tuples(WORDS, LABELS), min_size=1, max_size=6), min_size=1, max_size=9))
def test_words_and_their_tags_come_back_from_a_table(tmp_path, suffix, sentences):
    words = [[word for word, _ in sentence] for sentence in sentences]
    tags = [[tag for _, tag in sentence] for sentence in sentences]
    path = tmp_path / f"mine{suffix}"
    WRITERS[suffix](path, {"tokens": words, "ner_tags": tags})
    found = read(path)
    assert (found.inputs, found.targets) == (words, tags)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("sequences", "shape"),
    [
        ([[1, 2, 3], [4]], (3,)), ([[0.5, 1.0], [2.0]], (2, 1)),
        ([[[1.0, 2.0]] * 3, [[3.0, 4.0]]], (3, 2)),
    ],
)  # fmt: skip
def test_numbers_in_a_table_are_tokens_or_vectors(tmp_path, suffix, sequences, shape):
    path = tmp_path / f"mine{suffix}"
    WRITERS[suffix](path, {"values": sequences, "label": [["a"], ["a", "b"]]})
    found = read(path)
    assert found.inputs[0].shape == shape
    assert [
        one.reshape(np.shape(raw)).tolist()
        for one, raw in zip(found.inputs, sequences, strict=True)
    ] == sequences
    assert found.targets == [["a"], ["a", "b"]]


@pytest.mark.parametrize("suffix", [".conll", ".bio", ".iob", ".conllu"])
@ALWAYS_THE_SAME
@given(st.lists(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6), min_size=1, max_size=9))
def test_any_sentences_and_tags_come_back_from_a_column_file(tmp_path, suffix, sentences):
    path = tmp_path / f"mine{suffix}"
    lines, starts = [], []
    for sentence in sentences:
        starts.append(len(lines) + 1)
        for number, (word, tag) in enumerate(sentence, 1):
            columns = [str(number), word, "_", tag, "_"] if suffix == ".conllu" else [word, tag]
            lines.append("\t".join(columns))
        lines.append("")
    path.write_text("\n".join(lines), "utf-8")
    found = read(path)
    assert found.inputs == [[word for word, _ in sentence] for sentence in sentences]
    assert found.targets == [[tag for _, tag in sentence] for sentence in sentences]
    assert list(found.rows) == starts


def test_comments_and_starts_of_documents_are_no_tokens(tmp_path):
    path = tmp_path / "mine.conll"
    path.write_text(
        "-DOCSTART- -X- O O\n\n# id 3_4 domain=en\n# _ _ O\nEU NNP B-NP B-ORG\n\n"
        "# one more comment here, long\n#1 CD B-NP O\r\nman NN I-NP O\n\n\n\n"
    )
    found = read(path)
    assert found.inputs == [["#", "EU"], ["#1", "man"]]
    assert found.targets == [["O", "B-ORG"], ["O", "O"]]
    assert list(found.rows) == [4, 8]
    assert read(path, target_column="2").targets[0] == ["_", "NNP"]
    path = tmp_path / "mine.conllu"
    path.write_text(
        "# text = vámonos\n1-2\tvámonos\t_\t_\n1\tvamos\tir\tVERB\n2\tnos\tnosotros\tPRON\n"
        "2.1\tx\t_\tX\n"
    )
    found = read(path)
    assert (found.inputs, found.targets) == ([["vamos", "nos"]], [["VERB", "PRON"]])
    assert read(path, text_column="3").inputs == [["ir", "nosotros"]]


FLOATS = st.floats(-(2.0**99), 2.0**99, width=32)


@ALWAYS_THE_SAME
@given(
    st.integers(1, 3).flatmap(
        lambda size: st.lists(
            st.lists(st.lists(FLOATS, min_size=size, max_size=size), min_size=1, max_size=5),
            min_size=1, max_size=6,
        )
    )
)  # fmt: skip
def test_any_vectors_come_back_from_arrays_and_series(tmp_path, sequences):
    vectors = [np.array(one) for one in sequences]
    names = [f"c{number % 2}" for number in range(len(vectors))]
    path = tmp_path / "mine.npz"
    lengths = [len(one) for one in vectors]
    np.savez(path, values=np.concatenate(vectors), lengths=lengths, targets=names)
    series = tmp_path / "mine.ts"
    lines = [
        ":".join([*(",".join(map(repr, column)) for column in one.T.tolist()), name])
        for one, name in zip(vectors, names, strict=True)
    ]
    series.write_text(
        "% old\n@problemName mine\n@classLabel true c0 c1\n@data\n" + "\n".join(lines)
    )
    for one in (path, series):
        found = read(one)
        assert [vector.tolist() for vector in found.inputs] == sequences
        assert found.targets == names
    assert list(read(series).rows) == list(range(5, 5 + len(vectors)))


@ALWAYS_THE_SAME
@given(st.lists(st.lists(st.integers(0, 10**6), min_size=1, max_size=6), min_size=2, max_size=6))
def test_any_tokens_come_back_from_arrays(tmp_path, sequences):
    path = tmp_path / "mine.npz"
    joined, lengths = np.concatenate(sequences).astype(int), [len(one) for one in sequences]
    np.savez(path, values=joined, lengths=lengths, targets=np.arange(len(lengths)), groups=lengths)
    found = read(path)
    assert [one.tolist() for one in found.inputs] == sequences
    assert (found.targets, found.groups) == (list(range(len(lengths))), lengths)
    np.savez(path, values=joined, lengths=lengths, targets=joined % 3)
    if len(joined) != len(lengths):
        assert read(path).targets == [[token % 3 for token in one] for one in sequences]
    parts = {"train": slice(0, 1), "val": slice(1, None)}
    arrays = {}
    for split, part in parts.items():
        arrays[f"{split}_values"] = np.concatenate(sequences[part]).astype(int)
        arrays[f"{split}_lengths"] = lengths[part]
        arrays[f"{split}_targets"] = np.ones((len(lengths[part]), 2))
    np.savez(path, **arrays)
    source = find(str(path), {}, {})
    assert source.splits() == ("train", "validation")
    assert [one.tolist() for one in source.read("validation").inputs] == sequences[1:]
    assert source.read("train").targets == [[1.0, 1.0]]


def test_arrays_of_one_length_need_no_lengths(tmp_path):
    path = tmp_path / "digits.npz"
    np.savez(path, values=np.arange(24).reshape(3, 4, 2), targets=[0, 1, 2])
    found = read(path)
    assert [one.shape for one in found.inputs] == [(4, 2)] * 3
    assert found.inputs[0].dtype == np.float64
    np.savez_compressed(path, values=np.arange(12).reshape(3, 4), targets=[0, 1, 2])
    assert read(path).inputs[1].tolist() == [4, 5, 6, 7]


@ALWAYS_THE_SAME
@given(st.lists(st.tuples(LABELS, TEXTS), min_size=1, max_size=6))
def test_any_texts_come_back_from_a_folder_by_class(tmp_path_factory, examples):
    folder = tmp_path_factory.mktemp("texts")
    for number, (label, text) in enumerate(examples):
        path = folder / label / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.removeprefix("\ufeff").encode() or b"x")
    found = read(folder)
    expected = sorted((label, text.removeprefix("\ufeff") or "x") for label, text in examples)
    assert sorted(zip(found.targets, found.inputs, strict=True)) == expected
    for number, row in enumerate(found.rows):
        assert (folder / row).read_bytes().decode() == found.inputs[number]
        assert found.where(number) == f"{folder}/{row}"


def test_folders_of_splits_and_classes(tmp_path):
    for name in ("train/pos/1.txt", "train/neg/1.txt", "train/unsup/5.txt", "test/pos/2.txt"):
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "mine" / "README").write_text("not read")
    (tmp_path / "mine" / "train" / "urls.txt").write_text("not read")
    (tmp_path / "mine" / "train" / "pos" / ".DS_Store").write_text("not read")
    source = find(str(tmp_path / "mine"), {}, {})
    assert source.splits() == ("train", "test", "unlabelled")
    assert source.read("train").inputs == ["train/neg/1.txt", "train/pos/1.txt"]
    assert source.read("test").targets == ["pos"]
    assert source.read("unlabelled").inputs == ["train/unsup/5.txt"]
    assert source.read("unlabelled").targets == [None]
    before = source.identity()
    (tmp_path / "mine" / "test" / "pos" / "2.txt").write_text("changed")
    assert source.identity() != before


@pytest.mark.parametrize("validation", ["validation", "valid", "val", "dev", "Dev"])
@pytest.mark.parametrize("suffix", WRITERS)
def test_a_folder_of_files_has_a_split_a_file(tmp_path, suffix, validation):
    for number, name in enumerate(("train", validation, "test"), 1):
        columns = {"text": [f"a {name}"] * number, "label": ["x"] * number}
        WRITERS[suffix](tmp_path / f"{name}{suffix}", columns)
    (tmp_path / "notes.md").write_text("not read")
    source = find(str(tmp_path), {}, {})
    assert source.splits() == ("train", "validation", "test")
    assert source.read("validation").inputs == [f"a {validation}"] * 2
    data = load(source, DataSettings())
    assert [len(split) for split in data.splits] == [1, 2, 3]
    assert data.validation.where(1).startswith(f"{tmp_path / validation}{suffix}, ")


def test_the_archive_of_time_series_comes_in_pairs(tmp_path):
    folder = tmp_path / "Vowels"
    folder.mkdir()
    for name in ("Vowels_TRAIN", "Vowels_TEST", "Vowels_eq_TRAIN", "Vowels_eq_TEST"):
        text = (
            "@problemName x\n@univariate false\n@targetlabel true\n@data\n1,2:3,4:0.5\n5,6:7,8:1\n"
        )
        (folder / f"{name}.ts").write_text(text)
    for path in (folder, folder / "Vowels_TRAIN.ts"):
        source = find(str(path), {}, {})
        assert (source.name, source.splits()) == ("Vowels", ("train", "test"))
        assert source.read("test").origin == str(folder / "Vowels_TEST.ts")
    assert source.read("train").inputs[0].tolist() == [[1, 3], [2, 4]]
    assert source.read("train").targets == [0.5, 1.0]
    assert find(str(folder / "Vowels_TEST.ts"), {}, {}).splits() == ("train",)


@pytest.mark.parametrize(
    ("columns", "fields", "inputs", "targets"),
    [
        (["review", "sentiment"], {}, "review", ["sentiment"]),
        (["title", "Text", "Class"], {}, "Text", ["Class"]),
        (["label", "whatever"], {}, "whatever", ["label"]),
        (["text", "whatever"], {}, "text", ["whatever"]),
        (["a", "b"], {"target_column": "b"}, "a", ["b"]),
        (["a", "b", "c"], {"text_column": "b", "target_column": "a,c"}, "b", ["a", "c"]),
        (["text", "label", "content"], {"text_column": "content"}, "content", ["label"]),
    ],
)
def test_columns_are_guessed_and_the_guess_is_printed(
    tmp_path, columns, fields, inputs, targets, capsys
):
    path = tmp_path / "mine.csv"
    path.write_text(",".join(columns) + "\n" + ",".join("1" for _ in columns) + "\n")
    source = find(str(path), fields, {})
    assert (source.text_column, source.target_columns) == (inputs, targets)
    told = capsys.readouterr().err
    assert (f"inputs from column {inputs!r}" in told) == ("text_column" not in fields)
    assert (f"targets from column {targets[0]!r}" in told) == ("target_column" not in fields)


@pytest.mark.parametrize(
    ("values", "targets"),
    [
        (["1", "2"], [1, 2]), (["1", "2.5"], [1, 2.5]), (["-1e3", "+.5"], [-1000.0, 0.5]),
        (["007", "123"], None), (["a", "1"], None), (["1_000", "x"], ["1_000", "x"]),
        (["inf", "nan"], ["inf", "nan"]), (["true", "false"], ["true", "false"]),
        (["a", "b", "1"], ["a", "b", "1"]), ([" a ", "b"], ["a", "b"]),
    ],
)  # fmt: skip
def test_targets_without_types_are_numbers_if_all_are(tmp_path, values, targets):
    path = tmp_path / "mine.csv"
    write_csv(path, {"text": ["x", "y", "z"][: len(values)], "label": values})
    as_text = find(str(path), {}, {"target_is": "text"}).read("train").targets
    assert as_text == [value.strip() for value in values]
    if targets is None:
        with pytest.raises(UserError, match="is not a number, as 1 of 2 there are"):
            read(path)
    else:
        assert read(path).targets == targets


def test_quotation_marks_may_be_text(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text('text\tlabel\n"Oh, he said.\t1\nno "quotes"\t0\n')
    assert find(str(path), {}, {"quotes": False}).read("train").inputs == [
        '"Oh, he said.', 'no "quotes"',
    ]  # fmt: skip


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system_and_may_begin_with_a_mark(tmp_path, start, end):
    for name, lines in (
        ("mine.csv", ["text,label", "a b,x", "c,y"]),
        ("mine.jsonl", ['{"text": "a b", "label": "x"}', '{"text": "c", "label": "y"}']),
    ):
        path = tmp_path / name
        path.write_bytes((start + "".join(line + end for line in lines)).encode())
        found = read(path)
        assert (found.inputs, found.targets) == (["a b", "c"], ["x", "y"])
        assert list(found.rows) == list(range(len(lines) - 1, len(lines) + 1))


def test_damage_is_noted_with_its_line_and_read(tmp_path, capsys):
    path = tmp_path / "mine.csv"
    path.write_bytes(b"text,label\n" + "très drôle,x\n".encode() * 40 + b"a\xff,y\n")
    assert read(path).inputs[-1] == "a\ufffd"
    assert f"the first in {path}, line 42" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", WRITERS)
def test_inputs_alone_are_read_for_a_finished_run(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    columns = {"id": ["a", "b"], "text": ["good film", "bad"], "more": ["x", "y"]}
    WRITERS[suffix](path, columns)
    source = find_data(str(path), {}, {"size": 3}, labelled=False)
    examples = source.read("train")
    assert (examples.inputs, examples.targets) == (columns["text"], [None, None])
    assert source.columns("train") == columns
    trained = find_data(str(path), {"target_column": "more"}, {}, labelled=True)
    assert trained.read("train").targets == ["x", "y"]
    with pytest.raises(UserError, match=r"there is no such file\. Data are a file"):
        find_data(str(tmp_path / "none"), {}, {}, labelled=False)


def test_identities_follow_content_options_and_place(tmp_path):
    path = tmp_path / "mine.csv"
    write_csv(path, {"text": ["a b", "b c"], "label": ["x", "y"], "more": ["x", "y"]})
    first = find(str(path), {}, {}).identity()
    assert find(str(path), {}, {}).identity() == first
    assert find(str(path), {"target_column": "more"}, {}).identity() != first
    write_csv(path, {"text": ["a b", "b d"], "label": ["x", "y"], "more": ["x", "y"]})
    assert find(str(path), {}, {}).identity() != first


def test_what_is_read_is_known_before_it_is(tmp_path):
    table = {"text_column", "target_column", "group_column", "id_column"}
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        assert fields_of(f"nowhere{suffix}") >= table
    assert fields_of("nowhere.npz") == fields_of("nowhere.ts") == {"labelled"}
    assert fields_of("nowhere.conll") == {"text_column", "target_column", "labelled"}
    assert fields_of("tfds:x") == {"dir", "text_column", "target_column", "labelled"}
    assert set(readers.SUFFIXES) == {
        ".csv", ".tsv", ".jsonl", ".parquet", ".conll", ".conllu", ".bio", ".iob", ".ts", ".npz",
        ".txt",
    }  # fmt: skip


def test_more_than_fits_into_memory_is_refused_with_the_number(tmp_path, monkeypatch):
    path = tmp_path / "mine.csv"
    write_csv(path, {"text": ["a b"] * 1_000, "label": ["x"] * 1_000})
    assert base.available_bytes() > 1_000_000
    monkeypatch.setattr(base, "available_bytes", lambda: 30_000)
    with pytest.raises(
        UserError, match=r"mine.csv has 0\.0 GB, which take about 0\.0 GB of memory"
    ):
        read(path)
    monkeypatch.setattr(base, "available_bytes", lambda: None)
    assert len(read(path).inputs) == 1_000


IMDB = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "")) / "imdb_reviews"


@pytest.mark.slow
@pytest.mark.skipif(not IMDB.exists(), reason="no prepared IMDB in $TFDS_DATA_DIR")
def test_what_tensorflow_datasets_prepared_is_read(monkeypatch):
    source = find("tfds:imdb_reviews", {}, {})
    assert (source.name, source.splits()) == ("imdb_reviews", ("train", "test", "unlabelled"))
    assert source.identity() == find("tfds:imdb_reviews/plain_text", {}, {}).identity()
    examples = source.read("test")
    assert len(examples.inputs) == 25_000
    assert set(examples.targets) == {"neg", "pos"}
    assert set(map(type, examples.inputs)) == {str}


@functools.cache
def _aeon():
    spec = __import__("importlib.util").util.find_spec("aeon")
    return spec and pathlib.Path(spec.origin).parent / "datasets" / "data" / "JapaneseVowels"


@pytest.mark.skipif(_aeon() is None, reason="aeon, which ships JapaneseVowels, is not installed")
def test_japanese_vowels_are_what_aeon_reads():
    aeon = pytest.importorskip("aeon.datasets", exc_type=ImportError)
    source = find(str(_aeon()), {}, {})
    for split, name in (("train", "TRAIN"), ("test", "TEST")):
        cases, targets = aeon.load_from_ts_file(str(_aeon() / f"JapaneseVowels_{name}.ts"))
        found = source.read(split)
        assert found.targets == list(targets)
        assert all(
            np.array_equal(one, other.T) for one, other in zip(found.inputs, cases, strict=True)
        )
