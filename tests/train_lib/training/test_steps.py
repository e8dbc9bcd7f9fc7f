"""One step, seen closely."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from train_lib.data.batches import Corpus, Layout

from train_lib import devices, loop, metrics, state, steps
from train_lib.data.dataset import Split

BATCH_SIZE, WIDTH = 8, 12


def make_split(seed=0, reviews=BATCH_SIZE):
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([0, *rng.integers(1, WIDTH + 1, reviews)], dtype=np.int64)
    tokens = rng.integers(0, 30, offsets[-1]).astype(np.int32)
    return Split(tokens, offsets, (np.arange(reviews) % 2).astype(np.int8))


class Trainer:
    """A model with its steps and state, of one seed or several.

    `num_devices` is how many share a batch, for each of `seed_devices` groups of seeds.
    """

    def __init__(
        self,
        name="stacked",
        treatment="exact",
        learning_rate=1e-3,
        num_devices=2,
        max_rows=128,
        widths=(WIDTH,),
        seeds=(0,),
        seed_devices=1,
        seeds_at_once=1,
        **model,
    ):
        config = importlib.import_module(f"configs.{name}").get_config(treatment)
        config.data.max_features = 30
        config.model.update(model)
        config.train.seed, config.train.seeds = seeds[0], len(seeds)
        graphdef, params_K = state.split(loop.build_models(config))
        shape = seed_devices, num_devices
        self.mesh = jax.make_mesh(
            shape,
            ("seed", "batch"),
            (AxisType.Auto,) * 2,
            devices=jax.devices()[: seed_devices * num_devices],
        )
        self.layout = Layout.of(BATCH_SIZE, num_devices, max_rows)
        self.widths = widths
        optimizer = state.adam(learning_rate, config.train.adam_epsilon)
        self.steps = steps.make(graphdef, optimizer, self.mesh, config.data, seeds_at_once)
        self.state = devices.spread_seeds(state.create(params_K, optimizer, seeds), self.mesh)

    def train(self, split, plans=None, room_for=None, plans_K=None):
        """Takes a step for each plan, in one call; by default, one with the whole split."""
        plans = [np.arange(len(split))] if plans is None else plans
        plans_K = plans_K or [plans] * len(self.state.step)
        num_steps = len(plans_K[0])
        places = [
            self.layout.place_all(plans, split.lengths, room_for or num_steps) for plans in plans_K
        ]
        self.state, sums_KxS = self.steps.train(
            self.state,
            devices.replicate(Corpus.of(split), self.mesh),
            devices.spread(np.stack(places), self.mesh),
            num_steps,
            self.widths,
        )
        return metrics.mean([sums_KxS])

    def evaluate(self, split):
        metrics_, logits = steps.evaluate_plans(
            self.steps, self.state.params, split, [np.arange(len(split))],
            self.layout, self.mesh, self.widths,
        )  # fmt: skip
        return logits, metrics_

    def leaves(self):
        return [np.array(leaf) for leaf in jax.tree.leaves(self.state.params)]


def small(**changes):
    """A trainer of two directions and one layer, with dropout."""
    return Trainer("bilstm", **{"hidden_sizes": (4,), "dropout_rates": (0.3,)} | changes)


def assert_same_training(one, two):
    """Trains both on the same three batches; rounding may differ, dropout may not."""
    split = make_split(reviews=3 * BATCH_SIZE)
    plans = np.split(np.arange(len(split)), 3)
    np.testing.assert_allclose(*(trainer.train(split, plans).loss for trainer in (one, two)), 1e-5)
    for first, second in zip(one.leaves(), two.leaves(), strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "bilstm", "stacked"])
@pytest.mark.parametrize("treatment", ["exact", "tutorial"])
def test_every_parameter_moves_in_one_step(name, treatment):
    trainer = Trainer(name, treatment)
    before = trainer.leaves()
    trainer.train(make_split())
    for old, new in zip(before, trainer.leaves(), strict=True):
        assert (old != new).any()
        assert np.isfinite(new).all()
    assert trainer.state.step.tolist() == [1]


@pytest.mark.parametrize("name", ["lstm", "bilstm", "stacked"])
def test_a_small_batch_is_learned_by_heart(name):
    trainer, batch = Trainer(name, learning_rate=0.02), make_split()
    assert trainer.evaluate(batch)[1].loss > 0.6
    for _ in range(120):
        trainer.train(batch)
    _, result = trainer.evaluate(batch)
    assert result.accuracy == 1.0
    assert result.loss < 0.05


def test_empty_rows_count_for_nothing():
    few = make_split(reviews=5)
    with_room, without = small(), small(num_devices=1)
    without.layout = Layout.of(len(few), 1, 128)
    losses = [trainer.train(few).loss for trainer in (with_room, without)]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    for first, second in zip(with_room.leaves(), without.leaves(), strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-6)


def test_the_number_of_devices_does_not_matter():
    assert_same_training(small(num_devices=1), small(num_devices=2))


def test_the_number_of_blocks_does_not_matter():
    assert_same_training(small(max_rows=128), small(max_rows=1))


def test_the_widths_to_choose_from_do_not_matter():
    assert_same_training(small(max_rows=2), small(max_rows=2, widths=(3, 8, WIDTH)))


def test_many_steps_in_one_call_are_the_same_bits_as_one_a_call(monkeypatch):
    # These are two programs, in which the emitters that tests compile with round differently.
    options = {"xla_cpu_use_fusion_emitters": True}
    monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=options))
    split, order = make_split(reviews=3 * BATCH_SIZE), np.random.default_rng(0)
    plans = np.split(order.permutation(len(split)), 3)
    together, apart = small(), small()
    together.train(split, plans, room_for=5)
    for plan in plans:
        apart.train(split, [plan])
    assert together.state.step.tolist() == apart.state.step.tolist() == [3]
    for first, second in zip(together.leaves(), apart.leaves(), strict=True):
        np.testing.assert_array_equal(first, second)


SEEDS = range(4)
SMALL = {"embedding_size": 3, "hidden_sizes": (2,), "dropout_rates": (0.3,), "max_rows": 4}


@pytest.fixture(scope="module", params=["exact", pytest.param("tutorial", marks=pytest.mark.slow)])
def alone(request):
    """What each of four seeds, whose batches are long when others' are short, becomes alone."""
    options = SMALL | {"treatment": request.param}
    options["widths"] = (6, WIDTH) if request.param == "exact" else (WIDTH,)
    split, unseen = make_split(reviews=3 * BATCH_SIZE), make_split(seed=1)
    by_length = np.split(np.argsort(split.lengths), 3)
    plans_K = [[by_length[(seed + number) % 3] for number in range(3)] for seed in SEEDS]
    found, compiled = [], None
    for seed in SEEDS:
        trainer = Trainer("lstm", seeds=[seed], **options)
        compiled = trainer.steps = compiled or trainer.steps
        loss = trainer.train(split, plans_K[seed]).loss[0]
        logits_1xN, _ = trainer.evaluate(unseen)
        found.append((loss, logits_1xN[0], [leaf[0] for leaf in trainer.leaves()]))
    return options, split, plans_K, unseen, found


