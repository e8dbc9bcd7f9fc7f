"""A config is refused for its fields, with their names, before anything else happens."""

import numpy as np
import pytest

from configs import base, bilstm, generated, lstm, stacked, temporal_order
from train_lib import building, settings
from train_lib.errors import UserError


@pytest.fixture
def config():
    return base.get_config("test", "exact")


@pytest.mark.parametrize("experiment", [lstm, bilstm, stacked])
@pytest.mark.parametrize("treatment", ["exact", "tutorial"])
def test_every_experiment_is_accepted(experiment, treatment):
    settings.check(experiment.get_config(treatment))


@pytest.mark.parametrize("experiment", [generated, temporal_order])
def test_every_experiment_on_generated_data_is_accepted(experiment):
    settings.check(experiment.get_config())


def test_every_field_has_a_rule_and_every_rule_a_field(config):
    assert dict(settings.flatten(config)).keys() == settings.RULES.keys()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.cell", "nope"), ("model.cell", 3), ("model.embedding_size", 0),
        ("model.hidden_sizes", ()), ("model.hidden_sizes", (16, -1)), ("model.hidden_sizes", 16),
        ("model.direction", "both"), ("model.merge", "max"), ("model.dropout_rates", (1.0,)),
        ("model.dropout_rates", (float("nan"),)), ("model.pooling", "first"),
        ("model.segment_steps", 0), ("model.cell_options", 1),
        ("model.learned_initial_state", 1), ("model.residual", None),
        ("model.word_dropout", 1.0), ("model.embedding_dropout", -0.1), ("model.weight_drop", 1.0),
        ("model.recurrent_dropout", 1.0), ("model.zoneout", -0.1),
        ("data.source", 3), ("data.max_features", 4), ("data.train_examples", -1),
        ("data.test_examples", 2.5), ("task.name", "nope"), ("task.threshold", 0.5),
         ("data.split_seed", -1), ("data.mask_padding", "yes"),
        ("data.padding_side", "left"), ("train.num_epochs", -4), ("train.num_epochs", 1.0),
        ("train.num_epochs", True), ("train.batch_size", 0), ("train.learning_rate", float("nan")),
        ("train.learning_rate", float("inf")), ("train.learning_rate", -1e-3),
        ("train.adam_epsilon", 0.0), ("train.clip_norm", -1.0), ("train.clip_norm", float("inf")),
        ("task.label_smoothing", 1.0), ("train.schedule", "step"),
        ("train.warmup", -1.0), ("train.warmup", 1.5),
        ("train.final_share", 1.1), ("train.plateau_patience", -1), ("train.plateau_factor", 1.0),
        ("train.ema_decay", 1.0), ("train.patience", 2.5), ("train.accumulate_batches", 0),
        ("train.weight_decay", -0.1), ("train.optimizer_options", 1),
        ("data.standardize", 1), ("train.seed", -1),
        ("name", "a/b"), ("name", ""),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_what_is_expected(config, path, value):
    with config.ignore_type():
        config.update_from_flattened_dict({path: value})
    with pytest.raises(UserError) as error:
        settings.check(config)
    assert f"config.{path} = {value!r} must be " in str(error.value)
    assert settings.RULES[path].expected in str(error.value)


