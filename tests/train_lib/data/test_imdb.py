"""IMDB from archives, folders and servers, whole, broken and malicious; a small one of our own."""

import functools
import hashlib
import http.server
import io
import os
import pathlib
import random
import tarfile
import threading

import pytest

from train_lib.data import finding
from train_lib.data.examples import fingerprint
from train_lib.data.sources import imdb
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
            data = text if isinstance(text, bytes) else text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(root):
    corpus = imdb.Imdb(str(root))
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
    assert sorted(zip(train.targets, train.inputs, strict=True)) == [
        ("negative", "train neg 0 é"), ("negative", "train neg 1 é"),
        ("positive", "train pos 0 é"), ("positive", "train pos 1 é"),
    ]  # fmt: skip
    assert sorted(zip(test.targets, test.inputs, strict=True)) == [
        ("negative", "test neg"), ("positive", "test pos"),
    ]  # fmt: skip
    unlabelled = imdb.Imdb(str(tmp_path / "root0")).read("unlabelled")
    assert sorted(unlabelled.inputs) == [f"nobody knows {number}" for number in range(3)]
    assert unlabelled.targets == [None] * 3
    # Any prepared data set is read by its name, with the names that it has for classes.
    fields = {"dir": str(tmp_path / "root0")}
    prepared = finding.find("tfds:imdb_reviews", fields, {})
    assert prepared.splits() == ("train", "test", "unlabelled")
    assert prepared.read("train").inputs == train.inputs
    assert prepared.read("train").targets == [target[:3] for target in train.targets]
    assert prepared.read("unlabelled").targets == [None] * 3
    assert (
        finding.find("tfds:imdb_reviews/plain_text", fields, {}).identity() == prepared.identity()
    )
    with pytest.raises(UserError, match=r"tfds:imdb is not prepared in .*; there is imdb_reviews"):
        finding.find("tfds:imdb", fields, {})
    with pytest.raises(UserError, match=r"no feature 'stars'; name one with .*, of label, text"):
        finding.find("tfds:imdb_reviews", fields | {"target_column": "stars"}, {}).read("train")


def test_what_is_prepared_is_not_prepared_again(tmp_path, monkeypatch):
    imdb.find(str(tmp_path), str(write_tar(tmp_path / "a.tar.gz")))
    monkeypatch.setattr(imdb, "_prepare", None)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    first = imdb.Imdb().identity()
    assert first == imdb.Imdb(str(tmp_path)).identity()


@pytest.mark.parametrize("source", ["auto", "imdb"])
def test_a_named_archive_is_never_passed_over_in_silence(tmp_path, source, capsys):
    def find(archive):
        return finding.find(source, {"dir": str(tmp_path), "archive": str(archive)}, {})

    corpus = find(write_tar(tmp_path / "a.tar.gz"))
    assert "not opened" not in capsys.readouterr().err
    other = write_tar(tmp_path / "b.tar.gz")
    assert find(other).identity() == corpus.identity()
    told = capsys.readouterr().err
    assert f"IMDB was prepared in {tmp_path / imdb.FOLDER} before, and is read from there" in told
    assert f"{other} was not opened" in told
    assert "--config.data.dir=FOLDER" in told
    for missing in ("none.tar.gz", str(tmp_path / "none"), "~/none/at/all"):
        refused = ""
        try:
            find(missing)
        except UserError as error:
            refused = str(error)
        assert refused == f"--config.data.archive={missing} does not exist."
    assert find("").identity() == corpus.identity()
    assert not capsys.readouterr().err


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


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "/tmp/evil.txt", "//tmp/evil.txt", "aclImdb/train/pos/../../../evil.txt"],
)
def test_an_archive_with_a_path_that_leads_out_is_refused(tmp_path, name):
    archive = write_tar(tmp_path / "a.tar.gz", [*members(), (name, "x")])
    with pytest.raises(UserError, match=rf"a\.tar\.gz .*'{name}' leads out of it"):
        imdb.find(str(tmp_path / "root"), str(archive))
    assert_nothing_left(tmp_path / "root")
    assert not list(tmp_path.rglob("evil.txt"))


