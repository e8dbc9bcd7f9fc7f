"""One step, seen closely."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType

from tests.marks import slow
from tests.train_lib import cases
from tests.train_lib.cases import FEW, ONE, Case
from train_lib import building
from train_lib.data.dataset import Split
from train_lib.data.inputs import Text
from train_lib.data.vocabulary import Vocabulary
from train_lib.tasks.classes import Classes
from train_lib.training import batching, devices, metrics, optimizers, state
from train_lib.training.batching import DeviceSplit, Layout
from train_lib.training.program import Program, compile_steps
from train_lib.training.steps import Learner

BATCH_SIZE, WIDTH = 8, cases.LONGEST
TEXT, TASK = Text(Vocabulary(["film"]), "keras"), Classes(["negative", "positive"])


def make_split(seed=0, examples=BATCH_SIZE):
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([0, *rng.integers(1, WIDTH + 1, examples)], dtype=np.int64)
    tokens = rng.integers(0, 30, offsets[-1]).astype(np.int32)
    return Split(tokens, offsets, (np.arange(examples) % 2).astype(np.float32))


class Trainer:
    """Models with their program and state, of one seed or several.

    `num_devices` is how many share a batch, for each of `seed_devices` groups of seeds.
    """

    def __init__(
        self,
        models,
        task=TASK,
        treatment=batching.EXACT,
        learning_rate=1e-3,
        num_devices=2,
        max_rows=128,
        widths=(WIDTH,),
        seeds=(0,),
        seed_devices=1,
        seeds_at_once=1,
    ):
        self.mesh = jax.make_mesh(
            (seed_devices, num_devices),
            ("seed", "batch"),
            (AxisType.Auto,) * 2,
            devices=jax.devices()[: seed_devices * num_devices],
        )
        self.layout = Layout.of(BATCH_SIZE, num_devices, max_rows)
        self.widths, self.task = widths, task
        optimizer = optimizers.adam(learning_rate, 1e-7)
        graphdef, params_K = state.split(models)
        self.program = Program(models, task, optimizer, batch_size=BATCH_SIZE, treatment=treatment)
        self.program.mesh = self.mesh
        learner = Learner(graphdef, task, optimizer, treatment)
        self.program.compiled = compile_steps(learner, self.mesh, seeds_at_once)
        self.state = devices.spread_seeds(state.create(params_K, optimizer, seeds), self.mesh)

    def train(self, split, plans=None, room_for=3, plans_K=None):
        """Takes a step for each plan, in one call; by default, one with the whole split."""
        plans = [np.arange(len(split))] if plans is None else plans
        plans_K = plans_K or [plans] * len(self.state.step)
        num_steps = len(plans_K[0])
        places = [self.layout.place_all(plans, split.lengths, room_for) for plans in plans_K]
        self.state, sums_KxS = self.program.compiled.train(
            self.state,
            devices.replicate(DeviceSplit.of(split, self.task), self.mesh),
            devices.spread(np.stack(places), self.mesh),
            num_steps,
            self.widths,
        )
        return metrics.of_seeds(self.task, metrics.add_up([sums_KxS]))

    def evaluate(self, split, widths=None):
        return self.program.evaluate(self.state.params, split, widths or self.widths)

    def outputs(self, split):
        return self.evaluate(split).kept["outputs"]

    def leaves(self):
        return [np.array(leaf) for leaf in jax.tree.leaves(self.state.params)]


def of_config(name="stacked", treatment="exact", seeds=(0,), model=(), **changes):
    """The trainer of an experiment's models, with changes to them, in a vocabulary of 30."""
    config = importlib.import_module(f"configs.{name}").get_config(treatment)
    config.data.max_features = 30
    config.model.update(dict(model))
    models = building.build_models(config, TEXT, TASK, seeds)
    return Trainer(models, treatment=building.treatment_of(config), seeds=seeds, **changes)


EXAMPLES = 3 * BATCH_SIZE
_COMPILED: dict = {}  # What cases have compiled, so that tests share it.


def of_case(case, seeds=(0,), model=(), **changes):
    """The trainer of small models of two directions, with dropout."""
    models = cases.models_of(case, seeds, **dict(model))
    trainer = Trainer(models, cases.task_of(case), seeds=seeds, **changes)
    key = case, *sorted(dict(model).items()), *sorted(changes.items())
    trainer.program.compiled = _COMPILED.setdefault(key, trainer.program.compiled)
    return trainer


