"""Config fields that conflict, or that have no effect together."""

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from seqmodels.loading import parse_options
from train_lib.data import finding
from train_lib.training import groups, optimizers


def found(config: ConfigDict, defaults: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with the combination of fields that are each valid.

    Args:
        config: a config whose fields have been checked one by one.
        defaults: the default of every field, by its path.
    """
    yield from _of_model(config.model)
    yield from _of_data(config.data, defaults)
    yield from _of_optimizer(config.train, defaults)
    yield from _of_recipe(config.train, defaults)
    if config.train.init_from and config.train.init_vectors:
        yield (
            f"config.train.init_from = {config.train.init_from!r} has an embedding already, and "
            f"config.train.init_vectors = {config.train.init_vectors!r} is another one; leave one "
            "of them empty"
        )
    if config.train.stream_steps:
        yield from _of_stream(config)


def _of_model(model: ConfigDict) -> Iterator[str]:
    if len(model.hidden_sizes) != len(model.dropout_rates):
        yield (
            f"config.model.dropout_rates = {model.dropout_rates!r} must have one rate for each "
            f"layer of config.model.hidden_sizes = {model.hidden_sizes!r}"
        )
    if model.residual and len(model.hidden_sizes) == 1:
        yield (
            "config.model.residual = True does nothing where config.model.hidden_sizes = "
            f"{model.hidden_sizes!r} is one layer: it is layers above the first that add their "
            "input to their output"
        )
    if model.merge != "concat" and model.direction != "bidirectional":
        yield (
            f"config.model.merge = {model.merge!r} does nothing where config.model.direction = "
            f"{model.direction!r}: a layer of one direction has nothing to merge"
        )


def _of_data(data: ConfigDict, defaults: Mapping[str, Any]) -> Iterator[str]:
    of_source = finding.fields_of(data.source)
    for field in ("dir", "archive", "text_column", "target_column", "group_column"):
        value = data[field]
        if field not in of_source and value != defaults[f"data.{field}"]:
            yield (
                f"config.data.{field} = {value!r} does nothing where config.data.source = "
                f"{data.source!r}, which does not read it"
            )


def _of_optimizer(train: ConfigDict, defaults: Mapping[str, Any]) -> Iterator[str]:
    try:
        options = parse_options(train.optimizer_options, "optimizer")
        optimizers.make(train.optimizer, train.learning_rate, options)
    except ValueError as error:
        yield f"config.train.optimizer = {train.optimizer!r} cannot be used: {error}"
    try:
        groups.parse(train.groups)
    except ValueError as error:
        yield f"config.train.groups cannot be used: {error}"
    if train.optimizer.endswith("w") and not train.weight_decay:
        yield (
            f"config.train.optimizer = {train.optimizer!r} is one with weight decay, and "
            "config.train.weight_decay = 0.0 is none; set it, as in 0.01"
        )
    if train.optimizer != "adam" and train.adam_epsilon != defaults["train.adam_epsilon"]:
        yield (
            f"config.train.adam_epsilon = {train.adam_epsilon!r} does nothing where "
            f"config.train.optimizer = {train.optimizer!r}; set eps in "
            "config.train.optimizer_options, if it has that"
        )


def _of_recipe(train: ConfigDict, defaults: Mapping[str, Any]) -> Iterator[str]:
    if train.schedule in ("constant", "inverse_sqrt") and train.final_share:
        yield (
            f"config.train.final_share = {train.final_share!r} does nothing where "
            f"config.train.schedule = {train.schedule!r}, which ends where it ends"
        )
    if train.plateau_factor != defaults["train.plateau_factor"] and not train.plateau_patience:
        yield (
            f"config.train.plateau_factor = {train.plateau_factor!r} does nothing where "
            "config.train.plateau_patience = 0"
        )
    if 0 < train.patience <= train.plateau_patience:
        yield (
            f"config.train.plateau_patience = {train.plateau_patience!r} does nothing where "
            f"config.train.patience = {train.patience!r}: a seed stops before its rate is cut"
        )


def _of_stream(config: ConfigDict) -> Iterator[str]:
    stream = f"config.train.stream_steps = {config.train.stream_steps}"
    if config.model.direction != "forward":
        yield (
            f"{stream} keeps the state from one batch to the next, and a layer that reads "
            "backwards needs the end of a text first; config.model.direction must be forward"
        )
    if not config.data.mask_padding or config.data.padding_side != "post":
        yield (
            f"{stream} has no padding to treat; config.data.mask_padding must be True and "
            "config.data.padding_side post"
        )
    if config.model.learned_initial_state:
        yield (
            f"{stream} reads on from the batch before, so that no gradient reaches an initial "
            "state; config.model.learned_initial_state must be False"
        )
    if config.data.max_length_tokens:
        yield f"{stream} joins all texts; config.data.max_length_tokens must be 0"
