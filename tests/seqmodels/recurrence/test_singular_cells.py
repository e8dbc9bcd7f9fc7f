"""Cells whose derivative is not finite at zero, which is what stands in the padding."""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from seqmodels import check_cell, factory, loading, recurrence

WIDTH, BATCH, SIZE = 5, 4, 8

# One for each class of cells; `of` is singular at zero.
BODIES = {
    "Cell": """
        def initial_carry(self):
            return jnp.zeros(self.hidden_size)

        def project(self, x_D):
            return base.product(of(x_D), self.kernel[...])

        def step(self, carry, z):
            u_H = base.product(carry, self.recurrent_kernel[...])
            h_H = jnp.tanh(z + u_H + self.bias)
            return h_H, h_H
    """,
    "GatedCell": """
        def initial_carry(self):
            return (jnp.zeros(self.hidden_size),)

        def project(self, x_D):
            return base.product(of(x_D), self.kernel[...])

        def update(self, carry, z_G, u_G):
            return (jnp.tanh(of(z_G) + u_G + self.bias),)
    """,
    "AffineCell": """
        def initial_carry(self):
            return (jnp.zeros(self.hidden_size),)

        def activate(self, carry, a_G):
            return (jnp.tanh(of(a_G)),)
    """,
    "PointwiseCell": """
        def initial_carry(self):
            return jnp.zeros(self.hidden_size)

        def project(self, x_D):
            return of(base.product(of(x_D), self.kernel[...]))

        def step(self, carry, z):
            h_H = jnp.tanh(z + self.bias * carry)
            return h_H, h_H
    """,
    "LinearCell": """
        def initial_carry(self):
            return jnp.zeros(self.hidden_size)

        def project(self, x_D):
            z_H = of(base.product(of(x_D), self.kernel[...]) + 0 * self.bias)
            return jax.nn.sigmoid(z_H), z_H
    """,
}
UNITWISE = {
    "PointwiseCell": ["scan", "pointwise", "newton"],
    "LinearCell": ["scan", "parallel", "pointwise", "newton"],
}
"""The kinds without a recurrent matrix, and their engines."""

SINGULAR = {
    "norm": "x / jnp.sqrt(jnp.sum(x * x))",
    "logarithm": "x * jnp.log(jnp.sum(jnp.abs(x)))",
    "variance": "(x - jnp.mean(x)) / jnp.sqrt(jnp.mean((x - jnp.mean(x)) ** 2))",
}


