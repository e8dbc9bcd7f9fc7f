"""Data that cannot be used end in one clear error with file and line, and nothing is dropped."""

import pytest

from tests.train_lib.data.bad_data import (
    CASES,
    CONLL,
    ONES,
    SERIES,
    TEXTS,
    csv,
    jsonl,
    npz,
    parquet,
    write,
)
from train_lib.data.finding import find
from train_lib.data.loading import DataSettings, load
from train_lib.data.readers import base
from train_lib.errors import UserError
from train_lib.tasks.classes import Classes


@pytest.mark.parametrize(
    ("name", "content", "fields", "told"),
    [case[1:] for case in CASES],
    ids=[f"{what}: {name}" for what, name, *_ in CASES],
)
def test_bad_data_are_one_clear_error(tmp_path, monkeypatch, name, content, fields, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    write(tmp_path / name, content)
    refused = "nothing was refused"
    try:
        data = load(find(name, fields, {}), DataSettings())
        data.encoded(Classes.of_targets(data.train.targets))
    except UserError as error:
        refused = str(error)
    assert told in refused
    assert "\n" not in refused
    assert len(refused) < 500


def test_every_kind_of_file_has_bad_data_here():
    suffixes = {name.rpartition(".")[2] for _, name, *_ in CASES}
    assert suffixes >= {"csv", "tsv", "jsonl", "parquet", "conll", "bio", "ts", "npz"}
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet", "x.npz", "x.ts", "x.conll"])
def test_what_may_not_be_read_is_said_to_be_so(tmp_path, name, monkeypatch):
    """Not by its mode, which means nothing to root."""
    path = tmp_path / name
    contents = {
        "x.csv": csv(), "x.jsonl": jsonl(), "x.parquet": parquet(**TEXTS), "x.npz": npz(**ONES),
        "x.ts": SERIES, "x.conll": CONLL,
    }  # fmt: skip
    write(path, contents[name])
    source = find(str(path), {}, {})

    def fail(*_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(source), "read_file", fail)
    with pytest.raises(UserError, match=f"{name} cannot be read: Permission denied"):
        source.read("train")
    path.unlink()
    with pytest.raises(UserError, match=f"{name} cannot be read: No such file"):
        source.identity()


def test_three_gigabytes_are_refused_with_the_number(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    write(path, csv())
    source = find(str(path), {}, {})
    monkeypatch.setattr(type(source), "content_bytes", lambda *_: 3 * 10**9)
    monkeypatch.setattr(base, "available_bytes", lambda: 16 * 10**9)
    told = r"x\.csv has 3\.0 GB, which take about 21\.0 GB of memory to read, but 16\.0 GB are free"
    with pytest.raises(UserError, match=told):
        source.read("train")
