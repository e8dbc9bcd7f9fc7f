"""Comparisons of runs that were made up, from the command line to the files."""

import csv
import dataclasses
import itertools
import json
import re

import matplotlib.image
import numpy as np
import pytest
import sklearn.metrics

from tests.train_lib.conftest import KINDS
from train_lib import compare
from train_lib.analysis import comparison, comparison_tables, scores, statistics
from train_lib.errors import UserError
from train_lib.records import finished
from train_lib.records.folder import RunFolder


def comparison_of(*paths):
    return comparison.compare(finished.load([str(path) for path in paths]))


def rows_of(path):
    return list(csv.DictReader((path / "predictions.csv").read_text("utf-8").splitlines()))


def test_a_run_is_described_as_others_would(write_run):
    path = write_run("one")
    found = comparison_of(path, write_run("two", draw=1))["runs"][0]
    for of_seed in found["seeds"]:
        rows = [row for row in rows_of(path) if row["seed"] == str(of_seed["seed"])]
        is_good = np.array([row["target"] == "good" for row in rows])
        probability = np.array([float(row["probability"]) for row in rows])
        expected = {
            "score": sklearn.metrics.accuracy_score(is_good, probability > 0.5),
            "loss": sklearn.metrics.log_loss(is_good, probability),
            "brier": sklearn.metrics.brier_score_loss(is_good, probability),
            "macro_f1": sklearn.metrics.f1_score(is_good, probability > 0.5, average="macro"),
            "auroc": sklearn.metrics.roc_auc_score(is_good, probability),
        }
        assert {name: of_seed[name] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert list(found["figures"]) == ["loss", "macro_f1", "auroc", "ece", "brier"]
    figures = {"score": found["score"], **found["figures"]}
    for name, count in {"score": 200, "loss": None, "brier": np.inf, "ece": np.inf}.items():
        expected = statistics.mean_interval([seed[name] for seed in found["seeds"]], count)
        assert [figures[name][key] for key in ("mean", "ci95_low", "ci95_high")] == [*expected]
    accuracies = [seed["score"] for seed in found["seeds"]]
    assert found["score"]["mean"] == pytest.approx(np.mean(accuracies))
    assert found["score_sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert [epoch["value"] for epoch in found["course"]] == [0.71, 0.72, 0.73]


# Of each kind of task: its score, and figures beside it.
FIGURES = {
    "two": ("accuracy", {"loss", "macro_f1", "auroc", "ece", "brier"}),
    "three": ("accuracy", {"loss", "macro_f1", "auroc", "ece", "brier"}),
    "labels": (
        "samples_f1", {"loss", "micro_f1", "macro_f1", "subset_accuracy", "auroc"},
    ),
    "numbers": ("mse", {"loss", "mae", "r2"}),
    "tags": ("accuracy", {"loss", "macro_f1"}),
    "next": ("loss", {"accuracy", "bits_per_token", "bits_per_byte", "perplexity"}),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_any_task_are_compared_by_its_score(kind, write_run):
    good = write_run("good", kind=kind, skill=2.5 if kind == "numbers" else 1.5)
    bad = write_run("bad", kind=kind, skill=0.2, draw=1)
    found = comparison_of(bad, good)
    score, figures = FIGURES[kind]
    higher = kind not in ("numbers", "next")
    unit = "nats a token" if kind == "next" else ""
    assert found["score"] == {
        "name": score, "higher_is_better": higher, "is_share": higher, "unit": unit,
    }  # fmt: skip
    assert set(found["runs"][0]["figures"]) == figures
    for run, path in zip(found["runs"], (bad, good), strict=True):
        seeds = json.loads((path / "result.json").read_text("utf-8"))["seeds"]
        expected = [seed[f"test_{score}"] for seed in seeds]
        assert [seed["score"] for seed in run["seeds"]] == pytest.approx(expected, rel=1e-4)
        assert (run["reliability"] is not None) == (kind == "two")
        for of in (run["score"], *run["by_length"]):
            assert of["ci95_low"] < of["mean"] < of["ci95_high"]
        summed = sum(
            weight * of["mean"]
            for weight, of in zip(weights_of(path, found), run["by_length"], strict=True)
        )
        assert summed == pytest.approx(run["score"]["mean"], rel=1e-4)
    (pair,) = found["pairs"]
    assert pair["mean"] > 0 if higher else pair["mean"] < 0
    assert pair["p"] < 0.05
    assert (pair["cohens_h"] is not None) == (kind in ("two", "three"))
    assert len(pair["mcnemar"]) == (3 if kind in ("two", "three") else 0)
    text = comparison_tables.markdown(found)
    assert f"({'higher' if higher else 'lower'} is better)" in text
    assert ("| points [95 %]" in text) == higher
    assert ("McNemar" in text) == (kind in ("two", "three"))
    assert ("drawn together" in text) == (kind in ("tags", "next"))
    assert ("loss in nats a token [95 %]" in text) == (kind == "next")
    assert ("No baseline" in text) == (kind != "next")
    json.dumps(found, allow_nan=False)
    if kind in ("numbers", "tags"):  # For drawing takes long.
        comparison_tables.draw(found)


def weights_of(path, found):
    """The share of all items that the examples of each length have."""
    rows = [row for row in rows_of(path) if row["seed"] == "0"]
    of_bins = [
        sum(
            float(row["weight"])
            for row in rows
            if of_bin["steps_from"] <= int(row["steps"]) <= of_bin["steps_to"]
        )
        for of_bin in found["length_bins"]
    ]
    return np.array(of_bins) / sum(of_bins)


@pytest.mark.parametrize("kind", ["three", "tags"])
def test_examples_without_a_label_are_left_out(kind, write_run):
    paths = [write_run(name, kind=kind, draw=n, unlabelled=50) for n, name in enumerate("ab")]
    found = comparison_of(*paths)
    assert sum(of_bin["examples"] for of_bin in found["length_bins"]) == 150
    of_a = [row for row in rows_of(paths[0]) if float(row["weight"])]
    assert len(of_a) == 450
    means = np.average(
        np.array([float(row["score"]) for row in of_a]).reshape(3, -1), axis=1,
        weights=[float(row["weight"]) for row in of_a[:150]],
    )  # fmt: skip
    assert [seed["score"] for seed in found["runs"][0]["seeds"]] == pytest.approx(means)


def test_scores_have_the_weight_of_their_steps(write_run):
    paths = [str(write_run(name, kind="tags", draw=n)) for n, name in enumerate("ab")]
    first, second = finished.load(paths)
    (pair,) = comparison.compare([first, second])["pairs"]
    expected = scores.difference(
        first.scores_KxN, second.scores_KxN, paired=True, weights_N=first.steps_N
    )
    assert [pair[name] for name in ("mean", "ci95_low", "ci95_high", "p")] == [*expected]


@pytest.mark.parametrize("kind", ["tags", "next"])
def test_a_difference_is_that_of_the_means_over_all_steps(kind, write_run):
    """By hand, from what the runs wrote; blocks of a stream have equally many but the last."""
    paths = [write_run(name, kind=kind, draw=n, skill=n + 0.5) for n, name in enumerate("ab")]
    means = []
    for path in paths:
        rows = rows_of(path)
        scores_KxN, weights_KxN = (
            np.array([float(row[name]) for row in rows]).reshape(3, -1)
            for name in ("score", "weight")
        )
        means.append(np.mean((scores_KxN * weights_KxN).sum(1) / weights_KxN.sum(1)))
    found = comparison_of(*paths)
    assert found["pairs"][0]["mean"] == pytest.approx(means[1] - means[0], rel=1e-9)
    steps = sum(int(row["steps"]) for row in rows_of(paths[0])) // 3
    assert found["dataset"]["items"] == steps
    assert f"## 200 test examples, {steps:,} steps of made_up" in comparison_tables.markdown(found)


def test_blocks_of_one_length_are_not_shown_by_length(write_run):
    changes = {"dataset": {"examples_are": "blocks"}, "kind": "next", "lengths": 64}
    paths = [write_run(name, draw=n, **changes) for n, name in enumerate("ab")]
    found = comparison_of(*paths)
    text = comparison_tables.markdown(found)
    assert "## 200 test blocks, 12,800 steps of made_up" in text
    assert "by length" not in text
    assert "blocks of one stream" in text
    titles = {axes.get_title() for axes in comparison_tables.draw(found).axes}
    assert "test loss in nats a token with 95 % interval; a stroke is a seed" in titles
    assert not any("by length" in title for title in titles)


def test_accuracy_by_length_is_that_of_all_taken_apart(write_run):
    found = comparison_of(write_run("one"), write_run("two", draw=1))
    bins, run = found["length_bins"], found["runs"][0]
    assert sum(of_bin["examples"] for of_bin in bins) == 200
    assert all(a["steps_to"] < b["steps_from"] for a, b in itertools.pairwise(bins))
    right = [b["examples"] * of["mean"] for b, of in zip(bins, run["by_length"], strict=True)]
    assert sum(right) / 200 == pytest.approx(run["score"]["mean"])


@pytest.mark.parametrize("seeds", [(0, 1, 2), (5, 6)])
def test_the_better_run_wins_whichever_is_named_first(write_run, seeds):
    good, bad = write_run("good", skill=2.0), write_run("bad", seeds=seeds, skill=0.3, draw=1)
    (one,), (other,) = (
        comparison_of(*paths)["pairs"] for paths in ((bad, good), (good, bad))
    )  # fmt: skip
    assert 0 < one["ci95_low"] < one["mean"] < one["ci95_high"]
    assert one["p"] < 0.05
    assert one["mean"] == pytest.approx(-other["mean"])
    assert one["ci95_low"] == pytest.approx(-other["ci95_high"])
    assert one["cohens_d"] == pytest.approx(-other["cohens_d"])
    assert one["seeds_are"] == ("paired" if seeds == (0, 1, 2) else "independent")
    assert one["seeds_for_80_percent_power"] == other["seeds_for_80_percent_power"]
    shared = set(seeds) & {0, 1, 2}
    assert [test["seeds"] for test in one["mcnemar"]] == [[seed, seed] for seed in shared]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("examples", [200, 7, 2])
@pytest.mark.parametrize("seeds", [(0,), (0, 1), (0, 1, 2)])
def test_intervals_are_ones_that_can_be(write_run, examples, seeds):
    """Of seeds that agree, and of those that do not at all; of a run beside itself and another."""
    by_chance = finished.load(
        [
            str(write_run(name, seeds, skill=0.2, draw=n, examples=examples))
            for n, name in enumerate("ab")
        ]
    )
    for right in ("by chance", "all", "none", "half"):
        runs = by_chance
        if right != "by chance":
            scores_N = {"all": np.ones, "none": np.zeros}.get(right, lambda n: np.arange(n) % 3 > 0)
            scores_KxN = np.tile(scores_N(examples).astype(float), (len(seeds), 1))
            runs = [dataclasses.replace(run, scores_KxN=scores_KxN) for run in runs]
        found = comparison.compare(runs)
        for run in found["runs"]:
            for of in (run["score"], *run["by_length"]):
                assert 0 <= of["ci95_low"] <= of["mean"] <= of["ci95_high"] <= 1
                assert of["ci95_low"] < of["ci95_high"]
            for name in ("ece", "brier", "loss"):
                if "ci95_low" in run["figures"][name]:
                    low, high = (run["figures"][name][end] for end in ("ci95_low", "ci95_high"))
                    assert 0 <= low < high
                    assert high <= 1 or name == "loss"
        (pair,) = found["pairs"]
        assert -1 <= pair["ci95_low"] <= pair["mean"] <= pair["ci95_high"] <= 1
        assert pair["ci95_low"] < pair["ci95_high"]
        assert 0 < pair["p"] <= pair["p_holm"] <= 1
        json.dumps(found, allow_nan=False)
        assert "nan" not in comparison_tables.markdown(found)
        if (examples, right, seeds) == (2, "all", (0, 1)):  # For drawing takes long.
            comparison_tables.draw(found)


def test_one_seed_each_is_about_these_models_alone(write_run):
    one, two = write_run("one", seeds=(0,)), write_run("two", seeds=(7,), skill=1.5, draw=1)
    found = comparison_of(one, two)
    (pair,) = found["pairs"]
    assert pair["one_seed"]
    assert pair["cohens_d"] is pair["seeds_for_80_percent_power"] is None
    assert [test["seeds"] for test in pair["mcnemar"]] == [[0, 7]]
    assert pair["mcnemar"][0]["p"] == pytest.approx(pair["p"], rel=0.5)
    text = comparison_tables.markdown(found)
    assert re.search(r"two - one *\| \S+ \[\S+ \S+\] \*", text)
    assert "these trained models alone" in text


def test_several_pairs_are_adjusted_for_each_other(write_run):
    paths = [write_run(f"run{n}", skill=1 + 0.2 * n, draw=n) for n in range(3)]
    found = comparison_of(*paths)
    p, adjusted = (np.array([pair[name] for pair in found["pairs"]]) for name in ("p", "p_holm"))
    assert min(adjusted) == pytest.approx(min(1, 3 * min(p)))
    assert "p (Holm)" in comparison_tables.markdown(found)
    assert "p (Holm)" not in comparison_tables.markdown(comparison_of(*paths[:2]))


@pytest.mark.parametrize(
    ("changes", "noted"),
    [({"data.train_examples": 5_000}, True), ({"data.mask_padding": False}, False)],
)
def test_what_differs_in_the_configs_is_shown(write_run, changes, noted):
    found = comparison_of(write_run("one"), write_run("two", draw=1, changes=changes))
    ((field, value),) = changes.items()
    assert found["config"][field][1] == value
    text = comparison_tables.markdown(found)
    assert re.search(rf"\| {field} *\| \S+ *\| {value} ", text)
    assert ("trained on different data" in text) == noted


def test_the_same_run_twice_is_noticed(write_run):
    found = comparison_of(write_run("one"), write_run("copy"))
    (pair,) = found["pairs"]
    assert (pair["mean"], pair["p"]) == (0, 1)
    assert pair["seeds_for_80_percent_power"] == "> 1,000"
    text = comparison_tables.markdown(found)
    assert "made twice?" in text
    assert "No baseline" in text


def test_runs_of_other_scores_cannot_be_compared(write_run):
    with pytest.raises(UserError, match="scores: accuracy / samples_f1"):
        comparison_of(write_run("one"), write_run("two", kind="labels"))


def test_language_models_that_know_other_tokens_cannot_be_compared(write_run):
    """With fewer words, more of a text is the unknown word, which is easy to predict."""
    first, second = (write_run(name, kind="next") for name in ("one", "two"))
    result = json.loads((second / "result.json").read_text())
    result["task"]["tokens"][-1] = ["another", None]
    RunFolder(second).finish(result)
    with pytest.raises(UserError, match="tokens to predict: 1 / 1 that the other one does not kn"):
        comparison_of(first, second)


def test_from_the_command_line_to_the_files(write_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = [str(write_run("one")), str(write_run("two", seeds=(0,), draw=1)), str(write_run("3"))]
    compare.main([*runs, "--out=out"])
    compare.main(runs)
    (default,) = (tmp_path / "runs").iterdir()
    for folder in (tmp_path / "out", default):
        assert {path.name for path in folder.iterdir()} == {
            "compare.html", "compare.json", "compare.md", "compare.png",
        }  # fmt: skip
        assert matplotlib.image.imread(folder / "compare.png").std() > 0.05

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (default / "compare.json").read_text()
    found = json.loads(text, parse_constant=refuse)
    assert [run["name"] for run in found["runs"]] == ["one", "two", "3"]
    tables = comparison_tables.markdown(found)
    assert tables in (default / "compare.md").read_text()
    assert tables in capsys.readouterr().out


def test_results_are_never_overwritten(write_run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").touch()
    with pytest.raises(UserError, match=r"--out=.*not empty"):
        compare.main([str(write_run("one")), str(write_run("two")), f"--out={tmp_path / 'out'}"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_one_run_cannot_be_compared(write_run):
    with pytest.raises(UserError, match="two runs or more"):
        compare.main([str(write_run("one"))])