@pytest.mark.parametrize(
    "spread",
    [
        {"num_devices": 2},
        {"num_devices": 2, "seeds_at_once": 4},
        {"num_devices": 1, "seed_devices": 2, "seeds_at_once": 2},
    ],
    ids=["in turn", "at once", "at once on devices"],
)
def test_each_of_many_seeds_is_trained_as_if_it_were_alone(alone, spread):
    """Its initialisation, data order and dropout, whatever the lengths of the others' batches."""
    options, split, plans_K, unseen, found = alone
    together = Trainer("lstm", seeds=SEEDS, **spread, **options)
    loss_K = together.train(split, plans_K=plans_K).loss
    logits_KxN, _ = together.evaluate(unseen)
    leaves_K = together.leaves()
    for seed, (loss, logits_N, leaves) in enumerate(found):
        np.testing.assert_allclose(loss_K[seed], loss, rtol=1e-5)
        np.testing.assert_allclose(logits_KxN[seed], logits_N, atol=1e-5)
        for one, many in zip(leaves, leaves_K, strict=True):
            np.testing.assert_allclose(many[seed], one, rtol=0, atol=1e-5)


def test_dropout_differs_from_step_to_step_and_not_in_evaluation():
    trainer, batch = small(learning_rate=1e-12), make_split()
    assert trainer.train(batch).loss != trainer.train(batch).loss
    np.testing.assert_array_equal(trainer.evaluate(batch)[0], trainer.evaluate(batch)[0])


