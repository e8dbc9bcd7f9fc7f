"""The valid values of every config field; checked before anything else happens."""

import dataclasses
import difflib
import json
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import base
from seqmodels.bidirectional import MERGES
from seqmodels.factory import DIRECTIONS
from seqmodels.loading import cell_names
from seqmodels.pooling import POOLINGS
from seqmodels.precision import MATRIX_DTYPES
from seqmodels.recurrence.engines import ENGINES
from train_lib import conflicts, tasks
from train_lib.data import finding
from train_lib.data.vocabulary import FIRST_WORD, TEXT_RULES
from train_lib.errors import UserError
from train_lib.training.schedules import SCHEDULES


def flatten(config: Mapping, prefix: str = ""):
    """Yields every field of a config with its path, as in `train.seed`."""
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


DEFAULTS = dict(flatten(json.loads(json.dumps(base.get_config("", "exact").to_dict()))))
"""The default of every field, by its path, as JSON types."""

EXPERIMENTS = pathlib.Path(base.__file__).parent
"""The folder of the experiments shipped with this program."""

RENAMED = {
    "data.train_reviews": "data.train_examples",
    "data.validation_reviews": "data.validation_examples",
    "data.test_reviews": "data.test_examples",
    "data.length_tokens": "data.source_options, as in length_tokens=500",
}
"""Fields of older versions, and their current names."""

