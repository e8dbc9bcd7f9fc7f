"""Asks a finished run about your own texts.

python -m train_lib.predict --workdir=runs/stacked-... "A film to forget." "A delight."
python -m train_lib.predict --workdir=runs/stacked-... --best - < one_text_a_line.txt
python -m train_lib.predict --workdir=runs/stacked-... --data=mine.csv --out=answers.csv
tail -f log | python -m train_lib.predict --workdir=runs/lstm-... --stream
python -m train_lib.predict --workdir=runs/lstm-... --explain --html=why.html "A film to forget."

Data can be anything that `config.data.source` may name; the answers go into a table beside their
columns. `--stream` answers after every step, as its input arrives. `--explain` shows which words
moved each answer.
"""

import argparse
import csv
import io
import itertools
import json
import pathlib
import re
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from seqmodels import program
from train_lib import explaining, files, screen, streaming
from train_lib.data.readers.base import Files
from train_lib.encoding import decode, decode_lines, escape
from train_lib.errors import UserError, told_to_user
from train_lib.records import predictions
from train_lib.restored import Restored
from train_lib.training import devices


def predict(workdir: str, texts: Sequence[str], *, best: bool = False) -> list[str]:
    """A finished run's answer to each text, as readable text.

    Args:
        workdir: the run's folder.
        texts: texts of any length.
        best: use each seed's best epoch by validation.

    Raises:
        UserError: `workdir` is not the folder of a finished run on texts, or its files were
            damaged.
    """
    restored = Restored(workdir, best=best)
    restored.reads_texts()
    split = restored.encode(texts, lambda number: f"text {number + 1}")
    return restored.describe(split)


def predict_data(workdir: str, path: str, out: str, *, best: bool = False) -> int:
    """Writes a finished run's answers to data beside their columns; returns how many.

    Args:
        workdir: the run's folder.
        path: a file or folder of data; targets are optional.
        out: the CSV file to write.
        best: use each seed's best epoch by validation.

    Raises:
        UserError: as for `predict`; or the data cannot be read, or `out` exists already.
    """
    target = _new_file("--out", out)
    restored = Restored(workdir, best=best)
    split, source, name = restored.read(path, labelled=False)
    columns = restored.columns(split)
    beside = source.columns(name) if isinstance(source, Files) else {}
    beside = beside or {"row": split.row_names}
    names = [*beside]
    for one in columns:
        numbered = (f"{one}_{number}" for number in itertools.count(2))
        names.append(one if one not in names else next(n for n in numbered if n not in names))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    answers = zip(*columns.values(), strict=True)
    for row, answer in zip(zip(*beside.values(), strict=True), answers, strict=True):
        writer.writerow([*map(_as_it_was, row), *map(predictions.shown, answer)])
    _write("--out", target, buffer.getvalue())
    return len(split)


def _new_file(flag: str, name: str) -> pathlib.Path:
    """The path of a new file that can be created."""
    target = files.local(name)
    if target.exists():
        raise UserError(
            f"{flag}={name} already exists and will not be overwritten; choose another name."
        )
    if not target.parent.is_dir():
        raise UserError(f"{flag}={name} cannot be written: {target.parent} is not a folder.")
    return target


def _write(flag: str, target: pathlib.Path, content: str) -> None:
    try:
        files.write(target, content)
    except OSError as error:
        raise UserError(f"{flag}={target} cannot be written: {error.strerror or error}.") from error


def answer_stream(workdir: str, lines: Iterable[bytes], *, best: bool = False) -> Iterator[str]:
    """Yields a finished run's answer after every step, as lines arrive.

    Args:
        workdir: the run's folder.
        lines: the input, as `streaming.answers` reads it.
        best: use each seed's best epoch by validation.

    Raises:
        UserError: as for `predict`; or the models need the end first, or a line cannot be read.
    """
    restored = Restored(workdir, best=best)
    decoded = decode_lines(lines, "the input")
    return streaming.answers(restored.stream(), decoded, ends=not restored.reads_streams)


def explain(
    workdir: str, texts: Sequence[str], page: str | None, argv: Sequence[str], *, best: bool = False
) -> None:
    """Shows which words moved a finished run's answer to each text.

    Args:
        workdir: the run's folder.
        texts: texts of any length.
        page: an HTML file to write as well.
        argv: the command line, which the page shows.
        best: use each seed's best epoch by validation.

    Raises:
        UserError: as for `predict`; or the run does not give one answer per text, or `page` exists
            already or cannot be written.
    """
    target = None if page is None else _new_file("--html", page)
    restored = Restored(workdir, best=best)
    explanations = []
    for text in texts:
        one = explaining.explain(restored, text)
        print(f"{one.answer}  {_shortened(text)}")
        screen.show_words(
            [escape(word) for word in one.words], one.strengths_T.tolist(), one.named()
        )
        explanations.append(one)
    if target:
        command = shlex.join(["python", "-m", "train_lib.predict", *argv])
        _write("--html", target, explaining.page(explanations, command))


