"""What a model answers: outputs of a sequence, from its pooled steps, or of every step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base
from seqmodels.pooling import Pooling
from seqmodels.recurrence import Encoded, run_all, valid_steps


class Head(nnx.Module):
    """An affine function of what an encoder makes of its sequences.

    The kernel is drawn Glorot-uniform and the bias is zero, as in Keras.

    Attributes:
        input_size: the width that the encoder's output has to have.
        num_outputs: C.
        per_step: whether there are outputs of every step.
        kernel: `[P, C]`.
        bias: `[C]`.
    """

    input_size: int
    per_step: bool

    def __init__(self, width: int, num_outputs: int, *, rngs: nnx.Rngs):
        if num_outputs < 1:
            raise ValueError(f"num_outputs must be at least 1, and is {num_outputs}")
        self.num_outputs = num_outputs
        self.kernel = base.glorot_uniform(rngs, width, num_outputs)
        self.bias = base.constant(0.0, num_outputs)

    def answer(self, encoded: Sequence[Encoded], lengths_B: jax.Array) -> jax.Array:
        """The outputs, `[B, C]` or, per step, `[B, T, C]`, where they are zero in the padding.

        Args:
            encoded: of each direction, as `Encoder.encode` returns it.
            lengths_B: steps of each sequence, 0 to T.
        """
        raise NotImplementedError

    def initial_carries(self, batch_size: int) -> list[base.Carry]:
        """What `answer_on` begins with: of outputs of steps nothing, else a single carry."""
        return []

    def answer_on(
        self, carries: Sequence[base.Carry], encoded: Sequence[Encoded], lengths_B: jax.Array
    ) -> tuple[jax.Array, list[base.Carry]]:
        """As `answer`, of sequences read piece by piece, and the carries after this piece."""
        return self.answer(encoded, lengths_B), []


class SequenceHead(Head):
    """Outputs of a sequence, from its steps pooled to one vector.

    Args:
        pooling: of the steps.
        num_outputs: C.
        rngs: for the parameters.

    Raises:
        ValueError: there is not at least one output.
    """

    per_step = False

    def __init__(self, pooling: Pooling, num_outputs: int = 1, *, rngs: nnx.Rngs):
        super().__init__(pooling.output_size, num_outputs, rngs=rngs)
        self.pooling = pooling
        self.input_size = pooling.input_size

    def answer(self, encoded, lengths_B):
        return self._of_pooled(self.pooling(encoded, lengths_B))

    def initial_carries(self, batch_size):
        return [self.pooling.initial_carry(batch_size)]

    def answer_on(self, carries, encoded, lengths_B):
        pooled_PxB, carry = self.pooling.read_on(carries[0], encoded, lengths_B)
        return self._of_pooled(pooled_PxB), [carry]

    def _of_pooled(self, pooled_PxB):
        return pooled_PxB.T @ self.kernel[...] + self.bias[...].reshape(1, -1)


class StepHead(Head):
    """Outputs of every step, from that step's vector alone.

    Args:
        input_size: of a step's vector.
        num_outputs: C.
        rngs: for the parameters.

    Raises:
        ValueError: there is not at least one output.
    """

    per_step = True

    def __init__(self, input_size: int, num_outputs: int, *, rngs: nnx.Rngs):
        super().__init__(input_size, num_outputs, rngs=rngs)
        self.input_size = input_size

    def answer(self, encoded, lengths_B):
        parts = [one.sequence_TxHxB for one in encoded]
        valid_Tx1xB = valid_steps(lengths_B, len(parts[0]))[:, None]
        if _on_cpu():
            # Step by step, as far as there are steps: a product of all would read across memory.
            affine = _Affine(self.kernel, self.bias)
            outputs_TxCxB = run_all([affine], [False], parts, lengths_B)[0].sequence_TxHxB
        else:
            # What is undefined after the longest sequence would reach the kernel's gradient.
            y_TxHxB = jnp.where(valid_Tx1xB, jnp.concatenate(parts, axis=1), 0)
            outputs_TxCxB = jnp.einsum("hc,thb->tcb", self.kernel[...], y_TxHxB)
            outputs_TxCxB += self.bias[:, None]
        return jnp.where(valid_Tx1xB, outputs_TxCxB, 0).transpose(2, 0, 1)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


class _Affine(base.Cell):
    """`x @ kernel + bias`, as a cell that remembers nothing."""

    def __init__(self, kernel: nnx.Param[jax.Array], bias: nnx.Param[jax.Array]):
        self.kernel = kernel
        self.bias = bias
        self.hidden_size = len(bias)

    def initial_carry(self):
        return ()

    def project(self, x_D):
        return base.product(x_D, self.kernel[...]) + self.bias

    def step(self, carry, z):
        return carry, z