DROPS = {
    "word_dropout": 0.3, "embedding_dropout": 0.3, "weight_drop": 0.3, "recurrent_dropout": 0.3,
}  # fmt: skip


def test_what_is_dropped_does_not_depend_on_devices_and_blocks():
    assert_same_training(small(num_devices=1, **DROPS), small(max_rows=1, **DROPS))


@pytest.mark.parametrize("name", DROPS)
def test_drops_differ_from_step_to_step_and_seed_to_seed_and_not_in_evaluation(name):
    trainer, again, other, plain = (
        Trainer("lstm", learning_rate=1e-12, seeds=(seed,), **{name: rate})
        for seed, rate in ((0, 0.3), (0, 0.3), (1, 0.3), (0, 0.0))
    )
    again.steps = other.steps = trainer.steps
    batch = make_split()
    losses = [trainer.train(batch).loss for _ in range(2)]
    assert losses[0] != losses[1]
    assert losses == [again.train(batch).loss for _ in range(2)]
    assert losses[0] != other.train(batch).loss
    np.testing.assert_allclose(trainer.evaluate(batch)[0], plain.evaluate(batch)[0], atol=1e-7)


def test_metrics_are_weighted_by_reviews():
    logits_B, labels_B = np.array([2.0, -1.0, 3.0, 0.5]), np.array([1.0, 1.0, 1.0, 0.0])
    sums = [
        metrics.cross_entropy(logits_B[:1], labels_B[:1], np.ones(1)),
        metrics.cross_entropy(logits_B[1:], labels_B[1:], np.array([1.0, 1.0, 0.0])),
    ]
    sums = [jax.tree.map(lambda total: total[None], one) for one in sums]
    result = metrics.mean(sums)
    assert result.accuracy == pytest.approx(2 / 3)
    expected = np.mean(np.log1p(np.exp([-2.0, 1.0, -3.0])))
    assert result.loss == pytest.approx(expected, rel=1e-6)


def updates_of(optimizer, gradients):
    """What an optimizer makes of gradients one after the other."""
    opt_state, updates = optimizer.init(gradients[0]), []
    for gradient in gradients:
        update, opt_state = optimizer.update(gradient, opt_state)
        updates.append(np.concatenate([update["a"], update["b"]]))
    return np.array(updates)


def test_gradients_longer_than_the_clip_norm_are_shortened_to_it_and_others_left():
    long = {"a": np.float32([3.0, 0.0]), "b": np.float32([4.0])}  # Of norm 5.
    short = {"a": np.float32([0.1, -0.2]), "b": np.float32([0.2])}  # Of norm 0.3.
    shortened = jax.tree.map(lambda part: part / 5, long)
    plain = state.adam(1e-3, 1e-7)
    clipped = updates_of(state.adam(1e-3, 1e-7, clip_norm=1.0), [long, short])
    np.testing.assert_allclose(clipped, updates_of(plain, [shortened, short]), rtol=1e-5)
    assert not np.allclose(clipped, updates_of(plain, [long, short]), rtol=1e-2)
    not_clipped = updates_of(state.adam(1e-3, 1e-7, clip_norm=0.0), [long, short])
    np.testing.assert_array_equal(not_clipped, updates_of(plain, [long, short]))


def test_a_gradient_that_is_not_finite_shows_in_the_loss(monkeypatch):
    cross_entropy = metrics.cross_entropy

    def steep(logits, *arguments):
        """Adds nothing to the loss and NaN to its gradient."""
        sums = cross_entropy(logits, *arguments)
        return sums._replace(loss=sums.loss + jnp.sqrt(0 * logits.sum()))

    assert np.isfinite(Trainer("lstm").train(make_split()).loss)
    monkeypatch.setattr(metrics, "cross_entropy", steep)
    trainer = Trainer("lstm")
    assert np.isfinite(steep(*jnp.ones((3, 2))).loss)
    assert np.isnan(trainer.train(make_split()).loss)
