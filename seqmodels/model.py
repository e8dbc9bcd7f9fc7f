"""The model: inputs, an encoder and a head."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import arguments, dropout, lookup, precision
from seqmodels.cells import base
from seqmodels.encoder import Encoder
from seqmodels.heads import Head, SequenceHead, StepHead
from seqmodels.inputs import Embedding, Inputs
from seqmodels.pooling import Last
from seqmodels.recurrence import Encoded
from seqmodels.sampled import Candidates

PaddingSide = Literal["pre", "post"]


def align_left(x_BxT: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """Moves the padding of pre-padded rows to their end: `[0, 0, 7, 8] -> [7, 8, 0, 0]`.

    Args:
        x_BxT: rows of numbers, or of vectors `[B, T, D]`.
        lengths_B: steps of each sequence, 0 to T.
    """
    return _moved(x_BxT, x_BxT.shape[1] - lengths_B)


def align_right(x_BxT: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """Moves the padding of post-padded rows to their start; the inverse of `align_left`."""
    return _moved(x_BxT, lengths_B)


def _moved(x_BxT: jax.Array, first_B: jax.Array) -> jax.Array:
    """Rotates rows so that they begin with their step `first_B`."""
    width = x_BxT.shape[1]
    times_BxT = (jnp.arange(width) + first_B[:, None]) % width
    return jnp.take_along_axis(x_BxT, jax.lax.expand_dims(times_BxT, range(2, x_BxT.ndim)), axis=1)


class SequenceModel(nnx.Module):
    """A model of sequences of tokens or vectors.

    Args:
        inputs: turns what the model reads into vectors.
        encoder: encodes these vectors.
        head: computes outputs for each sequence, or for every step, from the encoder's outputs.
        output_dropout: the dropout rate on the head's input, in [0, 1).

    Raises:
        ValueError: they do not fit together.
    """

    def __init__(
        self, inputs: Inputs, encoder: Encoder, head: Head, *, output_dropout: float = 0.0
    ):
        encoder.check_reads(inputs.output_size)
        _check_fits(head, encoder)
        _check_tied(head, inputs)
        self.inputs = inputs
        self.encoder = encoder
        self.head = head
        self.output_dropout = output_dropout

    @precision.in_float32
    def __call__(
        self,
        x: Any,
        lengths_B: Any = None,
        *,
        padding_side: PaddingSide = "post",
        dropout_keys_B: jax.Array | None = None,
        step_key: jax.Array | None = None,
        shared_steps: jax.Array | None = None,
    ) -> jax.Array:
        """The outputs: `[B, C]` per sequence, or `[B, T, C]` per step, zero in the padding.

        Args:
            x: with an `Embedding`, tokens: integers in [0, V) `[B, T]`; with `Vectors`, floating
                point `[B, T, D]`.
            lengths_B: steps of each sequence; the rest of its row is padding, on which no result
                depends. None reads every row to its end, padding included.
            padding_side: the side of the row that is padded. The outputs of a step are at the
                position of its input.
            dropout_keys_B: a random key for each sequence, which decides what is dropped from it;
                None, as in evaluation, drops nothing.
            step_key: a random key for the training step, which decides which weights are dropped;
                None, as in evaluation, drops none.
            shared_steps: when rows are read to their end, the number of steps at their start that
                are the same in all of them, such as padding; fewer than T. They are then read only
                once, if nothing is dropped and only the last output of forward layers is needed.

        Raises:
            ValueError: an argument has the wrong shape or type, a token or length is out of range,
                or the head is not as wide as the encoder. Under `jax.jit` tokens out of range go
                unnoticed, and a length out of range makes its sequence's outputs NaN.
        """
        x = self.inputs.check(x)
        _check_fits(self.head, self.encoder)
        if padding_side not in get_args(PaddingSide):
            raise ValueError(f"padding_side is {padding_side!r}; it must be 'pre' or 'post'")
        batch_size, width = x.shape[:2]
        arguments.check_keys(dropout_keys_B, "dropout_keys_B", (batch_size,))
        arguments.check_keys(step_key, "step_key", ())
        keys = {"dropout_keys_B": dropout_keys_B, "step_key": step_key}
        if lengths_B is None:
            return self._of_whole_rows(x, shared_steps, keys)
        if shared_steps is not None:
            raise ValueError(
                "shared_steps is for rows that are read to their end, not for use with "
                "lengths_B; leave one of them out"
            )
        given_B, lengths_B = lengths_B, arguments.lengths(lengths_B, batch_size, width)
        if padding_side == "pre":
            x = align_left(x, lengths_B)
        outputs = self._outputs(x, lengths_B, keys)
        if padding_side == "pre" and self.head.per_step:
            outputs = align_right(outputs, lengths_B)
        return arguments.nan_where_impossible(outputs, given_B, width, batch_axis=0)

    def initial_carries(self, batch_size: int) -> list[base.Carry]:
        """The carries that `read_on` starts from, for every sequence of a batch.

        They are the carry of each layer and, where steps are pooled, the pooling's state.

        Raises:
            ValueError: a layer runs backwards, and so needs the end of a sequence first.
        """
        layers = self.encoder.initial_carries(batch_size)
        return [*layers, *self.head.initial_carries(batch_size)]

    @precision.in_float32
    def read_on(
        self,
        carries: Sequence[base.Carry],
        x: Any,
        lengths_B: Any = None,
        *,
        dropout_keys_B: jax.Array | None = None,
        step_key: jax.Array | None = None,
    ) -> tuple[jax.Array, list[base.Carry]]:
        """Like a call, for sequences that are read piece by piece.

        The outputs of every step are the same as when the sequence is read at once. The output of a
        sequence is the one it would have if it ended with this piece.

        Args:
            carries: from `initial_carries` or from the previous piece.
            x: as in a call; padding comes after a sequence.
            lengths_B: as in a call.
            dropout_keys_B: as in a call.
            step_key: as in a call.

        Returns:
            The outputs, and the carries after each sequence's last step; only the outputs show a
            length out of range.

        Raises:
            ValueError: as in a call, or a layer runs backwards.
        """
        layers = len(self.encoder.layers)
        given_B = lengths_B
        encoded, ends, lengths_B = self.encode_from(
            carries[:layers], x, given_B, dropout_keys_B=dropout_keys_B, step_key=step_key
        )
        outputs, of_head = self.head.answer_on(carries[layers:], encoded, lengths_B, self._table())
        outputs = arguments.nan_where_impossible(outputs, given_B, jnp.shape(x)[1], batch_axis=0)
        return outputs, [*ends, *of_head]

    @precision.in_float32
    def encode_from(
        self,
        carries: Sequence[base.Carry] | None,
        x: Any,
        lengths_B: Any = None,
        *,
        dropout_keys_B: jax.Array | None = None,
        step_key: jax.Array | None = None,
    ) -> tuple[tuple[Encoded, ...], list[base.Carry], jax.Array]:
        """The encoder's outputs, so that the head can be applied to some of the steps at a time.

        Args:
            carries: one for each layer; None: the sequences begin here.
            x: as in `read_on`.
            lengths_B: as in `read_on`.
            dropout_keys_B: as in `read_on`.
            step_key: as in `read_on`.

        Returns:
            The outputs of each direction of the top layer, undefined after the longest sequence;
            the carries after each sequence's last step, if `carries` were given; and the lengths.
            One out of range is 0 there; nothing else shows it.

        Raises:
            ValueError: as in `read_on`.
        """
        x = self.inputs.check(x)
        batch_size, width = x.shape[:2]
        if carries is not None:
            self.encoder.check_reads_on()
        arguments.check_keys(dropout_keys_B, "dropout_keys_B", (batch_size,))
        arguments.check_keys(step_key, "step_key", ())
        if lengths_B is None:
            lengths_B = jnp.full(batch_size, width)
        lengths_B = arguments.lengths(lengths_B, batch_size, width)
        keys = {"dropout_keys_B": dropout_keys_B, "step_key": step_key}
        return *self._encode(x, lengths_B, keys, carries), lengths_B

    @precision.in_float32
    def answer(self, encoded: Sequence[Encoded], lengths_B: jax.Array) -> jax.Array:
        """Applies the head to what `encode_from` returned, or to some of its steps.

        Returns `[B, C]` per sequence, or `[B, T, C]` per step, zero in the padding.

        Args:
            encoded: one for each direction.
            lengths_B: steps of each sequence, 0 to T.
        """
        return self.head.answer(encoded, lengths_B, self._table())

    @precision.in_float32
    def sampled_losses(
        self,
        encoded: Sequence[Encoded],
        lengths_B: jax.Array,
        targets_BxT: jax.Array,
        candidates: Candidates,
    ) -> jax.Array:
        """The loss of every step, `[B, T]`, without computing all outputs, which may be very many.

        Args:
            encoded: as in `answer`, of a model with outputs per step.
            lengths_B: as in `answer`.
            targets_BxT: the correct outputs; anything in the padding, where the loss is zero.
            candidates: outputs that stand for all of them, as in `sampled.losses`.
        """
        assert isinstance(self.head, StepHead)
        return self.head.sampled_losses(encoded, lengths_B, targets_BxT, candidates, self._table())

    def _table(self) -> nnx.Param[jax.Array] | None:
        """The table that the head is tied to; only the inputs hold it."""
        return self.inputs.table if self.head.tied else None  # type: ignore[attr-defined]

    def pass_on_tables(self) -> None:
        """Makes the model replace each table it reads rows of with an output of the read.

        If a function also returns its parameters, its own gradients are added to those that come
        back for them, and the gradient of some rows needs no array as large as the table.
        Only for a model that is created inside the function.
        """
        if isinstance(self.inputs, Embedding):
            self.inputs.passes_on = True
        if isinstance(self.head, StepHead):
            self.head.passes_on = True

    def _of_whole_rows(self, x, shared_steps, keys):
        """The outputs of rows that are read to their end."""
        batch_size, width = x.shape[:2]
        lengths_B = jnp.full(batch_size, width)
        drops = self.drops and any(key is not None for key in keys.values())
        if shared_steps is None or drops or not self._needs_last_carries():
            return self._outputs(x, lengths_B, keys)
        shared_TxDx1 = self.inputs.read(x[:1], shared_steps[None])
        starts = self.encoder.last_carries(shared_TxDx1, shared_steps[None], batch_size)
        x = jnp.roll(x, -shared_steps, axis=1)
        return self._outputs(x, lengths_B - shared_steps, keys, starts)

    def _outputs(self, x, lengths_B, keys, starts=None):
        encoded, _ = self._encode(x, lengths_B, keys, starts)
        return self.answer(encoded, lengths_B)

    def _encode(self, x, lengths_B, keys, starts):
        keys_B = keys["dropout_keys_B"]
        looked_up = lookup.looked_up(self.inputs, self.encoder, x, keys_B)
        read = self.inputs.read(x, lengths_B, keys_B) if looked_up is None else looked_up
        if starts is None:
            encoded = self.encoder.encode(read, lengths_B, **keys)
            carries: list[base.Carry] = []
        else:
            encoded, carries = self.encoder.encode_from(starts, read, lengths_B, **keys)
        if keys_B is not None and self.output_dropout > 0:
            encoded = self._drop(encoded, keys_B)
        return encoded, carries

    def _drop(self, encoded, keys_B):
        """Applies dropout to what the head reads: the output of every step, and the last one."""
        found = []
        for number, (sequence_TxHxB, last_HxB) in enumerate(encoded):
            own_B = dropout.fold_in(keys_B, len(self.encoder.layers) + number)
            pair = sequence_TxHxB, last_HxB[None]
            found.append(
                Encoded(*(dropout.drop_all(part, self.output_dropout, own_B) for part in pair))
            )
        return tuple(one._replace(last_HxB=one.last_HxB[0]) for one in found)

    @property
    def drops(self) -> bool:
        """Whether anything is dropped in training."""
        return self.output_dropout > 0 or self.inputs.drops or self.encoder.drops

    def _needs_last_carries(self) -> bool:
        """Whether the outputs depend only on the last carries of forward layers."""
        reads_last = isinstance(self.head, SequenceHead) and isinstance(self.head.pooling, Last)
        return reads_last and self.encoder.gives_carries()


def _check_fits(head: Head, encoder: Encoder) -> None:
    if head.input_size != encoder.output_size:
        raise ValueError(
            f"the {type(head).__name__} must be as wide as the encoder's outputs: it reads vectors "
            f"of {head.input_size} numbers, but the encoder's have {encoder.output_size}"
        )


def _check_tied(head: Head, inputs: Inputs) -> None:
    if not head.tied:
        return
    if not isinstance(inputs, Embedding):
        raise ValueError(
            "a head can be tied only to an embedding of tokens, but this model reads vectors"
        )
    width = head.input_size if head.projection is None else head.projection.shape[1]
    shape = head.num_outputs, width
    if shape != inputs.table.shape:
        raise ValueError(
            f"a tied head scores a step's vector against that of each token: it has "
            f"{head.num_outputs} outputs for vectors of {width} numbers, and the embedding has "
            f"{len(inputs.table)} tokens with vectors of {inputs.output_size}; set projection_size "
            f"to {inputs.output_size}, or embedding_size to {width}"
        )
