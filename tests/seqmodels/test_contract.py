"""A cell that breaks the contract is told what is wrong, before anything is trained."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seqmodels import contract, loading

GOOD = """
import jax
import jax.numpy as jnp
from flax import nnx
from seqmodels.cells import base


class Mine(base.Cell):
    def __init__(self, input_size, hidden_size, *, rngs):
        self.hidden_size = hidden_size
        self.kernel = base.glorot_uniform(rngs, input_size, hidden_size)
        self.recurrent_kernel = base.orthogonal(rngs, hidden_size, hidden_size)
        self.bias = base.constant(0.0, hidden_size)

    def initial_carry(self):
        return (jnp.zeros(self.hidden_size),)

    def project(self, x_D):
        return base.product(x_D, self.kernel[...]) + self.bias

    def step(self, carry, z):
        h_H = jnp.tanh(z + base.product(carry[0], self.recurrent_kernel[...]))
        return (h_H,), h_H
"""
PROJECT = GOOD[GOOD.index("    def project") : GOOD.index("    def step")]
STEP = GOOD[GOOD.index("    def step") :]
GATED = GOOD.replace("base.Cell", "base.GatedCell").replace(
    STEP, "    def update(self, carry, z_G, u_G):\n        return (jnp.tanh(z_G + u_G),)\n"
)
AFFINE = GOOD.replace("base.Cell", "base.AffineCell").replace(
    PROJECT + STEP, "    def activate(self, carry, a_G):\n        return (jnp.tanh(a_G),)\n"
)
POINTWISE = GOOD.replace("base.Cell", "base.PointwiseCell").replace(
    "base.product(carry[0], self.recurrent_kernel[...])", "self.bias * carry[0]"
)


def find_and_make(path, source):
    path.write_text(source)
    return contract.make(loading.find_cell(str(path)), 3, 4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("source", [GOOD, GATED, AFFINE, POINTWISE])
def test_a_sound_cell_is_made_from_a_file(tmp_path, source):
    cell = find_and_make(tmp_path / "mine.py", source)
    (h_H,), y_H = cell.step(cell.initial_carry(), cell.project(jnp.ones(3)))
    assert y_H.shape == (4,)
    assert (h_H == y_H).all()


def test_all_kinds_compute_the_same(tmp_path):
    outputs = []
    for number, source in enumerate((GOOD, GATED, AFFINE)):
        cell = find_and_make(tmp_path / f"cell{number}.py", source)
        outputs.append(cell.step(cell.initial_carry(), cell.project(jnp.ones(3)))[1])
    assert (outputs[0] == outputs[1]).all()
    assert jnp.allclose(outputs[0], outputs[2], atol=1e-6)


@pytest.mark.parametrize(
    ("source", "old", "new", "words"),
    [
        (GOOD, "        self.hidden_size = hidden_size\n", "", ["hidden_size is missing, not 4"]),
        (GOOD, "return (h_H,), h_H", "return h_H", ["float32[4], not a pair (carry, y)"]),
        (GOOD, "return (h_H,), h_H", "return (h_H,), h_H[:2]", ["output float32[2]", "shape (4,)"]),
        (GOOD, "return (h_H,), h_H", "return h_H, h_H", ["changes the structure of the carry"]),
        (
            GOOD,
            "return (h_H,), h_H",
            "return (h_H.astype(jnp.bfloat16),), h_H",
            ["makes bfloat16[4] of the part 0", "float32[4] in initial_carry()"],
        ),
        (GOOD, "return (h_H,), h_H", "return (h_H[:, None],), h_H", ["float32[4, 1]", "part 0"]),
        (GOOD, "return (h_H,), h_H", "return (h_H,), h_H\n\n    def blend(self, old, new, share):\n"
         "        return [*old]", ["blend(carry, carry, share) changes the structure"]),
        (GOOD, "return (jnp.zeros(self.hidden_size),)", "return (0.0,)", ["0.0, a float"]),
        (GOOD, "rngs, hidden_size, hidden_size", "rngs, 5, hidden_size", [".step(carry, z) raises",
         "mine.py, line 22"]),
        (GOOD, PROJECT, "", ["Mine does not define project"]),
        (GOOD, STEP, "", ["Mine does not define step"]),
        (GOOD, "base.constant(0.0,", "base.constant(jnp.nan,", ["parameter bias is NaN"]),
        (GOOD, "jnp.tanh(z", "jnp.log(z", ["computes NaN or infinity in its first 3 steps"]),
        (GOOD, "base.constant(0.0, hidden_size)", "jnp.zeros(hidden_size)", ["holds bias",
         "not an nnx.Param"]),
        (GOOD, "base.constant(0.0, hidden_size)", "rngs.params", ["not an nnx.Param"]),
        (GOOD, "base.constant(0.0, hidden_size)", "nnx.Param(jnp.zeros(hidden_size, int))",
         ["parameter bias is int32[4], not floating point"]),
        (GOOD, "rngs):", "rng):", ["Mine(3, 4, rngs=rngs) raises TypeError"]),
        (GOOD, "jnp.tanh(z", "jnp.tanhh(z", ["step(carry, z) raises AttributeError", "tanhh"]),
        (GATED, "rngs, hidden_size, hidden_size", "rngs, hidden_size, 6", ["recurrent_kernel is",
         "(4, 6)", "a multiple of it, H for each gate"]),
        (GATED, "self.recurrent_kernel", "self.matrix", ["recurrent_kernel is missing"]),
        (GATED, "(jnp.zeros(self.hidden_size),)", "jnp.zeros(self.hidden_size)", ["a tuple of "
         "vectors (4,)"]),
        (GATED, "(jnp.tanh(z_G + u_G),)", "(jnp.tanh(z_G),) * 2", ["changes the structure"]),
        (GATED, "def update", "def step", ["overrides step"]),
        (GOOD, "base.Cell", "base.MatrixMemoryCell", ["overrides step", "MatrixMemoryCell"]),
        (AFFINE, "rngs, input_size, hidden_size)", "rngs, 2, hidden_size)", ["kernel is (2, 4); it "
         "must be (3, 4)"]),
        (AFFINE, "    def initial", PROJECT + "    def initial", ["overrides project"]),
        (AFFINE, "base.AffineCell", "base.LinearCell", ["does not define project"]),
        (POINTWISE, "self.kernel", "self.matrix", ["kernel is missing", "[D, G], with D = 3"]),
        (POINTWISE, "(jnp.zeros(self.hidden_size),)", "(jnp.zeros(()),)",
         ["must consist of vectors (4,)"]),
        (POINTWISE, PROJECT, "    def project(self, x_D):\n        return x_D\n\n",
         ["project(x_D) is float32[3]", "a multiple of H = 4"]),
        (POINTWISE, "self.bias * carry[0]", "carry[0].mean()",
         ["mixes units", "the part 0 of the new carry depends on other units of the part 0 of the "
          "carry"]),
        (POINTWISE, "self.bias * carry[0]", "z[::-1]", ["depends on other units of z"]),
        (POINTWISE, "(h_H,), h_H", "(h_H,), carry[0][::-1]", ["of the output depends"]),
        (GOOD, "base.Cell", "object", ["must define one subclass of Cell", "defines none"]),
        (GOOD, "class Mine", "class Other(base.Cell):\n    pass\n\nclass Mine", ["Other, Mine"]),
        (GOOD, "def initial_carry(self):", "def initial_carry(self)", ["line 15", "SyntaxError"]),
        (GOOD, "import jax\n", "import jacks\n", ["line 2", "No module named 'jacks'"]),
    ],
)  # fmt: skip
def test_a_broken_cell_is_told_what_is_wrong(tmp_path, source, old, new, words):
    assert old in source
    with pytest.raises(ValueError) as error:  # noqa: PT011  Its words are looked at.
        find_and_make(tmp_path / "mine.py", source.replace(old, new, 1))
    for word in words:
        assert word in str(error.value)


OPTIONS = GOOD.replace("*, rngs):", "*, rngs, bias=0.5, depth=1):").replace(
    "constant(0.0", "constant(bias + depth"
)


def make_with(path, source, **options):
    path.write_text(source)
    return contract.make(loading.find_cell(str(path)), 3, 4, rngs=nnx.Rngs(0), options=options)


def test_a_cell_gets_its_options(tmp_path):
    assert (make_with(tmp_path / "one.py", OPTIONS).bias == 1.5).all()
    assert (make_with(tmp_path / "two.py", OPTIONS, depth=2, bias=-1.0).bias == 1.0).all()


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (OPTIONS, {"dept": 2}, "the cell Mine has no option 'dept'; it has bias, depth"),
        (OPTIONS, {"rngs": 2}, "no option 'rngs'"),
        (GOOD, {"depth": 2}, "the cell Mine has no option 'depth'; it has none"),
        (OPTIONS, {"depth": "x"}, "Mine(3, 4, rngs=rngs, depth='x') raises TypeError: "),
    ],
)
def test_an_option_that_cannot_be_used_is_named_with_the_cell(tmp_path, source, options, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011  Its words are looked at.
        make_with(tmp_path / "mine.py", source, **options)
    assert words in str(error.value)


def test_options_are_read_like_keyword_arguments_of_literals():
    assert loading.parse_options("") == {}
    expected = {"a": 1, "b": True, "c": "x", "d": (-1.5, None)}
    assert loading.parse_options("a=1, b=True, c='x', d=(-1.5, None)") == expected


@pytest.mark.parametrize(
    "text",
    ["1", "a", "a=", "a=1)(b=2", "a=1, a=2", "**{'a': 1}", "a=print(1)", "a={[]: 1}", "a=1 #",
     "a=" + "(" * 9_999, "a=\0"],
)  # fmt: skip
def test_options_that_are_anything_else_are_refused(text):
    with pytest.raises(ValueError, match="cannot be read; write names and plain values"):
        loading.parse_options(text)


def test_an_unknown_name_lists_the_choices_and_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"unknown cell 'ltsm'; choose one of gru, .*\.py"):
        loading.find_cell("ltsm")
    with pytest.raises(ValueError, match="no file 'nowhere/mine"):
        loading.find_cell("nowhere/mine.py")


@pytest.mark.slow
@pytest.mark.parametrize("name", loading.cell_names())
def test_every_cell_draws_parameters_that_train(name):
    """No unit is dead or the same as another at the start."""
    cell = contract.make(loading.find_cell(name), 8, 8, rngs=nnx.Rngs(0))
    x_TxD = jax.random.normal(jax.random.key(0), (20, 8))

    _, y_TxH = jax.lax.scan(
        lambda carry, x_D: cell.step(carry, cell.project(x_D)), cell.initial_carry(), x_TxD
    )
    assert (jnp.std(y_TxH, axis=0) > 1e-3).all()
