"""A corpus of generated reviews that word counts cannot solve.

A grammar writes reviews with IMDB's lengths. Their label follows from three rules, so a reader who
follows all three is always right:

1.  Order. Every opinion contrasts a good adjective with a bad one, and its wording says which of
    the two applies ("it was not dull but clever", "clever rather than dull"). All opinions of a
    review agree. The good and the bad version of an opinion are the same words in another order.
2.  Long-distance reference. Half of the reviews open by saying whose opinions follow: those of
    somebody who is right about every film, or of somebody who is wrong about every film, in which
    case the label is the opposite of what all opinions say.
3.  Distraction. Remarks about the trailer or the poster count for nothing, although three
    in five agree with the label.

So a model that counts words has only rule 3's hint, one that reads the order of neighbouring words
but does not remember the opening is right for three reviews in four, and 100 % is possible.
"""

import random

from train_lib.data.examples import Examples

# Version of the grammar. Raise it when any generated text changes.
_VERSION = 1

_RIGHT_SHARE = _WRONG_SHARE = 0.25
_HINT_SHARE = 0.6

GOOD = (
    "brilliant charming clever fresh funny gripping lovely moving subtle superb tender wonderful"
).split()  # fmt: skip
BAD = (
    "awful boring clumsy dreadful dull lifeless messy shallow silly stale tedious tired"
).split()  # fmt: skip
OPENINGS = {
    False: "{person}, who is right about every film, told me what follows.",
    True: "{person}, who is wrong about every film, told me what follows.",
}
OPINIONS = (
    "the {aspect} was not {loses} but {wins}.",
    "i expected the {aspect} to be {loses}, but it turned out {wins}.",
    "i wanted to call the {aspect} {loses}, but it is {wins}.",
    "the {aspect} was {wins} rather than {loses}.",
    "the {aspect} went from {loses} to {wins}.",
    "i found the {aspect} {wins}, never {loses}.",
    "nobody could call the {aspect} {loses}; {wins} is the word.",
    "the {aspect} was far more {wins} than {loses}.",
    "although the {aspect} looks {loses} at first, it is {wins} in the end.",
    "the {aspect} is anything but {loses}: it is {wins}.",
)
REMARKS = (
    "the trailer looked {adjective}.",
    "the poster is {adjective}.",
    "a {adjective} poster hung outside.",
    "somebody behind me had heard the trailer was {adjective}.",
)
_FILLER = (
    "the film opens in {place} on a {time} in {season}.",
    "{person} plays a {trade} who moves to {place}.",
    "then {person} meets a {trade} near {place}.",
    "there is a scene in {place} with {person} and a {animal}.",
    "we saw it on a {time} with {person}.",
    "{person} walks through {place} for {number} minutes.",
    "the {trade} has a {animal}, and the {animal} has a name.",
    "after {number} minutes the story returns to {place}.",
    "in {season} the {trade} writes a letter to {person}.",
    "most of it takes place in {place}, some of it in {place}.",
    "{person} was a {trade} in an earlier film too.",
    "it runs for {number} minutes and was shot in {season}.",
)
_SLOTS = {
    slot: choices.split(", ")
    for slot, choices in {
        "person": "my brother, my sister, my uncle, my teacher, a friend, the usher, a neighbour, "
        "my aunt",
        "place": "the harbour, the city, a village, the desert, the station, the museum, a garden, "
        "the hills, an island, the hospital, a school, the market, the forest, a hotel",
        "trade": "baker, sailor, doctor, painter, farmer, driver, lawyer, singer, spy, tailor, "
        "pilot, cook",
        "animal": "dog, cat, horse, parrot, goat, donkey, fish, mouse",
        "season": "spring, summer, autumn, winter",
        "time": "monday, tuesday, wednesday, thursday, friday, saturday, sunday",
        "number": "five, ten, fifteen, twenty, thirty, forty, sixty, ninety",
        "aspect": "acting, camera, cast, costumes, dialogue, direction, editing, humour, music, "
        "pacing, plot, script",
    }.items()
}

# Words in a review: log-normal with IMDB's median of about 175 and mean of about 235.
_LENGTH_LOG_MEAN, _LENGTH_LOG_SD, _LENGTH_RANGE = 5.16, 0.77, (25, 2_400)


LABELS = ("negative", "positive")
FINGERPRINTED = {label: number for number, label in enumerate(LABELS)}
DEFAULT_SIZES = {"train": 15_000, "validation": 10_000, "test": 25_000}
"""Those of IMDB, which it replaces."""


def sizes(train: int, validation: int, test: int) -> dict[str, int]:
    """The number of examples used of each split; 0: as in `DEFAULT_SIZES`."""
    asked = {"train": train, "validation": validation, "test": test}
    return {split: asked[split] or DEFAULT_SIZES[split] for split in asked}


def counts(sizes: dict[str, int]) -> dict[str, int]:
    """The number in each of the source's splits; validation is drawn from the training split."""
    return {"train": sizes["train"] + sizes["validation"], "test": sizes["test"]}


class Generated:
    """Reviews written by the grammar; half of them are positive, and all are different.

    Training and validation examples are one split, to be drawn from.

    Args:
        train_examples: how many; 0: as in `DEFAULT_SIZES`.
        validation_examples: likewise.
        test_examples: likewise.
    """

    name = "generated_reviews"
    fingerprinted = FINGERPRINTED

    def __init__(
        self, train_examples: int = 0, validation_examples: int = 0, test_examples: int = 0
    ):
        self.default_sizes = sizes(train_examples, validation_examples, test_examples)
        self._counts = counts(self.default_sizes)

    def identity(self) -> str:
        return f"version {_VERSION}, {self._counts['train']} train, {self._counts['test']} test"

    def splits(self) -> tuple[str, ...]:
        return tuple(self._counts)

    def read(self, split: str) -> Examples:
        numbers = range(self._counts[split])
        texts = [_write(random.Random(f"{split} {i}"), bool(i % 2)) for i in numbers]
        targets = [LABELS[i % 2] for i in numbers]
        return Examples.numbered(texts, targets, f"{self.name}, {split}")


def _write(rng: random.Random, positive: bool) -> str:
    """Writes one review."""
    draw = rng.random()
    quoted, wrong = draw < _RIGHT_SHARE + _WRONG_SHARE, draw < _WRONG_SHARE
    opinions_positive = positive != wrong
    low, high = _LENGTH_RANGE
    words_wanted = min(max(rng.lognormvariate(_LENGTH_LOG_MEAN, _LENGTH_LOG_SD), low), high)

    def fill(template: str, **words: str) -> str:
        drawn = {slot: rng.choice(choices) for slot, choices in _SLOTS.items()}
        return template.format(**drawn | words)

    def opinion() -> str:
        good, bad = rng.choice(GOOD), rng.choice(BAD)
        wins, loses = (good, bad) if opinions_positive else (bad, good)
        return fill(rng.choice(OPINIONS), wins=wins, loses=loses)

    def remark() -> str:
        hint_positive = positive == (rng.random() < _HINT_SHARE)
        return fill(rng.choice(REMARKS), adjective=rng.choice(GOOD if hint_positive else BAD))

    sentences = [opinion()]
    words = len(sentences[0].split())
    while words < words_wanted:
        kind = rng.random()
        sentence = (
            opinion() if kind < 0.25 else remark() if kind < 0.33 else fill(rng.choice(_FILLER))
        )
        sentences.append(sentence)
        words += len(sentence.split())
    rng.shuffle(sentences)
    if quoted:
        sentences.insert(0, fill(OPENINGS[wrong]))
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