def thirds(split):
    """Three batches of a split."""
    return np.split(np.arange(len(split)), 3)


def assert_close(one, other, atol=1e-5):
    for first, second in zip(one, other, strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=atol)


def assert_same_kept(one, other, atol=1e-5):
    """What was kept of items; answers that are numbers of classes among it."""
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=atol, err_msg=name)


def assert_same_training(case, *trainers):
    """Trains all on the same three batches; rounding may differ, dropout may not."""
    split = cases.split_of(case, EXAMPLES)
    first, *others = (trainer.train(split, thirds(split))["loss"] for trainer in trainers)
    for loss, trainer in zip(others, trainers[1:], strict=True):
        np.testing.assert_allclose(loss, first, rtol=1e-5)
        assert_close(trainers[0].leaves(), trainer.leaves())


@pytest.mark.parametrize("name", ["lstm", slow("bilstm"), "stacked"])
@pytest.mark.parametrize("treatment", ["exact", slow("tutorial")])
@pytest.mark.slow
def test_every_parameter_moves_in_one_step(name, treatment):
    trainer = of_config(name, treatment)
    before = trainer.leaves()
    trainer.train(make_split())
    for old, new in zip(before, trainer.leaves(), strict=True):
        assert (old != new).any()
        assert np.isfinite(new).all()
    assert trainer.state.step.tolist() == [1]


@pytest.mark.parametrize("name", ["lstm", slow("stacked")])
def test_a_small_batch_is_learned_by_heart(name):
    trainer, batch = of_config(name, learning_rate=0.02), make_split()
    assert trainer.evaluate(batch).metrics["loss"] > 0.6
    for _ in range(120):
        trainer.train(batch)
    result = trainer.evaluate(batch).metrics
    assert result["accuracy"] == 1.0
    assert result["loss"] < 0.05


@pytest.mark.parametrize("case", ONE)
def test_devices_blocks_and_widths_do_not_matter(case):
    """Nor does the padding, of which there is more in the one than in the other."""
    spread = {"num_devices": 1, "max_rows": 2, "widths": (5, WIDTH)}
    assert_same_training(case, of_case(case), of_case(case, **spread))


@pytest.mark.parametrize("case", FEW)
def test_padding_company_and_order_do_not_matter_to_an_answer(case):
    split, trainer = cases.split_of(case, EXAMPLES), of_case(case)
    expected = trainer.evaluate(split)
    before = of_case(case, treatment=batching.Treatment(padding_side="pre"))
    wide = before.evaluate(split, (WIDTH + 5,))
    assert_same_kept(wide.kept, expected.kept)
    for name, values_K in expected.metrics.items():
        np.testing.assert_allclose(wide.metrics[name], values_K, rtol=1e-5, err_msg=name)
    order = np.random.default_rng(0).permutation(len(split))
    turned = trainer.evaluate(split.take(order)).kept
    offsets = split.offsets if trainer.task.per_step else np.arange(len(split) + 1)
    items = np.concatenate([np.arange(offsets[n], offsets[n + 1]) for n in order])
    assert_same_kept(turned, {name: of[:, items] for name, of in expected.kept.items()})
    alone = trainer.evaluate(split.take(np.array([3]))).kept
    one = slice(offsets[3], offsets[4])
    assert_same_kept(alone, {name: of[:, one] for name, of in expected.kept.items()})


