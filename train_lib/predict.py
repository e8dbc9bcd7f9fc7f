"""Classifies your own sentences with a finished run.

python -m train_lib.predict --workdir=runs/stacked-... "A film to forget." "A delight."
python -m train_lib.predict --workdir=runs/stacked-... - < one_review_a_line.txt
"""

import argparse
import sys
from collections.abc import Sequence

import jax
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from train_lib import devices, loop, settings, steps
from train_lib.data import batches
from train_lib.data.dataset import Split
from train_lib.data.vocabulary import Vocabulary, split_words
from train_lib.errors import UserError, told_to_user
from train_lib.report import RunFolder

_BATCH_SIZE = 64


def predict(workdir: str, texts: Sequence[str]) -> np.ndarray:
    """The probability that each text is positive.

    Raises:
        UserError: `workdir` is not the folder of a finished run, or its files were damaged.
    """
    folder = RunFolder.open_finished(workdir)
    config = ConfigDict(folder.read_json("config.json"))
    settings.check(config)
    graphdef, params = nnx.split(loop.build_model(config), nnx.Param)
    params = folder.read_weights(params)
    vocabulary = Vocabulary(folder.read_text("vocabulary.txt").split("\n")[:-1])
    reviews = Split.encode(vocabulary, [split_words(text) for text in texts], np.zeros(len(texts)))

    # Where padding is read like a word, its amount is part of the input: that of training.
    min_width = folder.read_json("result.json")["dataset"]["longest_tokens"]["train"]
    batch_size = min(_BATCH_SIZE, len(texts))
    mesh = devices.mesh(batch_size)
    evaluate = steps.make(graphdef, optax.identity(), mesh, config.data).evaluate
    logits = np.empty(len(texts))
    for plan in batches.plans(reviews, config.data, batch_size):
        if not config.data.mask_padding:
            plan = plan._replace(width=max(plan.width, min_width))
        batch = batches.batch(reviews, plan, batch_size, config.data.padding_side)
        logits_B, _ = evaluate(params, devices.spread(batch, mesh))
        logits[plan.reviews] = np.asarray(logits_B)[: len(plan.reviews)]
    return np.asarray(jax.nn.sigmoid(logits))


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train_lib.predict", description="Classifies text with a finished run."
    )
    parser.add_argument("--workdir", required=True, help="the folder of a finished run")
    parser.add_argument("text", nargs="+", help="a review; - reads one a line from the input")
    arguments = parser.parse_args(argv)
    texts: list[str] = []
    for text in arguments.text:
        if text == "-":
            texts += sys.stdin.buffer.read().decode("utf-8", "replace").splitlines()
        else:  # Bytes that are not UTF-8 arrive as surrogates.
            texts.append(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    if not texts:
        raise UserError("there is nothing to classify: the input is empty.")
    devices.configure()
    for text, probability in zip(texts, predict(arguments.workdir, texts), strict=True):
        label = "positive" if probability > 0.5 else "negative"
        shown = text if len(text) <= 60 else text[:57] + "..."
        print(f"{label}  {probability:.4f}  {shown}")


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
