"""Comparisons of runs that were made up, from the command line to the files."""

import dataclasses
import itertools
import json
import re

import matplotlib.image
import numpy as np
import pytest
import sklearn.metrics

from train_lib import compare, finished, statistics
from train_lib.errors import UserError


def comparison_of(*paths):
    return compare.compare(finished.load([str(path) for path in paths]))


def test_a_run_is_described_as_others_would(write_run):
    path = write_run("one")
    found = comparison_of(path, write_run("two", draw=1))["runs"][0]
    table = np.genfromtxt(path / "predictions.csv", delimiter=",", names=True)
    for of_seed in found["seeds"]:
        rows = table[table["seed"] == of_seed["seed"]]
        label, probability = rows["label"], rows["probability"]
        expected = {
            "test_accuracy": sklearn.metrics.accuracy_score(label, probability > 0.5),
            "test_loss": sklearn.metrics.log_loss(label, probability),
            "brier": sklearn.metrics.brier_score_loss(label, probability),
        }
        assert {name: of_seed[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    reviews = {"test_accuracy": 200, "test_loss": None, "brier": np.inf, "ece": np.inf}
    for name, count in reviews.items():
        of_seeds = [seed[name] for seed in found["seeds"]]
        expected = statistics.mean_interval(of_seeds, count)
        assert [found[name][key] for key in ("mean", "ci95_low", "ci95_high")] == [*expected]
    accuracies = [seed["test_accuracy"] for seed in found["seeds"]]
    assert found["test_accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert found["test_accuracy_sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert [epoch["validation_accuracy"] for epoch in found["course"]] == [0.71, 0.72, 0.73]


def test_accuracy_by_length_is_that_of_all_taken_apart(write_run):
    found = comparison_of(write_run("one"), write_run("two", draw=1))
    bins, run = found["length_bins"], found["runs"][0]
    assert sum(of_bin["reviews"] for of_bin in bins) == 200
    assert all(a["tokens_to"] < b["tokens_from"] for a, b in itertools.pairwise(bins))
    right = [b["reviews"] * of["mean"] for b, of in zip(bins, run["by_length"], strict=True)]
    assert sum(right) / 200 == pytest.approx(run["test_accuracy"]["mean"])


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
@pytest.mark.parametrize("reviews", [200, 7, 1])
@pytest.mark.parametrize("right", ["all", "none", "half", "by chance"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1), (0, 1, 2)])
def test_intervals_are_ones_that_can_be(write_run, reviews, right, seeds):
    """Of seeds that agree, and of those that do not at all; of a run beside itself and another."""
    runs = finished.load(
        [
            str(write_run(name, seeds, skill=0.2, draw=n, reviews=reviews))
            for n, name in enumerate("ab")
        ]
    )
    if right != "by chance":
        is_right_N = {"all": np.ones, "none": np.zeros}.get(right, lambda n: np.arange(n) % 3 > 0)(
            reviews
        )
        logits_N = (2 * is_right_N - 1) * (2 * runs[0].labels_N - 1)
        runs = [
            dataclasses.replace(run, logits_KxN=np.tile(logits_N, (len(seeds), 1))) for run in runs
        ]
    found = compare.compare(runs)
    for run in found["runs"]:
        for of in (run["test_accuracy"], *run["by_length"]):
            assert 0 <= of["ci95_low"] <= of["mean"] <= of["ci95_high"] <= 1
            assert of["ci95_low"] < of["ci95_high"]
        for name in ("ece", "brier", "test_loss"):
            if "ci95_low" in run[name]:
                assert 0 <= run[name]["ci95_low"] < run[name]["ci95_high"]
                assert run[name]["ci95_high"] <= 1 or name == "test_loss"
    (pair,) = found["pairs"]
    assert -1 <= pair["ci95_low"] <= pair["mean"] <= pair["ci95_high"] <= 1
    assert pair["ci95_low"] < pair["ci95_high"]
    assert 0 < pair["p"] <= pair["p_holm"] <= 1
    json.dumps(found, allow_nan=False)
    assert "nan" not in compare.markdown(found)
    if (reviews, right, seeds) == (1, "all", (0, 1)):  # For drawing takes long.
        compare.draw(found)


def test_one_seed_each_is_about_these_models_alone(write_run):
    one, two = write_run("one", seeds=(0,)), write_run("two", seeds=(7,), skill=1.5, draw=1)
    found = comparison_of(one, two)
    (pair,) = found["pairs"]
    assert pair["one_seed"]
    assert pair["cohens_d"] is pair["seeds_for_80_percent_power"] is None
    assert [test["seeds"] for test in pair["mcnemar"]] == [[0, 7]]
    assert pair["mcnemar"][0]["p"] == pytest.approx(pair["p"], rel=0.5)
    text = compare.markdown(found)
    assert re.search(r"two minus one *\| \S+ \[\S+ \S+\] \*", text)
    assert "these trained models alone" in text


def test_several_pairs_are_adjusted_for_each_other(write_run):
    found = comparison_of(*(write_run(f"run{n}", skill=1 + 0.2 * n, draw=n) for n in range(3)))
    p, adjusted = (np.array([pair[name] for pair in found["pairs"]]) for name in ("p", "p_holm"))
    assert min(adjusted) == pytest.approx(min(1, 3 * min(p)))
    assert "p (Holm)" in compare.markdown(found)
    assert "p (Holm)" not in compare.markdown(comparison_of(write_run("a"), write_run("b", draw=1)))


@pytest.mark.parametrize(
    ("changes", "noted"),
    [({"data.train_reviews": 5_000}, True), ({"data.mask_padding": False}, False)],
)
def test_what_differs_in_the_configs_is_shown(write_run, changes, noted):
    found = comparison_of(write_run("one"), write_run("two", draw=1, changes=changes))
    ((field, value),) = changes.items()
    assert found["config"][field][1] == value
    text = compare.markdown(found)
    assert re.search(rf"\| {field} *\| \S+ *\| {value} ", text)
    assert ("trained on different data" in text) == noted


def test_it_is_said_where_no_baseline_is_among_the_runs(write_run):
    one, two = write_run("one"), write_run("two", draw=1)
    baseline = write_run("nb-svm", draw=2, changes={"model.ngram_words": 2})
    assert "No baseline" in compare.markdown(comparison_of(one, two))
    assert "No baseline" not in compare.markdown(comparison_of(one, two, baseline))


def test_the_same_run_twice_is_noticed(write_run):
    found = comparison_of(write_run("one"), write_run("copy"))
    (pair,) = found["pairs"]
    assert (pair["mean"], pair["p"]) == (0, 1)
    assert pair["seeds_for_80_percent_power"] == "> 1,000"
    assert "made twice?" in compare.markdown(found)


def test_from_the_command_line_to_the_files(write_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = [str(write_run("one")), str(write_run("two", seeds=(0,), draw=1)), str(write_run("3"))]
    compare.main([*runs, "--out=out"])
    compare.main(runs)
    (default,) = (tmp_path / "runs").iterdir()
    for folder in (tmp_path / "out", default):
        assert {path.name for path in folder.iterdir()} == {
            "compare.json", "compare.md", "compare.png",
        }  # fmt: skip
        assert matplotlib.image.imread(folder / "compare.png").std() > 0.05

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (default / "compare.json").read_text()
    found = json.loads(text, parse_constant=refuse)
    assert [run["name"] for run in found["runs"]] == ["one", "two", "3"]
    tables = compare.markdown(found)
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
