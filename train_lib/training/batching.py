"""Which examples share a batch, where each is computed, and the batch itself."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train_lib.data.dataset import Split
from train_lib.tasks.base import Task
from train_lib.training.sampling import Sampler

NO_EXAMPLE = -1
"""Marks an empty row in a plan."""

Array = np.ndarray | jax.Array


class Treatment(NamedTuple):
    """How sequences of different lengths share a batch.

    Attributes:
        mask_padding: padding never affects a result. Otherwise it is read like any other step, and
            all rows have the same width.
        padding_side: `post`, after a sequence, or `pre`, before it.
        reads_on: sequences are blocks of one stream. A row reads one block after another, and the
            model's state is carried from batch to batch.
    """

    mask_padding: bool = True
    padding_side: str = "post"
    reads_on: bool = False


EXACT = Treatment()


class DeviceSplit(NamedTuple):
    """A split in device memory.

    Attributes:
        values: the steps of all sequences, end to end: tokens `[S]`, or vectors `[S, D]`.
        starts_N: where each sequence starts in `values`.
        lengths_N: the number of steps of each sequence.
        targets: for each sequence, `[N, ...]`, or for each step, `[S, ...]`. Zero where there is
            no label.
        weights: 1 for an item with a label, 0 for one without; None: all have one.
        sampler: draws the candidate tokens of a sampled training loss; None: the loss is not
            sampled.
    """

    values: Array
    starts_N: Array
    lengths_N: Array
    targets: Array
    weights: Array | None = None
    sampler: Sampler | None = None

    @classmethod
    def of(cls, split: Split, task: Task, *, training: bool = False) -> "DeviceSplit":
        """Converts a split whose targets the task has encoded."""
        has_label = np.asarray(task.labelled(split.targets))
        targets = split.targets if has_label.all() else task.zero_unlabelled(split.targets)
        return cls(
            split.values,
            split.offsets[:-1].astype(np.int32),
            split.lengths.astype(np.int32),
            targets.astype(jax.dtypes.canonicalize_dtype(targets.dtype)),
            None if has_label.all() else has_label.astype(np.float32),
            Sampler.of(split.targets, task.num_outputs)
            if training and task.sampled_tokens
            else None,
        )


class Batch(NamedTuple):
    """The arrays of one step. Rows without an example are empty: length 0, weight 0.

    Attributes:
        inputs: tokens `[B, T]`, or vectors `[B, T, D]`.
        lengths_B: the number of steps of each sequence.
        targets: of each item, `[I, ...]`; an item is a row or, in row-major order, a step of a row.
        weights_I: 1, or 0 for padding and for items without a label.
    """

    inputs: jax.Array
    lengths_B: jax.Array
    targets: jax.Array
    weights_I: jax.Array


def gather(
    split: DeviceSplit, examples_B: jax.Array, width: int, padding_side: str, *, per_step: bool
) -> Batch:
    """Lays sequences out in rows of `width` steps; `NO_EXAMPLE` leaves a row empty."""
    is_example_B = examples_B != NO_EXAMPLE
    lengths_B = jnp.where(is_example_B, split.lengths_N[examples_B], 0)
    times_BxT = jnp.arange(width) - (width - lengths_B[:, None] if padding_side == "pre" else 0)
    valid_BxT = (times_BxT >= 0) & (times_BxT < lengths_B[:, None])
    places_BxT = split.starts_N[examples_B][:, None] + times_BxT
    inputs = jnp.take(split.values, places_BxT, axis=0, mode="clip")
    is_real = valid_BxT.reshape(valid_BxT.shape + (1,) * (inputs.ndim - 2))
    inputs = jnp.where(is_real, inputs, jnp.zeros((), inputs.dtype))  # 0 is padding.
    if per_step:
        places_I, is_item_I = places_BxT.reshape(-1), valid_BxT.reshape(-1)
        targets = jnp.take(split.targets, places_I, axis=0, mode="clip")
    else:
        places_I, is_item_I = examples_B, is_example_B
        targets = split.targets[examples_B]

    weights_I = is_item_I.astype(jnp.float32)
    if split.weights is not None:
        weights_I *= jnp.take(split.weights, places_I, mode="clip")
    return Batch(inputs, lengths_B, targets, weights_I)


def plan_bucketed(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """Groups sequences of similar length into batches.

    Args:
        lengths: of all sequences.
        batch_size: sequences per batch; one batch holds the remainder.
        rng: for training: perturbs the lengths by up to a tenth before sorting, so that batches
            differ in every epoch, puts the smaller batch anywhere, and shuffles the batches.
            None: sorted by length, in order.
    """
    count = -(-len(lengths) // batch_size)
    sizes = np.full(count, batch_size)
    sizes[-1] = len(lengths) - batch_size * (count - 1)
    if rng is None:
        order = np.argsort(lengths, kind="stable")
    else:
        order = np.argsort(lengths * rng.uniform(0.9, 1.1, len(lengths)), kind="stable")
        rng.shuffle(sizes)
    groups = np.split(order, np.cumsum(sizes)[:-1])
    if rng is not None:
        groups = [groups[number] for number in rng.permutation(count)]
    return groups


def plan_uniform(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """Groups sequences into batches whatever their lengths.

    Args:
        lengths: of all sequences.
        batch_size: sequences per batch; the last batch holds the remainder.
        rng: shuffles the sequences; None: in order.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    return np.split(order, range(batch_size, len(lengths), batch_size))


