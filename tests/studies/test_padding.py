"""What the study of padding measures, where the answer is known."""

import argparse
import importlib

import jax
import numpy as np
import pytest

from studies import padding
from train_lib import building
from train_lib.records import weights
from train_lib.training import Program, state

OPTIONS = argparse.Namespace(max_length_tokens=12, seeds=2)


def small(architecture="bidirectional", side="pre", pooling="last"):
    config = padding.config_of(architecture, side, pooling, OPTIONS)
    config.data.update(
        source="generated", train_examples=300, validation_examples=20, test_examples=4
    )  # fmt: skip
    config.model.embedding_size, config.model.hidden_sizes = 3, (2,)
    data, task = building.load_data(config)
    models = building.build_models(config, data.inputs, task, building.seeds_asked(config))
    program = Program(models, task, batch_size=64, treatment=building.treatment_of(config))
    return data, models[0], program, program.params_K


def scaled(params_K, part, factor):
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: leaf * (factor if part in weights.path_of(keys) else 1), params_K
    )


def test_a_half_that_says_nothing_has_no_spread_and_is_not_missed():
    data, model, program, params_K = small()
    silent_K = scaled(scaled(params_K, "backward.kernel", 0), "backward.recurrent_kernel", 0)
    found = padding.halves(model, program, silent_K, data)
    np.testing.assert_allclose(found["backward"]["spread"], 0, atol=1e-6)
    assert min(found["forward"]["spread"]) > 1e-4
    assert found["backward"]["accuracy_without"] == found["accuracy"]
    # Without the other half all logits are the same.
    np.testing.assert_allclose(found["forward"]["accuracy_without"], 0.5)


def test_gradients_are_those_of_their_direction():
    data, model, program, params_K = small()
    graphdef, _ = state.split([model])

    def norms_of(params_K):
        return padding.gradient_norms(
            graphdef, params_K, data.train, program.task, program.treatment
        )

    norms = norms_of(params_K)
    assert set(norms) == {"forward", "backward"}
    assert [len(of_seeds) for of_seeds in norms.values()] == [2, 2]
    half = {"head.kernel": np.array([1, 1, 0, 0])[:, None]}
    deaf_K = jax.tree_util.tree_map_with_path(
        lambda keys, leaf: leaf * half.get(weights.path_of(keys), 1), params_K
    )
    norms = norms_of(deaf_K)
    assert norms["backward"] == [0, 0]
    assert min(norms["forward"]) > 0


@pytest.mark.parametrize("direction", padding.DIRECTIONS)
def test_states_are_forgotten_at_the_rate_of_the_forget_gate(direction):
    data, model, _, params_K = small()
    graphdef, _ = state.split([model])
    # Of an LSTM that reads nothing but its forget gates' bias of 1: c shrinks by sigmoid(1).
    params_K = scaled(params_K, "recurrent_kernel", 0)
    params_K = jax.tree_util.tree_map_with_path(
        lambda keys, leaf: (
            leaf.at[:, 0].set(0) if weights.path_of(keys) == "inputs.table" else leaf
        ),
        params_K,
    )
    for shares_P in np.array(padding.states(graphdef, params_K, data.train, direction)):
        expected = (1 / (1 + np.exp(-1.0))) ** np.array(padding.PADS[:5])
        np.testing.assert_allclose(shares_P[:5] / shares_P[1], expected / expected[1], rtol=0.02)


def test_every_condition_is_a_config_of_its_own():
    names = set()
    for architecture, (module, direction) in padding.ARCHITECTURES.items():
        plain = importlib.import_module(f"configs.{module}").get_config("exact")
        for side in padding.PADDINGS:
            config = padding.config_of(architecture, side, "mean", OPTIONS)
            assert config.model.direction == direction
            assert config.model.hidden_sizes == plain.model.hidden_sizes
            assert config.data.mask_padding == (side == "exact")
            assert side in ("exact", config.data.padding_side)
            names.add(config.name)
    assert len(names) == 12