@pytest.fixture(scope="module")
def write_cell(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")

    def write(kind, singular):
        matrix = "" if kind in UNITWISE else (
            "self.recurrent_kernel = base.orthogonal(rngs, hidden_size, hidden_size)"
        )  # fmt: skip
        path = folder / f"{kind}_{singular}.py"
        path.write_text(
            textwrap.dedent(f"""
                import jax
                import jax.numpy as jnp
                from seqmodels.cells import base


                def of(x):
                    return {SINGULAR[singular]}


                class Singular(base.{kind}):
                    def __init__(self, input_size, hidden_size, *, rngs):
                        self.hidden_size = hidden_size
                        self.kernel = base.glorot_uniform(rngs, input_size, hidden_size)
                        self.bias = base.constant(0.0, hidden_size)
                        {matrix}
            """)
            + textwrap.indent(textwrap.dedent(BODIES[kind]), "    ")
        )
        return str(path)

    return write


@st.composite
def cases(draw):
    """A model with such a cell, anything around it, and the lengths of a batch."""
    kind = draw(st.sampled_from(sorted(BODIES)))
    arguments = {"direction": draw(st.sampled_from(factory.DIRECTIONS))}
    layers = draw(st.integers(1, 2))
    # So small that no input loses all of its elements, which would be a singular input itself.
    arguments["dropout_rates"] = (draw(st.sampled_from([0.0, 0.1])),) * layers
    engines = {"Cell": ["scan"], **UNITWISE}.get(kind, ["scan", "fused"])
    arguments["engine"] = draw(st.sampled_from(["loop", *engines]))
    if arguments["engine"] == "loop":
        arguments["segment_steps"] = draw(st.integers(1, 2))
        arguments["zoneout"] = draw(st.sampled_from([0.0, 0.3]))
        if kind not in UNITWISE:
            arguments["recurrent_dropout"] = draw(st.sampled_from([0.0, 0.1]))
    arguments["learned_initial_state"] = draw(st.booleans())
    arguments["pooling"] = draw(st.sampled_from(["last", "mean_max", "attention"]))
    lengths = draw(st.lists(st.integers(0, WIDTH), min_size=BATCH, max_size=BATCH))
    return kind, draw(st.sampled_from(sorted(SINGULAR))), layers, arguments, lengths


def check(write_cell, case):
    """The gradient of a padded batch is finite, and the sum of those of its sequences alone."""
    kind, singular, layers, arguments, lengths = case
    model = factory.build(
        vocabulary_size=9, embedding_size=SIZE, cell=write_cell(kind, singular),
        hidden_sizes=(SIZE,) * layers, seed=0, **arguments,
    )  # fmt: skip
    graphdef, params = nnx.split(model, nnx.Param)
    rng = np.random.default_rng(0)
    tokens_BxT = jnp.array(rng.integers(1, 9, (BATCH, WIDTH)))
    weights_B = jnp.array(rng.normal(size=BATCH), jnp.float32)
    keys_B = jax.random.split(jax.random.key(1), BATCH)

    @check_cell._jit
    def gradient(params, tokens_BxT, weights_B, lengths_B, keys_B):
        def loss(params):
            model = nnx.merge(graphdef, params)
            logits_B = model(tokens_BxT, lengths_B, dropout_keys_B=keys_B)[:, 0]
            return jnp.vdot(logits_B, weights_B)

        return jax.grad(loss)(params)

    lengths_B = jnp.array(lengths)
    valid_BxT = jnp.arange(WIDTH) < lengths_B[:, None]
    tokens_BxT = jnp.where(valid_BxT, tokens_BxT, 0)
    # In the padding a second layer gets zeros anyway, and the first one where a researcher says so.
    table = params["inputs"]["table"]
    params["inputs"]["table"] = table.replace(table[...].at[0].set(0))
    arrays = tokens_BxT, weights_B, lengths_B, keys_B
    together = gradient(params, *arrays)
    alone = [gradient(params, *(one[b : b + 1] for one in arrays)) for b in range(BATCH)]
    expected = jax.tree.map(lambda *leaves: sum(leaves), *alone)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
    for actual, sum_of_alone in zip(*map(jax.tree.leaves, (together, expected)), strict=True):
        np.testing.assert_allclose(actual, sum_of_alone, rtol=1e-4, atol=1e-5)


# Shrinking a failure would compile for minutes.
SETTINGS = {
    "deadline": None, "derandomize": True, "phases": [Phase.explicit, Phase.generate],
    "suppress_health_check": list(HealthCheck),
}  # fmt: skip


@pytest.mark.slow
@settings(max_examples=2, **SETTINGS)
@given(case=cases())
@example(
    case=(
        "Cell",
        "norm",
        2,
        {"direction": "bidirectional", "pooling": "last", "dropout_rates": (0.0, 0.0)},
        [5, 1, 0, 3],
    )
)
def test_no_gradient_comes_from_padding(write_cell, case):
    check(write_cell, case)


@pytest.mark.slow
@settings(max_examples=4, **SETTINGS)
@given(case=cases())
def test_no_gradient_comes_from_padding_in_any_setting(write_cell, case):
    check(write_cell, case)


def test_no_gradient_comes_from_a_batch_without_steps_beside_another(write_cell):
    # Under vmap, over seeds say, both take as many steps.
    cell = loading.find_cell(write_cell("Cell", "norm"))(SIZE, SIZE, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(cell, nnx.Param)
    x_TxDxB = jnp.zeros((WIDTH, SIZE, BATCH)).at[:3].set(1.0)

    def loss(params, lengths_B):
        return recurrence.run(nnx.merge(graphdef, params), x_TxDxB, lengths_B).last_HxB.sum()

    both = jnp.array([[3, 0, 1, 2], [0, 0, 0, 0]])
    gradients = jax.vmap(jax.grad(loss), (None, 0))(params, both)
    for leaf_2 in jax.tree.leaves(gradients):
        assert jnp.isfinite(leaf_2).all()
        assert not leaf_2[1].any()


@pytest.mark.parametrize("kind", ["Cell", pytest.param("AffineCell", marks=pytest.mark.slow)])
def test_check_cell_passes_a_cell_that_is_singular_at_zero(write_cell, capsys, kind):
    name = write_cell(kind, "norm")
    cell = check_cell.make(name)
    for one in (
        check_cell.equals_the_unrolled_loop,
        check_cell.padding_is_neither_read_nor_written,
        check_cell.every_engine_gives_the_same,
    ):
        try:
            one(cell)
        except check_cell.CheckFailed as error:
            raise AssertionError(str(error)) from error
