"""Numbers: figures in their own unit are scikit-learn's, and a model of any scale can train."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from train_lib import tasks
from train_lib.records import predictions
from train_lib.tasks.numbers import Numbers


def drawn(seed, items, count=1, scale=1.0, middle=0.0):
    rng = np.random.default_rng(seed)
    targets = middle + scale * rng.normal(size=(items, count))
    targets = [row.tolist() if count > 1 else float(row[0]) for row in targets]
    task = tasks.make("numbers", targets, {}, {}, {})
    outputs = task.encode(targets) + 0.3 * rng.normal(size=(items, count))
    return task, targets, outputs.astype(np.float32)


@given(st.integers(0, 10**6), st.integers(2, 30), st.sampled_from([1e-6, 1.0, 1e6]))
@settings(max_examples=40, deadline=None)
def test_figures_are_those_of_scikit_learn_in_their_unit(seed, items, scale):
    task, targets, outputs_Nx1 = drawn(seed, items, scale=scale, middle=3 * scale)
    kept, encoded_Nx1 = {"outputs": outputs_Nx1}, task.encode(targets)
    columns = task.columns(kept, encoded_Nx1)
    np.testing.assert_allclose(columns["target"], targets, rtol=1e-10)
    pair = columns["target"], columns["answer"]
    expected = {
        "mse": sklearn.metrics.mean_squared_error(*pair),
        "mae": sklearn.metrics.mean_absolute_error(*pair),
        "r2": sklearn.metrics.r2_score(*pair),
    }
    figures = task.figures(kept, encoded_Nx1)["per_number"]["1"]
    metrics = task.measure(outputs_Nx1, encoded_Nx1)
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, rel=1e-6), name
        assert metrics[name] == pytest.approx(value, rel=1e-3), name
    assert figures["rmse"] == pytest.approx(np.sqrt(expected["mse"]))
    assert task.score(kept, encoded_Nx1).mean() == pytest.approx(expected["mse"])
    if items > 2:
        assert figures["pearson"] == pytest.approx(np.corrcoef(*pair)[0, 1])


def test_the_loss_is_the_squared_error_of_standardised_numbers():
    task = tasks.make("numbers", [[0, 10], [2, 30], None], {}, {}, {})
    assert (task.means, task.deviations) == ([1, 20], [1, 10])
    encoded_NxM = task.encode([[0, 10], [2, 30], None])
    np.testing.assert_array_equal(encoded_NxM, [[-1, -1], [1, 1], [np.nan, np.nan]])
    assert task.labelled(encoded_NxM).tolist() == [True, True, False]
    found_N = task.loss(np.array([[0.0, 1.0], [1.0, 1.0]]), encoded_NxM[:2])
    assert found_N.tolist() == [2.5, 0]


def test_several_numbers_have_columns_and_figures_of_their_own():
    task, targets, outputs_NxM = drawn(0, 20, count=2)
    task = Numbers(task.means, task.deviations, ["height", "weight"])
    kept, encoded_NxM = {"outputs": outputs_NxM}, task.encode(targets)
    columns = task.columns(kept, encoded_NxM)
    assert list(columns) == ["target_height", "target_weight", "answer_height", "answer_weight"]
    figures = task.figures(kept, encoded_NxM)["per_number"]
    expected = sklearn.metrics.r2_score(
        *(np.stack([columns[f"{kind}_{name}"] for name in task.names], 1)
          for kind in ("target", "answer"))
    )  # fmt: skip
    assert np.mean([of["r2"] for of in figures.values()]) == pytest.approx(expected)
    assert task.measure(outputs_NxM, encoded_NxM)["r2"] == pytest.approx(expected, rel=1e-4)
    assert (task.metric, task.higher_is_better, task.score_name) == ("r2", True, "loss")
    assert task.answer(kept)[0].startswith("height ")
    assert set(task.pictures(kept, encoded_NxM)) == {"scatter_height", "scatter_weight"}


def test_a_number_far_from_zero_comes_back_as_it_was():
    targets = [1_700_000_000.5, 1_700_000_001.25, 1_700_000_007.0]
    task = tasks.make("numbers", targets, {}, {}, {})
    encoded_Nx1 = task.encode(targets)
    assert abs(encoded_Nx1).max() < 2
    columns = task.columns({"outputs": encoded_Nx1}, encoded_Nx1)
    np.testing.assert_allclose(columns["target"], targets, rtol=1e-11)
    np.testing.assert_allclose(columns["answer"], targets, rtol=1e-11)


def test_a_guess_is_the_mean_and_explains_nothing():
    task, targets, _ = drawn(0, 30)
    encoded_Nx1 = task.encode([*targets, None])
    found = task.measure(task.guess(encoded_Nx1), encoded_Nx1)
    assert found["loss"] == pytest.approx(1, rel=1e-5)
    assert found["r2"] == pytest.approx(0, abs=1e-5)
    assert found["mse"] == pytest.approx(np.var(targets), rel=1e-5)


def test_where_targets_are_all_the_same_there_is_no_r2():
    task, _, _ = drawn(0, 30)
    encoded_Nx1 = task.encode([1.0, 1.0])
    kept = {"outputs": np.zeros((2, 1), np.float32)}
    assert task.figures(kept, encoded_Nx1)["per_number"]["1"]["r2"] is None
    assert np.isnan(task.measure(kept["outputs"], encoded_Nx1)["r2"])
    kept = {"outputs": np.full((2, 1), np.nan, np.float32)}  # Of a seed that diverged.
    assert task.figures(kept, encoded_Nx1)["per_number"]["1"]["mse"] is None


@pytest.mark.parametrize("items", [3, 6_000])
def test_a_scatter_picture_is_drawn(items, tmp_path):
    task, targets, outputs_Nx1 = drawn(0, items)
    figure = task.pictures({"outputs": outputs_Nx1}, task.encode(targets))["scatter"]
    figure.savefig(tmp_path / "scatter.png")
    (axes,) = figure.axes
    assert "R²" in axes.get_title()
    assert ("of 6,000" in axes.get_title()) == (items == 6_000)
    assert len(axes.collections[0].get_offsets()) == min(items, 5_000)


BAD = [
    ([1.0, "three"], 1, "is 'three', which is not a finite number"),
    ([1.0, None, float("nan")], 2, "is nan, which is not a finite number"),
    ([1.0, "inf"], 1, "is 'inf', which is not a finite number"),
    ([1.0, ""], 1, "is '', which is not a finite number"),
    ([1.0, True], 1, "is True, which is not a finite number"),
    ([1.0, {}], 1, "is {}, which is not a finite number"),
    ([1.0, [1.0, 2.0]], 1, "is [1.0, 2.0], 2 numbers in place of 1"),
    ([[1.0, 2.0], [3.0]], 1, "is [3.0], 1 number in place of 2"),
    ([[1.0, 2.0], 3.0], 1, "is 3.0, 1 number in place of 2"),
    ([[1.0, 2.0], [3.0, None]], 1, "is None, which is not a finite number"),
    ([[]], 0, "is an empty list, where numbers should be"),
    ([3, 3.0, "3"], None, "In all 3 training targets the number is 3; there is nothing to learn."),
    ([[1, 2], [3, 2]], None, "In all 2 training targets number 2 is 2; there is nothing to learn."),
    ([None], None, "No training example has a label."),
    ([], None, "No training example has a label."),
]


@pytest.mark.parametrize(("targets", "number", "message"), BAD)
def test_bad_targets_are_refused(targets, number, message):
    with pytest.raises(tasks.BadTarget) as found:
        tasks.make("numbers", targets, {}, {}, {})
    assert found.value.number == number
    assert message in str(found.value)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="metric='rmse' is unknown; choose one of mse, mae, r2"):
        tasks.make("numbers", [1, 2], {}, {}, {"metric": "rmse"})
    with pytest.raises(ValueError, match="different name for each of the 1 numbers"):
        tasks.make("numbers", [1, 2], {}, {}, {"names": ("a", "b")})


def test_large_numbers_that_lie_close_keep_their_digits():
    """Years, prices: what differs is far after the first digits."""
    targets = [20_231_200.25, 20_231_212.5, 20_231_190.0, 20_231_207.75]
    task = tasks.make("numbers", targets, {}, {}, {})
    kept = {"outputs": task.encode(targets)}
    columns = task.columns(kept, task.encode(targets))
    for name in ("target", "answer"):
        assert [float(predictions.shown(one)) for one in columns[name]] == targets
    assert [float(line) for line in task.answer(kept)] == pytest.approx(targets, abs=1e-2)
    with pytest.raises(tasks.BadTarget, match="none may be larger than 1e"):
        tasks.make("numbers", [1e300, -1e300], {}, {}, {})
