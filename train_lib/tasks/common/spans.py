"""Spans of tags O, B-X and I-X, counted as the CoNLL shared tasks count them (conlleval).

Tjong Kim Sang and Buchholz, "Introduction to the CoNLL-2000 Shared Task", 2000.
"""

import collections
import re
from collections.abc import Sequence
from typing import Any

from train_lib.tasks.common.figures import scores

Span = tuple[str, int, int]


def are_spans(classes: Sequence[str]) -> bool:
    """Whether all tags are O, B-X or I-X, and not only O."""
    return set(classes) != {"O"} and all(re.fullmatch(r"O|[BI]-.+", one) for one in classes)


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The kind of each span, its first step, and the one after its last.

    A span begins at B-X, or at an I-X that does not continue a span of X, so tags in which spans
    begin with I-X (IOB1) can be read too.
    """
    spans, begun = [], None  # The kind and first step of the open span.
    for step, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        if begun and (prefix != "I" or kind != begun[0]):
            spans.append((*begun, step))
            begun = None
        if prefix != "O" and not begun:
            begun = kind, step
    return spans


def figures(targets: Sequence[Sequence[str]], answers: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Precision, recall and F1 of spans: a span is right if its kind and both ends are.

    Args:
        targets: the right tags of each example.
        answers: the model's tags.
    """
    counts: dict[str, collections.Counter[str]] = {
        name: collections.Counter() for name in ("right", "answer", "target")
    }
    for of_target, of_answer in zip(targets, answers, strict=True):
        theirs, ours = set(spans_of(of_target)), set(spans_of(of_answer))
        for name, spans in (("target", theirs), ("answer", ours), ("right", theirs & ours)):
            counts[name].update(kind for kind, _, _ in spans)
    kinds = sorted(counts["target"] | counts["answer"])
    per_kind = {kind: scores(*(counts[name][kind] for name in counts)) for kind in kinds}
    return {**scores(*(of.total() for of in counts.values())), "per_kind": per_kind}
