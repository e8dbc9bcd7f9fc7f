"""What becomes of runs that are killed, damaged, and given nonsense: a table.

python -m tests.faults --out=docs/faults.md
python -m tests.faults --kills=4 --corruptions=12 --sample=10
python -m tests.faults --rows=environments,encodings,pipes

Kills a training program at random moments until each of its runs is finished, and compares what is
left with the run that nothing killed, byte for byte. Damages checkpoints and restores them. Starts
the programs with configs, folders and inputs that they cannot use, and in surroundings of all
kinds: environment variables, encodings, names that are not UTF-8, readers that go away. Has models
trained, and answer, on data of every kind that cannot be used. Anything but an answer or a message
of its own counts as a failure.
"""

import argparse
import concurrent.futures
import functools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from configs import base
from tests.train_lib.data import bad_data
from train_lib import building
from train_lib.data.inputs import Text
from train_lib.data.vocabulary import Vocabulary
from train_lib.errors import STOPPED, UserError, told_to_user
from train_lib.records import environment
from train_lib.records.checkpoint import Checkpoints
from train_lib.records.folder import REPORTS
from train_lib.tasks.classes import Classes
from train_lib.training import devices, fitting, optimizers
from train_lib.training.program import Program

ROOT = pathlib.Path(__file__).parent.parent
SMALL = {
    "data.source": "generated", "data.train_examples": 400, "data.validation_examples": 20,
    "data.test_examples": 20, "data.max_features": 200, "train.batch_size": 8,
    "train.num_epochs": 6, "train.seeds": 2, "train.checkpoint_every_steps": 1,
    "train.learning_rate": 0.01, "model.embedding_size": 8, "model.hidden_sizes": (8, 8),
}  # fmt: skip
"""Two seeds, two layers of both directions with dropout, 300 steps, and a save after every call."""

COMPARED = (
    "model.safetensors",
    "best_model.safetensors",
    "predictions.csv",
    "vocabulary.txt",
    "config.json",
)


def small_flags(**changes) -> list[str]:
    fields = SMALL | changes
    return ["--config=configs/stacked.py", *(f"--config.{f}={v}" for f, v in fields.items())]


def python(*arguments, stdin=b"", timeout=600, env=None, shell='"$@"'):
    """Starts Python in a line of the shell, in which it is `"$@"`."""
    variables = {**os.environ, **(env or {})}
    variables = {name: value for name, value in variables.items() if value is not None}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}", "bash", sys.executable, *map(str, arguments)],
        cwd=ROOT, env=variables, input=stdin, capture_output=True, timeout=timeout,
    )  # fmt: skip


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """What must be the same whether a run was killed or not: all but the seconds it took."""
    found = {name: (folder / name).read_bytes() for name in COMPARED}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in (*rows, result := json.loads((folder / "result.json").read_text())):
        row.pop("seconds")
    return found | {
        "metrics.jsonl": json.dumps(rows).encode(), "result.json": json.dumps(result).encode()
    }  # fmt: skip


def differing_bits(one: dict[str, bytes], other: dict[str, bytes]) -> int:
    bits = 0
    for name, content in one.items():
        length = min(len(content), len(other[name]))
        pair = (np.frombuffer(side[:length], np.uint8) for side in (content, other[name]))
        bits += int(np.bitwise_count(np.bitwise_xor(*pair)).sum())
        bits += 8 * abs(len(content) - len(other[name]))
    return bits


def whole(folder: pathlib.Path) -> pathlib.Path:
    """The folder of a run that nothing has disturbed."""
    path = folder / "whole"
    if not path.exists():
        done = python("main.py", f"--workdir={path}", *small_flags())
        assert done.returncode == 0, done.stderr.decode()
    return path