def plan_stream(count: int, batch_size: int) -> list[np.ndarray]:
    """Groups the blocks of a stream into batches: each row reads its part of it, block by block.

    Args:
        count: the number of blocks, which are in the order of the stream.
        batch_size: B, rows.

    Returns:
        Arrays `[B]`, each with `NO_EXAMPLE` for rows whose part has ended.
    """
    a_row = -(-count // batch_size)
    blocks_BxS = np.arange(batch_size * a_row).reshape(batch_size, a_row)
    return list(np.where(blocks_BxS < count, blocks_BxS, NO_EXAMPLE).T)


def plans(
    lengths: np.ndarray,
    treatment: Treatment,
    batch_size: int,
    rng: np.random.Generator | None = None,
) -> list[np.ndarray]:
    """The batches of one pass over a split, shuffled if an `rng` is given.

    A stream is never shuffled.
    """
    if treatment.reads_on:
        return plan_stream(len(lengths), batch_size)
    plan = plan_bucketed if treatment.mask_padding else plan_uniform
    return plan(lengths, batch_size, rng)


def row_widths(train: Split, others: Sequence[Split], treatment: Treatment) -> tuple[int, ...]:
    """The widths that rows may have, in ascending order.

    Where padding is read, its amount is part of the input, so there is a single width for whatever
    the model reads: the length of the longest training sequence. Otherwise the widths are the
    length of the longest sequence of all splits, so that one program can evaluate them all, and
    fractions of it: a loop ends with the longest sequence present, but memory for its results is
    allocated for the full width.
    """
    if treatment.reads_on:
        return (max(int(split.lengths.max(initial=1)) for split in (train, *others)),)
    if not treatment.mask_padding:
        return (int(train.lengths.max()),)
    return fractions(max(int(split.lengths.max(initial=1)) for split in (train, *others)))


def fractions(width: int) -> tuple[int, ...]:
    """A ninth of a width, a third of it, and the width itself."""
    return tuple(sorted({-(-width // part) for part in (9, 3, 1)}))


class Layout(NamedTuple):
    """How the rows of a batch are distributed.

    Attributes:
        devices: P.
        blocks: N, the blocks that a device computes one after another.
        rows: R, the rows of a block.
    """

    devices: int
    blocks: int
    rows: int

    @classmethod
    def of(cls, batch_size: int, devices: int, max_rows: float) -> "Layout":
        """The layout with the fewest blocks of at most `max_rows` rows, as even as possible."""
        blocks = -(-batch_size // (devices * max_rows))
        return cls(devices, int(blocks), -(-batch_size // int(devices * blocks)))

    def place(self, plan: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
        """Assigns the examples of a batch to places, `[P, N, R]`.

        The longest come first and are dealt out to the devices in turn. So all devices have about
        the same work, and the sequences of a block, whose loop ends with the longest, are of
        similar length.

        Args:
            plan: the examples of the batch.
            lengths: of all sequences; None: a row has the same place in every batch.
        """
        order = plan if lengths is None else plan[np.argsort(-lengths[plan], kind="stable")]
        places = np.full(self.devices * self.blocks * self.rows, NO_EXAMPLE, np.int32)
        places[: len(order)] = order
        return places.reshape(self.blocks, self.rows, self.devices).transpose(2, 0, 1)

    def place_all(
        self, plans: Sequence[np.ndarray], lengths: np.ndarray | None, steps: int
    ) -> np.ndarray:
        """Places several batches, `[S, P, N, R]`, followed by empty ones up to `steps` batches."""
        places = [self.place(plan, lengths) for plan in plans]
        empty = self.place(np.empty(0, np.int32), lengths)
        return np.stack(places + [empty] * (steps - len(places)))


def steps_taken(places: np.ndarray, lengths: np.ndarray, widths: Sequence[int]) -> int:
    """The total number of steps that all rows take, including steps in padding.

    The rows of a block take as many steps as their longest sequence has. If there is a single
    width, because padding is read, they take that many: padding shared by all rows counts in full,
    although it may be read only once.
    """
    if len(widths) == 1:
        return places.size * widths[0]
    lengths = np.where(places == NO_EXAMPLE, 0, lengths[places])
    return int(lengths.max(-1).sum() * places.shape[-1])


def by_example(kept: dict[str, Any], places: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Reorders what was kept of every row, `[K, *places.shape, ...]`, by example.

    Returns:
        Arrays `[K, N, ...]`, N = `count`.
    """
    is_example = places != NO_EXAMPLE
    ordered = {}
    for name, of_places in kept.items():
        rows = of_places[:, is_example]
        ordered[name] = np.empty((len(rows), count, *rows.shape[2:]), rows.dtype)
        ordered[name][:, places[is_example]] = rows
    return ordered
