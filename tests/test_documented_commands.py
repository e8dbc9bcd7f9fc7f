"""Every command in README.md and docs/, run as it stands there, on small data."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import uuid

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = {
    "python3 -m venv": "needs a network; `.ci/run` runs the one of the tests",
    "pip install": "needs a network",
    "tensorboard": "does not end",
    "python -m seqmodels.check_cell path/to/mine.py": "the same file is checked as leaky.py",
    "python -c": "needs a network: Keras downloads its word index",
    "python -m studies.padding": "takes hours; tests/studies runs it in small",
    "python -m studies.any_task": "tests/studies runs it, and the commands that need its data",
}
"""Commands that are not run here, by how they begin, and why."""
DATA_OF_STUDY = "--config.data.source=data/"
SMALL = (
    "--config.data.train_examples=16", "--config.data.validation_examples=8",
    "--config.data.test_examples=8",
    "--config.train.num_epochs=1", "--config.train.batch_size=8",
)  # fmt: skip
TEXTS = ("a good film", "a bad film", "it was good", "it was bad", "not dull but clever")


def blocks(page, language):
    """The blocks of a page in one language."""
    text = page.read_text("utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return [block for _, block in found]


def commands(page):
    """The words of each command: one a line, unless the line is continued or quoted to the next."""
    for block in blocks(page, "sh"):
        command = ""
        for line in block.replace("\\\n", " ").splitlines():
            command += f"{line}\n"
            try:
                words = shlex.split(command, comments=True)
            except ValueError:  # A quotation goes on.
                continue
            command = ""
            if words:
                yield words
        assert not command, f"{page.name} has an open quotation: {command}"


def reason_not_to_run(words):
    """Why a command is not run here; None if it is."""
    shown = " ".join(words)
    if DATA_OF_STUDY in shown:
        return "needs the data of a study"
    if "--submitit=slurm" in words:
        return "needs SLURM"
    if "--config.data.source=imdb" in words:
        return "needs IMDB; tests/train_lib/data/test_load_data.py reads it"
    return next((why for begin, why in NOT_RUN.items() if shown.startswith(begin)), None)


def small(words):
    """The arguments of this interpreter for a command, on small data."""
    assert words[0] in ("python", ".venv/bin/python"), words
    words = list(words[1:])
    takes_config = words[0] == "main.py" or words[:2] == ["-m", "train_lib.baselines"]
    takes_config |= any(word.startswith("--config=") for word in words)
    if takes_config:
        is_text = "--config.data.source=input.txt" in words
        is_named = any(word.startswith("--config.data.source=") for word in words)
        sizes = SMALL if not is_text else SMALL[3:]  # One text has its own parts.
        words += [*sizes, *(() if is_named else ("--config.data.source=generated",))]
        words = [re.sub(r"(train\.seeds)=\d+", r"\1=2", word) for word in words]
        words = [re.sub(r"(model\.hidden_sizes)=\(512,\)", r"\1=(8,)", word) for word in words]
        if "--config=configs/shakespeare.py" in words:
            words += ["--config.model.hidden_sizes=(8,)", "--config.train.stream_steps=16"]
    words = ["--trials=2" if word.startswith("--trials=") else word for word in words]
    return words


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs commands in one folder, which has what they speak of."""
    folder = tmp_path_factory.mktemp("documented")
    for name in ("configs", "main.py"):
        (folder / name).symlink_to(ROOT / name)
    rows = [f"{TEXTS[n % 5]} {n},{'bad' if n % 2 else 'good'},{n % 12}" for n in range(60)]
    for name in ("mine.csv", "other.csv"):
        (folder / name).write_text("\n".join(["text,label,author", *rows]))
    stars = [f"{row.partition(',')[0]},{n % 5 + 1},{n % 12}" for n, row in enumerate(rows)]
    (folder / "reviews.csv").write_text("\n".join(["text,stars,author", *stars]))
    play = "ROMEO:\nTo be, or not to be, that is the question.\n" * 40
    for name in ("input.txt", "other.txt", "play.txt", "log", "one_text_a_line.txt"):
        (folder / name).write_text(play[: 200 if name in ("play.txt", "log") else None])
    index = {word: rank for rank, word in enumerate("the a film good bad was it".split(), 1)}
    (folder / "index.json").write_text(json.dumps(index))
    numbers = " ".join(["0.1"] * 100)
    (folder / "glove.6B.100d.txt").write_text(f"good {numbers}\nfilm {numbers}\n")
    made = {"add_a_cell": "leaky.py", "add_a_source": "same_ends.py", "add_a_task": "stars.py"}
    for page, name in made.items():
        (folder / name).write_text(blocks(ROOT / f"docs/{page}.md", "python")[0])
    (folder / "path/to").mkdir(parents=True)
    (folder / "path/to/mine.py").write_text((folder / "leaky.py").read_text())
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/documented_server.py")],
        cwd=folder, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip

    def run_one(arguments, given=b""):
        said = folder / "said"
        said.write_bytes(b"")
        (folder / "given").write_bytes(given)
        print(json.dumps([arguments, "given", "said"]), file=server.stdin, flush=True)
        code = server.stdout.readline().strip()
        assert code == "0", f"python {shlex.join(arguments)}\n{said.read_text()[-4_000:]}"

    # Runs that one page trains and another asks; a cell as the only thing that differs.
    plays = ["main.py", "--config=configs/shakespeare.py", "--config.data.source=input.txt"]
    for words in (
        ["main.py", "--config=configs/lstm.py", "--workdir=runs/lstm"],
        ["main.py", "--config=configs/lstm.py", "--workdir=runs/bilstm", "--config.train.seed=1"],
        ["main.py", "--config=configs/lstm.py", "--workdir=runs/mine",
         "--config.data.source=mine.csv"],
        ["main.py", "--config=configs/stacked.py:tutorial", "--workdir=runs/stacked"],
        ["main.py", "--config=configs/lstm.py:tutorial", "--workdir=runs/padded"],
        ["-m", "train_lib.convert", "--workdir=runs/stacked", "--to=theirs.keras"],
        ["-m", "train_lib.convert", "--workdir=runs/padded", "--to=tutorial.keras"],
        [*plays, "--workdir=runs/plays"],
        [*plays, "--workdir=runs/plays-gru", "--config.model.cell=gru"],
    ):  # fmt: skip
        run_one(small(["python", *words]))
    run_one.folder = folder
    yield run_one
    server.stdin.close()
    server.wait(60)


