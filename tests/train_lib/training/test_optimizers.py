"""Each optimiser equals its paper's formula, written down once more in NumPy."""

import jax
import numpy as np
import optax
import pytest

from tests.marks import slow
from train_lib.training import optimizers
from train_lib.training.schedules import Schedule

RATE, DECAY, UPDATES = 0.02, 0.3, 20
PARAMS = {
    "matrix": np.random.default_rng(0).normal(size=(4, 3)),
    "vector": np.random.default_rng(1).normal(size=3),
}
GRADIENTS = [
    {
        name: np.random.default_rng([n, len(name)]).normal(size=p.shape) / (1 + n)
        for name, p in PARAMS.items()
    }
    for n in range(UPDATES)
]
DECAYED = {"matrix": DECAY, "vector": 0.0}


def trained(optimizer, gradients=GRADIENTS):
    """The parameters after each update, in float64."""
    course = []
    with jax.enable_x64(True):
        params = jax.tree.map(jax.numpy.asarray, PARAMS)
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = jax.jit(optimizer.update)(gradient, state, params)
            params = optax.apply_updates(params, updates)
            course.append(jax.tree.map(np.asarray, params))
    return course


def assert_same(optimizer, step, gradients=GRADIENTS):
    """`step(name, p, g, n, memory)` is what a parameter loses in update n, from 1."""
    params, memory = dict(PARAMS), {name: {} for name in PARAMS}
    for n, (found, gradient) in enumerate(
        zip(trained(optimizer, gradients), gradients, strict=True), 1
    ):
        params = {
            name: p - step(name, p, gradient[name], n, memory[name]) for name, p in params.items()
        }
        for name, p in params.items():
            assert found[name].dtype == np.float64
            np.testing.assert_allclose(found[name], p, rtol=1e-7, atol=1e-9, err_msg=f"{name}, {n}")


def average(memory, name, decay, value):
    """A moving average that begins at 0."""
    memory[name] = decay * memory.get(name, 0) + (1 - decay) * value
    return memory[name]


def adam_direction(g, n, memory, b1=0.9, b2=0.999, eps=1e-8):
    m = average(memory, "m", b1, g) / (1 - b1**n)
    v = average(memory, "v", b2, g**2) / (1 - b2**n)
    return m / (np.sqrt(v) + eps)


def keras_adam(name, p, g, n, memory, b1=0.9, b2=0.999, epsilon=1e-7):
    m, v = average(memory, "m", b1, g), average(memory, "v", b2, g**2)
    rate = RATE * np.sqrt(1 - b2**n) / (1 - b1**n)
    return rate * m / (np.sqrt(v) + epsilon)


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.999), (0.5, 0.99)])
def test_adam_is_keras(b1, b2):
    tiny = [{name: 1e-6 * g for name, g in gradient.items()} for gradient in GRADIENTS]
    optimizer = optimizers.make("adam", RATE, {"b1": b1, "b2": b2})
    assert_same(optimizer, lambda *given: keras_adam(*given, b1, b2), tiny)


def test_adam_may_decay():
    def step(name, p, g, n, memory):
        return keras_adam(name, p, g, n, memory) + RATE * DECAYED[name] * p

    assert_same(optimizers.make("adam", RATE, weight_decay=DECAY), step)


def test_adam_follows_a_schedule():
    schedule = Schedule.of("linear", RATE, UPDATES, 5)

    def step(name, p, g, n, memory):
        share = n / 5 if n <= 5 else 1 - (n - 6) / 15
        return share * keras_adam(name, p, g, n, memory) + share * RATE * DECAYED[name] * p

    assert_same(optimizers.make("adam", schedule, weight_decay=DECAY), step)


def test_gradients_are_shortened_together():
    """Pascanu et al., 2013, algorithm 1; the last ones are short enough as they are."""
    norms = [np.sqrt(sum((g**2).sum() for g in gradient.values())) for gradient in GRADIENTS]
    assert min(norms) < 1 < max(norms)

    def step(name, p, g, n, memory):
        return RATE * (g * min(1, 1 / norms[n - 1]) + DECAYED[name] * p)

    assert_same(optimizers.make("sgd", RATE, clip_norm=1.0, weight_decay=DECAY), step)


def test_adamw():
    """Loshchilov and Hutter, 2019, algorithm 2, with the decay times the rate."""

    def step(name, p, g, n, memory):
        return RATE * (adam_direction(g, n, memory, b2=0.99) + DECAYED[name] * p)

    assert_same(optimizers.make("adamw", RATE, {"b2": 0.99}, weight_decay=DECAY), step)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(nesterov):
    """Sutskever et al., "On the importance of initialization and momentum", 2013."""

    def step(name, p, g, n, memory):
        memory["m"] = 0.9 * memory.get("m", 0) + g
        direction = g + 0.9 * memory["m"] if nesterov else memory["m"]
        return RATE * (direction + DECAYED[name] * p)

    options = {"momentum": 0.9, "nesterov": nesterov}
    assert_same(optimizers.make("sgd", RATE, options, weight_decay=DECAY), step)