@pytest.mark.parametrize(
    ("kind", "target"),
    [(tarfile.SYMTYPE, "/etc/hostname"), (tarfile.LNKTYPE, "aclImdb/train/pos/0_10.txt"),
     (tarfile.FIFOTYPE, ""), (tarfile.CHRTYPE, "")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["aclImdb/train/pos/7_9.txt", "aclImdb/notes"])
def test_an_archive_with_a_link_or_a_device_is_refused(tmp_path, kind, target, name):
    link = tarfile.TarInfo(name)
    link.type, link.linkname = kind, target
    archive = write_tar(tmp_path / "a.tar.gz", links=[link])
    with pytest.raises(UserError, match=f"'{name}' is a link or a device"):
        imdb.find(str(tmp_path / "root"), str(archive))
    assert_nothing_left(tmp_path / "root")


def test_a_folder_with_a_link_in_place_of_a_review_is_refused(tmp_path):
    for name, text in members():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    path = tmp_path / "aclImdb/train/pos/0_10.txt"
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(UserError, match=r"0_10\.txt' is a link"):
        imdb.find(str(tmp_path / "root"), str(tmp_path / "aclImdb"))
    assert_nothing_left(tmp_path / "root")


def test_a_byte_order_mark_is_no_part_of_a_review(tmp_path):
    marked = [(name, f"\ufeff{text}") for name, text in members()]
    imdb.find(str(tmp_path), str(write_tar(tmp_path / "a.tar.gz", marked)))
    texts = [text for reviews in read(tmp_path) for text in reviews.inputs]
    assert [text for text in texts if text.split()[0] not in ("train", "test")] == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be", "cp1252"])
def test_an_archive_in_another_encoding_is_refused_by_name(tmp_path, encoding):
    files = [(name, f"{text}, \u00e9\u00e8\u00e0".encode(encoding)) for name, text in members()]
    archive, root = write_tar(tmp_path / "a.tar.gz", files), tmp_path / "root"
    name = "Windows-1252" if encoding == "cp1252" else encoding[:6].upper()
    with pytest.raises(UserError, match=rf"0_1\.txt of .*a\.tar\.gz .*{name}"):
        imdb.find(str(root), str(archive))
    assert_nothing_left(root)


@pytest.mark.parametrize("split", ["train", "test", "unsup"])
def test_an_archive_short_of_one_review_of_any_split_is_refused(tmp_path, split):
    files = list(members())
    files.remove(next(file for file in files if f"/{split}/" in file[0]))
    archive, root = write_tar(tmp_path / "a.tar.gz", files), tmp_path / "root"
    with pytest.raises(UserError, match=r"a\.tar\.gz is not the IMDB archive"):
        imdb.find(str(root), str(archive))
    assert_nothing_left(root)


@pytest.mark.parametrize(
    ("limit", "size", "file"),
    [
        ("_MAX_REVIEW_BYTES", 1_000, ("aclImdb/train/pos/9_9.txt", "x" * 1_001)),
        ("_MAX_BYTES", 100_000, ("aclImdb/all.feat", "0" * 100_000)),
        ("_MAX_BYTES", 2_000, ("aclImdb/imdb.vocab", "")),  # Many small ones are much too.
    ],
)
def test_a_bomb_is_refused(tmp_path, monkeypatch, limit, size, file):
    archive = write_tar(tmp_path / "a.tar.gz", [*members(), file])
    monkeypatch.setattr(imdb, limit, size)
    with pytest.raises(UserError, match="far more than IMDB does"):
        imdb.find(str(tmp_path / "root"), str(archive))
    assert_nothing_left(tmp_path / "root")


@pytest.mark.parametrize("mode", ["w", "w:bz2", "w:xz"])
@pytest.mark.parametrize("seed", range(10))
def test_a_cut_archive_of_any_compression_is_a_user_error(tmp_path, mode, seed):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, mode) as tar:
        for name, text in members():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    # Cut among the reviews: nobody misses the README and zeros that a plain tar ends with.
    content = archive.read_bytes()
    archive.write_bytes(content[: random.Random(seed).randrange(len(content) // 3)])
    with pytest.raises(UserError, match=r"a\.tar"):
        imdb.find(str(tmp_path / "root"), str(archive))
    assert_nothing_left(tmp_path / "root")


def test_a_failure_while_preparing_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(pathlib.Path, "rename", fail)
    with pytest.raises(UserError, match="the disk is full"):
        imdb.find(str(tmp_path / "root"), str(write_tar(tmp_path / "a.tar.gz")))
    assert_nothing_left(tmp_path / "root")


def test_a_run_that_was_faster_is_left_alone(tmp_path, monkeypatch):
    read_archive, marker = imdb._read_archive, tmp_path / "root" / imdb.FOLDER / "of the other run"

    def read_while_another_run_finishes(archive):
        marker.parent.mkdir(parents=True)
        marker.touch()
        return read_archive(archive)

    monkeypatch.setattr(imdb, "_read_archive", read_while_another_run_finishes)
    imdb.find(str(tmp_path / "root"), str(write_tar(tmp_path / "a.tar.gz")))
    assert list(marker.parent.iterdir()) == [marker]


def test_a_folder_of_other_sizes_is_not_imdb(tmp_path, monkeypatch):
    corpus = imdb.Imdb(str(tmp_path), str(write_tar(tmp_path / "a.tar.gz")))
    monkeypatch.setitem(imdb.SPLIT_SIZES, "test", 4)
    with pytest.raises(UserError, match="not the IMDB data set"):
        corpus.read("test")


def test_the_identity_follows_the_reviews(tmp_path):
    changed = [(name, text.replace("test pos", "test good")) for name, text in members()]
    identities = {
        imdb.Imdb(
            str(tmp_path / f"root{number}"), str(write_tar(tmp_path / f"{number}.tar.gz", files))
        ).identity()
        for number, files in enumerate([list(members()), list(members()), changed])
    }
    assert len(identities) == 2


def test_a_named_folder_comes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "other"))
    corpus = imdb.Imdb(str(tmp_path / "root"), str(write_tar(tmp_path / "a.tar.gz")))
    assert corpus.folder == tmp_path / "root" / imdb.FOLDER
    assert not (tmp_path / "other").exists()


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
    corpus = imdb.Imdb(str(tmp_path), str(write_tar(tmp_path / "a.tar.gz")))
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


def test_without_a_server_the_download_fails_and_keeps_the_part(tmp_path):
    (tmp_path / "file.part").write_bytes(b"begun")
    with pytest.raises(imdb.DownloadFailed, match="cannot be downloaded"):
        imdb.download("http://127.0.0.1:9/file", "0" * 64, tmp_path / "file")
    assert (tmp_path / "file.part").read_bytes() == b"begun"


def test_a_part_of_another_file_does_not_get_stuck(served, tmp_path):
    (tmp_path / "file.part").write_bytes(b"of another file")
    with pytest.raises(UserError, match="SHA-256"):
        download(served, tmp_path / "file")
    download(served, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == served["content"]


def test_imdb_from_the_network_is_prepared_and_the_archive_removed(served, tmp_path, monkeypatch):
    served["content"] = write_tar(tmp_path / "a.tar.gz").read_bytes()
    monkeypatch.setattr(imdb, "URL", served["url"])
    monkeypatch.setattr(imdb, "SHA256", hashlib.sha256(served["content"]).hexdigest())
    assert finding.find("auto", {"dir": str(tmp_path / "root")}, {}).name == "imdb_reviews"
    assert sorted(read(tmp_path / "root")[1].inputs) == ["test neg", "test pos"]
    assert not list((tmp_path / "root" / "downloads").iterdir())


def test_without_a_network_auto_falls_back_and_imdb_does_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(imdb, "URL", "http://127.0.0.1:9/aclImdb_v1.tar.gz")
    assert finding.find("auto", {"dir": str(tmp_path)}, {}).name == "generated_reviews"
    notice = capsys.readouterr().out
    assert "DOES NOT USE IMDB" in notice
    assert "--config.data.source=imdb" in notice
    with pytest.raises(imdb.DownloadFailed):
        finding.find("imdb", {"dir": str(tmp_path)}, {})
    assert_nothing_left(tmp_path)
