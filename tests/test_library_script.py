"""The script of three uses runs, learns, and is as short as it is said to be."""

import pathlib
import runpy

import numpy as np
import pytest

from train_lib.data.dataset import Split
from train_lib.errors import UserError

SCRIPT = pathlib.Path(__file__).parent.parent / "docs/library.py"


@pytest.mark.slow
def test_three_uses_in_sixty_lines():
    source = SCRIPT.read_text("utf-8")
    assert source.count("# %% ") == 3
    code = [line for line in source.splitlines() if line.strip()]
    assert len(code) < 60
    found = runpy.run_path(str(SCRIPT))
    guess = np.var(found["means"])
    assert found["loss"] < guess / 2
    losses_K = found["fitted"].validation.metrics["loss"]
    assert losses_K.shape == (2,)
    assert losses_K.max() < guess / 4  # Of Huber's loss, a half of the square.
    assert found["y_TxH"].shape == (9, 16)


@pytest.mark.slow
def test_the_readmes_snippet_learns(tmp_path):
    snippet = tmp_path / "snippet.py"
    readme = (SCRIPT.parent.parent / "README.md").read_text("utf-8")
    snippet.write_text(readme.partition("```python\n")[2].partition("```")[0])
    np.random.seed(0)
    found = runpy.run_path(str(snippet))
    assert found["fitted"].validation.metrics["accuracy"].min() > 0.85


def test_arrays_of_ones_own_are_a_split():
    tokens = Split.of([[1, 2, 3], [4]], ["a", "b"])
    assert tokens.values.tolist() == [1, 2, 3, 4]
    assert (tokens.offsets.tolist(), tokens.targets) == ([0, 3, 4], ["a", "b"])
    vectors = Split.of([np.ones((2, 3)), np.zeros((1, 3))], [1, None])
    assert (vectors.values.shape, vectors.values.dtype) == ((3, 3), np.float32)
    assert vectors.lengths.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("sequences", "words"),
    [
        ([], "0 sequences and 1 targets"),
        ([[1], [2]], "2 sequences and 1 targets"),
        ([[-1]], "the sequences, number 0: token -1"),
        ([np.full((2, 3), np.nan)], "the sequences, number 0: .*NaN"),
        ([["a"]], "the sequences, number 0"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(sequences, words):
    with pytest.raises(UserError, match=words):
        Split.of(sequences, [0])
