"""Names and files to classes of any kind, and options from text."""

import sys
import types
from typing import Protocol

import pytest

from seqmodels import loading


class Base:
    """What a researcher derives from."""


class Readable(Protocol):
    """What a researcher's class may be without deriving from it."""

    name: str

    def read(self, split: str) -> list: ...

    def splits(self) -> tuple: ...


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with the modules `first`, `second`, `base` and `_private`."""
    folder = tmp_path / "things_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    text = "from tests_base import Base\n\n\nclass {}(Base):\n    pass\n"
    for name in ("first", "second", "base", "_private"):
        (folder / f"{name}.py").write_text(text.format(name.title().strip("_")))
    shared = types.ModuleType("tests_base")
    shared.Base = Base
    monkeypatch.setitem(sys.modules, "tests_base", shared)
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("things_of_a_test")
    for name in [name for name in sys.modules if name.startswith("things_of_a_test")]:
        del sys.modules[name]


def test_finds_a_class_by_its_module(package):
    assert loading.names(package) == ["first", "second"]
    found = loading.find("second", Base, package, "thing")
    assert (found.__name__, issubclass(found, Base)) == ("Second", True)
    with pytest.raises(ValueError, match=r"unknown thing 'third'; choose one of first, second, or"):
        loading.find("third", Base, package, "thing")


def write(path, text):
    path.write_text(f"from tests_base import Base\n\n\n{text}\n")
    return str(path)


def test_finds_a_class_in_a_file_whatever_else_is_there(package, tmp_path):
    path = write(
        tmp_path / "mine.py",
        "class _Helper(Base):\n    pass\n\n\nclass Mine(_Helper):\n    pass\n\n\nclass Other:\n"
        "    pass\n\n\nAlias = Base",
    )
    assert loading.find(path, Base, package, "thing").__name__ == "Mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Other:\n    pass", "must define one subclass of Base of .*; it defines none"),
        ("class A(Base):\n    pass\n\n\nclass B(Base):\n    pass", "it defines A, B"),
        ("1 / 0", "line 4, cannot be run: ZeroDivisionError"),
        ("raise SystemExit(3)", "line 4, cannot be run: SystemExit"),
        ("class A(Base)\n    pass", "line 4, cannot be run: SyntaxError"),
    ],
)
def test_says_what_is_wrong_with_a_file(package, tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        loading.find(write(tmp_path / "mine.py", text), Base, package, "thing")
    with pytest.raises(ValueError, match=r"no file 'nowhere\.py' to take a thing from"):
        loading.find("nowhere.py", Base, package, "thing")


def test_of_a_protocol_the_methods_are_enough(package, tmp_path):
    methods = "    def read(self, split):\n        return []\n"
    both = methods + "\n    def splits(self):\n        return ()\n"
    path = write(tmp_path / "mine.py", f"class Half:\n{methods}\n\nclass Mine:\n{both}")
    assert loading.find(path, Readable, package, "source").__name__ == "Mine"


def test_two_files_of_one_name_do_not_mix(package, tmp_path):
    paths = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths.append(write(folder / "mine.py", f"class Mine(Base):\n    number = {number}"))
    found = [loading.find(path, Base, package, "thing") for path in paths]
    assert [one.number for one in found] == [1, 2]
    assert found[0].__module__ != found[1].__module__


def test_options_say_what_they_are_of():
    assert loading.parse_options("folder='x', rows=3", "source") == {"folder": "x", "rows": 3}
    with pytest.raises(ValueError, match="the source options 'a' cannot be read"):
        loading.parse_options("a", "source")