def test_rmsprop():
    """Tieleman and Hinton, lecture 6.5, 2012."""

    def step(name, p, g, n, memory):
        return RATE * g / np.sqrt(average(memory, "v", 0.8, g**2) + 1e-6)

    assert_same(optimizers.make("rmsprop", RATE, {"decay": 0.8, "eps": 1e-6}), step)


def test_lamb():
    """You et al., "Large batch optimization for deep learning", 2020, algorithm 2."""

    def step(name, p, g, n, memory):
        direction = adam_direction(g, n, memory, eps=1e-6) + DECAYED[name] * p
        return RATE * np.linalg.norm(p) / np.linalg.norm(direction) * direction

    assert_same(optimizers.make("lamb", RATE, weight_decay=DECAY), step)


def test_lion():
    """Chen et al., "Symbolic discovery of optimization algorithms", 2023, algorithm 2."""

    def step(name, p, g, n, memory):
        direction = np.sign(0.9 * memory.get("m", 0) + 0.1 * g)
        average(memory, "m", 0.99, g)
        return RATE * (direction + DECAYED[name] * p)

    assert_same(optimizers.make("lion", RATE, weight_decay=DECAY), step)


def test_nadam():
    """Dozat, "Incorporating Nesterov momentum into Adam", 2016, with one decay for all updates."""

    def step(name, p, g, n, memory):
        m = average(memory, "m", 0.9, g)
        v = average(memory, "v", 0.999, g**2) / (1 - 0.999**n)
        ahead = 0.9 * m / (1 - 0.9 ** (n + 1)) + 0.1 * g / (1 - 0.9**n)
        return RATE * ahead / (np.sqrt(v) + 1e-8)

    assert_same(optimizers.make("nadam", RATE), step)


def test_muon():
    """Jordan et al., "Muon", 2024: of a matrix the momentum, orthogonalised; of a vector AdamW."""

    def orthogonal(x):
        """Five quintic Newton-Schulz iterations."""
        is_tall = x.shape[0] > x.shape[1]
        x = x.T if is_tall else x
        x = x / (np.linalg.norm(x) + 1e-8)
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        return x.T if is_tall else x

    def step(name, p, g, n, memory):
        if name == "vector":
            m = average(memory, "m", 0.9, g)
            v = average(memory, "v", 0.999, g**2) / (1 - 0.999**n)
            ahead = 0.9 * m / (1 - 0.9 ** (n + 1)) + 0.1 * g / (1 - 0.9**n)
            return RATE * ahead / (np.sqrt(v) + 1e-8)
        m = average(memory, "m", 0.95, g)
        ahead = 0.95 * m / (1 - 0.95 ** (n + 1)) + 0.05 * g / (1 - 0.95**n)
        scale = np.sqrt(max(1, p.shape[1] / p.shape[0]))
        return RATE * (scale * orthogonal(ahead) + DECAY * p)

    assert_same(optimizers.make("muon", RATE, weight_decay=DECAY), step)


QUICK = "adam", "adamw", "sgd", "lamb"


@pytest.mark.parametrize(
    "name", [name if name in QUICK else slow(name) for name in optimizers.names()]
)
def test_every_optimizer_makes_updates_and_decays_matrices(name):
    plain, decaying = (
        trained(optimizers.make(name, 1e-2, weight_decay=decay), GRADIENTS[:3])[-1]
        for decay in (0.0, 0.1)
    )
    for key, start in PARAMS.items():
        assert np.isfinite(plain[key]).all()
        assert (plain[key] != start).any()
    assert not np.allclose(plain["matrix"], decaying["matrix"], rtol=1e-7)
    # Of prodigy and dog, all parameters together decide how long a step is.
    np.testing.assert_allclose(plain["vector"], decaying["vector"], rtol=1e-4)


@pytest.mark.parametrize("name", sorted(optimizers._REFUSED))
def test_those_that_need_more_are_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=f"optax's {name} cannot be used: it"):
        optimizers.make(name, RATE)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("admaw", {}, "unknown optimizer 'admaw'; choose one of acprop, .* adam, "),
        ("scale_by_learning_rate", {}, "unknown optimizer"),
        ("sgd", {"momentun": 0.9}, "sgd has no option 'momentun'; it has momentum, nesterov"),
        ("adam", {"eps": 1e-3}, "adam has no option 'eps'; it has b1, b2"),
        ("adamw", {"weight_decay": 1}, r"'weight_decay' \(weight_decay is a field of its own\)"),
        ("muon", {"adam_weight_decay": 1}, r"'adam_weight_decay' \(weight_decay is a field of"),
        ("sgd", {"momentum": "much"}, "sgd cannot have the options momentum='much': "),
        ("adam", {"b2": 1.0}, r"b2=1.0 of adam must be in \[0, 1\)"),
    ],
)
def test_what_is_wrong_is_told_with_what_there_is(name, options, told):
    with pytest.raises(ValueError, match=told):
        optimizers.make(name, RATE, options)
