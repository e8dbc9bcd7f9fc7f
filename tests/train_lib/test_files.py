"""What a user names is a folder of this machine, or nothing is made."""

import os
import pathlib
import subprocess
import sys

import pytest

from configs import base
from train_lib import building, files
from train_lib.data.sources import imdb
from train_lib.errors import UserError
from train_lib.records.folder import RunFolder
from train_lib.training import devices

ROOT = pathlib.Path(__file__).parent.parent.parent
ADDRESSES = [
    "gs://bucket/folder", "s3://bucket/x", "http://host/x", "hdfs://host/x", "file:///tmp/x",
    "GS://b", "abfss://c@host/x", "gs:/bucket/x",
]  # fmt: skip


def name_workdir(address, _):
    RunFolder.open(address, base.get_config("name", "exact"))


def name_out(address, _):
    files.new_folder("--out", address, "name")


def name_data_dir(address, _):
    imdb.find(address, "")


def name_data_dir_in_the_environment(address, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", address)
    imdb.find("", "")


def name_archive(address, _):
    imdb.find("data", address)


def name_cache(address, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", address)
    config = base.get_config("name", "exact")
    config.data.update(source="generated", train_examples=4, validation_examples=2, test_examples=2)
    building.load_data(config)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "name",
    [name_workdir, name_out, name_data_dir, name_data_dir_in_the_environment, name_archive,
     name_cache],
)  # fmt: skip
def test_an_address_is_refused_and_no_folder_is_made_of_it(name, address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(imdb, "URL", "http://127.0.0.1:9/aclImdb_v1.tar.gz")
    refused = ""
    try:
        name(address, monkeypatch)
    except UserError as error:
        refused = str(error)
    assert not os.listdir()
    assert refused.startswith(f"{address} is an address")


def test_comparing_makes_no_folder_of_an_address(write_run, tmp_path):
    runs = [str(write_run(name)) for name in ("one", "two")]
    (tmp_path / "here").mkdir()
    environment = os.environ | {"XDG_CACHE_HOME": "gs://bucket/x", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "train_lib.compare", *runs, f"--out={tmp_path / 'out'}"],
        cwd=tmp_path / "here", env=environment, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert not os.listdir(tmp_path / "here")
    assert done.stderr.decode().startswith("error: ")
    assert "gs://bucket/x is an address" in done.stderr.decode()


@pytest.mark.parametrize("address", ["file:///tmp/x", "http://host/x", "hdfs://host/x"])
def test_an_address_that_jax_cannot_read_is_refused(address, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", address)
    refused = ""
    try:
        devices.configure()
    except UserError as error:
        refused = str(error)
    assert refused.startswith(f"{address} is an address")


@pytest.mark.parametrize("path", ["a", "/a/b", "./gs:/x", "a b:c", "a/gs://b", "C:/x", "a:b"])
def test_what_only_looks_like_an_address_is_a_path(path):
    assert RunFolder(path).path == pathlib.Path(path)


def test_the_home_of_nobody_is_refused():
    refused = ""
    try:
        RunFolder("~nobody_of_that_name/x")
    except (UserError, RuntimeError) as error:
        refused = f"{type(error).__name__}: {error}"
    assert refused.startswith("UserError: ~nobody_of_that_name/x: ")
