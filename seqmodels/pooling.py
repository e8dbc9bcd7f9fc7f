"""Sequence to vector, exact about lengths; a sequence of length 0 pools to zeros.

Mean, maximum and attention are recurrences: what is pooled so far is their carry.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from seqmodels.cells import base
from seqmodels.recurrence import Encoded, run_all


class Pooling(nnx.Module):
    """Outputs of a layer's directions to one vector a sequence.

    Args:
        size: H, of the outputs of all directions side by side.

    Attributes:
        input_size: H.
        output_size: of the vector.
    """

    def __init__(self, size: int, *, rngs: nnx.Rngs):
        del rngs
        self.input_size = size
        self.output_size = size

    def __call__(self, encoded: Sequence[Encoded], lengths_B: jax.Array) -> jax.Array:
        """The pooled outputs, `[output_size, B]`."""
        raise NotImplementedError


class Last(Pooling):
    """The output of the last step of each direction, side by side."""

    def __call__(self, encoded, lengths_B):
        del lengths_B
        return jnp.concatenate([direction.last_HxB for direction in encoded])


class Mean(Pooling):
    """The mean of the outputs over the valid steps."""

    def __call__(self, encoded, lengths_B):
        return _fold(_Fold(jnp.add, 0.0, encoded), encoded, lengths_B) / jnp.maximum(lengths_B, 1)


class Max(Pooling):
    """The largest output over the valid steps, feature by feature."""

    def __call__(self, encoded, lengths_B):
        return _fold(_Fold(jnp.maximum, -jnp.inf, encoded), encoded, lengths_B)


class MeanMax(Pooling):
    """Mean and maximum, side by side."""

    def __init__(self, size: int, *, rngs: nnx.Rngs):
        self.mean, self.max = Mean(size, rngs=rngs), Max(size, rngs=rngs)
        self.input_size = size
        self.output_size = 2 * size

    def __call__(self, encoded, lengths_B):
        return jnp.concatenate([self.mean(encoded, lengths_B), self.max(encoded, lengths_B)])


class Attention(Pooling):
    """The mean weighted by the softmax of a learned vector's product with each output.

    Yang et al., "Hierarchical Attention Networks for Document Classification", NAACL 2016, without
    the layer before the product. The vector is zero at first: all steps weigh the same.
    """

    def __init__(self, size: int, *, rngs: nnx.Rngs):
        super().__init__(size, rngs=rngs)
        self.attend = _Attend(size)

    def __call__(self, encoded, lengths_B):
        return _fold(self.attend, encoded, lengths_B)


POOLINGS: dict[str, type[Pooling]] = {
    "last": Last,
    "mean": Mean,
    "max": Max,
    "mean_max": MeanMax,
    "attention": Attention,
}


class _Fold(base.Cell):
    """`carry = operation(carry, x)`."""

    def __init__(self, operation, start, encoded):
        self.hidden_size = sum(direction.sequence_TxHxB.shape[1] for direction in encoded)
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
    """A softmax over time and the mean that it weighs, scaled by the largest score so far."""

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
    """What a cell has made of the outputs of all directions after the last valid step."""
    parts = [direction.sequence_TxHxB for direction in encoded]
    return run_all([cell], [False], parts, lengths_B)[0].last_HxB
