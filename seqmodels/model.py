"""Inputs, encoder, head."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import arguments, dropout
from seqmodels.cells import base
from seqmodels.encoder import Encoder
from seqmodels.heads import Head, SequenceHead, StepHead
from seqmodels.inputs import Embedding, Inputs
from seqmodels.pooling import Last
from seqmodels.recurrence import Encoded
from seqmodels.sampled import Candidates

PaddingSide = Literal["pre", "post"]


def align_left(x_BxT: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """Moves the padding of pre-padded rows after them: `[0, 0, 7, 8] -> [7, 8, 0, 0]`.

    Args:
        x_BxT: rows, of numbers or of vectors `[B, T, D]`.
        lengths_B: steps of each sequence, 0 to T.
    """
    return _moved(x_BxT, x_BxT.shape[1] - lengths_B)


def align_right(x_BxT: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """Moves the padding of post-padded rows in front of them, as `align_left` takes it away."""
    return _moved(x_BxT, lengths_B)


def _moved(x_BxT: jax.Array, first_B: jax.Array) -> jax.Array:
    """Rows turned around so that they begin with their step `first_B`."""
    width = x_BxT.shape[1]
    times_BxT = (jnp.arange(width) + first_B[:, None]) % width
    return jnp.take_along_axis(x_BxT, jax.lax.expand_dims(times_BxT, range(2, x_BxT.ndim)), axis=1)


class SequenceModel(nnx.Module):
    """A model of sequences of tokens or vectors.

    Args:
        inputs: what it reads.
        encoder: of the vectors that `inputs` makes.
        head: of what the encoder makes of them: outputs of a sequence, or of every step.
        output_dropout: the rate at which what the head reads is dropped, in [0, 1).

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
        """The outputs: `[B, C]` of a sequence; of every step `[B, T, C]`, zero in the padding.

        Args:
            x: with an `Embedding` tokens, integers in [0, V) `[B, T]`; with `Vectors` floating
                point `[B, T, D]`.
            lengths_B: steps of each sequence, the rest of its row being padding that no result
                depends on; None reads every row to its end, padding included.
            padding_side: where in the row the padding stands. Outputs of a step stand where its
                input does.
            dropout_keys_B: a random key for each sequence, which decides what is dropped from it;
                None, as in evaluation: nothing.
            step_key: a random key for the step of training, which decides what weights are dropped;
                None, as in evaluation: none.
            shared_steps: where rows are read to their end, how many steps at their start are the
                same in all of them, such as padding; fewer than T. They are then read once, if
                nothing is dropped and only a last output of forward layers is asked for.

        Raises:
            ValueError: an argument has the wrong shape or type, a token or length is out of range,
                or the head is not as wide as the encoder. Under `jax.jit` tokens out of range are
                not noticed, and a length out of range makes its sequence's outputs NaN.
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
                "shared_steps goes with rows that are read to their end, not with "
                "lengths_B; leave one of them out"
            )
        lengths_B = arguments.lengths(lengths_B, batch_size, width)
        if padding_side == "pre":
            x = align_left(x, lengths_B)
        outputs = self._outputs(x, lengths_B, keys)
        if padding_side == "pre" and self.head.per_step:
            outputs = align_right(outputs, lengths_B)
        return arguments.nan_where_impossible(outputs, lengths_B, width, batch_axis=0)

    def initial_carries(self, batch_size: int) -> list[base.Carry]:
        """What `read_on` begins with, for every sequence of a batch.

        That is the carry of each layer and, where steps are pooled, what is pooled so far.

        Raises:
            ValueError: a layer reads backwards, and so needs the end of a sequence first.
        """
        layers = self.encoder.initial_carries(batch_size)
        return [*layers, *self.head.initial_carries(batch_size)]

    def read_on(
        self,
        carries: Sequence[base.Carry],
        x: Any,
        lengths_B: Any = None,
        *,
        dropout_keys_B: jax.Array | None = None,
        step_key: jax.Array | None = None,
    ) -> tuple[jax.Array, list[base.Carry]]:
        """As a call, for sequences that are read piece by piece.

        Read in pieces, a sequence has the outputs of every step that it has read at once. Outputs
        of a sequence are those that it would have if it ended with the piece.

        Args:
            carries: from `initial_carries` or from the piece before.
            x: as in a call; padding comes after a sequence.
            lengths_B: as in a call.
            dropout_keys_B: as in a call.
            step_key: as in a call.

        Returns:
            The outputs, and the carries after each sequence's last step.

        Raises:
            ValueError: as in a call, or a layer reads backwards.
        """
        layers = len(self.encoder.layers)
        encoded, ends, lengths_B = self.encode_from(
            carries[:layers], x, lengths_B, dropout_keys_B=dropout_keys_B, step_key=step_key
        )
        outputs, of_head = self.head.answer_on(carries[layers:], encoded, lengths_B, self._table())
        outputs = arguments.nan_where_impossible(outputs, lengths_B, jnp.shape(x)[1], batch_axis=0)
        return outputs, [*ends, *of_head]

    def encode_from(
        self,
        carries: Sequence[base.Carry] | None,
        x: Any,
        lengths_B: Any = None,
        *,
        dropout_keys_B: jax.Array | None = None,
        step_key: jax.Array | None = None,
    ) -> tuple[tuple[Encoded, ...], list[base.Carry], jax.Array]:
        """What the head answers from, for a head to be asked about some of the steps at a time.

        Args:
            carries: of each layer; None: the sequences begin here.
            x: as in `read_on`.
            lengths_B: as in `read_on`.
            dropout_keys_B: as in `read_on`.
            step_key: as in `read_on`.

        Returns:
            What each direction of the top layer makes of the batch, undefined after the longest
            sequence; the carries after each sequence's last step, unless there were none before;
            and the lengths as an array.

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

    def answer(self, encoded: Sequence[Encoded], lengths_B: jax.Array) -> jax.Array:
        """The outputs of what `encode_from` gave, or of some of its steps.

        They are `[B, C]` of a sequence; of every step `[B, T, C]`, zero in the padding.

        Args:
            encoded: of each direction.
            lengths_B: steps of each sequence, 0 to T.
        """
        return self.head.answer(encoded, lengths_B, self._table())

    def sampled_losses(
        self,
        encoded: Sequence[Encoded],
        lengths_B: jax.Array,
        targets_BxT: jax.Array,
        candidates: Candidates,
    ) -> jax.Array:
        """The loss of every step, `[B, T]`, without all the outputs, which may be very many.

        Args:
            encoded: as in `answer`, of a model with outputs of every step.
            lengths_B: as in `answer`.
            targets_BxT: the right outputs; any in the padding, where the loss is zero.
            candidates: that stand for all outputs, as in `sampled.losses`.
        """
        assert isinstance(self.head, StepHead)
        return self.head.sampled_losses(encoded, lengths_B, targets_BxT, candidates, self._table())

    def _table(self) -> nnx.Param[jax.Array] | None:
        """The table that the head is tied to; it is held by the inputs alone."""
        return self.inputs.table if self.head.tied else None  # type: ignore[attr-defined]

    def pass_on_tables(self) -> None:
        """From now on replaces each table that it reads rows of by itself, as an output of reading.

        If parameters are outputs of a function too, gradients that come back for them are what its
        own are added to, and no array as large as a table is made for those of some of its rows.
        For a model that is made inside of the function alone.
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
        x_TxDxB = self.inputs.read(x, lengths_B, keys["dropout_keys_B"])
        if starts is None:
            encoded = self.encoder.encode(x_TxDxB, lengths_B, **keys)
            carries: list[base.Carry] = []
        else:
            encoded, carries = self.encoder.encode_from(starts, x_TxDxB, lengths_B, **keys)
        if keys["dropout_keys_B"] is not None and self.output_dropout > 0:
            encoded = self._drop(encoded, keys["dropout_keys_B"])
        return encoded, carries

    def _drop(self, encoded, keys_B):
        """What the head reads without some of it: of every step, and of the last one."""
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
        """Whether its outputs depend on last carries of forward layers alone."""
        reads_last = isinstance(self.head, SequenceHead) and isinstance(self.head.pooling, Last)
        return reads_last and self.encoder.gives_carries()


def _check_fits(head: Head, encoder: Encoder) -> None:
    if head.input_size != encoder.output_size:
        raise ValueError(
            f"the {type(head).__name__} must read what the encoder makes: it is made for vectors "
            f"of {head.input_size} numbers, and the encoder's have {encoder.output_size}"
        )


def _check_tied(head: Head, inputs: Inputs) -> None:
    if not head.tied:
        return
    if not isinstance(inputs, Embedding):
        raise ValueError(
            "a head can be tied to the embedding of tokens alone, and this model reads vectors"
        )
    width = head.input_size if head.projection is None else head.projection.shape[1]
    shape = head.num_outputs, width
    if shape != inputs.table.shape:
        raise ValueError(
            f"a tied head scores its step's vector against that of each token: it has "
            f"{head.num_outputs} outputs of vectors of {width} numbers, and the embedding has "
            f"{len(inputs.table)} tokens with vectors of {inputs.output_size}; set projection_size "
            f"to {inputs.output_size}, or embedding_size to {width}"
        )
