"""Sequences that arrive a step at a time, and a finished run's answers after each step."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqmodels import SequenceModel
from train_lib.data.inputs import Inputs, Text, Vectors, Where, split
from train_lib.data.vocabulary import START
from train_lib.encoding import escape
from train_lib.errors import UserError
from train_lib.tasks.base import Task
from train_lib.training import state

KeptOfSeeds = Sequence[Mapping[str, np.ndarray]]


class Stream:
    """B sequences side by side; each step brings one word, token number or vector for each.

    `Restored.stream` makes it. The models' carries hold what was read, so a step costs the
    same however long the sequences are, and its outputs are those of the whole sequences so far.

    Args:
        models: one for each seed; they read forwards.
        inputs: what they read.
        task: their task.
        tell: formats what the task keeps for each seed as readable text, one line for each
            sequence; also given where the steps of each begin.
        batch_size: B.
        end: the token that a sequence ends with, if the task predicts it; None: there is none.

    Attributes:
        outputs_KxBxC: each seed's outputs after the last step; None before the first.

    Raises:
        ValueError: a model reads backwards.
    """

    def __init__(
        self,
        models: Sequence[SequenceModel],
        inputs: Inputs,
        task: Task,
        tell: Callable[[KeptOfSeeds, np.ndarray], list[str]],
        *,
        batch_size: int = 1,
        end: int | None = None,
    ):
        self.inputs, self.task, self.batch_size, self.end = inputs, task, batch_size, end
        self._tell = tell
        graphdef, params_K = state.split(models)
        # Each seed has its own learned initial states.
        starts = [model.initial_carries(batch_size) for model in models]
        self._starts_K = jax.tree.map(lambda *leaves: np.stack(leaves), *starts)

        # Parameters are constants of the program, so matrices are laid out once, at compile time;
        # arguments would be laid out at every step, which takes ten times as long.
        @functools.partial(jax.jit, donate_argnums=0)
        def step(carries_K, x_Bx1):
            def of_seed(params, carries):
                outputs, carries = nnx.merge(graphdef, params).read_on(carries, x_Bx1)
                return outputs[:, 0] if task.per_step else outputs, carries

            return jax.vmap(of_seed)(params_K, carries_K)

        self._step = step
        self._kept = jax.jit(jax.vmap(task.kept, (0, None)))
        nothing = [[None]] * batch_size if task.per_step else [None] * batch_size
        no_target = [] if task.predicts_inputs else nothing
        self._no_targets = np.asarray(task.zero_unlabelled(task.encode(no_target)))
        self.restart()

    def restart(self) -> None:
        """Begins new sequences; nothing of them has been read."""
        self.outputs_KxBxC: np.ndarray | None = None
        self._before_KxBxC: np.ndarray | None = None
        self._x_B = np.empty(0)
        self._carries_K = jax.tree.map(jnp.array, self._starts_K)

    def step(self, x_B: Any, place: str = "") -> np.ndarray:
        """Reads one more step of every sequence; returns the outputs after it, `[K, B, C]`.

        They are those of the step or, for a task with one answer per sequence, those that each
        sequence would have if it ended here.

        Args:
            x_B: words, one per sequence; token numbers `[B]`; or vectors `[B, D]`.
            place: where they are found, for messages; empty: the row of each.

        Raises:
            UserError: an input is not what the run was trained on, or there is not one per
                sequence.
        """
        x = self._encoded(x_B, lambda row: place or f"row {row}")
        if self.outputs_KxBxC is None and isinstance(self.inputs, Text):
            self._read(np.full(self.batch_size, START, np.int32))
        return self._read(x)

    def describe(self) -> list[str]:
        """What predict would say of each sequence if it ended here, for the last step alone.

        If the task is the next token, that is how likely the last one was before it was read.
        """
        if self.outputs_KxBxC is None:
            raise ValueError("nothing has been read, so there is nothing to describe; call step")
        if not self.task.predicts_inputs:
            return self._lines(self.outputs_KxBxC, self._no_targets)
        if self._before_KxBxC is None:
            empty_KxBxC = self.outputs_KxBxC[:, :0]
            return self._tell(self._kept_of(empty_KxBxC, self._x_B[:0]), np.zeros(2, np.int64))
        return self._lines(self._before_KxBxC, self._x_B)

    def describe_end(self) -> list[str]:
        """The same for the end of each sequence; empty if no end is predicted."""
        if self.end is None or self.outputs_KxBxC is None:
            return []
        return self._lines(self.outputs_KxBxC, np.full(self.batch_size, self.end, np.int32))

    def _encoded(self, x_B, where: Where) -> np.ndarray:
        if not hasattr(x_B, "__len__") or len(x_B) != self.batch_size:
            raise UserError(
                f"a step has a list of {self.batch_size} inputs, one per sequence, not {x_B!r:.60}."
            )
        if isinstance(self.inputs, Text):
            return self.inputs.vocabulary.encode(self._words(x_B, where))[1:]
        kind = np.float64 if isinstance(self.inputs, Vectors) else None
        try:
            arrays = list(np.asarray(x_B, kind)[:, None])
        except (TypeError, ValueError) as error:
            raise UserError(f"{where(0)}: {x_B!r:.60} are not {self.inputs.kind}.") from error
        return self.inputs.encode(arrays, where)[0]

    def _words(self, x_B: Sequence[Any], where: Where) -> list[str]:
        """One word, character or byte of each sequence, as the run's rules split them."""
        rules = self.inputs.rules  # type: ignore[union-attr]
        unit = {"characters": "character", "bytes": "byte"}.get(rules, "word")
        found = []
        for number, given in enumerate(x_B):
            words = split(given, rules) if isinstance(given, str) else []
            if len(words) != 1:
                raise UserError(
                    f"{where(number)}: a step is one {unit}, which {given!r:.60} is not."
                )
            found += words
        return found

    def _read(self, x_B: np.ndarray) -> np.ndarray:
        outputs_KxBxC, self._carries_K = self._step(self._carries_K, x_B[:, None])
        self._before_KxBxC, self._x_B = self.outputs_KxBxC, x_B
        self.outputs_KxBxC = np.asarray(outputs_KxBxC)
        return self.outputs_KxBxC

    def _lines(self, outputs_KxBxC: np.ndarray, targets_B: np.ndarray) -> list[str]:
        return self._tell(self._kept_of(outputs_KxBxC, targets_B), np.arange(self.batch_size + 1))

    def _kept_of(self, outputs_KxBxC: np.ndarray, targets_B: np.ndarray) -> KeptOfSeeds:
        kept = {name: np.asarray(of) for name, of in self._kept(outputs_KxBxC, targets_B).items()}
        return [{name: of[k] for name, of in kept.items()} for k in range(len(outputs_KxBxC))]