def _as_it_was(value: Any) -> Any:
    """A value of the data, with all its digits; as JSON if CSV has no form for it."""
    if isinstance(value, list | dict | bool):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value


def _read_arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options and the texts, which may begin with a dash."""
    parser = argparse.ArgumentParser(
        prog="python -m train_lib.predict",
        usage="%(prog)s --workdir FOLDER [--best] "
        "([--explain [--html FILE]] text ... | --data DATA --out FILE | --stream)",
        description="Asks a finished run about texts. The text - reads one text per line from "
        "the input, and after -- all arguments are texts.", add_help=False, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--help", action="help", help="show this help")
    parser.add_argument("--workdir", required=True, help="the folder of a finished run")
    parser.add_argument(
        "--best", action="store_true", help="use each seed's best epoch by validation"
    )
    parser.add_argument("--data", help="a file or folder of data instead of texts")
    parser.add_argument("--out", help="the CSV file for the answers to --data")
    parser.add_argument(
        "--stream", action="store_true", help="read the input as it arrives: texts line by line, "
        "each ended by an empty line, or one token number or vector per line; answer after every "
        "step",
    )  # fmt: skip
    parser.add_argument(
        "--explain", action="store_true", help="show which words moved each answer, by leaving "
        "each out in turn",
    )  # fmt: skip
    parser.add_argument("--html", help="an HTML file to write this to as well")
    end = argv.index("--") if "--" in argv else len(argv)
    # With -h as an option, argparse would take "-horrible" for it.
    options = ["--help" if argument == "-h" else argument for argument in argv[:end]]
    arguments, texts = parser.parse_known_args(options)
    for text in texts:
        if re.fullmatch(r"--\S+", text):  # A mistyped option is not a text.
            parser.error(f"{text} is not an option; to ask about it as a text, write it after --")
    texts += argv[end + 1 :]
    if (arguments.data is None) != (arguments.out is None):
        parser.error("--data and --out must be given together")
    if arguments.html and not arguments.explain:
        parser.error("--html is for --explain")
    if arguments.explain and (arguments.stream or arguments.data):
        parser.error("--explain is for texts: no --data, no --stream")
    if arguments.stream:
        if texts or arguments.data:
            parser.error("--stream reads the input alone: no texts, no --data")
    elif bool(texts) == bool(arguments.data):
        parser.error("a text is missing" if not texts else "there are texts beside --data")
    return arguments, texts


def _lines(text: str) -> list[str]:
    """The lines of a text, each ended by `\\n`, `\\r\\n` or `\\r`, and by nothing else."""
    lines = re.split(r"\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def main(argv: Sequence[str]) -> None:
    texts: list[str] = []
    arguments, given = _read_arguments(argv)
    if arguments.data:
        devices.configure()
        count = predict_data(arguments.workdir, arguments.data, arguments.out, best=arguments.best)
        print(f"{count:,} answers in {arguments.out}")
        return
    if arguments.stream:
        # There is nothing to save, and an interrupt as an exception could get lost in a callback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        devices.configure()
        for line in answer_stream(arguments.workdir, sys.stdin.buffer, best=arguments.best):
            print(line, flush=True)
            if not program.has_reader():
                return
        return
    for number, text in enumerate(given, 1):
        if text == "-":
            texts += _lines(*decode({"the input": sys.stdin.buffer.read()}))
        else:  # Bytes that are not UTF-8 arrive as surrogates.
            texts += decode({f"text {number}": text.encode("utf-8", "surrogateescape")})
    if not texts:
        raise UserError("there is no text: the input is empty.")
    devices.configure()
    if arguments.explain:
        explain(arguments.workdir, texts, arguments.html, argv, best=arguments.best)
        return
    answers = predict(arguments.workdir, texts, best=arguments.best)
    for text, answer in zip(texts, answers, strict=True):
        print(f"{answer}  {_shortened(text)}")


def _shortened(text: str) -> str:
    shown = escape(text[:61])
    return shown if len(shown) <= 60 else shown[:57] + "..."


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
