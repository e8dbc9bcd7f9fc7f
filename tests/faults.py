"""What becomes of runs that are killed, damaged, and given nonsense: a table.

python -m tests.faults --out=docs/faults.md
python -m tests.faults --kills=4 --corruptions=12 --sample=10

Kills a training program at random moments until each of its runs is finished, and compares what is
left with the run that nothing killed, byte for byte. Damages checkpoints and restores them. Starts
the programs with configs, folders and inputs that they cannot use. Anything but an answer or a
message of its own counts as a failure.
"""

import argparse
import concurrent.futures
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
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from configs import base
from train_lib import devices, loop, report
from train_lib.checkpoint import Checkpoints
from train_lib.errors import STOPPED, UserError, told_to_user
from train_lib.report import REPORTS

ROOT = pathlib.Path(__file__).parent.parent
SMALL = {
    "data.source": "generated", "data.train_reviews": 400, "data.validation_reviews": 20,
    "data.test_reviews": 20, "data.max_features": 200, "train.batch_size": 8,
    "train.num_epochs": 6, "train.seeds": 2, "train.checkpoint_every_steps": 1,
    "train.learning_rate": 0.01, "model.embedding_size": 8, "model.hidden_sizes": (8, 8),
}  # fmt: skip
"""Two seeds, two layers of both directions with dropout, 300 steps, and a save after every call."""

COMPARED = ("weights.npz", "best_weights.npz", "predictions.csv", "vocabulary.txt", "config.json")


def small_flags(**changes) -> list[str]:
    fields = SMALL | changes
    return ["--config=configs/stacked.py", *(f"--config.{f}={v}" for f, v in fields.items())]


def python(*arguments, stdin=b"", timeout=600):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, input=stdin, capture_output=True,
        timeout=timeout,
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


def kills(number: int, folder: pathlib.Path, rng: random.Random) -> dict:
    """SIGKILL, and every fifth time SIGTERM, at random moments of a run's life."""
    done = python("main.py", f"--workdir={folder / 'whole'}", *small_flags())
    assert done.returncode == 0, done.stderr.decode()
    start = time.monotonic()
    python("main.py", f"--workdir={folder / 'again'}", *small_flags())
    duration = time.monotonic() - start
    expected = contents(folder / "whole")
    counts = {"killed": 0, "while saving": 0, "asked to end": 0, "resumed": 0, "runs": 0}
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
                    counts["asked to end"] += 1
            counts["resumed"] += "goes on from step" in output
            finished = process.returncode == 0
            assert "Traceback" not in errors, errors
        bits += differing_bits(expected, contents(path))
        shutil.rmtree(path)
    return {
        "what": "a training program is killed (SIGKILL) or asked to end (SIGTERM)",
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
    models = loop.build_models(config)
    _, like = loop.prepare(config, models, devices.mesh(config.train.seeds))
    whole = folder / "saved"
    checkpoints = Checkpoints(whole)
    for step in (1, 2):
        state = jax.tree.map(lambda leaf, s=step: leaf + s if _is_number(leaf) else leaf, like)
        checkpoints.save(step, state, {"step": step})
    checkpoints.wait()
    counts = {"damaged": 0, "named, and passed over": 0, "silent": 0}
    for turn in range(number):
        copy = shutil.copytree(whole, folder / "damaged")
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
            counts["named, and passed over" if fell_back else "silent"] += 1
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
            "model.zoneout=2", "data.source=nope", "data.train_reviews=0",
            "data.train_reviews=3", "data.train_reviews=30000", "data.max_features=1",
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
        "what": "configs and commands that cannot be",
        **counts,
        "runs made of them": len(made),
    }


def bad_texts(sample: int | None, folder: pathlib.Path, rng: random.Random) -> dict:
    """Gives predict any bytes."""
    good = folder / "whole"
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
               "10 MB of bytes": "not in UTF-8"}  # fmt: skip
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
        "what": "predict is given nonsense, and files of 10 MB",
        **counts,
        "bits of results lost": differing_bits(before, contents(good)),
    }


def bad_folders(sample: int | None, folder: pathlib.Path, rng: random.Random) -> dict:
    """Gives every program folders of runs whose files were edited, and of none."""
    good = folder / "whole"
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
        "bits of results lost": differing_bits(before, contents(good)),
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


def _some(cases: list, sample: int | None, rng: random.Random) -> list:
    return cases if sample is None else rng.sample(cases, min(sample, len(cases)))


class Case(NamedTuple):
    """A program that is started.

    Attributes:
        arguments: of Python.
        stdin: what it is given to read.
        answered: whether it can do what it is asked to; else it is to say why not.
        word: what it is to name then.
    """

    arguments: Sequence[str]
    stdin: bytes = b""
    answered: bool = False
    word: str = ""


def _judge(cases: Sequence[Case]) -> dict:
    """Starts programs, two at a time, and counts what came of them; failures are printed."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda case: python(*case.arguments, stdin=case.stdin), cases))
    counts = {"given": len(results), "answered": 0, "refused with a message": 0, "failed": 0}
    for case, done in zip(cases, results, strict=True):
        errors = done.stderr.decode("utf-8", "replace")
        if case.answered:
            outcome = "answered" if done.returncode == 0 else "failed"
        else:
            is_told = done.returncode in (1, 2) and errors.strip() and case.word in errors
            outcome = "refused with a message" if is_told else "failed"
        if "Traceback" in errors:
            outcome = "failed"
        counts[outcome] += 1
        if outcome == "failed":
            print(f"FAILED {case}"[:2000], done.returncode, errors[-2000:], sep="\n", flush=True)
    return counts


def markdown(rows: list[dict], command: str) -> str:
    """A table of the rows' counts."""
    lines = [
        "# Faults", "", f"`{command}` on {report.describe_device()}:", "",
        "| what was done | how often, and what came of it |", "|---|---|",
    ]  # fmt: skip
    for row in rows:
        counts = ", ".join(f"{name} {value:,}" for name, value in row.items() if name != "what")
        lines.append(f"| {row['what']} | {counts} |")
    return "\n".join(lines) + "\n"


def is_clean(row: dict) -> bool:
    """Whether nothing in a row went wrong."""
    bad = ("differing bits", "silent", "failed", "runs made of them", "bits of results lost")
    return not any(row.get(name) for name in bad)


def run(kills_: int, corruptions_: int, sample: int | None, seed: int) -> list[dict]:
    """All rows of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        rows = []
        for part in (
            lambda: kills(kills_, folder, random.Random(seed)),
            lambda: corruptions(corruptions_, folder, np.random.default_rng(seed)),
            lambda: bad_configs(sample, folder, random.Random(seed)),
            lambda: bad_texts(sample, folder, random.Random(seed)),
            lambda: bad_folders(sample, folder, random.Random(seed)),
        ):
            rows.append(part())
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args(argv)
    devices.configure()
    rows = run(options.kills, options.corruptions, options.sample, options.seed)
    table = markdown(rows, " ".join(["python -m tests.faults", *argv]))
    print(f"\n{table}")
    if options.out:
        options.out.write_text(table, "utf-8")
    if not all(map(is_clean, rows)):
        raise UserError("something was lost, silent or without a message: see above.")


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
