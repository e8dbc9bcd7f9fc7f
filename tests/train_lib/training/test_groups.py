"""Groups of parameters: their rates, when they begin to learn, and which decay."""

import re

import jax
import numpy as np
import optax
import pytest

from tests.train_lib import cases
from tests.train_lib.cases import Case
from train_lib.training import fitting, groups, optimizers, state
from train_lib.training.groups import Group
from train_lib.training.hooks import Hook
from train_lib.training.program import Program
from train_lib.training.schedules import Schedule

pytestmark = pytest.mark.usefixtures("compiled_once")
UPDATES, AN_EPOCH, RATE, DECAY, CLIP = 20, 3, 0.02, 0.3, 2.0
PARAMS = {
    "encoder": {"kernel": np.random.default_rng(0).normal(size=(4, 3))},
    "head": {"bias": np.ones(3), "kernel": np.random.default_rng(1).normal(size=(3, 2))},
}
GRADIENTS = [
    jax.tree.map(lambda p, n=n: np.random.default_rng([n, p.size]).normal(size=p.shape), PARAMS)
    for n in range(UPDATES)
]
GROUPS = (Group("encoder.*", rate=0.1, frozen_epochs=2), Group("*.kernel", decay=False))


def rate_of(n):
    return RATE * (1 - n / UPDATES)


def expected(schedule, frozen):
    """Every update of AdamW, in float64: Adam of a group begins with its first update."""
    flat, moments, course = flatten(PARAMS), {}, []
    for n, gradient in enumerate(map(flatten, GRADIENTS)):
        if n < frozen:
            gradient["encoder.kernel"] = np.zeros((4, 3))
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        rate = rate_of(n) if schedule else RATE
        flat = dict(flat)
        for path, g in gradient.items():
            is_encoder = path == "encoder.kernel"
            if is_encoder and n < frozen:
                continue
            g = g * min(1, CLIP / norm)
            m, v, updates = moments.get(path, (0, 0, 0))
            m, v, updates = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2, updates + 1
            moments[path] = m, v, updates
            change = m / (1 - 0.9**updates) / (np.sqrt(v / (1 - 0.999**updates)) + 1e-8)
            decay = DECAY if is_encoder else 0  # Neither the other kernel nor a bias.
            own = 0.1 * rate if is_encoder else rate
            flat[path] = flat[path] - own * (change + decay * flat[path])
        course.append(flat)
    return course


def flatten(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {state.path_of(keys): np.asarray(leaf) for keys, leaf in leaves}


@pytest.mark.parametrize("schedule", [None, Schedule("linear", RATE, UPDATES)])
@pytest.mark.parametrize("epochs", [0, 2])
def test_groups_learn_as_their_formula_says(schedule, epochs):
    own = (GROUPS[0]._replace(frozen_epochs=epochs), GROUPS[1])
    optimizer = optimizers.make(
        "adamw", schedule or RATE, weight_decay=DECAY, clip_norm=CLIP, groups=own,
        updates_an_epoch=AN_EPOCH,
    )  # fmt: skip
    with jax.enable_x64(True):
        params = jax.tree.map(jax.numpy.asarray, PARAMS)
        opt_state = optimizer.init(params)
        update = jax.jit(optimizer.update)
        for gradient, wanted in zip(GRADIENTS, expected(schedule, epochs * AN_EPOCH), strict=True):
            updates, opt_state = update(gradient, opt_state, params)
            params = optax.apply_updates(params, updates)
            for path, leaf in flatten(params).items():
                # A rate is computed in float32.
                np.testing.assert_allclose(leaf, wanted[path], rtol=1e-6, atol=1e-8)


def test_a_parameter_is_in_the_first_group_that_fits():
    chosen = groups.labels(GROUPS, PARAMS)
    assert chosen == {
        "encoder": {"kernel": "encoder.*"}, "head": {"bias": groups.REST, "kernel": "*.kernel"}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("patterns", "told"),
    [
        (["decoder.*"], "'decoder.*' fits no parameter; the parameters are encoder.kernel, head."),
        (["*", "head.*"], "'head.*' fits only parameters of groups before it; the parameters are"),
    ],
)
def test_a_group_without_a_parameter_is_refused(patterns, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        groups.labels([Group(one) for one in patterns], PARAMS)


def test_groups_are_read_from_json():
    text = '{"inputs.*": {"rate": 0.1, "frozen_epochs": 2, "decay": false}, "head.*": {"rate": 2}}'
    assert groups.parse(text) == (Group("inputs.*", 0.1, 2, False), Group("head.*", 2))
    assert groups.parse("") == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("inputs.*", "is not a JSON object from patterns to what differs"),
        ("[1]", "is not a JSON object"),
        ('{"a": 3}', "is not a JSON object"),
        ('{"a": {"speed": 3}}', "with any of rate, frozen_epochs, decay"),
        ('{"a": {"pattern": "b"}}', "with any of rate"),
        ('{"a": {"rate": -1}}', "rate = -1 of 'a' must be a number of at least 0"),
        ('{"a": {"rate": NaN}}', "rate = nan of 'a' must be"),
        ('{"a": {"rate": "1"}}', "rate = '1' of 'a' must be"),
        ('{"a": {"frozen_epochs": 1.5}}', "frozen_epochs = 1.5 of 'a' must be a whole number"),
        ('{"a": {"decay": 0}}', "decay = 0 of 'a' must be true or false"),
    ],
)
def test_groups_that_cannot_be_are_refused(text, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        groups.parse(text)


class Course(Hook):
    """Keeps every parameter after each epoch."""

    def __init__(self):
        self.params = []

    def after_epoch(self, moment):
        self.params.append(flatten(moment.training.state.params))


@pytest.mark.slow
def test_layers_are_unfrozen_one_after_the_other():
    """Of every seed: the head from the start, the encoder after an epoch, the table after two."""
    own = (Group("inputs.*", frozen_epochs=2), Group("encoder.*", frozen_epochs=1))
    case, seeds, watch = Case("two", "tokens"), (3, 4, 5), Course()
    optimizer = optimizers.make("adam", 1e-2, groups=own, updates_an_epoch=4)
    program = Program(cases.models_of(case, seeds), cases.task_of(case), optimizer, batch_size=6)
    start = flatten(program.params_K)
    splits = cases.split_of(case, 24), cases.split_of(case, 12, seed=1)
    fitting.fit(program, *splits, seeds=seeds, num_epochs=3, hooks=[watch])
    begins = {"head": 0, "encoder": 1, "inputs": 2}
    for path, first in start.items():
        for epoch, params in enumerate(watch.params):
            moved_K = (params[path] != first).reshape(len(seeds), -1).any(1)
            assert (moved_K == (epoch >= begins[path.partition(".")[0]])).all(), (path, epoch)
