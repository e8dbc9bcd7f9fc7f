"""Classifies your own sentences with a finished run.

python -m train_lib.predict --workdir=runs/stacked-... "A film to forget." "A delight."
python -m train_lib.predict --workdir=runs/stacked-... --best - < one_review_a_line.txt
"""

import argparse
import re
import sys
from collections.abc import Sequence

import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict
from scipy.special import expit

from train_lib import devices, loop, state, steps
from train_lib.data.dataset import Split
from train_lib.data.vocabulary import Vocabulary, words_of
from train_lib.encoding import decode, escape
from train_lib.errors import UserError, told_to_user
from train_lib.report import BEST_WEIGHTS, WEIGHTS, RunFolder

_BATCH_SIZE = 64
_MAX_BATCH_TOKENS = 1 << 18  # Of texts that are longer than any review fewer at once.
_MIN_WIDTH = 64  # Powers of two from here on: few programs to compile, for any texts.


def load_model(
    folder: RunFolder, weights: str = WEIGHTS
) -> tuple[ConfigDict, nnx.GraphDef, nnx.State]:
    """The config of a finished run, its model, and the parameters of its K seeds.

    Args:
        folder: of the run.
        weights: the file with the parameters.

    Raises:
        UserError: a file of it is of another version of this program; or it is a baseline's, which
            has no weights.
    """
    if not (folder.path / weights).is_file():
        raise UserError(f"{folder.path} has no {weights}, so there is no model to classify with.")
    config = folder.read_config()
    graphdef, params_K = state.split(loop.build_models(config))
    return config, graphdef, folder.read_weights(weights, params_K)


def predict(workdir: str, texts: Sequence[str], weights: str = WEIGHTS) -> np.ndarray:
    """The probability that each text is positive, by every seed that has not diverged: `[K, N]`.

    Args:
        workdir: the run's folder.
        texts: of any length.
        weights: the file with the parameters.

    Raises:
        UserError: `workdir` is not the folder of a finished run, or its files were damaged.
    """
    folder = RunFolder.open_finished(workdir)
    config, graphdef, params_K = load_model(folder, weights)
    result = folder.read_json("result.json")
    vocabulary = Vocabulary.from_text(folder.read_text("vocabulary.txt"))
    words = [words_of(text, config.data.text_rules) for text in texts]
    reviews = Split.encode(vocabulary, words, np.zeros(len(texts)))
    reviews = reviews.last_tokens(config.data.max_length_tokens)

    if config.data.mask_padding:
        powers_N = np.ceil(np.log2(reviews.lengths)).astype(int)
        widths_N = np.maximum(_MIN_WIDTH, 1 << powers_N)
    else:
        # Where padding is read like a word, its amount is part of the input: that of training.
        widths_N = np.full(len(texts), result["dataset"]["longest_tokens"]["train"])
    mesh = devices.mesh(config.train.seeds)
    compiled = steps.make(graphdef, optax.identity(), mesh, config.data)
    params_K = devices.spread_seeds(params_K, mesh)
    logits_KxN = np.empty((config.train.seeds, len(texts)), np.float32)
    for width in np.unique(widths_N).tolist():
        (of_width,) = np.nonzero(widths_N == width)
        batch_size = min(_BATCH_SIZE, len(of_width), max(1, _MAX_BATCH_TOKENS // width))
        plans = [
            of_width[first : first + batch_size] for first in range(0, len(of_width), batch_size)
        ]
        layout = devices.layout(batch_size, mesh)
        _, found_KxN = steps.evaluate_plans(
            compiled, params_K, reviews, plans, layout, mesh, (width,)
        )
        logits_KxN[:, of_width] = found_KxN[:, of_width]
    alive_K = ["diverged_at_step" not in seed for seed in result["seeds"]]
    return expit(logits_KxN[alive_K])


def _read_arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options and the reviews, which may begin with a dash."""
    parser = argparse.ArgumentParser(
        prog="python -m train_lib.predict", usage="%(prog)s --workdir FOLDER [--best] text ...",
        description="Classifies texts with a finished run. A text - reads one a line from the "
        "input, and after -- all arguments are texts.", add_help=False, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--help", action="help", help="show this help")
    parser.add_argument("--workdir", required=True, help="the folder of a finished run")
    parser.add_argument(
        "--best", action="store_true", help="each seed as it was after its best epoch by validation"
    )
    end = argv.index("--") if "--" in argv else len(argv)
    # With -h as an option, argparse would take "-horrible" for it.
    options = ["--help" if argument == "-h" else argument for argument in argv[:end]]
    arguments, reviews = parser.parse_known_args(options)
    for review in reviews:
        if re.fullmatch(r"--\S+", review):  # Not to classify a mistyped option in silence.
            parser.error(f"{review} is not an option; to classify it as a text, write it after --")
    reviews += argv[end + 1 :]
    if not reviews:
        parser.error("a text to classify is missing")
    return arguments, reviews


def _lines(text: str) -> list[str]:
    """The lines of a text, each ended by `\\n`, `\\r\\n` or `\\r`, and by nothing else."""
    lines = re.split(r"\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def main(argv: Sequence[str]) -> None:
    texts: list[str] = []
    arguments, reviews = _read_arguments(argv)
    for number, review in enumerate(reviews, 1):
        if review == "-":
            texts += _lines(*decode({"the input": sys.stdin.buffer.read()}))
        else:  # Bytes that are not UTF-8 arrive as surrogates.
            texts += decode({f"text {number}": review.encode("utf-8", "surrogateescape")})
    if not texts:
        raise UserError("there is nothing to classify: the input is empty.")
    devices.configure()
    weights = BEST_WEIGHTS if arguments.best else WEIGHTS
    for text, of_seeds in zip(texts, predict(arguments.workdir, texts, weights).T, strict=True):
        probability = of_seeds.mean()
        label = "positive" if probability > 0.5 else "negative"
        several = f"  [{of_seeds.min():.4f}, {of_seeds.max():.4f}]" if len(of_seeds) > 1 else ""
        shown = escape(text[:61])
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        print(f"{label}  {probability:.4f}{several}  {shown}")


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