def answers(stream: Stream, lines: Iterable[str], *, ends: bool = True) -> Iterator[str]:
    """Yields the answer after every step of successive sequences, as lines arrive.

    Args:
        stream: a stream of batch size 1.
        lines: lines without their ends: of texts; or with one token number each, or with the
            numbers of one vector, separated by commas.
        ends: whether an empty line ends a sequence; the answers then have an empty line too.

    Raises:
        UserError: a line cannot be read; it says which.
    """
    is_first = True
    for number, line in enumerate(lines, 1):
        place = f"line {number} of the input"
        if ends and not line:
            if stream.outputs_KxBxC is not None:
                yield from (*_ended(stream), "")
            is_first = True
            continue
        for shown, one in _steps(stream.inputs, line, place, is_first):
            stream.step([one], place)
            yield f"{stream.describe()[0]}  {escape(shown)}"
        is_first = False
    if ends:
        yield from _ended(stream)


def _ended(stream: Stream) -> list[str]:
    told = [f"{answer}  (the end)" for answer in stream.describe_end()]
    stream.restart()
    return told


def _steps(inputs: Inputs, line: str, place: str, is_first: bool) -> Iterator[tuple[str, Any]]:
    """Yields the steps in a line, each with its displayed form; the first line ends no other."""
    if isinstance(inputs, Text):
        # Characters and bytes include line breaks; words do not.
        words = split(line if is_first else f"\n{line}", inputs.rules)
        yield from zip(words, words, strict=True)
        return
    try:
        if isinstance(inputs, Vectors):
            yield line, [float(one) for one in line.split(",")]
        else:
            yield line, int(line)
    except ValueError as error:
        what = "numbers with commas between them" if isinstance(inputs, Vectors) else "a number"
        raise UserError(f"{place}: there must be {what}, and there is {line!r:.60}.") from error