def test_all_problems_are_told_at_once(config):
    config.train.num_epochs = 0
    config.model.pooling = "nope"
    del config.data.dir
    config.train.lerning_rate = 0.1
    with pytest.raises(UserError) as error:
        settings.check(config)
    for words in (
        "config.train.num_epochs", "config.model.pooling", "config.data.dir is missing",
        "config.train.lerning_rate is not a field; did you mean config.train.learning_rate?",
    ):  # fmt: skip
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model.residual": True}, "config.model.residual = True does nothing where"),
        ({"model.merge": "sum"}, "config.model.merge = 'sum' does nothing where"),
        ({"model.residual": True, "model.hidden_sizes": (8,)}, "hidden_sizes = (8,) is one layer"),
        (
            {"data.source": "generated", "data.archive": "a.tar.gz"},
            "data.archive = 'a.tar.gz' does",
        ),
        ({"data.source": "temporal_order", "data.archive": "a"}, "data.archive = 'a' does nothing"),
        ({"data.source": "generated", "data.dir": "a"}, "config.data.dir = 'a' does nothing where"),
        ({"data.source": "generated", "data.text_column": "a"}, "text_column = 'a' does nothing"),
        ({"data.group_column": "a"}, "group_column = 'a' does nothing where config.data.source"),
        (
            {"train.optimizer": "sgd", "train.adam_epsilon": 1e-3},
            "config.train.adam_epsilon = 0.001 does nothing where config.train.optimizer = 'sgd'",
        ),
        ({"train.final_share": 0.1}, "config.train.final_share = 0.1 does nothing where"),
        ({"train.plateau_factor": 0.5}, "config.train.plateau_factor = 0.5 does nothing where"),
        (
            {"train.plateau_patience": 3, "train.patience": 3},
            "config.train.plateau_patience = 3 does nothing where config.train.patience = 3",
        ),
        ({"train.groups": "head"}, "groups cannot be used: 'head' is not a JSON object from"),
        ({"train.optimizer": "adamw"}, "'adamw' is one with weight decay, and"),
        ({"train.optimizer": "admaw"}, "unknown optimizer 'admaw'; choose one of acprop, "),
        ({"train.optimizer": "lbfgs"}, "'lbfgs' cannot be used: optax's lbfgs"),
        ({"train.optimizer_options": "b3=1"}, "the optimizer adam has no option 'b3'; it has b1"),
        ({"train.optimizer_options": "b1 1"}, "the optimizer options 'b1 1' cannot be read"),
    ],
)
def test_a_field_that_would_do_nothing_is_told(config, changes, told):
    config.update_from_flattened_dict(changes)
    refused = ""
    try:
        settings.check(config)
    except UserError as error:
        refused = str(error)
    assert told in refused


@pytest.mark.parametrize(
    "changes",
    [
        {"model.residual": True, "model.hidden_sizes": (8, 8), "model.dropout_rates": (0, 0)},
        {"model.merge": "sum", "model.direction": "bidirectional"},
        {"data.source": "imdb", "data.archive": "a", "data.dir": "b"},
        {"data.archive": "a", "data.dir": "b"},
        {
            "train.optimizer": "adamw",
            "train.weight_decay": 0.1,
            "train.schedule": "cosine",
            "train.final_share": 0.1,
            "train.warmup": 500.0,
        },
        {"train.plateau_factor": 0.5, "train.plateau_patience": 2, "train.patience": 5},
        {"data.source": "temporal_order", "data.source_options": "length_tokens=50"},
    ],
)
def test_a_field_that_does_something_is_accepted(config, changes):
    config.update_from_flattened_dict(changes)
    settings.check(config)


def test_fields_that_do_not_go_together_are_refused(config):
    config.model.hidden_sizes = (4, 4)
    with pytest.raises(UserError, match=r"dropout_rates.* one rate for each layer"):
        settings.check(config)


@pytest.mark.parametrize("old", settings.RENAMED)
def test_a_command_with_an_old_name_is_told_the_new_one(config, old):
    with config.unlocked():
        config.update_from_flattened_dict({old: 5})
    with pytest.raises(UserError, match=f"config.{old} is now config.{settings.RENAMED[old]}"):
        settings.check(config)


def test_a_source_that_is_not_there_is_named_with_those_that_are(config):
    config.data.source = "imbd"
    with pytest.raises(UserError, match=r"'imbd' is not known; did you mean imdb\?"):
        settings.check(config)


def test_a_recipe_that_a_run_is_too_short_for_is_refused(config):
    config.train.update(warmup=12.0, num_epochs=2, batch_size=8, accumulate_batches=2)
    assert building.build_recipe(config, 97).schedule.num_updates == 14
    with pytest.raises(UserError, match=r"config.train.warmup .* 12 updates .* which has 12\."):
        building.build_recipe(config, 96)


def test_a_group_without_a_parameter_is_told_with_those_there_are(config):
    config.train.groups = '{"imputs.*": {"rate": 0.1}}'
    params = {"inputs": {"table": np.ones((3, 2))}}
    with pytest.raises(UserError, match=r"'imputs\.\*' fits no .* parameters are inputs\.table\."):
        building.build_optimizer(config, building.build_recipe(config, 100), params)
