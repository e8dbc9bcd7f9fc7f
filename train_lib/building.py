"""Builds what a config asks for: data, task, models, recipe, optimiser, program."""

from collections.abc import Sequence
from typing import Any

import optax
from flax import nnx
from ml_collections import ConfigDict

from seqmodels import SequenceModel, checking, factory, loading
from train_lib import settings, tasks
from train_lib.data import finding
from train_lib.data import loading as data_loading
from train_lib.data.dataset import Dataset
from train_lib.data.inputs import Inputs, Text, Tokens, Vectors
from train_lib.data.vocabulary import END, UNKNOWN, Vocabulary
from train_lib.errors import UserError
from train_lib.tasks.base import Task
from train_lib.tasks.common import checks
from train_lib.training import batching, groups, optimizers
from train_lib.training.batching import Treatment
from train_lib.training.program import Program
from train_lib.training.recipe import Recipe
from train_lib.training.schedules import Schedule


def load_data(
    config: ConfigDict, *, joined: bool = False, vocabulary: Vocabulary | None = None
) -> tuple[Dataset, Task]:
    """The data set that a config asks for, and the task built from its targets.

    Args:
        config: only its data and task are read.
        joined: whether the validation examples move into the training examples.
        vocabulary: the vocabulary of texts; None: that of the training examples.

    Raises:
        UserError: they cannot be loaded, or do not fit together; the message says what to do.
    """
    options = _options(config.data.source_options, "source")
    task_class = _task_class(config)
    if task_class.predicts_inputs and "labelled" in finding.fields_of(config.data.source):
        options["labelled"] = False
    source = finding.find(config.data.source, config.data.to_dict(), options)
    given = {name: config.data[name] for name in data_loading.DataSettings._fields}
    if config.train.stream_steps and not task_class.predicts_inputs:
        raise UserError(
            f"config.train.stream_steps = {config.train.stream_steps} is for a task that predicts "
            f"the next token, and config.task.name is {config.task.name}; set it to 0."
        )
    data = data_loading.load(
        source,
        data_loading.DataSettings(**given),
        joined=joined,
        labelled=not task_class.predicts_inputs,
        vocabulary=vocabulary,
    )
    tokens = None
    if task_class.predicts_inputs:
        tokens = _tokens(data.inputs)
        end = end_of_text(config, data.inputs)
        data = data.map(lambda split: split.with_next_tokens(end))
        if config.train.stream_steps:
            data = data.map(lambda split: split.in_blocks(config.train.stream_steps))
    fields = {name: config.task[name] for name in config.task if name not in ("name", "options")}
    defaults = {name: settings.DEFAULTS[f"task.{name}"] for name in fields}
    try:
        options = _options(config.task.options, "task")
        if data.target_names and "names" in tasks.option_names(task_class):
            options = {"names": list(data.target_names)} | options
        task = tasks.make(config.task.name, data.train.targets, fields, defaults, options, tokens)
        if config.task.name.endswith(".py"):
            checks.check_whole(task, data.train.targets)
    except tasks.BadTarget as error:
        raise data.train.refused(error) from error
    except (ValueError, checks.CheckFailed) as error:
        raise UserError(f"config.task cannot be used: {error}.") from error
    except Exception as error:  # A task may be a user's code, which can raise anything.
        raise UserError(
            f"config.task cannot be used: {checking.raised(task_class, error)}."
        ) from error
    if task.per_step and not tokens:
        _check_nothing_is_cut(data)
    return data if tokens else data.encoded(task), task


def _check_nothing_is_cut(data: Dataset) -> None:
    """Rejects sequences that would lose steps if each step has a target."""
    for split in data.splits:
        if split.cut is not None:
            raise UserError(
                f"{split.where(int(split.cut.argmax()))} would lose its first "
                f"{split.cut.max():,} steps, and each step has a target; "
                "config.data.max_length_tokens must be 0."
            )


def end_of_text(config: ConfigDict, inputs: Inputs) -> int | None:
    """The token after a text that is a sequence of its own.

    None: the text is part of a stream, or its tokens are numbers, none of which marks an end.
    """
    return END if isinstance(inputs, Text) and not config.train.stream_steps else None


def _task_class(config: ConfigDict) -> type[Task]:
    try:
        return tasks.find(config.task.name)
    except ValueError as error:
        raise UserError(f"config.task cannot be used: {error}.") from error


def _tokens(inputs: Inputs) -> list[tuple[str, int | None]]:
    """The outputs of a task that predicts the next input."""
    if isinstance(inputs, Vectors):
        raise UserError(
            "config.task predicts the next token, and the inputs are vectors; it needs texts or "
            "token numbers."
        )
    return inputs.tokens


