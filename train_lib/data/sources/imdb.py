"""The Large Movie Review Dataset through tensorflow-datasets, without TensorFlow.

Maas et al., "Learning Word Vectors for Sentiment Analysis", ACL 2011: 25,000 labelled reviews for
training, 25,000 for testing and 50,000 without a label, which are prepared too, so that the folder
is the official `imdb_reviews/plain_text/1.0.0`.
"""

import contextlib
import gzip
import hashlib
import http.client
import io
import os
import pathlib
import re
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple

from tqdm import tqdm

from train_lib import files
from train_lib.data.examples import UNLABELLED, Examples
from train_lib.encoding import decode
from train_lib.errors import UserError

URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
FOLDER = pathlib.Path("imdb_reviews") / "plain_text" / "1.0.0"
LABELS = ("negative", "positive")
SPLIT_SIZES = {"train": 25_000, "test": 25_000, "unsupervised": 50_000}

_REVIEW = re.compile(r"aclImdb/(?:(train|test)/(neg|pos)|train/(unsup))/\d+_\d+\.txt")
_MAX_REVIEW_BYTES, _MAX_BYTES = 1 << 20, 1 << 30  # IMDB's have at most 14 kB, 0.4 GB in total.
# An older unfinished folder was left by a run that was killed.
_MAX_PREPARING_SECONDS = 3_600


class DownloadFailed(UserError):
    """IMDB is not on this machine and could not be downloaded."""


