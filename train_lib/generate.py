"""Generates text with the language model of a finished run.

python -m train_lib.generate --workdir=runs/shakespeare-... "ROMEO:" --tokens=500
python -m train_lib.generate --workdir=runs/shakespeare-... --temperature=0.8 --top_k=40 --seed=1

The text continues the prompt, and ends after `--tokens` tokens or where the model ends it.
"""

import argparse
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train_lib.data.inputs import Text
from train_lib.data.inputs import split as split_words
from train_lib.data.vocabulary import END, FIRST_WORD, PADDING, START, UNKNOWN, join_words
from train_lib.errors import UserError, told_to_user
from train_lib.restored import Restored
from train_lib.training import devices

_TOKENS_A_CALL = 64  # Enough to make the call cheap, few enough to wait for.


def generate(
    restored: Restored,
    prompt: str,
    *,
    tokens: int = 500,
    temperature: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
) -> Iterator[list[str]]:
    """Yields the tokens that a model writes after a prompt, in pieces.

    Args:
        restored: a run on texts whose task is the next token; the model of its first seed writes.
        prompt: the text to continue; may be empty.
        tokens: the maximum number of tokens.
        temperature: the divisor of the logits; 0: always the likeliest token.
        top_k: draw from this many of the likeliest tokens; 0: all.
        seed: the seed of the draws.

    Raises:
        UserError: it is not such a run.
    """
    if not (restored.task.predicts_inputs and isinstance(restored.inputs, Text)):
        raise UserError(
            f"{restored.folder.path} was not trained to predict the next token of a text, so it "
            "cannot write; train with config.task.name=next_token."
        )
    model: Any = restored.model()
    vocabulary, rules = restored.inputs.vocabulary, restored.inputs.rules
    size = restored.task.num_outputs
    # An end is drawn only if there was one in training.
    never = [PADDING, START, UNKNOWN] + ([END] if restored.reads_streams else [])
    is_never_V = np.isin(np.arange(size), never)

    def draw(logits_V, key):
        logits_V = jnp.where(is_never_V, -jnp.inf, logits_V)
        if temperature == 0:
            return jnp.argmax(logits_V)
        if 0 < top_k < size:
            least = jax.lax.top_k(logits_V, top_k)[0][-1]
            logits_V = jnp.where(logits_V < least, -jnp.inf, logits_V)
        return jax.random.categorical(key, logits_V / temperature)

    @functools.partial(jax.jit, donate_argnums=0)
    def write(carries, token, keys):
        def step(loop, key):
            carries, token = loop
            outputs_1x1xV, carries = model.read_on(carries, token[None, None])
            token = draw(outputs_1x1xV[0, 0], key)
            return (carries, token), token

        return jax.lax.scan(step, (carries, token), keys)

    encoded = vocabulary.encode(split_words(prompt, rules))
    carries = model.initial_carries(1)
    if len(encoded) > 1:
        carries = jax.jit(model.read_on)(carries, encoded[None, :-1])[1]
    token, key, written = jnp.int32(encoded[-1]), jax.random.key(seed), 0
    while written < tokens:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, written + jnp.arange(_TOKENS_A_CALL))
        (carries, token), numbers = write(carries, token, keys)
        found = np.asarray(numbers)[: tokens - written].tolist()
        ended = END in found
        found = found[: found.index(END)] if ended else found
        written += len(found)
        yield [vocabulary.words[number - FIRST_WORD] for number in found]
        if ended:
            return


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train_lib.generate",
        description="Generates text with the language model of a finished run.",
    )
    parser.add_argument("prompt", nargs="?", default="", help="a text to continue")
    parser.add_argument("--workdir", required=True, help="the folder of a finished run")
    parser.add_argument("--tokens", type=int, default=500, help="the maximum number (500)")
    parser.add_argument(
        "--temperature", type=float, default=1.0,
        help="the divisor of the logits (1); 0: always the likeliest token",
    )  # fmt: skip
    parser.add_argument(
        "--top_k", type=int, default=0, help="draw from this many of the likeliest tokens; 0: all"
    )
    parser.add_argument("--seed", type=int, default=0, help="the seed of the draws (0)")
    parser.add_argument(
        "--best", action="store_true", help="the model after its best epoch by validation"
    )
    arguments = parser.parse_args(argv)
    for name, least in (("tokens", 1), ("temperature", 0), ("top_k", 0), ("seed", 0)):
        if not getattr(arguments, name) >= least:
            parser.error(f"--{name} must be at least {least}")
    devices.configure()
    restored = Restored(arguments.workdir, best=arguments.best)
    pieces = generate(
        restored,
        arguments.prompt,
        tokens=arguments.tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        seed=arguments.seed,
    )
    pieces = itertools.chain([next(pieces, [])], pieces)  # If it cannot write, only that is shown.
    print(arguments.prompt, end="", flush=True)
    rules = restored.inputs.rules  # type: ignore[union-attr]
    between = "" if rules in ("characters", "bytes") else " "
    written: list[str] = []
    shown = ""
    for piece in pieces:
        written += piece
        # As a whole, since the bytes of a character may lie in two pieces.
        text = join_words(written, rules)
        print(f"{between if not shown else ''}{text[len(shown) :]}", end="", flush=True)
        shown = text
    print()


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