_SIZES = {
    "data.train_reviews": 15_000,
    "data.validation_reviews": 10_000,
    "data.test_reviews": 25_000,
}
"""Old defaults that are 0 now, for the sources that existed then."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """The valid values of a field: a test, and the same in words."""

    accepts: Callable[[Any], bool]
    expected: str


def _integer(minimum: int, maximum: float = math.inf, *, even: bool = False) -> Rule:
    def accepts(value):
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        return is_integer and minimum <= value <= maximum and not (even and value % 2)

    kind = "an even whole number" if even else "a whole number"
    limits = f"of at least {minimum}" if maximum == math.inf else f"from {minimum} to {maximum:,}"
    return Rule(accepts, f"{kind} {limits}")


def _number(accepts: Callable[[float], bool], expected: str) -> Rule:
    def is_accepted(value):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and accepts(value)

    return Rule(is_accepted, expected)


def _choice(names) -> Rule:
    return Rule(lambda value: value in names, f"one of {', '.join(names)}")


def _tuple_of(rule: Rule) -> Rule:
    def accepts(value):
        return isinstance(value, tuple | list) and len(value) > 0 and all(map(rule.accepts, value))

    return Rule(accepts, f"a tuple of at least one, each {rule.expected}")


def _is_name(value: Any) -> bool:
    """Whether it can name a folder, with the time appended, on any file system."""
    return (
        isinstance(value, str)
        and value.isprintable()  # Excludes what is not UTF-8.
        and 0 < len(value.encode()) <= 200
        and not set(value) & set("/\\")
        and value.strip(".") != ""
    )


def _is_text(value: Any) -> bool:
    """Whether it is text that a JSON file and a path can hold."""
    return isinstance(value, str) and not re.search("[\0\ud800-\udfff]", value)


_TEXT = Rule(_is_text, "text in UTF-8")
_RATE = _number(lambda rate: 0 <= rate < 1, "a number in [0, 1)")
_NOT_NEGATIVE = _number(lambda value: value >= 0, "a number of at least 0")
_POSITIVE = _number(lambda value: value > 0, "a number above 0")
_BOOLEAN = Rule(lambda value: isinstance(value, bool), "True or False")

RULES: dict[str, Rule] = {
    "name": Rule(
        _is_name, "a name that a folder can have: 1 to 200 printable bytes of UTF-8, no / or \\"
    ),
    "model.cell": Rule(
        lambda value: value in cell_names() or (_TEXT.accepts(value) and value.endswith(".py")),
        f"one of {', '.join(cell_names())}, or the path of a file that ends in .py",
    ),
    "model.cell_options": _TEXT,
    "model.embedding_size": _integer(1),
    "model.hidden_sizes": _tuple_of(_integer(1)),
    "model.direction": _choice(DIRECTIONS),
    "model.merge": _choice(tuple(MERGES)),
    "model.learned_initial_state": _BOOLEAN,
    "model.residual": _BOOLEAN,
    "model.dropout_rates": _tuple_of(_RATE),
    "model.recurrent_dropout": _RATE,
    "model.zoneout": _RATE,
    "model.word_dropout": _RATE,
    "model.embedding_dropout": _RATE,
    "model.output_dropout": _RATE,
    "model.weight_drop": _RATE,
    "model.engine": _choice(ENGINES),
    "model.matrix_dtype": _choice(MATRIX_DTYPES),
    "model.segment_steps": _integer(1),
    "model.pooling": _choice(tuple(POOLINGS)),
    "model.projection_size": _integer(0),
    "model.tied_head": _BOOLEAN,
    "data.source": Rule(_is_text, f"one of {', '.join(finding.names())}, or the path of data"),
    "data.source_options": _TEXT,
    "data.dir": _TEXT,
    "data.archive": _TEXT,
    "data.text_column": _TEXT,
    "data.target_column": _TEXT,
    "data.group_column": _TEXT,
    "data.text_rules": _choice(tuple(TEXT_RULES)),
    "data.max_features": _integer(FIRST_WORD + 1),
    "data.max_length_tokens": _integer(0),
    "data.standardize": _BOOLEAN,
    "data.train_examples": _integer(0),
    "data.validation_examples": _integer(0),
    "data.test_examples": _integer(0),
    "data.split_seed": _integer(0),
    "data.mask_padding": _BOOLEAN,
    "data.padding_side": _choice(("pre", "post")),
    "task.name": Rule(
        lambda value: value in tasks.names() or (_TEXT.accepts(value) and value.endswith(".py")),
        f"one of {', '.join(tasks.names())}, or the path of a file that ends in .py",
    ),
    "task.options": _TEXT,
    "task.metric": _TEXT,
    "task.class_weights": _TEXT,
    "task.label_smoothing": _RATE,
    "task.sampled_tokens": _integer(0),
    "task.threshold": _TEXT,
    "train.num_epochs": _integer(1),
    "train.batch_size": _integer(1),
    "train.accumulate_batches": _integer(1),
    "train.optimizer": _TEXT,
    "train.optimizer_options": _TEXT,
    "train.learning_rate": _POSITIVE,
    "train.schedule": _choice(SCHEDULES),
    "train.warmup": _number(
        lambda warmup: 0 <= warmup < 1 or warmup == int(warmup) > 0,
        "a number in [0, 1), a share, or a whole number of updates",
    ),
    "train.final_share": _number(lambda share: 0 <= share <= 1, "a number from 0 to 1"),
    "train.plateau_patience": _integer(0),
    "train.plateau_factor": _number(lambda factor: 0 < factor < 1, "a number between 0 and 1"),
    "train.weight_decay": _NOT_NEGATIVE,
    "train.groups": _TEXT,
    "train.clip_norm": _NOT_NEGATIVE,
    "train.adam_epsilon": _POSITIVE,
    "train.ema_decay": _RATE,
    "train.patience": _integer(0),
    "train.stream_steps": _integer(0),
    "train.checkpoint_every_seconds": _NOT_NEGATIVE,
    "train.checkpoint_every_steps": _integer(0),
    "train.checkpoints_kept": _integer(1),
    "train.init_from": _TEXT,
    "train.init_vectors": _TEXT,
    "train.seeds": _integer(1, 1_000),
    "train.seed": _integer(0, 2**31 - 1),
}


def check(config: ConfigDict) -> None:
    """Checks every field of a config, and their combinations.

    Raises:
        UserError: some cannot be used; the message names each of them.
    """
    check_fields(dict(flatten(config)))
    _tell(conflicts.found(config, DEFAULTS))


def check_fields(fields: Mapping[str, Any]) -> None:
    """Checks every field of a config on its own.

    Args:
        fields: the fields, by their paths.

    Raises:
        UserError: fields are missing, unknown or out of range; the message names each of them.
    """
    problems = []
    for path in RULES.keys() - fields.keys():
        problems.append(f"config.{path} is missing; it must be {RULES[path].expected}")
    for path, value in fields.items():
        if path in RENAMED:
            problems.append(f"config.{path} is now config.{RENAMED[path]}")
        elif path not in RULES:
            close = difflib.get_close_matches(path, RULES, 1)
            hint = f"; did you mean config.{close[0]}?" if close else ""
            problems.append(f"config.{path} is not a field{hint}")
        elif not RULES[path].accepts(value):
            problems.append(f"config.{path} = {value!r} must be {RULES[path].expected}")
    _tell(problems)


def _tell(problems: Iterable[str]) -> None:
    """Raises a UserError if there are problems."""
    if found := sorted(problems):
        raise UserError("\n  ".join(["the config cannot be used:", *found]))


def complete(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Updates the fields of a run of any version of this program, by their paths.

    Renamed fields get their current names. Fields that the version lacked get their defaults, which
    is how it behaved. A baseline has its own model and training, and gets only the fields of data
    and task.
    """
    fields = dict(fields)
    for old, size in _SIZES.items():
        if old in fields:
            count = fields.pop(old)
            fields[RENAMED[old]] = 0 if count == size else count
    length = fields.pop("data.length_tokens", 500)
    if length != 500 and fields.get("data.source") == "temporal_order":
        fields["data.source_options"] = f"length_tokens={length}"
    is_baseline = "model.cell" not in fields
    return {
        path: default
        for path, default in DEFAULTS.items()
        if path.startswith(("data.", "task.")) or not is_baseline
    } | fields


def of_fields(fields: Mapping[str, Any]) -> ConfigDict:
    """The config with these fields, each checked on its own.

    Combinations were checked when the run began, perhaps before some of them were rejected.

    Raises:
        UserError: as for `check_fields`.
    """
    check_fields(fields)
    config = base.get_config("", "exact")
    config.update_from_flattened_dict(fields)
    return config