def kills(number: int, folder: pathlib.Path, rng: random.Random) -> dict:
    """SIGKILL, and every fifth time SIGTERM, at random moments of a run's life."""
    expected = contents(whole(folder))
    start = time.monotonic()
    python("main.py", f"--workdir={folder / 'again'}", *small_flags())
    duration = time.monotonic() - start
    counts = {"killed": 0, "while saving": 0, "terminated": 0, "resumed": 0, "runs": 0}
    bits = differing_bits(expected, contents(folder / "again"))
    while counts["killed"] < number:
        path = folder / f"run{counts['runs']}"
        counts["runs"] += 1
        finished = False
        while not finished:
            process = subprocess.Popen(
                [sys.executable, "main.py", f"--workdir={path}", *small_flags()], cwd=ROOT,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            enough = counts["killed"] >= number
            try:
                output, errors = process.communicate(
                    timeout=None if enough else rng.uniform(0.3, 1.0) * duration
                )
            except subprocess.TimeoutExpired:
                ask = rng.random() < 0.2
                process.send_signal(signal.SIGTERM if ask else signal.SIGKILL)
                output, errors = process.communicate()
                if process.returncode == -signal.SIGKILL:
                    counts["killed"] += 1
                    hidden = [*(path / "checkpoints").glob(".*")]
                    counts["while saving"] += bool(hidden)
                elif process.returncode != 0:
                    # Before there is anything to save it ends as any program does.
                    assert process.returncode in (STOPPED, -signal.SIGTERM), errors
                    counts["terminated"] += 1
            counts["resumed"] += "resuming from step" in output
            finished = process.returncode == 0
            assert "Traceback" not in errors, errors
        bits += differing_bits(expected, contents(path))
        shutil.rmtree(path)
    return {
        "what": "a training program is killed (SIGKILL) or terminated (SIGTERM)",
        **counts,
        "differing bits": bits,
    }


def flip(rng, path, _files):
    content = bytearray(path.read_bytes())
    if content:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content or b"\0")


def truncate(rng, path, _files):
    os.truncate(path, rng.integers(path.stat().st_size) if path.stat().st_size else 1)


def delete(_rng, path, _files):
    path.unlink()


def swap(rng, path, files):
    others = [other for other in files if other != path]
    other = others[rng.integers(len(others))]
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


DAMAGES = flip, truncate, delete, swap
"""What may become of one of several files; each is told a generator, the file, and all of them."""


def corruptions(number: int, folder: pathlib.Path, rng: np.random.Generator) -> dict:
    """Damages one file of the newest of a run's two checkpoints, and restores."""
    config = base.get_config("small", "exact")
    config.update_from_flattened_dict(SMALL)
    config.model.dropout_rates = (0.3, 0.2)
    task, seeds = Classes(["0", "1"]), building.seeds_asked(config)
    models = building.build_models(config, Text(Vocabulary([]), "keras"), task, seeds)
    optimizer = optimizers.adam(1e-3, 1e-7)
    program = Program(models, task, optimizer, batch_size=config.train.batch_size)
    like = fitting.start(program, seeds).training
    intact = folder / "saved"
    checkpoints = Checkpoints(intact)
    for step in (1, 2):
        state = jax.tree.map(lambda leaf, s=step: leaf + s if _is_number(leaf) else leaf, like)
        checkpoints.save(step, state, {"step": step})
    checkpoints.wait()
    counts = {"damaged": 0, "reported and skipped": 0, "silent": 0}
    for turn in range(number):
        copy = shutil.copytree(intact, folder / "damaged")
        newest = max(copy.iterdir())
        files = sorted(path for path in newest.rglob("*") if path.is_file())
        before = [path.read_bytes() for path in files]
        damage = DAMAGES[turn % len(DAMAGES)]
        damage(rng, files[rng.integers(len(files))], files)
        if [path.read_bytes() if path.exists() else None for path in files] != before:
            counts["damaged"] += 1
            restored = Checkpoints(copy).restore(like)
            fell_back = restored.step == restored.position["step"] == 1 and all(
                np.array_equal(np.asarray(now), np.asarray(then) + 1)
                for now, then in zip(*map(jax.tree.leaves, (restored.state, like)), strict=True)
                if _is_number(now)
            )
            counts["reported and skipped" if fell_back else "silent"] += 1
        shutil.rmtree(copy)
    return {
        "what": "a file of the newest checkpoint is damaged: bit flipped, cut, deleted, swapped",
        **counts,
    }


