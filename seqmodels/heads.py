"""Heads: outputs per sequence, from its pooled steps, or per step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels import sampled
from seqmodels.cells import base
from seqmodels.inputs import take_and_pass_on
from seqmodels.pooling import Pooling
from seqmodels.recurrence import Encoded, arrays, run_all, valid_steps
from seqmodels.sampled import Candidates


class Head(nnx.Module):
    """An affine function of an encoder's outputs.

    The kernel is drawn Glorot-uniform and the bias is zero, as in Keras.

    Attributes:
        input_size: the required width of the encoder's output.
        num_outputs: C.
        per_step: whether there are outputs for every step.
        projection: `[P, Q]`, without a bias, drawn like the kernel; None: Q is P.
        kernel: `[Q, C]`; None: the embedding's table is used.
        bias: `[C]`.
    """

    input_size: int
    per_step: bool

    def __init__(
        self,
        width: int,
        num_outputs: int,
        *,
        rngs: nnx.Rngs,
        projection_size: int = 0,
        tied: bool = False,
    ):
        if num_outputs < 1:
            raise ValueError(f"num_outputs must be at least 1, and is {num_outputs}")
        self.num_outputs = num_outputs
        self.projection = (
            base.glorot_uniform(rngs, width, projection_size) if projection_size else None
        )
        self.kernel = (
            None if tied else base.glorot_uniform(rngs, projection_size or width, num_outputs)
        )
        self.bias = base.constant(0.0, num_outputs)

    @property
    def tied(self) -> bool:
        """Whether the kernel is the embedding's table."""
        return self.kernel is None

    def answer(
        self,
        encoded: Sequence[Encoded],
        lengths_B: jax.Array,
        table_CxQ: nnx.Param[jax.Array] | None = None,
    ) -> jax.Array:
        """The outputs, `[B, C]` per sequence, or `[B, T, C]` per step, zero in the padding.

        Args:
            encoded: one for each direction, as `Encoder.encode` returns them.
            lengths_B: steps of each sequence, 0 to T.
            table_CxQ: the embedding's table, if the head is tied to it.
        """
        raise NotImplementedError

    def initial_carries(self, batch_size: int) -> list[base.Carry]:
        """The carries that `answer_on` starts from: none for outputs per step, else one."""
        return []

    def answer_on(
        self,
        carries: Sequence[base.Carry],
        encoded: Sequence[Encoded],
        lengths_B: jax.Array,
        table_CxQ: nnx.Param[jax.Array] | None = None,
    ) -> tuple[jax.Array, list[base.Carry]]:
        """Like `answer`, for sequences read piece by piece; also returns the next carries."""
        return self.answer(encoded, lengths_B, table_CxQ), []


class SequenceHead(Head):
    """Outputs per sequence, computed from its steps pooled to one vector.

    Args:
        pooling: pools the steps.
        num_outputs: C.
        rngs: for the parameters.
        projection_size: Q, the width to which the vector is projected first; 0: no projection.

    Raises:
        ValueError: there is not at least one output.
    """

    per_step = False

    def __init__(
        self, pooling: Pooling, num_outputs: int = 1, *, rngs: nnx.Rngs, projection_size: int = 0
    ):
        width = pooling.output_size
        super().__init__(width, num_outputs, rngs=rngs, projection_size=projection_size)
        self.pooling = pooling
        self.input_size = pooling.input_size

    def answer(self, encoded, lengths_B, table_CxQ=None):
        return self._of_pooled(self.pooling(encoded, lengths_B))

    def initial_carries(self, batch_size):
        return [self.pooling.initial_carry(batch_size)]

    def answer_on(self, carries, encoded, lengths_B, table_CxQ=None):
        pooled_PxB, carry = self.pooling.read_on(carries[0], encoded, lengths_B)
        return self._of_pooled(pooled_PxB), [carry]

    def _of_pooled(self, pooled_PxB):
        assert self.kernel is not None  # This head is never tied.
        y_BxP = pooled_PxB.T
        if self.projection is not None:
            y_BxP = y_BxP @ self.projection[...]
        return y_BxP @ self.kernel[...] + self.bias[...].reshape(1, -1)