@pytest.mark.parametrize("case", ONE)
def test_a_step_is_that_of_a_loop_over_examples_without_padding(case):
    """Empty rows count for nothing, nor do items without a label; dropout is each example's own."""
    task, trainer, split = cases.task_of(case), of_case(case), cases.split_of(case, EXAMPLES)
    chosen = np.array([1, 4, 6])
    graphdef, params_1 = state.split(cases.models_of(case))
    params = jax.tree.map(lambda leaf: leaf[0], params_1)
    items = split.offsets if task.per_step else np.arange(len(split) + 1)
    step_key = jax.random.fold_in(jax.random.key(0), 0)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        model, losses = nnx.merge(graphdef, params), []
        for number in chosen:
            values = split.values[split.offsets[number] : split.offsets[number + 1]]
            key = jax.random.fold_in(step_key, number)
            outputs = model(values[None], dropout_keys_B=key[None], step_key=step_key)
            targets = split.targets[items[number] : items[number + 1]]
            is_known = np.asarray(task.labelled(targets))
            if is_known.any():
                outputs_IxC = outputs.reshape(-1, task.num_outputs)[is_known]
                losses.append(task.training_loss(outputs_IxC, jnp.asarray(targets[is_known])))
        return jnp.concatenate(losses).mean()

    expected_loss, gradient = loss(params)
    optimizer = optimizers.adam(1e-3, 1e-7)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(trainer.train(split, [chosen])["loss"], expected_loss, rtol=1e-5)
    expected = jax.tree.leaves(optax.apply_updates(params, updates))
    assert_close([leaf[0] for leaf in trainer.leaves()], expected, 1e-6)


