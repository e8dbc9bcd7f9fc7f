"""Residual layers against the sum written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqmodels import factory, recurrence
from seqmodels.recurrence import oracle

LENGTHS = [6, 0, 1, 4]
X_TxDxB = jax.random.normal(jax.random.key(0), (6, 3, 4))


def build(**changes):
    arguments = {
        "vocabulary_size": 9, "embedding_size": 3, "cell": "lstm", "hidden_sizes": (3, 3, 3),
        "direction": "bidirectional", "dropout_rates": (0.0,) * 3, "pooling": "last", "seed": 0,
        "residual": True,
    }  # fmt: skip
    return factory.build(**arguments | changes).encoder


def reference(encoder, x_TxDxB):
    """Layer on layer, by the unrolled loop; the output at every time and the one that is last."""
    inputs_TxDxB = x_TxDxB
    for number, layer in enumerate(encoder.layers):
        directions = [(cell, cell is getattr(layer, "backward", None)) for cell in layer.cells]
        sequences = [
            oracle.run(cell, inputs_TxDxB, LENGTHS, reverse=reverse)[0]
            for cell, reverse in directions
        ]
        outputs_TxHxB = jnp.concatenate(sequences, axis=1)
        inputs_TxDxB = outputs_TxHxB + (inputs_TxDxB if number else 0)
    halves = jnp.split(inputs_TxDxB, len(directions), axis=1)
    lasts = [
        [half[0 if reverse else length - 1, :, row] * (length > 0)
         for row, length in enumerate(LENGTHS)]
        for half, (_, reverse) in zip(halves, directions, strict=True)
    ]  # fmt: skip
    return inputs_TxDxB, jnp.concatenate([jnp.stack(last, axis=-1) for last in lasts])


@pytest.mark.parametrize("direction", ["backward", "bidirectional"])
@pytest.mark.slow
def test_adds_input_to_output_at_every_time_and_at_the_last(direction):
    graphdef, params = nnx.split(build(direction=direction), nnx.Param)

    def run(params, x_TxDxB):
        encoder, x_BxTxD = nnx.merge(graphdef, params), x_TxDxB.transpose(2, 0, 1)
        sequence_BxTxH, last_BxH = encoder(x_BxTxD, jnp.array(LENGTHS))
        return sequence_BxTxH.transpose(1, 2, 0)[:6], last_BxH.T

    def gradients(run):
        def loss(params, x_TxDxB):
            results = run(params, x_TxDxB)
            return sum(jnp.sum(jnp.sin(1 + one) * one) for one in results), results

        return jax.grad(loss, has_aux=True)

    # The oracle compiles its step.
    expected = gradients(lambda params, x_TxDxB: reference(nnx.merge(graphdef, params), x_TxDxB))(
        params, X_TxDxB
    )
    compiled = jax.jit(gradients(run))
    for width, of_padding in [(6, 0.0), (6, 1e3), (9, 1e3)]:
        valid_Tx1xB = recurrence.valid_steps(jnp.array(LENGTHS), width)[:, None]
        x_TxDxB = jnp.pad(X_TxDxB, ((0, width - 6), (0, 0), (0, 0)))
        x_TxDxB = jnp.where(valid_Tx1xB, x_TxDxB, of_padding)
        jax.tree.map(
            lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5),
            compiled(params, x_TxDxB),
            expected,
        )