class StepHead(Head):
    """Outputs per step, computed from that step's vector alone.

    Args:
        input_size: P, the width of a step's vector.
        num_outputs: C.
        rngs: for the parameters.
        projection_size: Q, the width to which the vector is projected first; 0: no projection.
        tied: the outputs are the tokens that the model reads, and the kernel is the table of their
            vectors, with a bias of its own (Inan, Khosravi and Socher, "Tying word vectors and word
            classifiers", ICLR 2017; Press and Wolf, "Using the output embedding to improve language
            models", EACL 2017).

    Attributes:
        passes_on: whether `sampled_losses` replaces the kernel with the one that
            `inputs.take_and_pass_on` returns.

    Raises:
        ValueError: there is not at least one output.
    """

    per_step = True
    passes_on = False

    def __init__(
        self,
        input_size: int,
        num_outputs: int,
        *,
        rngs: nnx.Rngs,
        projection_size: int = 0,
        tied: bool = False,
    ):
        super().__init__(
            input_size, num_outputs, rngs=rngs, projection_size=projection_size, tied=tied
        )
        self.input_size = input_size

    def answer(self, encoded, lengths_B, table_CxQ=None):
        parts = self._projected(encoded, lengths_B)
        affine = _Affine(self._kernel(table_CxQ), self.bias, is_table=self.tied)
        return affine.of_steps(parts, lengths_B).transpose(2, 0, 1)

    def sampled_losses(
        self,
        encoded: Sequence[Encoded],
        lengths_B: jax.Array,
        targets_BxT: jax.Array,
        candidates: Candidates,
        table_CxQ: nnx.Param[jax.Array] | None = None,
    ) -> jax.Array:
        """The cross-entropy of every step's correct output, as `sampled.losses` estimates it.

        Args:
            encoded: as in `answer`.
            lengths_B: as in `answer`.
            table_CxQ: as in `answer`.
            targets_BxT: the correct outputs; anything in the padding.
            candidates: outputs that stand for all of them.

        Returns:
            `[B, T]`, zero in the padding.
        """
        y_TxQxB = jnp.concatenate(self._projected(encoded, lengths_B), axis=1)
        kernel = self._kernel(table_CxQ)
        numbers = sampled.numbers_of(candidates, targets_BxT)
        rows_RxQ, passed_on = take_and_pass_on(kernel[...], numbers, 0 if self.tied else 1)
        if self.passes_on:
            kernel[...] = passed_on
        return sampled.losses(y_TxQxB, rows_RxQ, self.bias[...][numbers], candidates, lengths_B)

    def _kernel(self, table_CxQ: nnx.Param[jax.Array] | None) -> nnx.Param[jax.Array]:
        kernel = table_CxQ if self.kernel is None else self.kernel
        assert kernel is not None  # The model passes the table if the head is tied.
        return kernel

    def _projected(self, encoded: Sequence[Encoded], lengths_B: jax.Array) -> list[jax.Array]:
        """The arrays whose concatenation `[T, Q, B]` is multiplied by the kernel."""
        parts = [one.sequence_TxHxB for one in encoded]
        if self.projection is None:
            return parts
        return [_Affine(self.projection).of_steps(parts, lengths_B)]


class _Affine(base.Cell):
    """`x @ kernel + bias`, as a stateless cell.

    Args:
        kernel: `[P, C]` or, if `is_table`, `[C, P]`.
        bias: `[C]`; None: no bias.
    """

    def __init__(
        self,
        kernel: nnx.Param[jax.Array],
        bias: nnx.Param[jax.Array] | None = None,
        *,
        is_table: bool = False,
    ):
        self.kernel = kernel
        self.bias = bias
        self.is_table = is_table
        self.hidden_size = kernel.shape[0 if is_table else 1]

    def initial_carry(self):
        return ()

    def project(self, x_D):
        # Transposing a table would copy all of it.
        of = (
            jnp.dot(self.kernel[...], x_D) if self.is_table else base.product(x_D, self.kernel[...])
        )
        return of if self.bias is None else of + self.bias

    def step(self, carry, z):
        return carry, z

    def of_steps(self, parts: Sequence[jax.Array], lengths_B: jax.Array) -> jax.Array:
        """The outputs of every step, `[T, C, B]`; zero in the padding.

        Args:
            parts: arrays whose concatenation is the inputs `[T, P, B]`; undefined after the longest
                sequence.
            lengths_B: steps of each sequence, 0 to T.
        """
        valid_Tx1xB = valid_steps(lengths_B, parts[0].shape[0])[:, None]
        if arrays.on_cpu():
            # Step by step, up to the longest sequence: one product of all would be strided.
            of_TxCxB = run_all([self], [False], parts, lengths_B)[0].sequence_TxHxB
        else:
            # Undefined values after the longest sequence would reach the kernel's gradient.
            x_TxPxB = jnp.where(valid_Tx1xB, jnp.concatenate(parts, axis=1), 0)
            axes = "cp" if self.is_table else "pc"
            of_TxCxB = jnp.einsum(f"{axes},tpb->tcb", self.kernel[...], x_TxPxB)
            if self.bias is not None:
                of_TxCxB += self.bias[:, None]
        return jnp.where(valid_Tx1xB, of_TxCxB, 0)