@pytest.mark.parametrize("case", ONE)
def test_many_steps_in_one_call_are_the_same_bits_as_one_a_call(case, monkeypatch):
    # These are two programs, in which the emitters that tests compile with round differently.
    options = {"xla_cpu_use_fusion_emitters": True}
    monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=options))
    monkeypatch.setattr("test_steps._COMPILED", {})
    split, order = cases.split_of(case, EXAMPLES), np.random.default_rng(0)
    plans = np.split(order.permutation(len(split)), 3)
    together, apart = of_case(case), of_case(case)
    together.train(split, plans, room_for=5)
    for plan in plans:
        apart.train(split, [plan], room_for=1)
    assert together.state.step.tolist() == apart.state.step.tolist() == [3]
    for first, second in zip(together.leaves(), apart.leaves(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_batch_without_a_label_changes_nothing_and_has_no_loss():
    case = Case("tags", "tokens")
    split, trainer = cases.split_of(case, EXAMPLES), of_case(case)
    split.targets[split.offsets[16] :] = -1
    before = trainer.leaves()
    found = trainer.train(split, [np.arange(16, 24)])
    assert np.isnan(found["accuracy"][0])
    assert_close(before, trainer.leaves(), 0)
    assert np.isfinite(trainer.train(split, thirds(split)[:1])["loss"])


SEEDS = range(4)
TUTORIAL = batching.Treatment(mask_padding=False, padding_side="pre")


@pytest.fixture(scope="module")
def alone(request):
    """What each of four seeds, whose batches are long when others' are short, becomes alone.

    Without a case, of two classes where padding is read.
    """
    case, changes = request.param, {}
    if case is None:
        case, changes = Case("two", "tokens"), {"treatment": TUTORIAL}
    split = cases.split_of(case, EXAMPLES)
    by_length = np.split(np.argsort(split.lengths), 3)
    plans_K = [[by_length[(seed + number) % 3] for number in range(3)] for seed in SEEDS]
    found = []
    for seed in SEEDS:
        trainer = of_case(case, seeds=[seed], **changes)
        loss = trainer.train(split, plans_K[seed])["loss"][0]
        kept = trainer.evaluate(split).kept
        found.append((loss, kept, [leaf[0] for leaf in trainer.leaves()]))
    return case, changes, split, plans_K, found


AT_ONCE = {"num_devices": 2, "seeds_at_once": 4}
ON_DEVICES = {"num_devices": 1, "seed_devices": 2, "seeds_at_once": 2}


@pytest.mark.parametrize("alone", [*ONE, slow(None)], indirect=True)
def test_each_of_many_seeds_is_trained_as_if_it_were_alone(alone):
    check_many_seeds(alone, ON_DEVICES)


@pytest.mark.parametrize("alone", [None], indirect=True)
@pytest.mark.slow
def test_each_of_many_seeds_on_all_devices_is_trained_as_if_it_were_alone(alone):
    check_many_seeds(alone, AT_ONCE)


def check_many_seeds(alone, spread):
    case, changes, split, plans_K, found = alone
    widths = (WIDTH,) if changes else (6, WIDTH)
    together = of_case(case, seeds=SEEDS, widths=widths, max_rows=4, **spread, **changes)
    loss_K = together.train(split, plans_K=plans_K)["loss"]
    kept_K = together.evaluate(split).kept
    leaves_K = together.leaves()
    for seed, (loss, kept, leaves) in enumerate(found):
        np.testing.assert_allclose(loss_K[seed], loss, rtol=1e-5)
        assert_same_kept({name: of[seed : seed + 1] for name, of in kept_K.items()}, kept)
        assert_close([many[seed] for many in leaves_K], leaves)


def test_dropout_differs_from_step_to_step_and_not_in_evaluation():
    trainer = of_case(Case("two", "tokens"), learning_rate=1e-12)
    batch = make_split()
    assert trainer.train(batch)["loss"] != trainer.train(batch)["loss"]
    np.testing.assert_array_equal(trainer.outputs(batch), trainer.outputs(batch))


DROPS = {
    "word_dropout": 0.3, "embedding_dropout": 0.3, "weight_drop": 0.3, "recurrent_dropout": 0.3,
}  # fmt: skip


@pytest.mark.slow
def test_what_is_dropped_does_not_depend_on_devices_and_blocks():
    model = DROPS | {"unknown_token": 2}
    make = functools.partial(of_case, Case("two", "tokens"), model=model)
    assert_same_training(Case("two", "tokens"), make(num_devices=1), make(max_rows=1))


@pytest.mark.parametrize("name", [slow(name) if name != "weight_drop" else name for name in DROPS])
def test_drops_differ_from_step_to_step_and_seed_to_seed_and_not_in_evaluation(name):
    trainer, again, other, plain = (
        of_config("lstm", learning_rate=1e-12, seeds=(seed,), model={name: rate})
        for seed, rate in ((0, 0.3), (0, 0.3), (1, 0.3), (0, 0.0))
    )
    again.program.compiled = other.program.compiled = trainer.program.compiled
    batch = make_split()
    losses = [trainer.train(batch)["loss"] for _ in range(2)]
    assert losses[0] != losses[1]
    assert losses == [again.train(batch)["loss"] for _ in range(2)]
    assert losses[0] != other.train(batch)["loss"]
    np.testing.assert_allclose(trainer.outputs(batch), plain.outputs(batch), atol=1e-7)


def test_metrics_are_weighted_by_examples():
    logits_Bx1, labels_B = (
        np.array([[2.0], [-1.0], [3.0], [0.5]]),
        np.array([1.0, 1.0, 1.0, np.nan]),
    )
    sums = [TASK.all_sums(logits_Bx1[part], labels_B[part]) for part in (slice(1), slice(1, 4))]
    sums = [jax.tree.map(lambda total: np.array(total)[None, None], one) for one in sums]
    result = metrics.of_seeds(TASK, metrics.add_up(sums))
    assert result["accuracy"] == pytest.approx([2 / 3])
    expected = np.mean(np.log1p(np.exp([-2.0, 1.0, -3.0])))
    assert result["loss"] == pytest.approx([expected], rel=1e-6)


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
    plain = optimizers.adam(1e-3, 1e-7)
    clipped = updates_of(optimizers.make("adam", 1e-3, clip_norm=1.0), [long, short])
    np.testing.assert_allclose(clipped, updates_of(plain, [shortened, short]), rtol=1e-5)
    assert not np.allclose(clipped, updates_of(plain, [long, short]), rtol=1e-2)
    not_clipped = updates_of(optimizers.make("adam", 1e-3, clip_norm=0.0), [long, short])
    np.testing.assert_array_equal(not_clipped, updates_of(plain, [long, short]))


class Steep(Classes):
    """Adds nothing to the loss and NaN to its gradient."""

    def loss(self, outputs_NxC, targets_N):
        return super().loss(outputs_NxC, targets_N) + jnp.sqrt(0 * outputs_NxC.sum())


def test_a_gradient_that_is_not_finite_shows_in_the_loss():
    models = cases.models_of(Case("two", "tokens"))
    assert np.isfinite(Trainer(models).train(make_split())["loss"])
    steep = Steep(TASK.classes)
    assert np.isfinite(steep.loss(jnp.ones((3, 1)), jnp.ones(3))).all()
    assert np.isnan(Trainer(models, steep).train(make_split())["loss"])
