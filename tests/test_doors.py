"""What a researcher writes for each wish, counted, and run: nothing else is touched."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from seqmodels import LSTM, Encoder, Last, SequenceHead, SequenceModel, Unidirectional, Vectors
from train_lib.data.dataset import Split
from train_lib.tasks.numbers import Numbers
from train_lib.training import Program, fit

ROOT = pathlib.Path(__file__).parent.parent
SMALL = [
    "--config=configs/lstm.py", "--config.train.num_epochs=2", "--config.train.batch_size=16",
    "--config.model.embedding_size=4", "--config.model.hidden_sizes=(4,)",
]  # fmt: skip
GENERATED = [
    "--config.data.source=generated", "--config.data.train_examples=60",
    "--config.data.validation_examples=20", "--config.data.test_examples=30",
]  # fmt: skip
CSV = "text,stars\n" + "".join(
    f"a film of {'good bad dull fine great'.split()[n % 5]} scenes {n},{1 + n % 5}\n"
    for n in range(200)
)
CONLL = "".join(f"word{n % 7} O\nthing{n % 5} B\n\n" for n in range(90))


def guide(of, number=0):
    """A file in a guide."""
    text = (ROOT / "docs" / f"add_a_{of}.md").read_text()
    return text.split("```python\n")[1 + number].partition("```")[0]


WISHES = {
    "a cell": ({"mine.py": guide("cell")}, [*GENERATED, "--config.model.cell={}/mine.py"]),
    "data of one's own": ({"mine.csv": CSV}, ["--config.data.source={}/mine.csv"]),
    "a source": ({"mine.py": guide("source")}, [
        "--config.data.source={}/mine.py", "--config.data.source_options=size=100"]),
    "a task": ({"mine.py": guide("task"), "mine.csv": CSV}, [
        "--config.data.source={}/mine.csv", "--config.task.name={}/mine.py"]),
    "a metric": ({"mine.py": guide("task", 1)}, [*GENERATED, "--config.task.name={}/mine.py"]),
    "a label per step": ({"mine.conll": CONLL}, [
        "--config.data.source={}/mine.conll", "--config.task.name=tags"]),
}  # fmt: skip
"""The files that are written, and what is said on the command line; {} is their folder."""


@pytest.mark.slow
@pytest.mark.parametrize("wish", WISHES)
def test_a_wish_takes_one_short_file_or_none(wish, tmp_path):
    files, arguments = WISHES[wish]
    programs = [text for name, text in files.items() if name.endswith(".py")]
    assert len(programs) == (0 if wish in ("data of one's own", "a label per step") else 1)
    assert all(len(text.splitlines()) <= 30 for text in programs)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    workdir = tmp_path / "run"
    done = subprocess.run(
        [
            sys.executable, "main.py", f"--workdir={workdir}", *SMALL,
            *(argument.format(tmp_path) for argument in arguments),
        ],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((workdir / "result.json").read_text())
    assert np.isfinite(result["test_loss"]["mean"])
    if wish == "a metric":
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        assert {"train_right_probability", "validation_right_probability"} <= set(rows[0])
        assert 0 < result["test_right_probability"]["mean"] < 1
        assert "right_probability" in result["guess"]


def test_an_optimiser_of_ones_own_is_handed_to_fit():
    """One that moves every parameter by the same step, so that what it did can be counted."""

    def build(rngs):
        encoder = Encoder([Unidirectional(LSTM(2, 3, rngs=rngs))])
        return SequenceModel(Vectors(2), encoder, SequenceHead(Last(3, rngs=rngs), 1, rngs=rngs))

    rng = np.random.default_rng(0)
    sequences = [rng.normal(size=(4, 2)) for _ in range(24)]
    task = Numbers([0.0], [1.0])
    data = Split.of(sequences, [float(one.sum()) for one in sequences]).encoded(task)
    steady = optax.stateless(lambda updates, _: jax.tree.map(lambda one: 0 * one + 0.5, updates))
    program = Program([build(nnx.Rngs(0))], task, steady, batch_size=8)
    before = jax.tree.map(np.array, program.params_K)
    train, validation = data.take(np.arange(16)), data.take(np.arange(16, 24))
    fitted = fit(program, train, validation, seeds=[0], num_epochs=3)
    pair = map(jax.tree.leaves, (before, fitted.training.state.params))
    for one, other in zip(*pair, strict=True):
        np.testing.assert_allclose(other, one + 0.5 * 2 * 3, rtol=1e-5)
