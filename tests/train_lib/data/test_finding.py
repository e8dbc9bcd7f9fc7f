"""Sources by name and by path, and what their constructors are given."""

import pytest

from train_lib.data import finding, sources
from train_lib.data.finding import fields_of, find
from train_lib.data.loading import DataSettings, load
from train_lib.errors import UserError

MINE = """
from train_lib.data.examples import Examples


class Mine:
    name = "mine"

    def __init__(self, dir: str = "", *, words: int, size: int = 20):
        self.dir, self.words, self.size = dir, words, size

    def identity(self):
        return f"{self.dir} {self.words} {self.size}"

    def splits(self):
        return ("train",)

    def read(self, split):
        return Examples.numbered(["a " * self.words] * self.size, [0, 1] * (self.size // 2), "mine")
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def refusal(*arguments):
    try:
        find(*arguments)
    except UserError as error:
        return str(error)
    return "nothing was refused"


def test_every_file_of_the_folder_is_a_source_with_a_name_of_its_own():
    assert finding.names() == ["auto", "generated", "imdb", "temporal_order"]
    for name in finding.names():
        assert fields_of(name) <= {
            "dir", "archive", "length_tokens", "train_examples", "validation_examples",
            "test_examples", "labelled",
        }  # fmt: skip
    assert sources.__doc__


def test_a_constructor_is_given_the_fields_that_it_names_and_the_options(mine):
    fields = {"dir": "here", "archive": "not read", "words": 2}
    assert find(str(mine), fields, {}).identity() == "here 2 20"
    assert find(str(mine), fields, {"size": 30, "words": 3}).identity() == "here 3 30"
    assert fields_of(str(mine)) == {"dir", "words", "size"}
    assert fields_of("temporal_order") >= {"length_tokens", "train_examples"}
    assert len(load(find(str(mine), fields, {}), DataSettings()).train) == 14


def test_a_changed_file_is_read_again(mine):
    first = load(find(str(mine), {"words": 2}, {}), DataSettings())
    mine.write_text(MINE.replace('"a "', '"b "'))
    second = load(find(str(mine), {"words": 2}, {}), DataSettings())
    assert (first.inputs.vocabulary.words, second.inputs.vocabulary.words) == (["a"], ["b"])


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (MINE, {}, "must be given words, as in config.data.source_options"),
        (MINE, {"words": 2, "colour": 3}, "no option colour; those it has: dir, size, words"),
        (
            MINE + "\n\nclass Other(Mine):\n    pass\n",
            {},
            "must define one subclass of Source of train_lib.data.examples; it defines Mine",
        ),
        ("", {}, "it defines none"),
        ("from nowhere import nothing", {}, "mine.py, line 1, cannot be run: ModuleNotFoundError"),
        ("x = 1\nraise SystemExit", {}, "mine.py, line 2, cannot be run: SystemExit"),
        ("x = ", {}, "mine.py, line 1, cannot be run: SyntaxError"),
        (MINE.replace("name =", "title ="), {"words": 2}, "has no name; give its class one"),
    ],
)
def test_a_file_that_is_no_source_is_told_so(mine, content, options, told):
    mine.write_text(content)
    assert told in refusal(str(mine), {}, options)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("imbd", "config.data.source = 'imbd' is not known; did you mean imdb? It must be one of"),
        ("nothing/mine.py", "there is no file 'nothing/mine.py' to take a source from"),
        ("gs://bucket/mine.py", "gs://bucket/mine.py is an address"),
        ("", "config.data.source = '' is not known"),
    ],
)
def test_a_source_that_is_not_there_is_refused(source, told):
    assert told in refusal(source, {}, {})
