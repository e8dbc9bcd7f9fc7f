"""Which of several finished runs is better, by how much, and how sure that is."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from train_lib.analysis import scores, statistics
from train_lib.records import finished
from train_lib.records.finished import Run
from train_lib.records.metrics import SHARES, lowest_of, plain, summary, summary_of_scores
from train_lib.records.result import diverged_seeds

LENGTH_BINS = 5

FIGURES = ("macro_f1", "auroc", "ece", "brier")
"""Figures of each seed that are compared besides the score and the task's metrics."""


# Fields that change the training examples, but not the test examples.
_TRAINING_DATA = ("data.max_features", "data.split_seed", "data.train_examples")


def compare(runs: Sequence[Run]) -> dict:
    """The contents of `compare.json`: each run, each pair of runs, and notes on both.

    Examples without a label are left out.
    """
    runs = [run.labelled() for run in runs]
    steps_N = runs[0].steps_N
    bins_N = statistics.equal_count_bins(steps_N, LENGTH_BINS)
    bins_BxN = [bins_N == number for number in range(bins_N.max() + 1)]
    pairs = [_pair(first, second) for first, second in itertools.combinations(runs, 2)]
    for pair, p in zip(pairs, statistics.holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_holm"] = p
    data = runs[0].result["dataset"]
    names = dict.fromkeys((*runs[0].metrics, *FIGURES))
    figures = [
        name for name in names if name != runs[0].score and all(_has(run, name) for run in runs)
    ]
    return {
        "dataset": {
            **{field: data[field] for field in ("name", "fingerprint", "test")},
            "examples_are": data.get("examples_are", "examples"),
            "items": int(runs[0].weights_N.sum()),
        },
        "score": {
            "name": runs[0].score,
            "higher_is_better": runs[0].higher_is_better,
            "is_share": runs[0].are_shares,
            "unit": runs[0].result.get("task", {}).get("score_unit", ""),
        },
        "runs": [_run(run, bins_BxN, figures) for run in runs],
        "pairs": pairs,
        "length_bins": [
            {
                "steps_from": int(steps_N[bin_N].min()),
                "steps_to": int(steps_N[bin_N].max()),
                "examples": int(bin_N.sum()),
            }
            for bin_N in bins_BxN
        ],
        "config": finished.differing_fields(runs),
        "notes": _notes(runs, pairs),
    }


def _has(run: Run, name: str) -> bool:
    return all(figures.get(name) is not None for figures in run.figures_K)


def _run(run: Run, bins_BxN: Sequence[np.ndarray], figures: Sequence[str]) -> dict:
    """How good a run is: on all examples, on those of each length, and with each seed."""
    scores_K = run.mean_scores()
    each_K = {name: np.array([of[name] for of in run.figures_K]) for name in figures}
    seeds = len(run.seeds)
    name = f"validation_{run.metric}"
    reliability = None
    if run.probabilities_KxN is not None:
        pooled = statistics.reliability(
            run.probabilities_KxN.ravel(), np.tile(run.is_second_N, seeds)
        )
        reliability = {key: values_B.tolist() for key, values_B in pooled._asdict().items()}
    return {
        "name": run.name,
        "folder": str(run.folder),
        "parameters": run.result["model"]["parameters"],
        "score": score_summary(run.scores_KxN, run.weights_N, are_shares=run.are_shares),
        "score_sd": float(scores_K.std(ddof=1)) if seeds > 1 else None,
        "figures": {
            key: _figure_summary(key, values_K, are_two_classes=reliability is not None)
            for key, values_K in each_K.items()
        },
        "train_seconds": run.result["seconds"]["train"],
        "device": run.result["device"],
        # A run that is not trained by epochs has one, its end.
        "course": [
            {
                "epoch": epoch["epoch"],
                "seconds": epoch["seconds"],
                "value": epoch[name],
                "ci95": epoch["ci95"] and epoch["ci95"][name],
            }
            for epoch in run.epochs
            if name in epoch
        ]
        or [
            {
                "epoch": None,
                "seconds": run.result["seconds"]["total"],
                "value": of_end["mean"],
                "ci95": None,
            }
            for of_end in [run.result.get(name)]
            if of_end
        ],
        "metric": run.metric,
        "diverged": diverged_seeds(run.result),
        "seeds": [
            {"seed": seed, "score": float(scores_K[k])}
            | {key: float(values_K[k]) for key, values_K in each_K.items()}
            for k, seed in enumerate(run.seeds)
        ],
        "by_length": [
            score_summary(run.scores_KxN[:, bin_N], run.weights_N[bin_N], are_shares=run.are_shares)
            for bin_N in bins_BxN
        ],
        "reliability": reliability,
    }


def _figure_summary(name: str, values_K: np.ndarray, *, are_two_classes: bool) -> dict:
    """A mean over seeds; its interval is for other seeds on these examples."""
    # From 0 to 1; Brier's score only with two classes.
    if name in SHARES or (name == "brier" and are_two_classes):
        return summary(values_K, math.inf)
    return summary(values_K, None, lowest_of(name, values_K))


def score_summary(scores_KxN: np.ndarray, weights_N: np.ndarray, *, are_shares: bool) -> dict:
    """The `summary` of the mean score, over seeds and examples."""
    if are_shares and is_right_or_wrong(scores_KxN, weights_N):
        return summary(scores_KxN.mean(1), scores_KxN.shape[1])
    return summary_of_scores(scores_KxN, weights_N, are_shares=are_shares)


def is_right_or_wrong(scores_KxN: np.ndarray, weights_N: np.ndarray) -> bool:
    """Whether there is one answer per example, which is either right or wrong."""
    return bool(np.isin(scores_KxN, (0, 1)).all() and (weights_N == 1).all())


def _pair(first: Run, second: Run) -> dict:
    """How much higher the second run scores than the first."""
    paired = first.seeds == second.seeds
    first_KxN, second_KxN = first.scores_KxN, second.scores_KxN
    difference = scores.difference(
        first_KxN,
        second_KxN,
        paired=paired,
        weights_N=first.weights_N,
        are_shares=first.are_shares,
    )
    first_K, second_K = first.mean_scores(), second.mean_scores()
    are_answers = first.are_shares and all(
        is_right_or_wrong(scores_KxN, first.weights_N) for scores_KxN in (first_KxN, second_KxN)
    )
    d = statistics.cohens_d(first_K, second_K, paired=paired)
    needed = None
    if not math.isnan(d):
        needed = statistics.seeds_needed(d, paired=paired) or f"> {statistics.MOST_SEEDS:,}"
    compared = [(seed, seed) for seed in first.seeds if seed in second.seeds]
    if len(first.seeds) == len(second.seeds) == 1:
        compared = [(first.seeds[0], second.seeds[0])]
    return {
        "first": first.name,
        "second": second.name,
        "mean": difference.mean,
        "ci95_low": difference.low,
        "ci95_high": difference.high,
        "p": difference.p,
        "seeds_are": "paired" if paired else "independent",
        "one_seed": min(len(first.seeds), len(second.seeds)) == 1,
        "cohens_d": d if math.isfinite(d) else None,
        "cohens_h": statistics.cohens_h(float(first_K.mean()), float(second_K.mean()))
        if are_answers
        else None,
        "seeds_for_80_percent_power": needed,
        "mcnemar": [
            {"seeds": [a, b]}
            | statistics.mcnemar(
                first_KxN[first.seeds.index(a)] == 1, second_KxN[second.seeds.index(b)] == 1
            )._asdict()
            for a, b in compared
        ]
        if are_answers
        else [],
    }


def _notes(runs: Sequence[Run], pairs: Sequence[dict]) -> list[str]:
    """What a reader must know to read the figures."""
    one_seed = {pair["one_seed"] for pair in pairs}
    score = plain(runs[0].score)
    better = "higher" if runs[0].higher_is_better else "lower"
    notes = [
        f"The interval of {score} is for new seeds on new examples, both drawn at random; "
        "with one seed, for this trained model on new examples.",
        "Other figures are means over seeds, and their intervals are for other seeds on these "
        "examples.",
        f"Difference: the second run's {score} minus the first's; {better} is better.",
    ]
    if not (runs[0].weights_N == runs[0].weights_N[0]).all():
        notes.append(
            "An example counts as often as it has steps with a label; they are drawn together, as "
            "one."
        )
    if runs[0].result["dataset"].get("examples_are") == "blocks":
        notes.append(
            "Examples are blocks of one stream. They count as drawn one by one, though what stands "
            "beside each other in a text is alike: intervals speak of other texts of this kind "
            "less surely than of other blocks."
        )
    for run in runs:
        if lost := diverged_seeds(run.result):
            shown = ", ".join(map(str, lost))
            notes.append(f"{run.name}: seeds {shown} diverged and are left out.")
    if False in one_seed:
        notes += [
            "The interval of a difference, and p, are for other seeds and examples than these: "
            "both count as drawn at random (`difference` in train_lib/analysis/scores.py).",
            "Cohen's d counts standard deviations over seeds. Runs with the same seeds are paired: "
            "d_z counts those of the difference.",
            "Seeds for 80 % power: that many of each run, and a t-test over seeds shows a "
            "difference of the size seen four times in five, at 5 %, on these examples.",
        ]
    if True in one_seed:
        notes.append(
            r"\* One of the two has a single seed, so the interval and p are over examples and "
            "speak of these trained models alone. Other seeds may well reverse the difference."
        )
    if any(pair["mcnemar"] for pair in pairs):
        notes.append(
            "McNemar's test compares two trained models, of the same seed where there are several, "
            "and says nothing about others."
        )
    if len(pairs) > 1:
        notes.append(f"p (Holm) allows for there being {len(pairs)} comparisons.")
    for pair in pairs:
        alone = [test["first_alone"] + test["second_alone"] for test in pair["mcnemar"]]
        if alone and not any(alone):
            notes.append(
                f"{pair['first']} and {pair['second']} are right about the very same examples with "
                "the same seeds: are they one run, made twice?"
            )
    if learnt := [field for field in finished.differing_fields(runs) if field in _TRAINING_DATA]:
        notes.append(
            f"The runs were trained on different data ({', '.join(learnt)}), so that differences "
            "are not of the models alone."
        )
    if len({run.result["device"] for run in runs}) > 1:
        notes.append("Training seconds are of different devices.")
    has_baseline = runs[0].config.get("task.name") != "next_token"
    if has_baseline and all("model.cell" in run.config for run in runs):
        notes.append(
            "No baseline is among the runs. `python -m train_lib.baselines` trains what counts "
            "words and groups of words or, of vectors, takes their mean and range; a recurrent "
            "model that does not beat it has gained nothing."
        )
    return notes
