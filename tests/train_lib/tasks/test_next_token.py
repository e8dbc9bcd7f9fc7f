"""The next token: figures are those of plain NumPy."""

import math

import numpy as np
import pytest

from configs import base
from train_lib import building, tasks
from train_lib.data.inputs import Text, Tokens
from train_lib.data.vocabulary import Vocabulary
from train_lib.tasks.next_token import NextToken

CHARACTERS = Text(Vocabulary(["a", "é", "\n"]), "characters")


def drawn(task, items=200, seed=0):
    rng = np.random.default_rng(seed)
    targets_N = rng.integers(4, task.num_outputs, items).astype(np.int32)
    outputs_NxC = rng.normal(size=(items, task.num_outputs)).astype(np.float32)
    return outputs_NxC, targets_N


def losses(outputs_NxC, targets_N):
    odds_NxC = np.exp(outputs_NxC.astype(np.float64))
    return -np.log(odds_NxC[np.arange(len(targets_N)), targets_N] / odds_NxC.sum(1))


def test_figures_are_those_of_the_formulas():
    task = NextToken.of_tokens(CHARACTERS.tokens)
    outputs_NxC, targets_N = drawn(task)
    targets_N[:5] = -1
    known_N = targets_N >= 0
    expected_N = losses(outputs_NxC[known_N], targets_N[known_N])
    found = task.measure(outputs_NxC, targets_N)
    assert found["loss"] == pytest.approx(expected_N.mean(), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(expected_N.mean()), rel=1e-5)
    assert found["bits_per_token"] == pytest.approx(expected_N.mean() / math.log(2), rel=1e-5)
    in_bytes = sum(len("aé\n"[target - 4].encode()) for target in targets_N[known_N])
    assert found["bits_per_byte"] == pytest.approx(expected_N.sum() / math.log(2) / in_bytes, 1e-5)
    right_N = outputs_NxC.argmax(1) == targets_N
    assert found["accuracy"] == pytest.approx(right_N[known_N].mean())
    kept = {name: np.asarray(of) for name, of in task.kept(outputs_NxC, targets_N).items()}
    np.testing.assert_allclose(task.score(kept, targets_N)[known_N], expected_N, rtol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "target"), [(Text(Vocabulary(["good", "film"]), "keras"), 4), (CHARACTERS, 2)]
)
def test_where_a_token_is_of_unknown_bytes_there_are_no_bits_per_byte(inputs, target):
    task = NextToken.of_tokens(inputs.tokens)
    outputs_NxC, targets_N = drawn(task)
    targets_N[3] = target
    assert "bits_per_byte" not in task.measure(outputs_NxC, targets_N)


def test_the_end_of_a_text_has_no_bytes():
    task = NextToken.of_tokens(CHARACTERS.tokens)
    outputs_NxC, targets_N = drawn(task, 4)
    targets_N[:] = [4, 4, 4, 3]
    expected = losses(outputs_NxC, targets_N).sum() / math.log(2) / 3
    assert task.measure(outputs_NxC, targets_N)["bits_per_byte"] == pytest.approx(expected, 1e-5)


def test_seeds_together_have_the_mean_of_their_probabilities():
    task = NextToken.of_tokens(CHARACTERS.tokens)
    targets_N = drawn(task)[1]
    pair = [drawn(task, seed=seed)[0] for seed in (0, 1)]
    kept_K = [task.kept(outputs_NxC, targets_N) for outputs_NxC in pair]
    expected_N = -np.log(
        np.mean([np.exp(-losses(outputs_NxC, targets_N)) for outputs_NxC in pair], axis=0)
    )
    np.testing.assert_allclose(task.average(kept_K)["loss"], expected_N, rtol=1e-5)


def test_many_outputs_are_measured_in_parts():
    task = NextToken.of_tokens(Tokens(50_000).tokens)
    targets_N = np.arange(1_000, dtype=np.int32)
    found = task.measure(task.guess(targets_N), targets_N)
    assert found["loss"] == pytest.approx(math.log(1_000 + 0.01 * 49_000), rel=1e-4)


def test_bits_per_byte_decide_only_where_they_are_known():
    assert NextToken.of_tokens(CHARACTERS.tokens, metric="bits_per_byte").metric == "bits_per_byte"
    with pytest.raises(ValueError, match="needs tokens that stand for a known number of bytes"):
        NextToken.of_tokens(Tokens(9).tokens, metric="bits_per_byte")


@pytest.mark.parametrize("targets", [[], [[]], [[0]], [[None]]])
def test_one_token_is_nothing_to_predict(targets):
    with pytest.raises(tasks.BadTarget, match="at least two tokens"):
        tasks.make("next_token", targets, {}, {}, {})


@pytest.mark.parametrize("stream_steps", [0, 4])
def test_after_token_numbers_comes_nothing_that_could_be_predicted(stream_steps, tmp_path):
    """None of them stands for the end of a text."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, 40)
    values = rng.integers(0, 2, lengths.sum()).astype(np.int32)
    np.savez(tmp_path / "train.npz", values=values, lengths=lengths)
    config = base.get_config("numbers", "exact")
    config.data.source = str(tmp_path / "train.npz")
    config.task.name, config.train.stream_steps = "next_token", stream_steps
    data, task = building.load_data(config)
    assert task.num_outputs == 2
    for split in data.splits:
        expected = np.append(split.values[1:], -1)
        if not stream_steps:
            expected[split.offsets[1:] - 1] = -1
        else:
            expected[split.targets == -1] = -1  # Where one sequence ends, another one begins.
            assert (split.targets == -1).sum() <= len(lengths)
        np.testing.assert_array_equal(split.targets, expected)
