"""Small data of every kind for trying out a task: files as a researcher would bring them.

python -m studies.any_task --out=data
python -m studies.any_task --out=data --shakespeare=../shared/data/tinyshakespeare/input.txt

    praised.jsonl      several labels: which aspects of a film a text praises, of six
    walk.csv           a number: where a walk ends that the text describes
    aspects/*.conll    a tag per word: which aspects are praised or panned, by words after them
    digits.npz         vectors: scikit-learn's digits, a row of 8 numbers per step
    vowels/*.ts        vectors: JapaneseVowels (Kudo, Toyama and Shimbo, 1999), as aeon ships it
    speakers.csv       five classes, if --shakespeare is given: who says a sentence, of the five
                       characters in his plays who speak most; sentences of a speech are a group

The first three are generated: counting words is not enough, since what wins and what loses in "not
dull but clever" is a matter of order, and so is where a walker who turns round ends. docs/tasks.md
trains on all of them.
"""

import argparse
import collections
import csv
import importlib.util
import json
import pathlib
import random
import re
import shutil
import sys
from collections.abc import Sequence

import numpy as np

from train_lib.data.sources.generated import BAD, GOOD, OPINIONS
from train_lib.errors import UserError, told_to_user

ASPECTS = ("acting", "camera", "dialogue", "music", "plot", "script")
EXAMPLES = {"train": 3_000, "validation": 500, "test": 1_000}
FEWEST_WORDS = 5  # In a sentence of Shakespeare's.


def opinion(rng: random.Random, aspect: str, praised: bool) -> str:
    """A sentence that praises or pans one aspect."""
    good, bad = rng.choice(GOOD), rng.choice(BAD)
    wins, loses = (good, bad) if praised else (bad, good)
    return rng.choice(OPINIONS).format(aspect=aspect, wins=wins, loses=loses)


def opinions(rng: random.Random) -> dict[str, bool]:
    """Some of the aspects, in any order, and which of them are praised."""
    chosen = rng.sample(ASPECTS, rng.randint(1, 4))
    return {aspect: rng.random() < 0.5 for aspect in chosen}


def write_praised(folder: pathlib.Path) -> None:
    """Texts and the aspects that each praises."""
    rng = random.Random(0)
    lines = []
    for _ in range(sum(EXAMPLES.values())):
        of = opinions(rng)
        text = " ".join(opinion(rng, aspect, praised) for aspect, praised in of.items())
        labels = sorted(aspect for aspect, praised in of.items() if praised)
        lines.append(json.dumps({"text": text, "labels": labels}) + "\n")
    (folder / "praised.jsonl").write_text("".join(lines), "utf-8")


def write_aspects(folder: pathlib.Path) -> None:
    """Words and tags: B-PRO for an aspect that is praised, B-CON for one that is panned."""
    (folder / "aspects").mkdir(exist_ok=True)
    for split, count in EXAMPLES.items():
        rng = random.Random(split)
        sentences = []
        for _ in range(count):
            of = opinions(rng)
            words = " ".join(opinion(rng, aspect, praised) for aspect, praised in of.items())
            words = re.findall(r"\w+|[^\w\s]", words)
            tags = [f"B-{'PRO' if of[word] else 'CON'}" if word in of else "O" for word in words]
            lines = (f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True))
            sentences.append("".join(lines))
        (folder / "aspects" / f"{split}.conll").write_text("\n".join(sentences), "utf-8")


def write_walk(folder: pathlib.Path) -> None:
    """Walks on a line, and where each ends."""
    rng, numbers = random.Random(1), ("zero", "one", "two", "three", "four", "five")
    rows = ["text,target\n"]
    for _ in range(sum(EXAMPLES.values())):
        place, facing, steps = 0, 1, []
        for _ in range(rng.randint(3, 12)):
            if rng.random() < 0.3:
                facing = -facing
                steps.append("turn around")
            else:
                count = rng.randint(1, 5)
                place += facing * count
                steps.append(f"walk {numbers[count]}")
        rows.append(f"{' then '.join(steps)},{place}\n")
    (folder / "walk.csv").write_text("".join(rows), "utf-8")


def write_digits(folder: pathlib.Path) -> None:
    """Scikit-learn's 1,797 digits: eight steps of eight numbers."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    values = (digits.images / 16).astype(np.float32).reshape(-1, 8)
    lengths = np.full(len(digits.target), 8)
    np.savez(folder / "digits.npz", values=values, lengths=lengths, targets=digits.target)


def write_vowels(folder: pathlib.Path) -> None:
    """JapaneseVowels, if aeon is installed; none of its code is needed."""
    found = importlib.util.find_spec("aeon")
    if not (found and found.origin):
        print(
            "note: JapaneseVowels are left out: pip install --no-deps aeon brings them",
            file=sys.stderr,
        )
        return
    data = pathlib.Path(found.origin).parent / "datasets" / "data" / "JapaneseVowels"
    (folder / "vowels").mkdir(exist_ok=True)
    for split in ("TRAIN", "TEST"):
        shutil.copy(data / f"JapaneseVowels_{split}.ts", folder / "vowels")


def write_speakers(folder: pathlib.Path, shakespeare: pathlib.Path) -> None:
    """Sentences of the five characters who speak most, and the speech that each is from."""
    text = shakespeare.read_text("utf-8")
    speeches = re.findall(r"^([A-Z][^\n:]*):\n(.+?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    by_speaker = collections.Counter()
    sentences = [
        (speaker, number, " ".join(sentence.split()))
        for number, (speaker, speech) in enumerate(speeches)
        for sentence in re.split(r"(?<=[.?!])\s+", speech)
        if len(sentence.split()) >= FEWEST_WORDS
    ]
    by_speaker.update(speaker for speaker, _, _ in sentences)
    five = {speaker for speaker, _ in by_speaker.most_common(5)}
    with open(folder / "speakers.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "speaker", "speech"])
        writer.writerows(
            [text, speaker, number] for speaker, number, text in sentences if speaker in five
        )


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.any_task")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="a folder to write to")
    parser.add_argument("--shakespeare", type=pathlib.Path, help="tiny Shakespeare's text")
    arguments = parser.parse_args(argv)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        for write in (write_praised, write_aspects, write_walk, write_digits, write_vowels):
            write(arguments.out)
        if arguments.shakespeare:
            write_speakers(arguments.out, arguments.shakespeare)
    except OSError as error:
        raise UserError(f"{error}") from error


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
