"""Which fields of a config may change before a run resumes."""

import json
from collections.abc import Mapping
from typing import Any

from train_lib import settings
from train_lib.training import schedules

FREE_FIELDS = {
    "data.dir", "data.archive", "train.checkpoint_every_seconds", "train.checkpoint_every_steps",
    "train.checkpoints_kept",
}  # fmt: skip
"""Where data come from and when a run is saved may change; the data themselves are compared."""

EPOCHS = "train.num_epochs"
"""It may grow if nothing else depends on it."""


def fixed_fields(config: Mapping) -> dict[str, Any]:
    """The fields that may not change before a run resumes, by their paths, as JSON types."""
    fields = settings.complete(dict(settings.flatten(json.loads(json.dumps(config)))))
    return {path: value for path, value in fields.items() if path not in FREE_FIELDS}


def describe_differences(before: Mapping, now: Mapping) -> list[str]:
    """A line for each field that has changed and may not, with both values."""

    def shown(fields: Mapping, path: str) -> str:
        return repr(fields[path]) if path in fields else "no field"

    return [
        f"config.{path} was {shown(before, path)} and is {shown(now, path)}{why}"
        for path in sorted(before.keys() | now.keys())
        if (path not in before or path not in now or before[path] != now[path])
        and (why := _why_not(path, before, now)) is not None
    ]


def _why_not(path: str, before: Mapping, now: Mapping) -> str | None:
    """Why a field may not change, as the end of a sentence; None: it may."""
    is_integer = isinstance(before.get(path), int) and isinstance(now.get(path), int)
    if path != EPOCHS or not is_integer:
        return ""
    if now[path] < before[path]:
        return ", and a run cannot be made shorter"
    schedule, warmup = now["train.schedule"], now["train.warmup"]
    if schedule in schedules.ENDING:
        return (
            f", and config.train.schedule = {schedule!r} ends with the run: a longer one has "
            "other rates from the start"
        )
    if 0 < warmup < 1:
        return (
            f", and config.train.warmup = {warmup} is a share of the run: a longer one has "
            "other rates from the start"
        )
    return None
