"""A trace of some training steps, for XProf or Perfetto."""

import re

import jax

from train_lib.errors import UserError
from train_lib.records.folder import RunFolder
from train_lib.training import fitting, processes
from train_lib.training.hooks import Hook, Moment
from train_lib.training.program import Program

FLAG = "--profile_steps"


def parse(text: str) -> tuple[int, int]:
    """The first and the last step to trace, counted from 1, as in `10:20`.

    Raises:
        UserError: it has another form, or the range is empty.
    """
    if not re.fullmatch(r"[0-9]{1,18}:[0-9]{1,18}", text):
        raise UserError(
            f"{FLAG}={text} must be two whole numbers of updates, as in {FLAG}=101:120."
        )
    first, last = map(int, text.split(":"))
    if not 1 <= first <= last:
        raise UserError(
            f"{FLAG}={text} has no step in it: the first one is 1, and both ends are traced."
        )
    return first, last


class Profile(Hook):
    """Traces the calls that make some steps of all seeds, into `WORKDIR/profile/`.

    A call makes several steps and is traced as a whole, so that a few steps before and after those
    asked for may be in the trace; a message says which. Close it, by `with`.

    Args:
        steps: the first and the last one.
        folder: the run's folder.
        program: the program it trains.
        examples: the number of examples in an epoch.
        num_epochs: the run's number of epochs.

    Raises:
        UserError: the run has fewer steps.
    """

    def __init__(
        self,
        steps: tuple[int, int],
        folder: RunFolder,
        program: Program,
        examples: int,
        num_epochs: int,
    ):
        self._first, self._last = steps
        self._path = folder.path / "profile"
        self._steps_a_call = fitting.steps_a_call(program)
        self._steps_an_epoch = -(-examples // program.examples_a_step)
        self._began: int | None = None
        self._is_over = True
        total = self._steps_an_epoch * num_epochs
        if self._last > total:
            raise UserError(
                f"{FLAG}={self._first}:{self._last} goes beyond the run, which has {total:,} "
                "updates."
            )

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_) -> None:
        if self._began is not None:
            self._stop(self._began)
        elif not self._is_over:
            self._say(f"step {self._first:,} was not reached: nothing is traced")

    def before(self, moment: Moment) -> None:
        self._step, self._is_over = moment.step, moment.step >= self._last
        if self._is_over:
            self._say(f"{moment.step:,} updates were made before: nothing is traced")
        self._start_if_due(moment)
        self._compiles = self._began is not None

    def after_call(self, moment: Moment, examples: int) -> None:
        self._step = moment.step
        if self._began is not None and moment.step >= self._last:
            jax.block_until_ready(moment.training)
            self._stop(self._began)
        self._start_if_due(moment)

    def after_epoch(self, moment: Moment) -> None:
        self._start_if_due(moment)

    def _start_if_due(self, moment: Moment) -> None:
        """Starts if the next call makes a step that was asked for."""
        left = self._steps_an_epoch - moment.position.steps
        if self._is_over or self._began is not None or not left:  # Validation is next.
            return
        if moment.step + min(self._steps_a_call, left) >= self._first:
            jax.block_until_ready(moment.training)
            self._began = moment.step
            if processes.is_first():
                jax.profiler.start_trace(self._path)

    def _stop(self, began: int) -> None:
        """Stops a trace that began after `began` updates."""
        self._began, self._is_over = None, True
        if not processes.is_first():
            return
        try:
            jax.profiler.stop_trace()
        except Exception as error:  # A full disk may raise anything.
            raise UserError(f"the trace cannot be written to {self._path}: {error}") from error
        compiling = ", and what was compiled for them" if self._compiles else ""
        self._say(
            f"traced steps {began + 1:,} to {self._step:,}{compiling} (a call makes up to "
            f"{self._steps_a_call}, and is traced as a whole) into {self._path}"
        )

    def _say(self, what: str) -> None:
        print(f"{FLAG}={self._first}:{self._last}: {what}", flush=True)