def _is_number(leaf: jax.Array) -> bool:
    return not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


BAD_CONFIGS = [
    [], ["--config="], ["--config=none.py"], ["--config=configs"], ["--config=/dev/null"],
    ["--config=README.md"], ["--config=configs/lstm.py:nope"], ["--config=configs/lstm.py:"],
    ["--config=configs/base.py"], ["--config=configs/lstm.py", "stray"],
    ["--config=configs/lstm.py", "--unknown=1"], ["--config=configs/lstm.py", "--config.x=1"],
    ["--config=configs/lstm.py", "--config.train.num_epoch=1"],
    *(
        ["--config=configs/lstm.py", f"--config.{change}"]
        for change in (
            "train.num_epochs=0", "train.num_epochs=-4", "train.num_epochs=1.5",
            "train.num_epochs=many", "train.learning_rate=nan", "train.learning_rate=0",
            "train.learning_rate=inf", "train.learning_rate=-1", "train.batch_size=0",
            "train.seed=-1", "train.seed=99999999999", "train.seeds=0", "train.seeds=100000",
            "train.clip_norm=-1", "train.checkpoint_every_seconds=-1",
            "train.checkpoints_kept=0", "model.cell=nope", "model.cell=none.py",
            "model.cell=/dev/null", "model.cell=README.md", "model.cell=main.py",
            "model.cell_options=forget_bias", "model.cell_options=nope=1",
            "model.cell_options=__import__('os')", "model.hidden_sizes=()",
            "model.hidden_sizes=(0,)", "model.hidden_sizes=16.5", "model.hidden_sizes=(16,16)",
            "model.direction=sideways", "model.dropout_rates=(1.0,)", "model.pooling=nope",
            "model.engine=fast", "model.engine=cudnn", "model.matrix_dtype=float8",
            "model.zoneout=2", "data.source=nope", "data.train_reviews=4",
            "data.train_examples=-3", "data.test_examples=0.5", "data.max_features=1",
            "data.max_length_tokens=-1", "data.padding_side=middle", "data.split_seed=-1",
            "data.mask_padding=perhaps", "name=a/b",
        )
    ),
    ["--config=configs/lstm.py", "--workdir=/proc/none"],
    ["--config=configs/lstm.py", "--workdir=/dev/null/x"],
    ["--config=configs/lstm.py", "--config.data.source=imdb", "--config.data.dir=/dev/null/x",
     "--config.data.archive=none.tar.gz"],
    ["--workdir=/tmp"],
]  # fmt: skip


def bad_configs(sample: int | None, folder: pathlib.Path, rng: random.Random) -> dict:
    """Starts runs that cannot be; each beside a finished one, whose files must stay."""
    commands = [
        arguments
        if any(word.startswith("--workdir") for word in arguments)
        else [*arguments, f"--workdir={folder / f'refused{number}'}"]
        for number, arguments in enumerate(_some(BAD_CONFIGS, sample, rng))
    ]
    counts = _judge([Case(("main.py", *arguments)) for arguments in commands])
    made = [*folder.glob("refused*/result.json")]
    return {
        "what": "configs and commands are impossible",
        **counts,
        "runs left behind": len(made),
    }


