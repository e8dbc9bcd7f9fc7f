"""A finished run's models, ready to answer."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from seqmodels import SequenceModel, loading
from train_lib import building
from train_lib.data import finding
from train_lib.data.dataset import Split
from train_lib.data.examples import Source
from train_lib.data.inputs import Inputs, Text
from train_lib.data.inputs import split as split_words
from train_lib.data.vocabulary import START
from train_lib.errors import UserError
from train_lib.portable import Rows
from train_lib.records import description, weights
from train_lib.records.result import each_seed
from train_lib.streaming import Stream
from train_lib.tasks.base import Kept, Task
from train_lib.tasks.common import agreement
from train_lib.training import devices
from train_lib.training.program import Program

_BATCH_SIZE = 64
_MAX_BATCH_STEPS = 1 << 18  # Fewer sequences at once if they are longer than any in training.
_MIN_WIDTH = 64  # Then powers of two, so that few programs are compiled for any sequences.


class Restored:
    """The models of a finished run, without the seeds that diverged.

    Args:
        workdir: the run's folder.
        best: use each seed's best epoch by validation; else the tested parameters.
        engine: the engine that runs the cells; empty: the config's.

    Attributes:
        folder: the run's folder.
        seeds: its seeds.
        config: its config.
        inputs: what turns texts, tokens or vectors into arrays.
        reads_streams: whether it was trained on one stream, in which no text ends.
        task: its task.
        tasks_K: the same, with what validation decided for each seed.
        together: the same, with what validation decided for the average of their answers.

    Raises:
        UserError: it is not the folder of a finished run, its files were damaged or written by
            another version of this program, or it is a baseline's, which has no weights.
    """

    def __init__(self, workdir: str, *, best: bool = False, engine: str = ""):
        name = weights.BEST_WEIGHTS if best else weights.WEIGHTS
        folder = weights.open_finished(workdir, name)
        if not weights.file_of(folder, name):
            raise UserError(f"{folder.path} has no {name}, so there is no model to answer with.")
        self.config: ConfigDict = folder.read_config()
        self.config.model.engine = engine or self.config.model.engine
        result = folder.read_json("result.json")
        self.inputs: Inputs
        self.reads_streams = self.config.train.stream_steps > 0
        self.inputs, self.task = description.read(folder, self.config.task.name)
        models = building.build_models(
            self.config, self.inputs, self.task, building.seeds_asked(self.config)
        )
        treatment = building.treatment_of(self.config)
        self._program, self._stream_program = (
            Program(
                models,
                self.task,
                batch_size=_BATCH_SIZE,
                treatment=treatment._replace(reads_on=reads_on),
            )
            for reads_on in (False, self.reads_streams)
        )
        params_K = weights.read(folder, name, self._program.params_K)
        self._params_K = devices.spread_seeds(params_K, self._program.mesh)
        self._longest = description.longest(result)["train"]
        alive = [seed for seed in result["seeds"] if "diverged_at_step" not in seed]
        self.folder, self.seeds = folder, [seed["seed"] for seed in alive]
        self._is_alive_K = np.array(["diverged_at_step" not in one for one in result["seeds"]])
        self.tasks_K: list[Task] = [
            type(self.task).from_json(seed["task"]) if "task" in seed else self.task
            for seed in alive
        ]
        decided = result.get("task_of_seeds_together")
        self.together = type(self.task).from_json(decided) if decided else self.task

    def reads_texts(self) -> Text:
        """What turns texts into arrays.

        Raises:
            UserError: the run was trained on something else.
        """
        if not isinstance(self.inputs, Text):
            raise UserError(
                f"{self.folder.path} was trained on {self.inputs.kind}, so it cannot answer texts."
            )
        return self.inputs

    def rows(self) -> Rows:
        """How the models read a sequence of any length."""
        data = self.config.data
        if data.mask_padding:
            return Rows(data.max_length_tokens)
        return Rows(self._longest, data.padding_side)

    def encode(self, sequences: Sequence[Any], where: Callable[[int], str]) -> Split:
        """Encodes sequences without targets as a split.

        Args:
            sequences: texts, lists of words, token numbers or vectors, as in training.
            where: says where a sequence, given by its number, is found, for messages.

        Raises:
            UserError: one of them is not what the run was trained on.
        """
        if isinstance(self.inputs, Text):  # One without a word can be answered too.
            for number, one in enumerate(sequences):
                if not isinstance(one, str | list):
                    raise UserError(
                        f"{where(number)}: the input is neither a text nor a list of words, which "
                        f"{self.folder.path} was trained on."
                    )
            encode, rules = self.inputs.vocabulary.encode, self.inputs.rules
            tokens = [encode(split_words(one, rules)) for one in sequences]
            values = np.concatenate(tokens)
            offsets = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        else:
            values, offsets = self.inputs.encode(sequences, where)
        lengths = np.diff(offsets)
        if self.task.predicts_inputs:
            split = Split(values, offsets, None, np.arange(len(lengths)))
            split = split.with_next_tokens(building.end_of_text(self.config, self.inputs))
        else:
            nothing = [[None] * n for n in lengths] if self.task.per_step else [None] * len(lengths)
            split = Split(values, offsets, self.task.encode(nothing), np.arange(len(lengths)))
        split = split.last_steps(self.config.data.max_length_tokens)
        if self.task.per_step and not self.config.data.mask_padding:
            split = split.last_steps(self._longest)  # No row is longer, and each step is an item.
        return split

    def read(self, path: str, *, labelled: bool) -> tuple[Split, Source, str]:
        """Reads a file or folder of data: its test split, or the only one it has.

        Also returns the source, and its name for the split.

        Args:
            path: data as `config.data.source` may name them.
            labelled: whether there are targets, which the task then encodes.

        Raises:
            UserError: they cannot be read, or are not what the run was trained on.
        """
        options = loading.parse_options(self.config.data.source_options, "source")
        source = finding.find_data(path, self.config.data.to_dict(), options, labelled=labelled)
        names = ["test"] if "test" in source.splits() else list(source.splits())
        if len(names) > 1:
            raise UserError(
                f"{path} has the splits {', '.join(names)} and no test split; name the file of one."
            )
        examples = source.read(names[0])
        split = self.encode(examples.inputs, examples.where)
        split = dataclasses.replace(
            split, rows=examples.rows, origin=examples.origin, unit=examples.unit
        )
        if labelled and not self.task.predicts_inputs:
            split = dataclasses.replace(split, targets=examples.targets)
            split = split.encoded(self.task, self.inputs.starts)
        return split, source, names[0]

    def tested(self, path: str) -> tuple[Split, list[dict[str, np.ndarray]]]:
        """The examples of data with targets, and what the task keeps of them for each seed.

        A run trained on one stream reads all texts as one, in blocks.

        Raises:
            UserError: as for `read`.
        """
        split, *_ = self.read(path, labelled=True)
        if not self.reads_streams:
            return split, self.answer(split)
        split = split.in_blocks(self.config.train.stream_steps)
        return split, each_seed(self._read_on(split))

    def number_of(self, seed: int | None) -> int:
        """The number in `seeds` of a seed; None: the first.

        Raises:
            UserError: the run has no such seed, or it diverged.
        """
        if seed is None:
            return 0
        if seed not in self.seeds:
            there = ", ".join(map(str, self.seeds))
            raise UserError(
                f"--seed={seed}: {self.folder.path} has no model of this seed; its seeds are "
                f"{there}."
            )
        return self.seeds.index(seed)

    def model(self, number: int = 0) -> SequenceModel:
        """The model of one of the `seeds`."""
        alive = np.flatnonzero(self._is_alive_K)[number]
        return self._program.model(jax.tree.map(lambda leaf_K: leaf_K[alive], self._params_K))

    def answer(self, split: Split) -> list[dict[str, np.ndarray]]:
        """What the task keeps of every item of a split, for each seed."""
        groups = []
        for width, numbers in self._by_width(split.lengths):
            if self.reads_streams and width > _MAX_BATCH_STEPS:
                for number in numbers[:, None]:  # Reading in blocks is the same as reading at once.
                    blocks = split.take(number).in_blocks(self.config.train.stream_steps)
                    groups.append((number, self._read_on(blocks)))
                continue
            batch_size = min(_BATCH_SIZE, len(numbers), max(1, _MAX_BATCH_STEPS // width))
            found = self._program.evaluate(
                self._params_K, split.take(numbers), (width,), batch_size
            ).of_seeds(self._is_alive_K)
            groups.append((numbers, found.kept))
        return [
            {
                name: self._in_order(split, [(of, kept[name][k]) for of, kept in groups])
                for name in groups[0][1]
            }
            for k in range(len(self.tasks_K))
        ]

    def _read_on(self, blocks: Split) -> dict[str, np.ndarray]:
        """What the task keeps of each step of one stream in blocks, for all seeds.

        The state is passed from block to block, and only what the task keeps of outputs is stored.
        """
        widths = (self.config.train.stream_steps,)
        found = self._stream_program.test(self._params_K, blocks, widths)
        return found.of_seeds(self._is_alive_K).kept

    def items(self, split: Split, kept: dict[str, np.ndarray]) -> tuple[dict, np.ndarray]:
        """What was kept of the steps that have an answer, and where those of each sequence begin.

        For texts these are all steps but the first; if the next token is the answer, all that have
        one.
        """
        if self.task.predicts_inputs:
            is_answered = np.asarray(self.task.labelled(split.targets))
        elif self.task.per_step and isinstance(self.inputs, Text):
            is_answered = split.values != START
        else:
            return kept, split.offsets
        lengths = np.add.reduceat(is_answered, split.offsets[:-1])
        kept = {name: of_steps[is_answered] for name, of_steps in kept.items()}
        return kept, np.cumsum([0, *lengths], dtype=np.int64)

    def columns(self, split: Split) -> dict[str, list]:
        """The averaged answer of all seeds to each sequence, as columns of a table.

        With several seeds, `seeds` says how many of them give that answer or, for numbers, the
        smallest and the largest; with several answers per sequence, `seeds_height` says so of
        `answer_height`.
        """
        kept_K, offsets = self._items_K(split)
        columns = self.together.columns(self.together.average(kept_K), None, offsets)
        return columns | agreement.of_seeds(self.tasks_K, columns, kept_K, offsets)

    def describe(self, split: Split) -> list[str]:
        """The same as readable text, one line for each sequence."""
        return self._lines(*self._items_K(split))

    def support(self, split: Split) -> np.ndarray | None:
        """How far each sequence supports the answer to the first, averaged over seeds: `[N]`.

        None if a sequence has several answers.
        """
        return self.together.support(self.together.average(self._items_K(split)[0]))

    def stream(self, batch_size: int = 1) -> Stream:
        """A stream that reads `batch_size` sequences side by side, a step at a time.

        Raises:
            UserError: the models need the end of a sequence first, or do not read all of it.
        """
        if reason := self.why_no_steps():
            raise UserError(f"{self.folder.path} cannot be asked a step at a time: {reason}.")
        models = [self.model(number) for number in range(len(self.seeds))]
        end = building.end_of_text(self.config, self.inputs)
        return Stream(
            models, self.inputs, self.task, self._lines,
            batch_size=batch_size, end=end if self.task.predicts_inputs else None,
        )  # fmt: skip

    def why_no_steps(self) -> str:
        """Why its models cannot read sequences a step at a time, as a clause; empty: they can."""
        data = self.config.data
        if not data.mask_padding:
            return "its models read the padding around a sequence too (config.data.mask_padding)"
        if data.max_length_tokens:
            return (
                f"its models read the last {data.max_length_tokens:,} steps of a sequence alone "
                "(config.data.max_length_tokens)"
            )
        try:
            self.model().encoder.check_reads_on()
        except ValueError as error:  # They read backwards.
            return f"in its models {error}"
        return ""

    def _items_K(self, split: Split) -> tuple[list[dict], np.ndarray]:
        """What each seed keeps of the items that have an answer, and where sequences begin."""
        kept_K, offsets_K = zip(
            *(self.items(split, kept) for kept in self.answer(split)), strict=True
        )
        return list(kept_K), offsets_K[0]

    def _lines(self, kept_K: Sequence[Kept], offsets: np.ndarray) -> list[str]:
        """The averaged answers of all seeds as readable text, and how far the seeds agree."""
        together = self.together.average(kept_K)
        answers = self.together.answer(together, offsets)
        columns = self.together.columns(together, None, offsets)
        agreed = agreement.of_seeds(self.tasks_K, columns, kept_K, offsets)
        if not agreed:
            return answers
        of_each = zip(*agreed.values(), strict=True)
        return [f"{one}  [{'; '.join(of)}]" for one, of in zip(answers, of_each, strict=True)]

    def _by_width(self, lengths_N: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """The widths of rows, and which sequences are computed in each."""
        if self.config.data.mask_padding:
            powers_N = np.ceil(np.log2(np.maximum(lengths_N, 1))).astype(int)
            widths_N = np.maximum(_MIN_WIDTH, 1 << powers_N)
        else:
            # If padding is read like a step, its amount is part of the input: as in training.
            widths_N = np.full(len(lengths_N), self._longest)
        return [
            (width, np.flatnonzero(widths_N == width)) for width in np.unique(widths_N).tolist()
        ]

    def _in_order(self, split: Split, groups: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Joins the items of groups of examples, in the examples' order."""
        numbers = np.concatenate([of for of, _ in groups])
        items = np.concatenate([of_items for _, of_items in groups])
        if not self.task.per_step:
            return items[np.argsort(numbers)]
        lengths = split.lengths[numbers]
        parts = np.split(items, np.cumsum(lengths)[:-1])
        return np.concatenate([parts[place] for place in np.argsort(numbers)])