def find(directory: str, archive: str) -> pathlib.Path:
    """The folder of IMDB, prepared from an archive or the network if it is not there yet.

    Args:
        directory: a tensorflow-datasets folder to read from or prepare in; empty:
            `$TFDS_DATA_DIR`, else tensorflow-datasets' own default.
        archive: `aclImdb_v1.tar.gz` or an extracted `aclImdb/`; empty: download. If the folder is
            already prepared, the archive is not read, and a note says so.

    Raises:
        DownloadFailed: it is not on this machine, and the download failed.
        UserError: what is there is not IMDB, or cannot be read or written; or there is no such
            archive.
    """
    root = files.local(directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    folder, source = root / FOLDER, files.local(archive)
    try:
        root.mkdir(parents=True, exist_ok=True)
        if archive and not source.exists():
            raise UserError(f"--config.data.archive={archive} does not exist.")
        if folder.exists():
            if archive:
                print(
                    f"note: IMDB was prepared in {folder} before, and is read from there; "
                    f"{source} was not opened. To read that, name an empty folder to prepare it "
                    "in with --config.data.dir=FOLDER.",
                    file=sys.stderr,
                )
            return folder
        if archive:
            _prepare(source, root)
        else:
            downloaded = root / "downloads" / pathlib.Path(URL).name
            download(URL, SHA256, downloaded)
            _prepare(downloaded, root)
            downloaded.unlink()
    except OSError as error:
        raise UserError(
            f"IMDB cannot be prepared in {root}: {error}. Choose another folder with "
            "--config.data.dir=FOLDER."
        ) from error
    return folder


class Imdb:
    """IMDB as prepared by tensorflow-datasets; prepared now if it is not there yet.

    Args:
        dir: as `directory` in `find`, which lists the exceptions raised.
        archive: as in `find`.
        labelled: whether the unlabelled reviews are not needed, so that the identity ignores them.
    """

    name = "imdb_reviews"
    default_sizes: ClassVar = {"train": 15_000, "validation": 10_000, "test": 25_000}
    fingerprinted: ClassVar = {label: number for number, label in enumerate(LABELS)}

    def __init__(self, dir: str = "", archive: str = "", labelled: bool = True):
        self.folder = find(dir, archive)
        self._read_from = ("train", "test") if labelled else ("train", "test", "unsupervised")

    def identity(self) -> str:
        digest = hashlib.sha256()
        for split in self._read_from:
            paths = sorted(self.folder.glob(f"imdb_reviews-{split}.array_record-*"))
            if not paths:
                raise UserError(
                    f"{self.folder} has no {split} reviews in the array_record format. If it "
                    "was prepared in another format or is incomplete, prepare a second copy with "
                    "--config.data.dir=OTHER_FOLDER, or remove it."
                )
            try:
                for path in paths:
                    with open(path, "rb") as content:
                        digest.update(hashlib.file_digest(content, "sha256").digest())
            except OSError as error:
                raise UserError(f"IMDB cannot be read: {error}") from error
        return digest.hexdigest()

    def splits(self) -> tuple[str, ...]:
        return ("train", "test", UNLABELLED)

    def read(self, split: str) -> Examples:
        import tensorflow_datasets as tfds  # Slow to import, and not needed with a warm cache.

        own_name = "unsupervised" if split == UNLABELLED else split
        try:
            builder = tfds.builder_from_directory(self.folder)
            rows = list(builder.as_data_source(split=own_name))
            contents = {
                f"{split} review {number} in {self.folder}": row["text"]
                for number, row in enumerate(rows)
            }
            labels = [int(row["label"]) for row in rows]
        except Exception as error:  # A damaged file may make the libraries raise anything.
            raise UserError(
                f"the {split} reviews in {self.folder} cannot be read ({error}). "
                "Remove the folder to have it prepared again."
            ) from error
        size = SPLIT_SIZES[own_name]
        if split == UNLABELLED and len(rows) != size:
            expected = f"{size:,} reviews"
        elif split != UNLABELLED and [labels.count(n) for n in (0, 1)] != [size // 2, size // 2]:
            expected = f"{size // 2:,} negative and as many positive reviews"
        else:
            targets = None if split == UNLABELLED else [LABELS[label] for label in labels]
            return Examples.numbered(decode(contents), targets, f"{self.folder}, {split}")
        raise UserError(
            f"{self.folder} is not the IMDB data set: {split} must have {expected}. Remove the "
            "folder to have it prepared again."
        )


def download(url: str, sha256: str, path: pathlib.Path) -> None:
    """Downloads a file; an interrupted download resumes where it stopped.

    Raises:
        DownloadFailed: the network failed.
        UserError: the file downloaded is not the expected one; it is removed.
        OSError: it cannot be written.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    print(f"downloading {url} to {path.parent}", flush=True)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            if response.status != 206:  # A server that cannot resume sends the whole file.
                have = 0
            length = response.headers["Content-Length"]
            total = have + int(length) if length else None
            bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=None)
            with bar, open(part, "ab" if have else "wb") as file:
                while chunk := _receive(response):
                    file.write(chunk)
                    bar.update(len(chunk))
                if total is not None and file.tell() < total:
                    raise ConnectionError("it broke off; the same command resumes it")
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        ConnectionError,
        TimeoutError,
    ) as error:
        # 416: the partial file was already complete.
        if not (isinstance(error, urllib.error.HTTPError) and error.code == 416):
            raise DownloadFailed(
                f"{url} cannot be downloaded: {getattr(error, 'reason', error)}."
            ) from error
    with open(part, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        part.unlink()
        raise UserError(
            f"what {url} delivered is not the file it should be (SHA-256 {digest}, expected "
            f"{sha256}); it was removed. Try again, or name your own copy with "
            "--config.data.archive=FILE."
        )
    part.rename(path)


def _receive(response: http.client.HTTPResponse) -> bytes:
    """The next piece of a response; errors here are the network's fault, not the disk's."""
    try:
        return response.read(1 << 20)
    except OSError as error:
        raise ConnectionError(error) from error


def _prepare(archive: pathlib.Path, root: pathlib.Path) -> None:
    """Prepares the data set from an archive, in a temporary folder renamed when complete."""
    import tensorflow_datasets as tfds

    print(f"preparing IMDB from {archive} in {root}", flush=True)
    examples = _read_archive(archive)
    for left_over in root.glob(".preparing-imdb-*"):
        if time.time() - left_over.stat().st_mtime > _MAX_PREPARING_SECONDS:
            shutil.rmtree(left_over, ignore_errors=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=".preparing-imdb-", dir=root))
    try:
        tfds.disable_progress_bar()
        builder = tfds.builder("imdb_reviews", data_dir=temporary, file_format="array_record")
        # tensorflow-datasets' own generators import TensorFlow. These yield the same keys, which
        # decide the order of the examples, and the same examples.
        builder._split_generators = lambda _: {
            split: iter(of_split.items()) for split, of_split in examples.items()
        }
        with contextlib.redirect_stdout(io.StringIO()):  # It would print the temporary path.
            builder.download_and_prepare()
        (root / FOLDER).parent.mkdir(parents=True, exist_ok=True)
        try:
            (temporary / FOLDER).rename(root / FOLDER)
        except OSError:
            if not (root / FOLDER).exists():  # Otherwise another run was faster.
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_archive(archive: pathlib.Path) -> dict[str, dict[str, dict]]:
    """The examples of each split by key; raises UserError unless all are there."""
    if archive.is_file():
        with open(archive, "rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != SHA256:
                print(
                    f"note: {archive} is not the official file; its reviews are taken as they are"
                )
    examples: dict[str, dict[str, dict]] = {split: {} for split in SPLIT_SIZES}
    try:
        total = 0
        for file in (_files_in_tar if archive.is_file() else _files_in_folder)(archive):
            match = _REVIEW.fullmatch(file.name)
            total += file.size
            if (match and file.size > _MAX_REVIEW_BYTES) or total > _MAX_BYTES:
                raise _not_imdb(archive, f"up to {file.name!r} it holds far more than IMDB does")
            if not file.is_plain:
                raise _not_imdb(archive, f"{file.name!r} is a link or a device")
            path = pathlib.PurePosixPath(file.name)
            if path.is_absolute() or ".." in path.parts:
                raise _not_imdb(archive, f"{file.name!r} leads out of it")
            if match:
                folder, label, unlabelled = match.groups()
                split = "unsupervised" if unlabelled else folder
                text = file.read().strip()
                examples[split][file.name] = {"text": text, "label": label or -1}
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{archive} is damaged or incomplete ({error}). The right file is {URL}, "
            f"SHA-256 {SHA256}."
        ) from error
    sizes = {split: len(of_split) for split, of_split in examples.items()}
    if sizes != SPLIT_SIZES:
        raise _not_imdb(archive, f"it has {sizes} reviews, not {SPLIT_SIZES}")
    for of_split in examples.values():
        contents = {f"{name} of {archive}": one["text"] for name, one in of_split.items()}
        for example, decoded in zip(of_split.values(), decode(contents), strict=True):
            example["text"] = decoded.encode()
    return examples


class _File(NamedTuple):
    """A file in an archive.

    Attributes:
        name: its path in the archive.
        size: in bytes, including the archive's header for it.
        is_plain: whether it is neither a link nor a device.
        read: returns its content.
    """

    name: str
    size: int
    is_plain: bool
    read: Callable[[], bytes]


def _not_imdb(archive: pathlib.Path, reason: str) -> UserError:
    return UserError(
        f"{archive} is not the IMDB archive: {reason}. Nothing was taken from it. The right one is "
        f"{URL}, SHA-256 {SHA256}."
    )


def _files_in_tar(archive: pathlib.Path) -> Iterator[_File]:
    """The files in a tar file; nothing is extracted to disk."""
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:

            def read(member=member) -> bytes:
                content = tar.extractfile(member)
                assert content is not None
                return content.read()

            is_plain = member.isreg() or member.isdir()
            yield _File(member.name, tarfile.BLOCKSIZE + member.size, is_plain, read)


def _files_in_folder(archive: pathlib.Path) -> Iterator[_File]:
    """The files in an extracted `aclImdb/`, or in its parent folder."""
    if (archive / "aclImdb").is_dir():
        archive = archive / "aclImdb"
    for path in sorted(archive.glob("*/*/*.txt")):
        inside = [path, *path.parents][: len(path.relative_to(archive).parts)]
        is_plain = path.is_file() and not any(part.is_symlink() for part in inside)
        name = f"aclImdb/{path.relative_to(archive).as_posix()}"
        yield _File(name, path.lstat().st_size, is_plain, path.read_bytes)
