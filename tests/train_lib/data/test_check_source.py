"""Every source through its contract; the checks find what they are there for; the guide works."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.train_lib.data.test_readers import WRITERS
from train_lib.data import check_source, finding
from train_lib.data.check_source import Case, CheckFailed, main
from train_lib.data.examples import Examples
from train_lib.data.finding import find
from train_lib.data.loading import DataSettings, load
from train_lib.errors import UserError

ROOT = pathlib.Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "add_a_source.md").read_text("utf-8")
SMALL = {"train_examples": 30, "validation_examples": 10, "test_examples": 20}


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in finding.names()
        if name not in ("auto", "imdb")  # One of the others; and one that takes minutes to check.
    ],
)
def test_every_source_keeps_the_contract(name):
    check_source.check_source(lambda: find(name, {**SMALL, "length_tokens": 30}, {}))


def write_table(suffix, inputs, targets):
    return lambda folder: WRITERS[suffix](
        folder / f"x{suffix}", {"text": inputs, "label": targets, "author": ["a", "b", "c"] * 10}
    )


def write_conll(folder):
    (folder / "x.conll").write_text("good JJ B\nfilm NN O\n\nbad JJ O\n\n" * 15)


def write_series(folder):
    text = "@classLabel true a b\n@data\n" + "1,2:3,4:a\n5:7:b\n" * 15
    for name in ("x_TRAIN.ts", "x_TEST.ts"):
        (folder / name).write_text(text)


def write_arrays(tokens):
    def write(folder):
        values = np.arange(60) if tokens else np.arange(120.0).reshape(60, 2)
        np.savez(folder / "x.npz", values=values, lengths=np.full(30, 2), targets=np.arange(30) % 3)

    return write


def write_texts(folder):
    for number in range(30):
        path = folder / "x" / "ab"[number % 2] / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"a text {number}")


WORDS = [["good", "film"], ["bad"]] * 15
TAGS = [["B", "O"], ["O"]] * 15
DATA = {
    **{
        f"x{suffix}": write_table(suffix, ["a b", "c d e"] * 15, ["x", "y"] * 15)
        for suffix in WRITERS
    },
    "x.conll": write_conll, "x_TRAIN.ts": write_series, "x.npz": write_arrays(False),
    "x": write_texts,
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_data_files_of_every_kind_keep_the_contract(name, tmp_path):
    DATA[name](tmp_path)
    case = check_source.check_source(lambda: find(str(tmp_path / name), {}, {}))
    assert sum(len(part.inputs) for part in case.parts.values()) in (30, 60)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.jsonl", write_table(".jsonl", WORDS, TAGS)), ("x.npz", write_arrays(True)),
        ("x.jsonl", write_table(".jsonl", [[1, 2], [3]] * 15, [["a"], []] * 15)),
        ("x.csv", write_table(".csv", ["a b", "c"] * 15, [1, 2.5] * 15)),
    ],
)  # fmt: skip
def test_inputs_and_targets_of_every_kind_keep_the_contract(name, write, tmp_path):
    write(tmp_path)
    check_source.check_source(lambda: find(str(tmp_path / name), {}, {}))
    if name != "x.npz":
        fields = {"group_column": "author"}
        check_source.check_source(lambda: find(str(tmp_path / name), fields, {}))


class Good:
    name = "good"

    def __init__(self):
        self.texts = [f"text {number}" for number in range(30)]

    def identity(self):
        return "1"

    def splits(self):
        return ("train", "unlabelled")

    def read(self, split):
        targets = None if split == "unlabelled" else ["a", "b"] * 15
        return Examples.numbered(self.texts, targets, split)


CALLS = iter(range(10**6))
IDENTITY = lambda self: f"version {next(CALLS)}"  # noqa: E731
RANDOM = lambda self, split: Examples.numbered(  # noqa: E731
    [str(next(CALLS)) for _ in range(30)], [0, 1] * 15, split
)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"identity": IDENTITY}, "the cache would never be found"),
        ({"identity": lambda self: 3}, "identity() gives 3; it must give a text"),
        ({"read": RANDOM}, "gives other examples each time"),
        ({"read": lambda self, split: (["a"], [1])}, "gives tuple; it must give Examples"),
        ({"splits": lambda self: ("train", "dev")}, "splits() has ['dev']"),
        ({"splits": lambda self: ("test",)}, "it must have `train`"),
        ({"splits": lambda self: ("train", "train")}, "and each name once"),
        ({"read": lambda self, split: Examples.numbered(["a"] * 30, [1] * 29, "x")}, "29 targets"),
        ({"read": lambda self, split: Examples.numbered([], [], "x")}, "the train split is empty"),
        ({"read": lambda self, split: Examples.numbered(["a"] * 30, [1] * 30, "x")},
         "`unlabelled` has a target; it must be None"),
        ({"read": lambda self, split: Examples(["a"] * 30, [1] * 30, np.zeros(30, int), "x")},
         "have the same place"),
        ({"read": lambda self, split: Good().read(split)._replace(origin="")}, "is empty; it is"),
        ({"read": lambda self, split: Good().read(split)._replace(
            inputs=[[split]] * 30 if split == "train" else ["a"] * 30
        )}, "they must be of one kind"),
        ({"read": lambda self, split: Good().read(split).take(np.arange(1))}, "1 examples to take"),
    ],
)  # fmt: skip
def test_what_a_source_does_wrong_is_found_and_said(changes, told):
    changed = type("Changed", (Good,), changes)
    failed = ""
    try:
        check_source.check_source(changed)
    except (CheckFailed, UserError) as error:
        failed = str(error)
    assert told in failed
    assert bool(told) == bool(failed)


def test_a_case_reads_every_split():
    assert set(Case(Good).parts) == {"train", "unlabelled"}


def guide_source(tmp_path):
    source = GUIDE.partition("```python\n")[2].partition("```")[0]
    assert len(source.splitlines()) <= 30
    (tmp_path / "same_ends.py").write_text(source)
    return str(tmp_path / "same_ends.py")


def test_the_guides_source_is_one_file_that_keeps_the_contract(tmp_path):
    path = guide_source(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "train_lib.data.check_source", path, "--options=size=300"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train: 300 examples (tokens) of 3 to 20 steps; targets" in done.stdout
    data = load(find(path, {}, {"letters": 4}), DataSettings())
    assert data.inputs.size == 4
    assert [len(split) for split in data.splits] == [1_800, 200, 2_000]
    for split in data.splits:
        first, last = split.values[split.offsets[:-1]], split.values[split.offsets[1:] - 1]
        assert [target == "same" for target in split.targets] == list(first == last)


def test_the_program_says_what_is_wrong_and_where(tmp_path, capsys):
    path = guide_source(tmp_path)
    assert main([path, "--options", "size='x'"]) == 1
    assert re.search(r"BROKEN  \w+Error: .+ \(\S+same_ends.py, line \d+\)", capsys.readouterr().out)
    text = pathlib.Path(path).read_text()
    pathlib.Path(path).write_text(text.replace(".index(split))", ".index(split) and None)"))
    assert main([path, "--options", "size=40"]) == 1
    told = capsys.readouterr().out
    assert "FAILED  reading twice gives the same examples: read('test') gives other" in told
    with pytest.raises(UserError, match="cannot be read; write names and plain values"):
        main([path, "--options", "size"])
    assert main(["nowhere.csv"]) == 1
    assert "BROKEN  nowhere.csv: there is no such file" in capsys.readouterr().out
    table = tmp_path / "mine.csv"
    table.write_text("text,stars\n" + "".join(f"a {n},{n / 2}\n" for n in range(20)))
    assert main([str(table)]) == 0
    assert "targets from 0.0 to 9.5" in capsys.readouterr().out


def test_the_guide_names_every_suffix_and_option():
    from train_lib.data import readers

    for suffix in readers.SUFFIXES:
        assert f"`{suffix}`" in GUIDE or f"{suffix}`" in GUIDE
    for option in ("quotes", "target_is", "id_column"):
        assert f"`{option}=" in GUIDE
    assert json.dumps(list(finding.fields_of("x.csv")))