def _options(text: str, what: str) -> dict[str, Any]:
    """Parses keyword arguments that a config field holds as text."""
    try:
        return loading.parse_options(text, what)
    except ValueError as error:
        raise UserError(f"{error}.") from error


def treatment_of(config: ConfigDict) -> Treatment:
    """How sequences of different lengths share a batch."""
    return Treatment(
        config.data.mask_padding, config.data.padding_side, config.train.stream_steps > 0
    )


def build_recipe(config: ConfigDict, examples: int) -> Recipe:
    """The recipe that a config asks for, for `examples` training examples.

    Raises:
        UserError: the run is too short for it.
    """
    train = config.train
    updates = train.num_epochs * -(-examples // (train.batch_size * train.accumulate_batches))
    try:
        schedule = Schedule.of(
            train.schedule, train.learning_rate, updates, train.warmup, train.final_share
        )
    except ValueError as error:
        raise UserError(f"config.train.warmup cannot be used: {error}.") from error
    names = set(Recipe._fields) - {"schedule"}
    return Recipe(schedule, **{name: train[name] for name in names})


def build_optimizer(
    config: ConfigDict, recipe: Recipe, params: nnx.State
) -> optax.GradientTransformation:
    """The optimiser that a config asks for, with the learning rates of a recipe.

    Raises:
        UserError: a parameter group matches none of these.
    """
    train, schedule = config.train, recipe.schedule
    assert schedule is not None
    own = groups.parse(train.groups)
    try:
        groups.labels(own, params)
    except ValueError as error:
        raise UserError(f"config.train.groups cannot be used: {error}.") from error
    return optimizers.make(
        train.optimizer,
        train.learning_rate if schedule.is_constant else schedule,
        _options(train.optimizer_options, "optimizer"),
        adam_epsilon=train.adam_epsilon,
        weight_decay=train.weight_decay,
        clip_norm=train.clip_norm,
        groups=own,
        updates_an_epoch=schedule.num_updates // train.num_epochs,
    )


def build_program(
    config: ConfigDict, data: Dataset, task: Task, models: Sequence[SequenceModel]
) -> Program:
    """The program that trains models as a config asks for, with its recipe and its optimiser.

    Raises:
        UserError: as for `build_recipe` and `build_optimizer`.
    """
    recipe = build_recipe(config, len(data.train))
    return Program(
        models,
        task,
        build_optimizer(config, recipe, nnx.state(models[0], nnx.Param)),
        batch_size=config.train.batch_size,
        treatment=treatment_of(config),
        recipe=recipe,
    )


def seeds_asked(config: ConfigDict) -> Sequence[int]:
    """The seeds that a config asks for: the first, and those that follow it."""
    return range(config.train.seed, config.train.seed + config.train.seeds)


def lay_out(data: Dataset, task: Task, treatment: Treatment) -> tuple[Dataset, tuple[int, ...]]:
    """The widths of rows, and the data cut to the widest one if each step is an item."""
    widths = batching.row_widths(data.train, [data.validation, data.test], treatment)
    if task.per_step:
        data = data.map(lambda split: split.last_steps(widths[-1]))
    return data, widths


def build_models(
    config: ConfigDict, inputs: Inputs, task: Task, seeds: Sequence[int]
) -> list[SequenceModel]:
    """The models that a config describes, one for each seed, freshly initialised.

    Raises:
        UserError: its parts do not fit together, or do not fit this machine.
    """
    model = config.model.to_dict()
    if model["tied_head"] and not task.predicts_inputs:
        raise UserError(
            "config.model.tied_head = True is for a task whose outputs are the tokens that the "
            f"model reads, and config.task.name is {config.task.name}; set it to False."
        )
    if task.predicts_inputs and model["direction"] != "forward":
        raise UserError(
            f"config.model.direction = {model['direction']!r} reads the next token before it is "
            "predicted; for a model that predicts the next token it must be forward."
        )
    sizes: dict[str, Any]
    if isinstance(inputs, Vectors):
        sizes = {"input_size": inputs.size}
    elif isinstance(inputs, Tokens):
        if model["word_dropout"]:
            raise UserError(
                f"config.model.word_dropout = {model['word_dropout']} reads words as unknown ones, "
                "which token numbers do not have; set it to 0."
            )
        sizes = {"vocabulary_size": inputs.size}
    else:
        size = task.num_outputs if task.predicts_inputs else config.data.max_features
        sizes = {"vocabulary_size": size, "unknown_token": UNKNOWN}
    try:
        model["cell_options"] = _options(model["cell_options"], "cell")
        return factory.build_all(
            **sizes, num_outputs=task.num_outputs, per_step=task.per_step, seeds=seeds, **model
        )
    except ValueError as error:
        raise UserError(f"config.model cannot be built: {error}.") from error
