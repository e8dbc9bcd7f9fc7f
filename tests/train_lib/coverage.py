"""How often the intervals of a share hold the truth: simulated seeds and examples.

python -m tests.train_lib.coverage > docs/intervals.md
"""

import math

import numpy as np
from scipy.special import ndtr, ndtri

from train_lib.records.metrics import summary

SHARES = (0.002, 0.02, 0.5, 0.86, 0.98, 0.998)
EXAMPLES = (20, 80, 200, 2_000, 25_000)
SEEDS = (2, 3, 5, 10)
SCATTER = (0.0, 0.02, 0.1, 0.3)


def simulate(rng, share, scatter, seeds, examples, *, same, trials):
    """What seeds score on the examples, and what each scores on all there are: `[trials, K]`.

    A seed is right about an example if its skill is above the difficulty, both normal. Skills have
    the standard deviation `scatter` where difficulties have 1, and the mean with which `share` is
    the mean score of all seeds on all examples.

    Args:
        same: an example is as difficult for every seed; else its difficulties are independent.
    """
    skill = ndtri(share) * math.hypot(1, scatter) + rng.normal(0, scatter, (trials, seeds))
    true = ndtr(-np.sort(-skill))
    if not same:
        return rng.binomial(examples, true) / examples, true
    # What a worse seed is right about is among what a better one is right about.
    right, better = np.empty_like(true), np.ones(trials)
    left = np.full(trials, examples)
    for k, of_seed in enumerate(true.T):
        left = rng.binomial(left, np.minimum(1, of_seed / better))
        right[:, k], better = left, of_seed
    return right / examples, true


def coverage(share, scatter, seeds, examples, *, same, trials, seed=0):
    """How often the interval of the mean holds `share`, and that of one more seed what that is.

    Also the median width, relative to an interval that knows both variances.
    """
    rng = np.random.default_rng(seed)
    scores, true = simulate(rng, share, scatter, seeds, examples, same=same, trials=trials)
    _, one_more = simulate(rng, share, scatter, 1, examples, same=same, trials=trials)
    found = [summary(values, examples) for values in scores]
    low, high, low_of_one, high_of_one = (
        np.array([of[name] for of in found])
        for name in ("ci95_low", "ci95_high", "one_seed_low", "one_seed_high")
    )
    held = (low <= share) & (share <= high)
    held_one_more = (low_of_one <= one_more[:, 0]) & (one_more[:, 0] <= high_of_one)
    of_seeds = true.var() if scatter else 0.0
    of_examples = (share * (1 - share) - of_seeds) / examples
    known = math.sqrt(of_seeds / seeds + of_examples / (1 if same else seeds))
    width = np.median(high - low) / (2 * 1.96 * known)
    return held.mean(), held_one_more.mean(), width


def main(trials=2_000):
    examples = ", ".join(f"{n:,}" for n in EXAMPLES)
    print(
        "# Intervals of accuracies\n\n"
        "`python -m tests.train_lib.coverage > docs/intervals.md` makes this page.\n\n"
        f"Each cell has three figures from {trials:,} simulations:\n\n"
        "1. how often, in %, the 95 % interval of the mean over K seeds (`mean_interval` in\n"
        "   `train_lib/analysis/statistics.py`) covers the expected accuracy of a new seed on\n"
        "   new examples;\n"
        "2. in brackets, how often the interval for one more seed (`one_more_interval`) covers\n"
        "   that seed's accuracy on new examples;\n"
        f"3. the median width with {EXAMPLES[-1]:,} examples, relative to that of an interval\n"
        "   that knows both variances. (With two seeds, Student's is 4.4 times as wide.)\n\n"
        f"The first two are minima over {examples} test examples.\n\n"
        "Scatter is the standard deviation of the seeds' skill, relative to that of the examples'\n"
        "difficulty. On IMDB it is .02 to .08; .3 at .86 means 7 points. Either each example is\n"
        "equally hard for every seed (same), or its difficulties are independent (apart).\n"
    )
    print("| accuracy | scatter | examples | " + " | ".join(f"K = {k}" for k in SEEDS) + " |")
    print("|---" * (3 + len(SEEDS)) + "|")
    for share in SHARES:
        for scatter in SCATTER:
            for same in (True, False):
                cells = []
                for seeds in SEEDS:
                    of_cases = [
                        coverage(share, scatter, seeds, examples, same=same, trials=trials)
                        for examples in EXAMPLES
                    ]
                    held, held_one_more, width = zip(*of_cases, strict=True)
                    cells.append(
                        f"{100 * min(held):.1f} ({100 * min(held_one_more):.1f}), {width[-1]:.1f}"
                    )
                kind = "same" if same else "apart"
                print(f"| {share:g} | {scatter:g} | {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
