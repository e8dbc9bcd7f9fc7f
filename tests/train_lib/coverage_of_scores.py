"""How often the intervals of scores hold the truth: simulated seeds and examples.

python -m tests.train_lib.coverage_of_scores > docs/intervals_of_scores.md
"""

import functools
import math

import numpy as np
import scipy.stats
from scipy.special import ndtr

from train_lib.analysis.scores import difference, mean_score_interval

KINDS = {
    "right": "1 for right, 0 for wrong",
    "f1": "an F1: 0, 1/4, 1/2, 3/4 or 1",
    "steps": "the share of an example's steps that are right, weighted by steps",
    "squares": "squares of normal errors",
    "tails": "squares of heavy-tailed errors: Student's t with 5 degrees of freedom",
    "weighted tails": "the same, weighted by steps",
}
EXAMPLES = (20, 80, 500, 2_000)
SEEDS = (1, 3, 10)
GAP = 0.15
"""By how much more skill the second run has, where an example's difficulty scatters by 1."""

_SCATTER = 0.05  # Of the skill of seeds.
# Parts of what decides about an answer: of the example, of the example with that architecture, and
# of the example with that seed.
_EXAMPLE, _ARCHITECTURE, _EACH = 0.7, 0.35, math.sqrt(1 - 0.7**2 - 0.35**2)
_GRID = np.linspace(-8, 8, 4_001)
_TAILS = scipy.stats.t.ppf(ndtr(_GRID), 5)


def are_shares(kind):
    return kind in ("right", "f1", "steps")


def lengths(rng, kind, examples):
    """Steps of each example, by which it is weighted: mostly 5 to 30."""
    if kind not in ("steps", "weighted tails"):
        return np.ones(examples)
    return np.maximum(1, np.round(np.exp(rng.normal(2.5, 0.8, examples))))


def scores(rng, kind, luck, skill, steps):
    """Scores from normal luck, skill and steps, which all have the shape of the scores."""
    if kind == "right":
        return (luck + skill + 1 > 0).astype(float)
    if kind == "f1":
        return np.round(4 * ndtr(1.5 * luck + skill + 1)) / 4
    if kind == "steps":  # Longer examples are harder.
        probabilities = ndtr(luck + skill + 1 - 0.2 * np.log(steps / 12))
        return rng.binomial(steps.astype(int), probabilities) / steps
    errors = luck if kind == "squares" else np.interp(luck, _GRID, _TAILS)
    return np.square(errors * np.exp(-skill))


@functools.cache
def truth(kind, skill, scatter):
    """The mean score of all seeds with this mean skill on all examples there are."""
    rng = np.random.default_rng(1)
    total = weight = 0.0
    for _ in range(40):
        steps = lengths(rng, kind, 100_000)
        skills = skill + scatter * rng.normal(size=len(steps))
        of_all = scores(rng, kind, rng.normal(size=len(steps)), skills, steps)
        total, weight = total + of_all @ steps, weight + steps.sum()
    return total / weight


def coverage(kind, seeds, examples, trials, gap=GAP):
    """How often the interval of the mean holds the true one, and that of a difference its own.

    Also how often p is below .05.
    """
    rng = np.random.default_rng(0)
    scatter = _SCATTER if seeds > 1 else 0.0  # One seed is taken as it is.
    expected = [truth(kind, skill, scatter) for skill in (0.0, gap)]
    held = held_difference = alarms = 0
    for _ in range(trials):
        steps_N = lengths(rng, kind, examples)
        shared_N = _EXAMPLE * rng.normal(size=examples)
        runs = []
        for skill in (0.0, gap):
            luck_KxN = shared_N + _ARCHITECTURE * rng.normal(size=examples)
            luck_KxN = luck_KxN + _EACH * rng.normal(size=(seeds, examples))
            skills_Kx1 = skill + scatter * rng.normal(size=(seeds, 1))
            steps_KxN = np.broadcast_to(steps_N, luck_KxN.shape)
            runs.append(scores(rng, kind, luck_KxN, skills_Kx1, steps_KxN))
        _, low, high = mean_score_interval(runs[0], steps_N, are_shares=are_shares(kind))
        held += low <= expected[0] <= high
        found = difference(*runs, paired=True, weights_N=steps_N, are_shares=are_shares(kind))
        held_difference += found.low <= expected[1] - expected[0] <= found.high
        alarms += found.p < 0.05
    return held / trials, held_difference / trials, alarms / trials


def main(trials=2_000):
    print(
        "# Intervals of scores\n\n"
        "`python -m tests.train_lib.coverage_of_scores > docs/intervals_of_scores.md` makes this\n"
        "page.\n\n"
        f"Each cell has two figures from {trials:,} simulations (`train_lib/analysis/scores.py`):\n"
        "how often, in %, the 95 % interval of the mean score over K seeds covers the mean score\n"
        "of new seeds on new examples (`mean_score_interval`), and how often the interval of the\n"
        "difference between two runs with K seeds each covers the true difference (`difference`).\n"
        "With one seed, the true value is that of this trained model on new examples.\n\n"
        "If scores are rarely high, but then very high, a small sample usually contains no high\n"
        "score, and no interval can take such scores into account.\n"
    )
    print("| score | examples | " + " | ".join(f"K = {k}" for k in SEEDS) + " |")
    print("|---" * (2 + len(SEEDS)) + "|")
    for kind, words in KINDS.items():
        for examples in EXAMPLES:
            cells = []
            for seeds in SEEDS:
                mean, of_difference, _ = coverage(kind, seeds, examples, trials)
                cells.append(f"{100 * mean:.1f}, {100 * of_difference:.1f}")
            print(f"| {words} | {examples:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
