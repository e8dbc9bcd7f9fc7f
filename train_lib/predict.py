"""Classifies your own sentences with a finished run.

python -m train_lib.predict --workdir=runs/stacked-... "A film to forget." "A delight."
python -m train_lib.predict --workdir=runs/stacked-... - < one_review_a_line.txt
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict
from scipy.special import expit

from train_lib import devices, loop, state, steps
from train_lib.data import batches
from train_lib.data.dataset import Split
from train_lib.data.vocabulary import Vocabulary, split_words
from train_lib.errors import UserError, told_to_user
from train_lib.report import RunFolder

_BATCH_SIZE = 64
_MIN_WIDTH = 64  # Powers of two from here on: few programs to compile, for any texts.


def load_model(folder: RunFolder) -> tuple[ConfigDict, nnx.GraphDef, nnx.State]:
    """The config of a finished run, its model, and the parameters of its K seeds.

    Raises:
        UserError: a file of it was damaged, or is of another version of this program; or it is a
            baseline's, which has no weights.
    """
    if not (folder.path / "weights.npz").is_file():
        raise UserError(f"{folder.path} has no weights.npz, so there is no model to classify with.")
    config = folder.read_config()
    graphdef, params_K = state.split(loop.build_models(config))
    return config, graphdef, folder.read_weights(params_K)


def predict(workdir: str, texts: Sequence[str]) -> np.ndarray:
    """The probability that each text is positive, by every seed of a run: `[K, N]`.

    Raises:
        UserError: `workdir` is not the folder of a finished run, or its files were damaged.
    """
    folder = RunFolder.open_finished(workdir)
    config, graphdef, params_K = load_model(folder)
    vocabulary = Vocabulary(folder.read_text("vocabulary.txt").split("\n")[:-1])
    reviews = Split.encode(vocabulary, [split_words(text) for text in texts], np.zeros(len(texts)))
    reviews = reviews.last_tokens(config.data.max_length_tokens)

    width = max(_MIN_WIDTH, 1 << int(reviews.lengths.max() - 1).bit_length())
    if not config.data.mask_padding:
        # Where padding is read like a word, its amount is part of the input: that of training.
        trained_on = folder.read_json("result.json")["dataset"]["longest_tokens"]["train"]
        width = max(trained_on, int(reviews.lengths.max()))
    mesh = devices.mesh(config.train.seeds)
    batch_size = min(_BATCH_SIZE, len(texts))
    _, logits_KxN = steps.evaluate_plans(
        steps.make(graphdef, optax.identity(), mesh, config.data),
        devices.spread_seeds(params_K, mesh),
        reviews,
        batches.plans(reviews, config.data, batch_size),
        devices.layout(batch_size, mesh),
        mesh,
        (width,),
    )
    return expit(logits_KxN[np.isfinite(logits_KxN).all(1)])  # Without seeds that diverged.


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
    for text, of_seeds in zip(texts, predict(arguments.workdir, texts).T, strict=True):
        probability = of_seeds.mean()
        label = "positive" if probability > 0.5 else "negative"
        several = f"  [{of_seeds.min():.4f}, {of_seeds.max():.4f}]" if len(of_seeds) > 1 else ""
        shown = text if len(text) <= 60 else text[:57] + "..."
        print(f"{label}  {probability:.4f}{several}  {shown}")


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
