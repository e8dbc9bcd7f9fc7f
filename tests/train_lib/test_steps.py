"""One step, seen closely."""

import importlib

import jax
import numpy as np
import pytest
from flax import nnx

from train_lib import devices, loop, metrics, state, steps
from train_lib.data.batches import Batch

BATCH_SIZE, WIDTH = 8, 12


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    return Batch(
        tokens_BxT=rng.integers(0, 30, (BATCH_SIZE, WIDTH)).astype(np.int32),
        lengths_B=rng.integers(1, WIDTH + 1, BATCH_SIZE).astype(np.int32),
        labels_B=(np.arange(BATCH_SIZE) % 2).astype(np.float32),
        weights_B=np.ones(BATCH_SIZE, np.float32),
    )


class Trainer:
    """A model with its steps and state, on as many devices as `batch_size` lets it have."""

    def __init__(self, name="stacked", treatment="exact", learning_rate=1e-3, one_device=False):
        config = importlib.import_module(f"configs.{name}").get_config(treatment)
        config.data.max_features = 30
        graphdef, params = nnx.split(loop.build_model(config), nnx.Param)
        self.mesh = devices.mesh(1 if one_device else BATCH_SIZE)
        optimizer = state.adam(learning_rate, config.train.adam_epsilon)
        self.steps = steps.make(graphdef, optimizer, self.mesh, config.data)
        self.state = devices.replicate(state.create(params, optimizer, seed=0), self.mesh)

    def train(self, batch):
        self.state, sums = self.steps.train(self.state, devices.spread(batch, self.mesh))
        return metrics.mean([sums])

    def evaluate(self, batch):
        logits_B, sums = self.steps.evaluate(self.state.params, devices.spread(batch, self.mesh))
        return np.array(logits_B), metrics.mean([sums])

    def leaves(self):
        return [np.array(leaf) for leaf in jax.tree.leaves(self.state.params)]


@pytest.mark.parametrize("name", ["lstm", "bilstm", "stacked"])
@pytest.mark.parametrize("treatment", ["exact", "tutorial"])
def test_every_parameter_moves_in_one_step(name, treatment):
    trainer = Trainer(name, treatment)
    before = trainer.leaves()
    trainer.train(make_batch())
    for old, new in zip(before, trainer.leaves(), strict=True):
        assert (old != new).any()
        assert np.isfinite(new).all()
    assert trainer.state.step == 1


@pytest.mark.parametrize("name", ["lstm", "bilstm", "stacked"])
def test_a_small_batch_is_learned_by_heart(name):
    trainer, batch = Trainer(name, learning_rate=0.02), make_batch()
    assert trainer.evaluate(batch)[1].loss > 0.6
    for _ in range(120):
        trainer.train(batch)
    _, result = trainer.evaluate(batch)
    assert result.accuracy == 1.0
    assert result.loss < 0.05


def test_empty_rows_count_for_nothing():
    batch = make_batch()
    weights_B = batch.weights_B.copy()
    weights_B[5:] = 0
    results = []
    for seed in (1, 2):  # Other reviews and labels in the rows without weight.
        other = make_batch(seed)
        fields = []
        for own, junk in zip(batch[:3], other[:3], strict=True):
            fields.append(np.concatenate([own[:5], junk[5:]]))
        fields[2][5:] = seed - 1
        trainer = Trainer("bilstm")
        results.append((trainer.train(Batch(*fields, weights_B)), trainer.leaves()))
    assert results[0][0] == results[1][0]
    for first, second in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-7)


def test_the_number_of_devices_does_not_matter():
    assert len(jax.devices()) > 1
    trainers = [Trainer(one_device=one_device) for one_device in (True, False)]
    assert [trainer.mesh.size for trainer in trainers] == [1, 2]
    for number in range(3):
        losses = [trainer.train(make_batch(number)).loss for trainer in trainers]
        np.testing.assert_allclose(*losses, rtol=1e-5)  # Dropout included.
    for one, two in zip(*(trainer.leaves() for trainer in trainers), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-5)


def test_dropout_differs_from_step_to_step_and_not_in_evaluation():
    trainer, batch = Trainer(learning_rate=1e-12), make_batch()
    assert trainer.train(batch).loss != trainer.train(batch).loss
    np.testing.assert_array_equal(trainer.evaluate(batch)[0], trainer.evaluate(batch)[0])


def test_metrics_are_weighted_by_reviews():
    logits_B, labels_B = np.array([2.0, -1.0, 3.0, 0.5]), np.array([1.0, 1.0, 1.0, 0.0])
    sums = [
        metrics.cross_entropy(logits_B[:1], labels_B[:1], np.ones(1)),
        metrics.cross_entropy(logits_B[1:], labels_B[1:], np.array([1.0, 1.0, 0.0])),
    ]
    result = metrics.mean(sums)
    assert result.accuracy == pytest.approx(2 / 3)
    expected = np.mean(np.log1p(np.exp([-2.0, 1.0, -3.0])))
    assert result.loss == pytest.approx(expected, rel=1e-6)
