"""IMDB from archives, folders and servers, whole, broken and malicious; a small one of our own."""

import functools
import hashlib
import http.server
import io
import os
import tarfile
import threading

import pytest

from configs import base
from train_lib.data import imdb, sources
from train_lib.data.corpus import fingerprint
from train_lib.errors import UserError

SIZES = {"train": 4, "test": 2, "unsupervised": 3}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(imdb, "SPLIT_SIZES", SIZES)


def members():
    for label, value in (("neg", 0), ("pos", 1)):
        for number in range(2):
            yield f"aclImdb/train/{label}/{number}_{value * 9 + 1}.txt", f"train {label} {number} é"
        yield f"aclImdb/test/{label}/0_{value * 9 + 1}.txt", f" test {label} \n"
    for number in range(3):
        yield f"aclImdb/train/unsup/{number}_0.txt", f"nobody knows {number}"
    yield "aclImdb/README", "not a review"
    yield "aclImdb/train/pos/urls.txt", "not a review"


def write_tar(path, files=None, links=()):
    with tarfile.open(path, "w:gz") as tar:
        for link in links:
            tar.addfile(link)
        for name, text in members() if files is None else files:
            data = text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(root):
    corpus = imdb.ImdbCorpus(root / imdb.FOLDER)
    return corpus.read("train"), corpus.read("test")


def assert_nothing_left(root):
    assert not (root / imdb.FOLDER).exists()
    assert not list(root.glob(".preparing-imdb-*"))