def bad_texts(sample: int | None, folder: pathlib.Path, rng: random.Random) -> dict:
    """Gives predict any bytes."""
    good = whole(folder)
    before = contents(good)
    noise = np.random.default_rng(0)
    texts = {
        "empty lines": b"\n\n\n", "a space": b" ", "NUL": b"\0", "NULs": b"\0" * 1000,
        "not UTF-8": b"\xff\xfe\xfa", "cut UTF-8": "é".encode()[:1], "a BOM": b"\xef\xbb\xbfgood",
        "UTF-16": "a good film".encode("utf-16"), "emoji": "🙂🎬".encode() * 50,
        "right to left": "فيلم جيد".encode(), "combining": "e\u0301".encode() * 500,
        "all unknown": b"zzz qqq xxx " * 300, "one long word": b"a" * 1_000_000,
        "10 MB of words": b"good film " * 1_000_000, "10 MB of bytes": noise.bytes(10_000_000),
        "10 MB, and short ones": b"good film " * 1_000_000 + b"\ngood" * 100,
        "HTML": b"<br /><br /><script>alert(1)</script>", "tabs": b"\t\t\t", "CR": b"a\rb\rc\r\n",
        "a CSV": b'"a","b"\n1,2\n', "digits": b"1234567890 " * 100, "a format": b"%s%n{0}{}",
        "many lines": b"good\n" * 5_000, "control codes": bytes(range(32)), "marks": b"!?.,;:-",
        "nothing": b"",
    }  # fmt: skip
    refused = {"nothing": "empty", "UTF-16": "UTF-16", "not UTF-8": "UTF-16",
               "10 MB of bytes": "not UTF-8"}  # fmt: skip
    cases = [
        Case(
            ("-m", "train_lib.predict", f"--workdir={good}", "-"),
            text,
            name not in refused,
            refused.get(name, ""),
        )
        for name, text in texts.items()
    ]
    counts = _judge(_some(cases, sample, rng))
    return {
        "what": "predict is given nonsense and files of 10 MB",
        **counts,
        "result bits lost": differing_bits(before, contents(good)),
    }


def bad_files(sample: int | None, folder: pathlib.Path, rng: random.Random) -> dict:
    """Trains on data that cannot be used; none may leave a run behind."""
    known = base.get_config("any", "exact").data
    cases = []
    for number, (_, name, content, fields, told) in enumerate(bad_data.CASES):
        place = folder / f"data-{number}"
        place.mkdir()
        bad_data.write(place / name, content)
        options = {field: value for field, value in fields.items() if field not in known}
        flags = [f"--config.data.{field}={fields[field]}" for field in fields.keys() - options]
        if options:
            told_options = ", ".join(f"{field}={value!r}" for field, value in options.items())
            flags.append(f"--config.data.source_options={told_options}")
        source = name if name.startswith("tfds:") else place / name
        flags += [f"--config.data.source={source}", f"--workdir={folder / f'of-data-{number}'}"]
        env = {"TFDS_DATA_DIR": str(place)}
        cases.append(Case(("main.py", "--config=configs/lstm.py", *flags), word=told, env=env))
    counts = _judge(_some(cases, sample, rng))
    made = [*folder.glob("of-data-*")]
    return {
        "what": "data files of every kind are unusable",
        **counts,
        "runs left behind": len(made),
    }


