"""Hooks watch a fit: they are told what happened, and do not affect what happens next."""

from collections.abc import Callable
from typing import NamedTuple

from train_lib.training.state import Position, Training


class Moment(NamedTuple):
    """The current state of a fit.

    Attributes:
        step: updates made so far.
        total_steps: updates in the whole fit.
        training: the arrays. The next call donates their memory: copy what you want to keep.
        position: all other state. `position.rows` has the figures of each finished epoch.
        settle: waits for the device and records in `position` which seeds have diverged; call it
            before saving.
    """

    step: int
    total_steps: int
    training: Training
    position: Position
    settle: Callable[[], None]


class Hook:
    """Watches a fit. A method ends the fit by raising an exception, which leaves `fit`."""

    def before(self, moment: Moment) -> None:
        """Called before the first step, or before the first one after resuming."""

    def after_call(self, moment: Moment, examples: int) -> None:
        """Called after several steps, on `examples` examples of all seeds together."""

    def after_epoch(self, moment: Moment) -> None:
        """Called after an epoch and its validation: the last row of `moment.position.rows`."""