def test_archive_and_folder_prepare_the_same_data(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz")
    for name, text in members():
        path = tmp_path / "extracted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    corpora = []
    for number, source in enumerate(
        [archive, tmp_path / "extracted" / "aclImdb", tmp_path / "extracted"]
    ):
        root = tmp_path / f"root{number}"
        imdb.find(str(root), str(source))
        corpora.append(read(root))
        assert not list(root.glob(".preparing-imdb-*"))
    assert len({fingerprint(corpus) for corpus in corpora}) == 1
    train, test = corpora[0]
    assert sorted(zip(train.labels, train.texts, strict=True)) == [
        (0, "train neg 0 é"), (0, "train neg 1 é"), (1, "train pos 0 é"), (1, "train pos 1 é"),
    ]  # fmt: skip
    assert sorted(zip(test.labels, test.texts, strict=True)) == [(0, "test neg"), (1, "test pos")]


def test_what_is_prepared_is_not_prepared_again(tmp_path, monkeypatch):
    imdb.find(str(tmp_path), str(write_tar(tmp_path / "a.tar.gz")))
    monkeypatch.setattr(imdb, "_prepare", None)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    first = imdb.find("", "").identity()
    assert first == imdb.find(str(tmp_path), "").identity()


@pytest.mark.parametrize("kind", ["missing", "short", "cut", "text", "wrong"])
def test_a_bad_archive_is_named_and_leaves_nothing(tmp_path, kind):
    archive, root = tmp_path / "aclImdb_v1.tar.gz", tmp_path / "root"
    if kind == "short":
        write_tar(archive, list(members())[1:])
    elif kind == "cut":
        content = write_tar(archive).read_bytes()
        archive.write_bytes(content[: len(content) // 2])
    elif kind == "text":
        archive.write_text("not an archive")
    elif kind == "wrong":
        write_tar(archive, [("other/file.txt", "text")])
    with pytest.raises(UserError, match=r"aclImdb_v1\.tar\.gz"):
        imdb.find(str(root), str(archive))
    assert_nothing_left(root)


def test_a_malicious_archive_writes_nothing_outside(tmp_path):
    links = []
    for name, kind, target in [
        ("aclImdb/train/pos/7_9.txt", tarfile.SYMTYPE, "/etc/hostname"),
        ("aclImdb/train/pos/8_9.txt", tarfile.LNKTYPE, "aclImdb/train/pos/0_10.txt"),
    ]:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = kind, target
        links.append(link)
    evil = [("../evil.txt", "x"), (str(tmp_path / "evil.txt"), "x"),
            ("aclImdb/train/pos/../../../evil.txt", "x")]  # fmt: skip
    root = tmp_path / "root"
    archive = write_tar(tmp_path / "a.tar.gz", [*evil, *members()], links)
    imdb.find(str(root), str(archive))
    assert not list(tmp_path.rglob("evil.txt"))
    assert len(read(root)[0].texts) == SIZES["train"]


def test_what_a_killed_run_left_is_removed(tmp_path):
    killed, running = tmp_path / ".preparing-imdb-killed", tmp_path / ".preparing-imdb-running"
    killed.mkdir()
    running.mkdir()
    os.utime(killed, (0, 0))
    imdb.find(str(tmp_path), str(write_tar(tmp_path / "a.tar.gz")))
    assert not killed.exists()
    assert running.exists()


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_damaged_prepared_folder_is_named(tmp_path, damage):
    corpus = imdb.find(str(tmp_path), str(write_tar(tmp_path / "a.tar.gz")))
    (path,) = (tmp_path / imdb.FOLDER).glob("*-test.array_record-*")
    path.unlink() if damage == "missing" else path.write_bytes(b"")

    def open_it():
        corpus.identity()
        corpus.read("test")

    with pytest.raises(UserError, match=r"1\.0\.0"):
        open_it()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves one file; may ignore ranges or break off after so many bytes."""

    def __init__(self, settings, *arguments):
        self.settings = settings
        super().__init__(*arguments)

    def do_GET(self):
        content = self.settings["content"]
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if not self.settings.get("ranges", True):
            start = 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = self.settings.pop("stop", len(content))
        self.settings["sent"] = self.settings.get("sent", 0) + len(content[start:stop])
        self.wfile.write(content[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def served():
    settings = {"content": bytes(range(256)) * 8_000}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, settings))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    settings["url"] = f"http://127.0.0.1:{server.server_port}/file"
    yield settings
    server.shutdown()
    thread.join()
    server.server_close()


def download(served, path):
    imdb.download(served["url"], hashlib.sha256(served["content"]).hexdigest(), path)


def test_a_download_that_breaks_off_goes_on(served, tmp_path):
    path = tmp_path / "downloads" / "file"
    served["stop"] = 700_000
    with pytest.raises(imdb.DownloadFailed, match="broke off"):
        download(served, path)
    assert not path.exists()
    download(served, path)
    assert path.read_bytes() == served["content"]
    assert served["sent"] == len(served["content"])  # Nothing was sent twice.
    download(served, path)
    assert served["sent"] == len(served["content"])


def test_a_server_that_cannot_resume_starts_again(served, tmp_path):
    (tmp_path / "file.part").write_bytes(b"left over")
    served["ranges"] = False
    download(served, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == served["content"]


def test_a_part_that_is_complete_is_taken(served, tmp_path):
    (tmp_path / "file.part").write_bytes(served["content"])
    download(served, tmp_path / "file")
    assert (tmp_path / "file").exists()
    assert "sent" not in served


def test_another_file_than_expected_is_removed(served, tmp_path):
    with pytest.raises(UserError, match="SHA-256"):
        imdb.download(served["url"], "0" * 64, tmp_path / "file")
    assert not list(tmp_path.glob("file*"))


def test_without_a_network_auto_falls_back_and_imdb_does_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(imdb, "URL", "http://127.0.0.1:9/aclImdb_v1.tar.gz")
    config = base.get_config("test", "exact").data
    config.dir = str(tmp_path)
    assert sources.find(config).name == "generated_reviews"
    notice = capsys.readouterr().out
    assert "DOES NOT USE IMDB" in notice
    assert "--config.data.source=imdb" in notice
    config.source = "imdb"
    with pytest.raises(imdb.DownloadFailed):
        sources.find(config)
    assert_nothing_left(tmp_path)