def documented():
    """Each command once, with the first page that has it."""
    found = {}
    for page in PAGES:
        for words in commands(page):
            found.setdefault(tuple(words), page.stem)
    return [
        pytest.param(words, id=f"{page}-{number}")
        for number, (words, page) in enumerate(found.items())
        if reason_not_to_run(words) is None
    ]


@pytest.mark.parametrize("words", documented())
def test_it_runs(words, run):
    given = b""
    if words[0] == "tail":  # What stands in a file, in place of what is still to come.
        given = (run.folder / words[2]).read_bytes()
        words = words[4:]
    if "<" in words:
        place = words.index("<")
        given = (run.folder / words[place + 1]).read_bytes()
        words = words[:place]
    for word in words:  # Another page writes it, too.
        if word.startswith("--to="):
            path = run.folder / word.removeprefix("--to=")
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(True)
    known = {"runs/lstm", "runs/bilstm", "runs/mine", "runs/plays", "runs/plays-gru"}
    arguments = small(words)
    if arguments[0] == "main.py":  # A command whose folder is there already is another run.
        arguments = [
            f"{word}-{uuid.uuid4().hex}" if word.removeprefix("--workdir=") in known else word
            for word in arguments
        ]
    run(arguments, given)


def test_what_is_not_run_is_there():
    """No reason outlives its commands."""
    shown = [" ".join(words) for page in PAGES for words in commands(page)]
    for begin in NOT_RUN:
        assert any(one.startswith(begin) for one in shown), begin
