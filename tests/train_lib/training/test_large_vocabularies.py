"""Training where drawn tokens stand for all, with heads that are tied to the embedding."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks import vocabulary
from configs import base
from tests.train_lib.training import test_streams as streams
from tests.train_lib.training.test_fitting import Watch, host
from train_lib import building
from train_lib import run as runs
from train_lib.errors import UserError
from train_lib.generate import generate
from train_lib.restored import Restored
from train_lib.tasks.next_token import NextToken
from train_lib.training import devices, fitting, steps
from train_lib.training.batching import Treatment
from train_lib.training.fitting import Start
from train_lib.training.program import Program
from train_lib.training.sampling import Sampler
from train_lib.training.state import Position

TARGETS_S = np.array([2] * 50 + [0] * 20 + [3] * 5 + [-1] * 9, np.int32)
TIED = {"tied_head": True, "projection_size": 3}
pytestmark = pytest.mark.usefixtures("compiled_once")


def draw(count, seed=0, size=6):
    sampler = Sampler.of(TARGETS_S, size)
    return sampler.draw(jax.random.key(seed), count, jnp.arange(size)[None])


def test_tokens_are_drawn_as_often_as_they_are_right():
    count = 100_000
    candidates = draw(count)
    expected_V = np.exp(np.array(candidates.log_counts_BxT[0]))
    np.testing.assert_allclose(expected_V / count, np.array([21, 1, 51, 6, 1, 1]) / 81, rtol=1e-5)
    found_V = np.bincount(candidates.numbers_N, minlength=6)
    assert (abs(found_V - expected_V) < 5 * np.sqrt(expected_V)).all()
    np.testing.assert_allclose(
        candidates.log_counts_N, np.log(expected_V)[candidates.numbers_N], rtol=1e-5
    )


def test_their_sum_is_that_over_all_tokens_on_average():
    """`exp(output) / expected`, summed over candidates, has the mean of the full sum."""
    outputs_V = np.array([0.3, 2.0, -1.0, 0.5, -2.0, 1.0])
    candidates = draw(40_000)
    weights_N = np.exp(outputs_V[candidates.numbers_N] - candidates.log_counts_N)
    error = weights_N.std() * np.sqrt(len(weights_N))
    assert abs(weights_N.sum() - np.exp(outputs_V).sum()) < 4 * error < np.exp(outputs_V).sum() / 5


def test_every_token_can_be_drawn_from_a_vocabulary_of_a_million():
    sampler = Sampler.of(np.zeros(10**9 // 1000, np.int32), 10**6)
    widths_V = np.diff(sampler.starts_V.astype(np.int64), append=1 << 32)
    assert widths_V.min() >= 1
    assert widths_V.sum() == 1 << 32


def program_of(models, sampled_tokens=4, treatment=streams.STREAM):
    tokens = [(str(token), None) for token in range(streams.TOKENS)]
    task = NextToken(tokens, sampled_tokens=sampled_tokens)
    return Program(models, task, streams.OPTIMIZER, batch_size=streams.ROWS, treatment=treatment)


def fit(seeds=streams.SEEDS, hooks=(), begin=None, treatment=streams.STREAM, **changes):
    program = program_of(streams.models_of(seeds, **TIED | changes), treatment=treatment)
    return fitting.fit(
        program, streams.TRAIN, streams.VALIDATION, seeds=seeds, num_epochs=2, hooks=hooks,
        begin=begin,
    )  # fmt: skip


@pytest.mark.slow
def test_it_learns_resumes_bit_for_bit_and_reports_its_loss_alone(monkeypatch):
    monkeypatch.setattr(fitting, "STEPS_A_CALL", 2)
    whole, watch = fit(), Watch(6)
    with pytest.raises(KeyboardInterrupt):
        fit(hooks=[watch])
    training, position = watch.kept
    resumed = fit(begin=Start(training, Position.from_json(position)))
    for one, other in zip(host(resumed.training), host(whole.training), strict=True):
        np.testing.assert_array_equal(one, other)
    row = whole.position.rows[-1]["seeds"]
    assert {name for name in row if name.startswith("train_")} == {"train_loss"}
    assert "validation_perplexity" in row
    assert max(row["validation_loss"]) < np.log(streams.TOKENS)


@pytest.mark.slow
def test_each_seed_and_any_number_of_devices_and_blocks_are_the_same(monkeypatch):
    streams.assert_seeds_devices_and_blocks_do_not_matter(fit, monkeypatch)


@pytest.mark.parametrize("treatment", [Treatment(padding_side="pre"), Treatment(False, "pre")])
@pytest.mark.slow
def test_texts_are_learnt_in_every_treatment_of_length(treatment):
    row = fit(treatment=treatment).position.rows[-1]["seeds"]
    assert max(row["validation_loss"]) < np.log(streams.TOKENS)


@pytest.mark.slow
def test_gradients_that_are_added_in_place_are_the_same(monkeypatch):
    monkeypatch.setattr(
        devices, "layout", lambda size, mesh, *_: devices.Layout.of(size, mesh.shape["batch"], 1)
    )
    expected = host(fit().training.state.params)
    monkeypatch.setattr(steps, "_MANY_PARAMETERS", 1)
    for one, other in zip(host(fit().training.state.params), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_with_many_candidates_it_learns_what_the_full_softmax_learns():
    def last(sampled_tokens):
        program = program_of(streams.models_of([0], **TIED), 0)
        program.task.sampled_tokens = sampled_tokens
        found = fitting.fit(program, streams.TRAIN, streams.VALIDATION, seeds=[0], num_epochs=1)
        return found.position.rows[-1]["seeds"]

    full, some = last(0), last(20_000)
    for name in ("train_loss", "validation_loss"):
        assert some[name][0] == pytest.approx(full[name][0], abs=1e-2)


@pytest.mark.slow
def test_memory_grows_by_the_parameters_alone():
    """Not by outputs: those of all steps would have 10 times as many numbers."""

    class Arguments:
        embedding, hidden, rows, steps, blocks, updates, tied = 8, 8, 64, 35, 1, 1, True

    found = {}
    for tokens in (2_000, 50_000):
        Arguments.tokens = tokens
        found[tokens] = vocabulary.measure(Arguments, 256)[1]
    table = 48_000 * 9 * 4 / 1e6
    assert found[50_000] - found[2_000] < 4 * table < 0.1 * 48_000 * 64 * 35 * 4 / 1e6


def config_of(path, **changes):
    config = base.get_config("any", "exact")
    config.model.update(embedding_size=8, hidden_sizes=(24,), projection_size=8, tied_head=True)
    config.data.update(source=str(path), text_rules="characters")
    config.task.update(name="next_token", sampled_tokens=6)
    config.train.update(num_epochs=4, batch_size=8, learning_rate=0.02, seeds=2, ema_decay=0.9)
    config.train.update(stream_steps=16, weight_decay=0.01, optimizer="adamw")
    config.train.groups = '{"head.projection": {"rate": 0.5}}'
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.slow
def test_a_run_is_written_down_and_read_back(tmp_path, capsys):
    text = "one two three é. " * 150
    (tmp_path / "mine.txt").write_text(text)
    result = runs.run(config_of(tmp_path / "mine.txt"), str(tmp_path / "run"))
    assert result["test_loss"]["mean"] < result["guess"]["loss"]
    out = capsys.readouterr().out
    assert out.count("inputs.table") == 1
    assert "head.kernel" not in out
    arrays = load_file(tmp_path / "run" / "model.safetensors")
    sizes = {name: array[0].size for name, array in arrays.items()}
    assert sum(sizes.values()) == result["model"]["parameters"]
    assert {name for name in sizes if not name.startswith("encoder")} == {
        "inputs.table", "head.bias", "head.projection",
    }  # fmt: skip
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert "train_loss" in last
    assert "train_accuracy" not in last
    restored = Restored(str(tmp_path / "run"))
    written = [token for piece in generate(restored, "one", tokens=9) for token in piece]
    assert len(written) == 9
    (loss,) = restored.columns(restored.encode(["one two three"], str))["answer"]
    assert loss < np.log(20)


def inputs_and_task(config):
    data, task = building.load_data(config)
    return data.inputs, task


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.projection_size": 0}, "set projection_size to 8, or embedding_size to 24"),
        ({"task.sampled_tokens": 17}, "sampled_tokens=17 must be below the number of tokens, 1"),
    ],
)
def test_what_does_not_go_together_is_told(changes, words, tmp_path):
    (tmp_path / "mine.txt").write_text("one two three é. " * 30)
    config = config_of(tmp_path / "mine.txt", **changes)
    with pytest.raises(UserError, match=words):
        building.build_models(config, *inputs_and_task(config), [0])


def test_other_tasks_have_nothing_to_tie_and_nothing_to_draw(tmp_path):
    (tmp_path / "mine.csv").write_text("text,target\n" + "a b,1\nb c,0\n" * 20)
    changes = {"task.name": "classes", "train.stream_steps": 0, "data.text_rules": "keras"}
    config = config_of(tmp_path / "mine.csv", **changes)
    with pytest.raises(UserError, match="the task classes has no option 'sampled_tokens'"):
        building.load_data(config)
    config.task.sampled_tokens = 0
    inputs, task = inputs_and_task(config)
    with pytest.raises(UserError, match=r"config\.model\.tied_head = True is for a task"):
        building.build_models(config, inputs, task, [0])
