"""What watches a fit: it is told what happened, and changes nothing of what happens next."""

from collections.abc import Callable
from typing import NamedTuple

from train_lib.training.state import Position, Training


class Moment(NamedTuple):
    """Where a fit stands.

    Attributes:
        step: updates made so far.
        total_steps: updates that there will have been in the end.
        training: the arrays. The next call gives away their memory: copy what is to be kept.
        position: the rest. `position.rows` has what is known of each epoch that is done.
        settle: waits for the device and takes down in `position` which seeds have diverged; to be
            called before it is saved.
    """

    step: int
    total_steps: int
    training: Training
    position: Position
    settle: Callable[[], None]


class Hook:
    """Watches a fit. To end it, a method raises; what it raises leaves `fit`."""

    def before(self, moment: Moment) -> None:
        """Before the first step, or the first one after resuming."""

    def after_call(self, moment: Moment, examples: int) -> None:
        """After a call of several steps, of so many examples of all seeds together."""

    def after_epoch(self, moment: Moment) -> None:
        """After an epoch and its validation, the last row of `moment.position.rows`."""