def bad_folders(sample: int | None, folder: pathlib.Path, rng: random.Random) -> dict:
    """Gives every program folders of runs whose files were edited, and of none."""
    good = whole(folder)
    before = contents(good)
    noise = np.random.default_rng(0)
    cases = []
    for name in REPORTS:
        if not (good / name).exists():
            continue
        for kind in ("gone", "empty", "cut", "flipped", "noise", "other"):
            copy = folder / f"edited-{len(cases)}"
            shutil.copytree(good, copy, ignore=shutil.ignore_patterns("checkpoints"))
            _edit(copy / name, kind, noise)
            programs = (
                ("-m", "train_lib.predict", f"--workdir={copy}", "a good film"),
                ("-m", "train_lib.compare", str(good), str(copy)),
                ("main.py", f"--workdir={copy}", *small_flags()),
            )
            # So that each meets every kind of damage.
            cases.append(Case(programs[(len(cases) + len(cases) // 6) % 3], word=name))
    cases += [
        Case(("-m", "train_lib.predict", "--workdir=/none", "text"), word="/none"),
        Case(("-m", "train_lib.predict", f"--workdir={folder}", "text"), word=str(folder)),
        Case(("-m", "train_lib.predict", f"--workdir={good}"), word="text"),
        Case(("-m", "train_lib.compare", str(good), str(good)), word="twice"),
        Case(("-m", "train_lib.compare", str(good)), word="two"),
        Case(("-m", "train_lib.compare", str(good), "/dev/null"), word="/dev/null"),
        Case(("main.py", f"--workdir={folder / 'none'}"), word="--config"),
    ]
    counts = _judge(_some(cases, sample, rng))
    return {
        "what": "predict, compare and main.py are given run folders in which one file was edited",
        **counts,
        "result bits lost": differing_bits(before, contents(good)),
    }


def _edit(path: pathlib.Path, kind: str, noise: np.random.Generator) -> None:
    content = path.read_bytes()
    if kind == "gone":
        path.unlink()
        return
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]
    path.write_bytes(
        {
            "empty": b"", "cut": content[:middle], "flipped": flipped, "noise": noise.bytes(500),
            "other": b"[1, 2, 3]",
        }[kind]
    )  # fmt: skip


class Case(NamedTuple):
    """A program that is started.

    Attributes:
        arguments: of Python.
        stdin: what it is given to read.
        answered: whether it can do what it is asked to; else it is to say why not.
        word: what it is to name then.
        env: variables of its environment; None: it has no such variable.
        shell: the line that starts it, in which it is `"$@"`.
        run: the folder of the run that it makes, which must be as if nothing had been wrong.
    """

    arguments: Sequence[str]
    stdin: bytes = b""
    answered: bool = False
    word: str = ""
    env: Mapping[str, str | None] = {}
    shell: str = '"$@"'
    run: pathlib.Path | None = None


TINY = SMALL | {
    "data.train_examples": 40, "train.num_epochs": 1, "train.seeds": 1,
    "train.checkpoint_every_steps": 0, "model.embedding_size": 4, "model.hidden_sizes": (4,),
    "model.dropout_rates": (0.2,),
}  # fmt: skip
"""One epoch of five steps, dropout among them."""

CELL = b"""# coding: latin-1
from seqmodels.cells.simple_rnn import SimpleRNN


class Mine(SimpleRNN):
    '''M\xfcller's.'''
"""
"""A cell of a user's own, in a file that is not UTF-8."""


class Programs:
    """The commands of all programs, for a folder in which two tiny runs are finished.

    Attributes:
        good: one of them.
        expected: what is in it.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder, self._made = folder, 0
        self.good, self._other = folder / "tiny", folder / "other-tiny"
        if not self._other.exists():
            for path, seed in ((self.good, 0), (self._other, 1)):
                done = python(*self.train(path, **{"train.seed": seed}))
                assert done.returncode == 0, done.stderr.decode()
        self.expected = contents(self.good)

    def new(self) -> pathlib.Path:
        """A folder that is not there."""
        self._made += 1
        return self._folder / f"made-{os.urandom(4).hex()}-{self._made}"

    def train(self, path: pathlib.Path | str, program: Sequence[str] = ("main.py",), **changes):
        """A program that takes an experiment."""
        return (*program, f"--workdir={path}", *small_flags(**TINY | changes))

    def predict(self, *texts: str):
        return ("-m", "train_lib.predict", f"--workdir={self.good}", *(texts or ("a good film",)))

    def compare(self):
        runs = map(str, (self.good, self._other))
        return ("-m", "train_lib.compare", *runs, f"--out={self.new()}")

    def sweep(self):
        of_sweep = ("-m", "train_lib.sweep", "--over=train.learning_rate=0.01")
        return self.train(self.new(), of_sweep)

    def baselines(self):
        return self.train(self.new(), ("-m", "train_lib.baselines"))

    def check_cell(self):
        return ("-m", "seqmodels.check_cell", "simple_rnn")

    def main(self, **case) -> Case:
        """A training that is answered, and comes out as ever."""
        path = self.new()
        return Case(self.train(path), answered=True, run=path, **case)

    def all(self, **case) -> list[Case]:
        """Every program, answered."""
        others = self.predict, self.compare, self.sweep, self.baselines, self.check_cell
        return [self.main(**case), *(Case(each(), answered=True, **case) for each in others)]

    def judge(self, cases: Sequence[Case]) -> dict:
        """What came of cases, and whether the runs that they made are as they should be."""
        counts = _judge(cases)
        made = [case.run for case in cases if case.run and (case.run / "result.json").exists()]
        bits = sum(differing_bits(self.expected, contents(path)) for path in made)
        bits += differing_bits(self.expected, contents(self.good))
        asked = sum(case.run is not None for case in cases)
        return counts | {"differing bits": bits, "runs lost": asked - len(made)}


OF_JAX = {
    "JAX_ENABLE_X64": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0", "JAX_RANDOM_SEED_OFFSET": "5", "JAX_DISABLE_JIT": "1",
    "JAX_DEBUG_NANS": "1", "JAX_DEBUG_INFS": "1", "JAX_NO_TRACING": "1",
    "JAX_NUM_CPU_DEVICES": "3", "JAX_DEFAULT_DTYPE_BITS": "64", "JAX_ENABLE_CUSTOM_PRNG": "1",
    "JAX_TRANSFER_GUARD": "disallow", "JAX_DEFAULT_DEVICE": "gpu", "JAX_DEBUG_KEY_REUSE": "1",
    "JAX_ERROR_CHECKING_BEHAVIOR_NAN": "raise",
}  # fmt: skip
"""Variables that would change numbers, or end a program that is sound."""

OF_THE_SYSTEM = {
    "XDG_CACHE_HOME": "/dev/null", "HOME": "/dev/null", "TMPDIR": "/none",
    "JAX_COMPILATION_CACHE_DIR": "/dev/null", "MPLBACKEND": "nonsense", "COLUMNS": "0",
    "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "nonsense", "TZ": "nonsense",
}  # fmt: skip

UNREADABLE = {
    "JAX_ENABLE_X64": "maybe", "JAX_NUMPY_DTYPE_PROMOTION": "nonsense",
    "JAX_NUM_CPU_DEVICES": "many", "JAX_DEFAULT_PRNG_IMPL": "nonsense",
    "JAX_DEFAULT_MATMUL_PRECISION": "nonsense", "FLAX_PROFILE": "nonsense",
    "JAX_PLATFORMS": "nonsense", "XLA_FLAGS": "--nonsense=1", "TQDM_MININTERVAL": "abc",
    "MPLCONFIGDIR": "gs://bucket/folder", "XDG_CACHE_HOME": "s3://bucket/folder",
    "XDG_CONFIG_HOME": "hdfs://host/folder",
}  # fmt: skip
"""Variables that a library cannot use, or addresses."""


def environments(sample: int | None, folder: pathlib.Path, rng: random.Random) -> dict:
    """Starts every program with environment variables that it cannot use, or must not heed."""
    programs = Programs(folder)
    cases = [*programs.all(env=OF_JAX), *programs.all(env=OF_THE_SYSTEM)]
    cases += [programs.main(env={name: value}) for name, value in OF_JAX.items()]
    for env in (
        {"JAX_PLATFORMS": ""}, {"HOME": None}, {"JAX_COMPILATION_CACHE_DIR": "/proc/none"},
        {"PYTHONOPTIMIZE": "2"}, {"PYTHONUNBUFFERED": "1"},
    ):  # fmt: skip
        cases.append(programs.main(env=env))
    for number, (name, value) in enumerate(UNREADABLE.items()):
        arguments = (
            programs.train(programs.new()), programs.predict(), programs.check_cell(),
            programs.sweep(),
        )[number % 4]  # fmt: skip
        if name == "XDG_CACHE_HOME":  # A cell's check keeps nothing there.
            arguments = programs.train(programs.new())
        cases.append(Case(arguments, word=value, env={name: value}))
    for platforms in ("tpu", "cpu,nonsense"):
        word = f"JAX_PLATFORMS={platforms}"
        for arguments in (programs.train(programs.new()), programs.check_cell()):
            cases.append(Case(arguments, word=word, env={"JAX_PLATFORMS": platforms}))
    counts = programs.judge(_some(cases, sample, rng))
    return {"what": "every program is given all kinds of environment variables", **counts}


def encodings(sample: int | None, folder: pathlib.Path, rng: random.Random) -> dict:
    """Has every program print in any encoding, and read names and files of any."""
    programs = Programs(folder)
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    cases = [*programs.all(env={"PYTHONIOENCODING": "ascii"}), *programs.all(env=plain)]
    texts = "a sch\u00f6n film \U0001f642", "\u202e\u2028"
    for encoding in ("ascii", "ascii:strict", "cp1252", "latin-1:strict", "utf-16", "cp437"):
        env = {"PYTHONIOENCODING": encoding}
        cases.append(Case(programs.predict(*texts), answered=True, env=env))
    not_utf8 = f"{folder}/\udcff"
    for name in ("\udcff", "a\nb", "\x1b[31m", "..", "x" * 201, "\u202e", "\x7f"):
        arguments = programs.train(programs.new(), name=name)
        cases.append(Case(arguments, word="config.name"))
    cases.append(Case(programs.train(programs.new(), name="na\u00efve $x^$"), answered=True))
    for path, word in ((not_utf8, "UTF-8"), ("x" * 300, "x" * 300), ("/dev/null/\n", "/dev/null")):
        for program in (("main.py",), ("-m", "train_lib.sweep", "--over=model.pooling=last")):
            cases.append(Case(programs.train(path, program), word=word))
        cases.append(Case(("-m", "train_lib.predict", f"--workdir={path}", "text"), word=word))
        cases.append(Case((*programs.compare()[:-1], path), word=word))
    cases.append(Case(programs.train(folder / "two\nlines"), answered=True))
    for option in ("data.dir", "model.cell"):
        arguments = programs.train(programs.new(), **{option: f"{not_utf8}.py"})
        cases.append(Case(arguments, word=f"config.{option}"))
    cases.append(Case(("main.py", "--unknown=\udcff"), word="unknown"))
    again = []
    for number, (content, is_readable) in enumerate(
        (
            (CELL, True), (CELL.replace(b"latin-1", b"utf-8"), False), (CELL + b"\0", False),
            (b"\xef\xbb\xbf" + CELL.replace(b"latin-1", b"utf-8").replace(b"\xfc", b"u"), True),
            (CELL.decode("latin-1").encode("utf-16"), False), (CELL + b"raise SystemExit\n", False),
        )
    ):  # fmt: skip
        path, run_folder = folder / f"cell-{number}.py", programs.new()
        path.write_bytes(content)
        case = Case(
            programs.train(run_folder, **{"model.cell": path}), answered=is_readable, word=path.name
        )
        cases.append(case)
        if is_readable:
            again += [case, Case(("main.py", f"--workdir={run_folder}"), answered=True)]
        else:
            cases.append(Case(("-m", "seqmodels.check_cell", str(path)), word=path.name))
    os.makedirs(os.fsencode(not_utf8), exist_ok=True)
    bad = os.path.join(not_utf8, "cell.py")
    with open(bad, "wb") as file:
        file.write(CELL)
    cases.append(Case(("-m", "seqmodels.check_cell", bad), word="UTF-8"))
    chosen = _some(cases, sample, rng)
    counts = programs.judge(chosen)
    # The second start of the same command, when the first has ended.
    for name, value in programs.judge([case for case in again if again[0] in chosen]).items():
        counts[name] += value
    return {
        "what": "programs print in any encoding and are given names and cells in any",
        **counts,
    }


STREAMS = {
    "a reader that takes a line": '"$@" | head -1', "one that takes none": '"$@" | true',
    "one that takes none of both": '"$@" 2>&1 | true', "closed output": '"$@" >&-',
    "closed errors": '"$@" 2>&-', "all closed": '"$@" <&- >&- 2>&-',
}  # fmt: skip
"""What may become of a program's streams at no loss to its user."""


def pipes(sample: int | None, folder: pathlib.Path, rng: random.Random) -> dict:
    """Takes every program's output away."""
    programs = Programs(folder)
    cases = [case for line in STREAMS.values() for case in programs.all(shell=line)[:-1]]
    cases += [
        Case(programs.check_cell(), answered=True, shell=STREAMS["a reader that takes a line"]),
        Case((*programs.check_cell()[:-1], "nope"), shell='"$@" | cat', word="nope"),
        Case((*programs.predict()[:-1], "-"), b"good\n" * 5_000, answered=True,
             shell=STREAMS["a reader that takes a line"]),
        Case((*programs.predict()[:-1], "-"), word="empty", shell='"$@" <&-'),
    ]  # fmt: skip
    on_a_full_disk = [
        case._replace(answered=False, word="No space left on device")
        for case in programs.all(shell='"$@" >/dev/full')[:-1]
    ]
    for program in (("main.py", "--help"), ("-m", "train_lib.predict", "--help")):
        on_a_full_disk.append(
            Case(program, word="No space left on device", shell='"$@" >/dev/full')
        )
    counts = programs.judge(_some([*cases, *on_a_full_disk], sample, rng))
    return {"what": "a program's output is closed or full, or its reader goes away", **counts}


def _some(cases: list, sample: int | None, rng: random.Random) -> list:
    return cases if sample is None else rng.sample(cases, min(sample, len(cases)))


def _judge(cases: Sequence[Case]) -> dict:
    """Starts programs, two at a time, and counts what came of them; failures are printed."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(
            pool.map(
                lambda case: python(
                    *case.arguments, stdin=case.stdin, env=case.env, shell=case.shell
                ),
                cases,
            )
        )
    counts = {"cases": len(results), "answered": 0, "refused with a message": 0, "failed": 0}
    for case, done in zip(cases, results, strict=True):
        is_check = "seqmodels.check_cell" in case.arguments  # That prints what is wrong.
        errors = (done.stderr + (done.stdout if is_check else b"")).decode("utf-8", "replace")
        if case.answered:
            outcome = "answered" if done.returncode == 0 else "failed"
        else:
            is_told = done.returncode in (1, 2) and errors.strip() and case.word in errors
            outcome = "refused with a message" if is_told else "failed"
        if "Traceback" in errors or "Exception ignored" in errors:
            outcome = "failed"
        counts[outcome] += 1
        if outcome == "failed":
            print(f"FAILED {case}"[:2000], done.returncode, errors[-2000:], sep="\n", flush=True)
    return counts


def markdown(rows: list[dict], command: str) -> str:
    """A table of the rows' counts."""
    lines = [
        "# Faults", "", f"`{command}` on {environment.describe_device()}:", "",
        "| what was done | outcomes |", "|---|---|",
    ]  # fmt: skip
    for row in rows:
        counts = ", ".join(f"{name} {value:,}" for name, value in row.items() if name != "what")
        lines.append(f"| {row['what']} | {counts} |")
    return "\n".join(lines) + "\n"


def is_clean(row: dict) -> bool:
    """Whether nothing in a row went wrong."""
    bad = (
        "differing bits", "silent", "failed", "runs left behind", "result bits lost",
        "runs lost",
    )  # fmt: skip
    return not any(row.get(name) for name in bad)


ROWS = (
    "kills", "corruptions", "bad_configs", "bad_texts", "bad_files", "bad_folders", "environments",
    "encodings", "pipes",
)  # fmt: skip


def run(
    kills_: int, corruptions_: int, sample: int | None, seed: int, names: Sequence[str] = ROWS
) -> list[dict]:
    """Rows of the table, by their names."""
    judged = bad_configs, bad_texts, bad_files, bad_folders, environments, encodings, pipes
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        of_rows = {
            "kills": lambda: kills(kills_, folder, random.Random(seed)),
            "corruptions": lambda: corruptions(corruptions_, folder, np.random.default_rng(seed)),
            **{
                made.__name__: functools.partial(made, sample, folder, random.Random(seed))
                for made in judged
            },
        }
        rows = []
        for name in names:
            rows.append(of_rows[name]())
            print(rows[-1], flush=True)
        return rows


def main(argv) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--corruptions", type=int, default=200)
    parser.add_argument("--sample", type=int, help="of bad configs and inputs; all by default")
    parser.add_argument("--rows", default=",".join(ROWS), help="separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args(argv)
    devices.configure()
    names = options.rows.split(",")
    rows = run(options.kills, options.corruptions, options.sample, options.seed, names)
    table = markdown(rows, " ".join(["python -m tests.faults", *argv]))
    print(f"\n{table}")
    if options.out:
        options.out.write_text(table, "utf-8")
    if not all(map(is_clean, rows)):
        raise UserError("something was lost, silent or without a message: see above.")


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
