"""How often the intervals of a share hold the truth: simulated seeds and reviews.

python -m tests.train_lib.coverage > docs/intervals.md
"""

import math

import numpy as np
from scipy.special import ndtr, ndtri

from train_lib import report

SHARES = (0.002, 0.02, 0.5, 0.86, 0.98, 0.998)
REVIEWS = (20, 80, 200, 2_000, 25_000)
SEEDS = (2, 3, 5, 10)
SCATTER = (0.0, 0.02, 0.1, 0.3)


def simulate(rng, share, scatter, seeds, reviews, *, same, trials):
    """What seeds score on the reviews, and what each scores on all there are: `[trials, K]`.

    A seed is right about a review if its skill is above the difficulty, both normal. Skills have
    the standard deviation `scatter` where difficulties have 1, and the mean with which `share` is
    the mean score of all seeds on all reviews.

    Args:
        same: a review is as difficult for every seed; else its difficulties are independent.
    """
    skill = ndtri(share) * math.hypot(1, scatter) + rng.normal(0, scatter, (trials, seeds))
    true = ndtr(-np.sort(-skill))
    if not same:
        return rng.binomial(reviews, true) / reviews, true
    # What a worse seed is right about is among what a better one is right about.
    right, better = np.empty_like(true), np.ones(trials)
    left = np.full(trials, reviews)
    for k, of_seed in enumerate(true.T):
        left = rng.binomial(left, np.minimum(1, of_seed / better))
        right[:, k], better = left, of_seed
    return right / reviews, true


def coverage(share, scatter, seeds, reviews, *, same, trials, seed=0):
    """How often the interval of the mean holds `share`, and that of one more seed what that is.

    Also the median width, as a multiple of that of one who knows both variances.
    """
    rng = np.random.default_rng(seed)
    scores, true = simulate(rng, share, scatter, seeds, reviews, same=same, trials=trials)
    _, one_more = simulate(rng, share, scatter, 1, reviews, same=same, trials=trials)
    found = [report.summary(values, reviews) for values in scores]
    low, high, low_of_one, high_of_one = (
        np.array([of[name] for of in found])
        for name in ("ci95_low", "ci95_high", "one_seed_low", "one_seed_high")
    )
    held = (low <= share) & (share <= high)
    held_one_more = (low_of_one <= one_more[:, 0]) & (one_more[:, 0] <= high_of_one)
    of_seeds = true.var() if scatter else 0.0
    of_reviews = (share * (1 - share) - of_seeds) / reviews
    known = math.sqrt(of_seeds / seeds + of_reviews / (1 if same else seeds))
    width = np.median(high - low) / (2 * 1.96 * known)
    return held.mean(), held_one_more.mean(), width


def main(trials=2_000):
    reviews = ", ".join(f"{n:,}" for n in REVIEWS)
    print(
        "# Intervals of accuracies\n\n"
        "Made by `python -m tests.train_lib.coverage > docs/intervals.md`. How often, in % of "
        f"{trials:,} simulations, the 95 % interval of the mean\n"
        "over K seeds (`mean_interval` in `train_lib/statistics.py`) holds the accuracy of all "
        "seeds on all reviews, and in brackets\n"
        "that of one more seed (`one_more_interval`) what that seed has on all reviews: the lowest "
        f"figure with {reviews} reviews.\n"
        f"Then the median width with {REVIEWS[-1]:,} reviews, as a multiple of that of one who "
        "knows both variances (with two seeds\n"
        "Student's alone is 4.4 times as wide).\n\n"
        "Scatter is the standard deviation of the seeds' skill, where that of the difficulty of "
        "reviews is 1: on IMDB it is .02 to .08, and\n"
        ".3 at .86 are 7 points. Reviews are as difficult for every seed (same), or difficulties "
        "have nothing to do with each other (apart).\n"
    )
    print("| accuracy | scatter | reviews | " + " | ".join(f"K = {k}" for k in SEEDS) + " |")
    print("|---" * (3 + len(SEEDS)) + "|")
    for share in SHARES:
        for scatter in SCATTER:
            for same in (True, False):
                cells = []
                for seeds in SEEDS:
                    of_cases = [
                        coverage(share, scatter, seeds, reviews, same=same, trials=trials)
                        for reviews in REVIEWS
                    ]
                    held, held_one_more, width = zip(*of_cases, strict=True)
                    cells.append(
                        f"{100 * min(held):.1f} ({100 * min(held_one_more):.1f}), {width[-1]:.1f}"
                    )
                kind = "same" if same else "apart"
                print(f"| {share:g} | {scatter:g} | {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
