"""Pools the valid steps of a sequence to a vector; a sequence of length 0 pools to zeros.

Mean, maximum and attention are recurrences, whose carry is the result so far.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base
from seqmodels.recurrence import Encoded, initial_carry, run_all, run_from


class Pooling(nnx.Module):
    """Pools the outputs of a layer's directions to one vector per sequence.

    Args:
        size: H, the width of the concatenated outputs of all directions.

    Attributes:
        input_size: H.
        output_size: the width of the vector.
    """

    def __init__(self, size: int, *, rngs: nnx.Rngs):
        del rngs
        self.input_size = size
        self.output_size = size

    def __call__(self, encoded: Sequence[Encoded], lengths_B: jax.Array) -> jax.Array:
        """The pooled outputs, `[output_size, B]`."""
        raise NotImplementedError

    def initial_carry(self, batch_size: int) -> base.Carry:
        """The carry that `read_on` starts from, for every sequence of a batch."""
        raise NotImplementedError(f"{type(self).__name__} cannot be pooled piece by piece")

    def read_on(
        self, carry: base.Carry, encoded: Sequence[Encoded], lengths_B: jax.Array
    ) -> tuple[jax.Array, base.Carry]:
        """Like a call, but for all steps so far; also returns the carry after them.

        Args:
            carry: the carry after the previous pieces.
            encoded: the outputs of this piece, one for each direction.
            lengths_B: steps of each sequence in this piece.
        """
        raise NotImplementedError


class Last(Pooling):
    """The output of the last step of each direction, concatenated."""

    def __call__(self, encoded, lengths_B):
        del lengths_B
        return jnp.concatenate([direction.last_HxB for direction in encoded])

    def initial_carry(self, batch_size):
        return jnp.zeros((self.input_size, batch_size))

    def read_on(self, carry, encoded, lengths_B):
        last_HxB = jnp.where(lengths_B > 0, self(encoded, lengths_B), carry)
        return last_HxB, last_HxB


class Mean(Pooling):
    """The mean of the outputs over the valid steps."""

    def __call__(self, encoded, lengths_B):
        return _fold(self._sum(), encoded, lengths_B) / jnp.maximum(lengths_B, 1)

    def initial_carry(self, batch_size):
        return initial_carry(self._sum(), batch_size), jnp.zeros(batch_size, int)

    def read_on(self, carry, encoded, lengths_B):
        sum_HxB, steps_B = carry
        sum_HxB = _fold_from(sum_HxB, self._sum(), encoded, lengths_B)
        steps_B += lengths_B
        return sum_HxB / jnp.maximum(steps_B, 1), (sum_HxB, steps_B)

    def _sum(self):
        return _Fold(jnp.add, 0.0, self.input_size)


class Max(Pooling):
    """The largest output over the valid steps, feature by feature."""

    def __call__(self, encoded, lengths_B):
        return _fold(self._largest(), encoded, lengths_B)

    def initial_carry(self, batch_size):
        return initial_carry(self._largest(), batch_size)

    def read_on(self, carry, encoded, lengths_B):
        largest_HxB = _fold_from(carry, self._largest(), encoded, lengths_B)
        return jnp.where(largest_HxB > -jnp.inf, largest_HxB, 0), largest_HxB

    def _largest(self):
        return _Fold(jnp.maximum, -jnp.inf, self.input_size)


class MeanMax(Pooling):
    """Mean and maximum, concatenated."""

    def __init__(self, size: int, *, rngs: nnx.Rngs):
        self.mean, self.max = Mean(size, rngs=rngs), Max(size, rngs=rngs)
        self.input_size = size
        self.output_size = 2 * size

    def __call__(self, encoded, lengths_B):
        return jnp.concatenate([self.mean(encoded, lengths_B), self.max(encoded, lengths_B)])

    def initial_carry(self, batch_size):
        return [pooling.initial_carry(batch_size) for pooling in (self.mean, self.max)]

    def read_on(self, carry, encoded, lengths_B):
        parts, carries = zip(
            *(
                pooling.read_on(of, encoded, lengths_B)
                for pooling, of in zip((self.mean, self.max), carry, strict=True)
            ),
            strict=True,
        )
        return jnp.concatenate(parts), [*carries]


class Attention(Pooling):
    """The mean of the outputs, weighted by the softmax of their products with a learned vector.

    Yang et al., "Hierarchical Attention Networks for Document Classification", NAACL 2016, without
    the layer before the product. The vector is initially zero: all steps have the same weight.
    """

    def __init__(self, size: int, *, rngs: nnx.Rngs):
        super().__init__(size, rngs=rngs)
        self.attend = _Attend(size)

    def __call__(self, encoded, lengths_B):
        return _fold(self.attend, encoded, lengths_B)

    def initial_carry(self, batch_size):
        return initial_carry(self.attend, batch_size)

    def read_on(self, carry, encoded, lengths_B):
        carry = _fold_from(carry, self.attend, encoded, lengths_B)
        _, total_B, sum_HxB = carry
        return sum_HxB / jnp.where(total_B > 0, total_B, 1), carry


POOLINGS: dict[str, type[Pooling]] = {
    "last": Last,
    "mean": Mean,
    "max": Max,
    "mean_max": MeanMax,
    "attention": Attention,
}


class _Fold(base.Cell):
    """`carry = operation(carry, x)`."""

    def __init__(self, operation, start, hidden_size):
        self.hidden_size = hidden_size
        self.operation = operation
        self.start = start

    def initial_carry(self):
        return jnp.full(self.hidden_size, self.start)

    def project(self, x_D):
        return x_D

    def step(self, carry, z):
        carry = self.operation(carry, z)
        return carry, carry


class _Attend(base.Cell):
    """A softmax over time and the mean it weights, scaled by the largest score so far."""

    def __init__(self, hidden_size):
        self.hidden_size = hidden_size
        self.query = base.constant(0.0, hidden_size)

    def initial_carry(self):
        return jnp.array(base.MINUS_INFINITY), jnp.zeros(()), jnp.zeros(self.hidden_size)

    def project(self, x_D):
        return x_D

    def step(self, carry, z):
        largest, total, sum_H = carry
        score = jnp.sum(self.query * z)
        new_largest = jnp.maximum(largest, score)
        keep, weight = jnp.exp(largest - new_largest), jnp.exp(score - new_largest)
        total, sum_H = keep * total + weight, keep * sum_H + weight * z
        return (new_largest, total, sum_H), sum_H / total


def _fold(cell, encoded, lengths_B):
    """A cell's output after the last valid step, run over the outputs of all directions."""
    parts = [direction.sequence_TxHxB for direction in encoded]
    return run_all([cell], [False], parts, lengths_B)[0].last_HxB


def _fold_from(carry, cell, encoded, lengths_B):
    """The carry after all valid steps, given that before them."""
    parts = [direction.sequence_TxHxB for direction in encoded]
    return run_from([carry], [cell], [False], parts, lengths_B)[1][0]
