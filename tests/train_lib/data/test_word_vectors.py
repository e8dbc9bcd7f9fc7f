"""Files of word vectors, each against a tiny one that is written by hand."""

import gzip
import json
import re

import numpy as np
import pytest

from train_lib.data import word_vectors
from train_lib.errors import UserError

VECTORS = {"good": [1, -2.5, 0], "Paris": [3, 4, 5], "paris": [6, 7, 8], "new york": [0, 0, 1]}
LINES = "".join(f"{word} {' '.join(map(str, of))}\n" for word, of in VECTORS.items())


def safetensors(vectors, metadata=None, name="vectors", dtype="F32"):
    """As the format's description has it: the header's length, the header, the numbers."""
    data = np.array(vectors, {"F16": "<f2", "F32": "<f4"}[dtype])
    header = {name: {"dtype": dtype, "shape": data.shape, "data_offsets": [0, data.nbytes]}}
    text = json.dumps({"__metadata__": metadata or {}, **header}).encode()
    return len(text).to_bytes(8, "little") + text + data.tobytes()


def save_npz(path, words, vectors):
    np.savez(path, words=np.array(words), vectors=np.array(vectors, np.float32))


WRITERS = {
    "glove.txt": lambda path: path.write_text(LINES),
    "word2vec.txt": lambda path: path.write_text("4 3\n" + LINES.replace("\n", " \n")),
    "windows.txt": lambda path: path.write_bytes(LINES.replace("\n", "\r\n").encode("utf-8-sig")),
    "tabs.tsv": lambda path: path.write_text(LINES.replace(" ", "\t").replace("w\ty", "w y")),
    "fasttext.vec": lambda path: path.write_text("4 3\n" + LINES),
    "packed.txt.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode(), mtime=0)),
    "arrays.npz": lambda path: save_npz(path, [*VECTORS], [*VECTORS.values()]),
    "metadata.safetensors": lambda path: path.write_bytes(
        safetensors([*VECTORS.values()], {"words": json.dumps([*VECTORS])}, dtype="F16")
    ),
    "beside.safetensors": lambda path: (
        path.write_bytes(safetensors([*VECTORS.values()], name="any")),
        path.with_suffix(".txt").write_text("\n".join(VECTORS)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_vectors_of_the_words_that_it_has(name, tmp_path):
    WRITERS[name](tmp_path / name)
    found = word_vectors.read(str(tmp_path / name), ["new york", "bad", "paris", "good"], 3)
    assert found.words == ["new york", "paris", "good"]
    assert found.vectors_NxD.dtype == np.float32
    np.testing.assert_array_equal(found.vectors_NxD, [[0, 0, 1], [6, 7, 8], [1, -2.5, 0]])
    assert found.repeated == 0


def test_a_word_that_is_not_there_as_written_has_the_vector_in_lower_case(tmp_path):
    (tmp_path / "a.txt").write_text(LINES)
    found = word_vectors.read(str(tmp_path / "a.txt"), ["PARIS", "Paris", "Good", "NEW"], 3)
    assert found.words == ["PARIS", "Paris", "Good"]
    np.testing.assert_array_equal(found.vectors_NxD, [[6, 7, 8], [3, 4, 5], [1, -2.5, 0]])


def test_of_a_word_that_stands_there_twice_the_first_vector_counts(tmp_path):
    (tmp_path / "a.txt").write_text("a 1 2\nb 3 4\na 5 6\nb 7 8\nc 0 0\nc 0 1\n")
    found = word_vectors.read(str(tmp_path / "a.txt"), ["a", "c"], 2)
    np.testing.assert_array_equal(found.vectors_NxD, [[1, 2], [0, 0]])
    assert found.repeated == 2


def test_words_may_have_spaces_of_any_kind_in_them(tmp_path):
    """As in GloVe's 840B, and in fastText's files of the web."""
    (tmp_path / "a.txt").write_text(
        "to infinity 0 0\n. . . 1 2\nat name@domain.com 3 4\na\u00a0b 5 6\n\u0085 7 8\n"
    )
    words = [". . .", "at name@domain.com", "a\u00a0b", "\u0085"]
    found = word_vectors.read(str(tmp_path / "a.txt"), words, 2)
    assert found.words == words
    np.testing.assert_array_equal(found.vectors_NxD, [[1, 2], [3, 4], [5, 6], [7, 8]])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", "", "a.txt has no word vectors: it is empty."),
        ("a.txt", "2 3\n", "a.txt has no word vectors"),
        ("a.txt", "a 1 2\n", "have 2 numbers, and config.model.embedding_size = 3; set it to 2."),
        ("a.vec", "1 300\n", "have 300 numbers, and config.model.embedding_size = 3; set it to 30"),
        ("a.txt", "a 1 2 3\nb 1 2\n", "a.txt, line 2: there are 2 numbers after the word, where"),
        ("a.txt", "a 1 2 3\nb 1 2 3 4\n", "a.txt, line 2: there are 4 numbers after the word"),
        ("a.txt", "a 1 2 3\nb\n", "a.txt, line 2: there are 0 numbers"),
        ("a.txt", "only text here\n", "have 2 numbers, and"),
        ("a.txt", "text of four words\n", "a.txt, line 1, the vector of 'text': could not conv"),
        ("a.txt", "a 1 2 3\n\ngood 1 x 3\n", "a.txt, line 3, the vector of 'good': could not"),
        ("a.txt", "a 1 2 3\ngood 1  3\n", "line 2: there are 2 numbers after the word"),
        ("a.txt", "good 1 nan 3\n", "a.txt, line 1: the vector of 'good' has a number that is NaN"),
        ("a.txt", "good 1 1e99 3\n", "or too large for float32"),
        ("a.txt", b"a 1 2 3\ncaf\xe9 1 2 3\n", "a.txt, line 2: the word b'caf\\xe9' is not UTF-8"),
        ("a.txt", "a 1 2 3\n".encode("utf-16-le"), "is not UTF-8"),
        ("a.vec", "3 3\na 1 2 3\ngood 1 2 3\n", "has 2 words, but its first line says 3: it"),
        ("a.bin", b"1 3\na\0\0", "Unpack a .zip, and save a binary word2vec file as text"),
        ("a.txt.gz", gzip.compress(LINES.encode(), mtime=0)[:-9], "a.txt.gz cannot be read: Comp"),
        ("a.txt.gz", LINES, "a.txt.gz cannot be read: Not a gzipped file"),
        ("none.txt", None, "none.txt cannot be read"),
        ("a.npz", b"", "a.npz cannot be read: No data left in file"),
        ("a.npz", b"nothing", "It must have the arrays `words`"),
        ("a.safetensors", b"", "It must have the tensor `vectors`"),
        ("a.safetensors", b"\xff" * 9, "It must have the tensor `vectors`"),
        ("a.safetensors", safetensors([[1, 2, 3]]), "does not say which words its vectors are of"),
        ("a.safetensors", safetensors([[1, 2, 3]])[:-1], "It must have the tensor"),
        ("a.safetensors", safetensors([1, 2], {"words": "[]"}), "must be floating point [N, D]"),
        ("a.safetensors", safetensors([[1, 2, 3]], {"words": '["a", "b"]'}), "1 vectors and 2 w"),
        ("a.safetensors", safetensors([[1, 2, 3]], {"words": '"a"'}), "1 vectors and no list of"),
        ("a.safetensors", safetensors([[1, 2]], {"words": '["a"]'}), "set it to 2"),
        ("a.safetensors", safetensors([[1, 2, 3]], {"words": "[1]"}), "row 0: the word is 1, whi"),
        ("a.safetensors", safetensors([[1, 2, 3]], {"words": '[["a"]]'}), "row 0: the word is"),
        ("a.safetensors", b"\xff\xff" + 6 * b"\0" + b"[" * 65_535, "RecursionError"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused(name, content, told, tmp_path):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=re.escape(told)):
        word_vectors.read(str(tmp_path / name), ["good"], 3)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"words": np.array(["a"])}, "It must have the arrays `words`"),
        ({"words": np.array([1]), "vectors": np.ones((1, 3))}, "`words` must be an array of texts"),
        ({"words": np.array(["good"]), "vectors": np.ones((1, 3), int)}, "must be floating point"),
        ({"words": np.array(["good"]), "vectors": np.ones((2, 3))}, "2 vectors and 1 words"),
        ({"words": np.array(["good"]), "vectors": np.full((1, 3), np.inf)}, "a.npz, row 0: the ve"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(arrays, told, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=re.escape(told)):
        word_vectors.read(str(tmp_path / "a.npz"), ["good"], 3)
