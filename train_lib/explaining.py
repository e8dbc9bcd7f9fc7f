"""Which words moved an answer: what the answer would be without each of them.

Leaving one out (Li, Monroe and Jurafsky, 2016) only queries the models, so it works for every cell,
pooling and treatment of length, and is exact, unlike a gradient.
"""

import html
from typing import NamedTuple

import numpy as np

from train_lib.data.inputs import split as split_words
from train_lib.encoding import escape
from train_lib.errors import UserError
from train_lib.restored import Restored

_MOST_NAMED = 10
_FOR, _AGAINST = (46, 160, 67), (218, 54, 51)


class Explanation(NamedTuple):
    """How each word of a text affects the answer.

    Attributes:
        answer: the answer to the whole text, as readable text.
        words: the words of the text, as the models read them.
        effects_T: how much each word supports the answer, float64 `[T]`: for classes in log-odds
            of the class answered, for a number in its unit.
    """

    answer: str
    words: list[str]
    effects_T: np.ndarray

    @property
    def strengths_T(self) -> np.ndarray:
        """Effects as shares of the largest one: `[T]`, in [-1, 1]."""
        return self.effects_T / max(np.abs(self.effects_T).max(initial=0), np.finfo(float).tiny)

    def named(self) -> str:
        """The words that matter most, in descending order, on one line."""
        order = np.argsort(-np.abs(self.effects_T), kind="stable")[:_MOST_NAMED]
        return "  ".join(f"{escape(self.words[t])} {self.effects_T[t]:+.2f}" for t in order)


def explain(restored: Restored, text: str) -> Explanation:
    """Leaves out each word of a text in turn.

    Args:
        restored: a finished run on texts that gives one answer per text.
        text: a text of any length; the number of steps computed is its number of words squared.

    Raises:
        UserError: the run reads no texts, answers each step, or gives several answers per text.
    """
    if restored.task.per_step or restored.task.predicts_inputs:
        raise UserError(
            f"{restored.folder.path} answers every step of a text, and --explain is for one answer "
            "a text."
        )
    words = split_words(text, restored.reads_texts().rules)
    without = [words[:place] + words[place + 1 :] for place in range(len(words))]
    split = restored.encode([words, *without], lambda number: "the text")
    support_N = restored.support(split)
    if support_N is None:
        raise UserError(
            f"{restored.folder.path} gives several answers a text, and --explain is for one."
        )
    # Alone, as `predict` asks it: in a larger batch its last digits may differ.
    (answer,) = restored.describe(split.take(np.array([0])))
    return Explanation(answer, words, support_N[0] - support_N[1:])


def page(explanations: list[Explanation], command: str) -> str:
    """An HTML page with words in green if they support the answer, and red if they oppose it."""
    texts = "".join(
        f"<h2>{html.escape(one.answer)}</h2><p>{' '.join(_spans(one))}</p>" for one in explanations
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Answers</title><style>'
        "body { font: 16px/1.9 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; "
        "padding: 0 1rem; color: #222; background: #fff } h2 { font-size: 1.1rem } "
        "span { padding: .15rem .2rem; border-radius: .2rem } code { background: #f3f3f3 }"
        "</style></head>\n<body><h1>Which words moved the answers</h1>"
        f"<p>Made by <code>{html.escape(command)}</code>. A word is green if the models would be "
        "less sure of the answer without it, and red if they would be surer. Point at a word for "
        f"its figure.</p>{texts}</body></html>\n"
    )


def _spans(explanation: Explanation) -> list[str]:
    found = []
    for word, effect, strength in zip(
        explanation.words, explanation.effects_T, explanation.strengths_T, strict=True
    ):
        red, green, blue = _FOR if strength > 0 else _AGAINST
        found.append(
            f'<span style="background: rgba({red}, {green}, {blue}, {0.7 * abs(strength):.2f})" '
            f'title="{effect:+.3f}">{html.escape(word)}</span>'
        )
    return found
