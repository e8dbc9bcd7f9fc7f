"""What a model answers: outputs of a sequence, from its pooled steps, or of every step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base
from seqmodels.pooling import Pooling
from seqmodels.recurrence import Encoded, valid_steps


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
        return self.pooling(encoded, lengths_B).T @ self.kernel[...] + self.bias


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
        y_TxHxB = jnp.concatenate([one.sequence_TxHxB for one in encoded], axis=1)
        valid_Tx1xB = valid_steps(lengths_B, len(y_TxHxB))[:, None]
        # What is undefined after the longest sequence would reach the kernel's gradient.
        y_TxHxB = jnp.where(valid_Tx1xB, y_TxHxB, 0)
        outputs_TxCxB = jnp.einsum("hc,thb->tcb", self.kernel[...], y_TxHxB)
        outputs_TxCxB = jnp.where(valid_Tx1xB, outputs_TxCxB + self.bias[:, None], 0)
        return outputs_TxCxB.transpose(2, 0, 1)
