"""What is read a step at a time is answered as the whole sequence is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.marks import slow
from tests.train_lib import cases
from tests.train_lib.cases import Case
from train_lib.data.inputs import Text, Tokens
from train_lib.data.vocabulary import END, START, Vocabulary
from train_lib.encoding import decode_lines
from train_lib.errors import UserError
from train_lib.streaming import Stream, answers
from train_lib.tasks.next_token import NextToken

SEEDS, STEPS = (0, 1), 5
FORWARD = {"direction": "forward", "dropout_rates": (0.0,)}


def stream_of(case, batch_size=1, **changes):
    """A stream that tells what was kept of each seed, and its models."""
    models = cases.models_of(case, SEEDS, **FORWARD | changes)
    told = []

    def tell(kept_K, offsets):
        told.append((kept_K, offsets))
        return ["told"] * (len(offsets) - 1)

    inputs, task = cases.INPUTS[case.inputs], cases.task_of(case)
    return Stream(models, inputs, task, tell, batch_size=batch_size), models, told


def steps_of(case, batch_size):
    """Inputs of every step of so many sequences, `[B, T]` or `[B, T, D]`."""
    rng = np.random.default_rng(0)
    if case.inputs == "tokens":
        return rng.integers(1, cases.VOCABULARY, (batch_size, STEPS))
    return rng.normal(size=(batch_size, STEPS, cases.WIDTH)).astype(np.float32)


# test_read_on has all cells.
@pytest.mark.parametrize("cell", ["lstm", slow("mlstm"), slow("min_gru"), slow("qrnn")])
def test_steps_are_those_of_whole_sequences_for_every_seed(cell):
    case = Case("tags", "vectors")
    stream, models, _ = stream_of(case, 2, cell=cell, learned_initial_state=True)
    x_BxTxD = steps_of(case, 2)
    outputs_KxBxTxC = np.stack([stream.step(x_BxTxD[:, t]) for t in range(STEPS)], 2)
    graphdef, _ = nnx.split(models[0])
    whole = jax.jit(lambda params: nnx.merge(graphdef, params)(x_BxTxD))
    whole_KxBxTxC = np.stack([whole(nnx.split(model)[1]) for model in models])
    np.testing.assert_allclose(outputs_KxBxTxC, whole_KxBxTxC, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("pooling", ["last", slow("mean"), slow("mean_max"), slow("attention")])
def test_after_every_step_it_answers_for_all_that_was_read(pooling):
    case = Case("two", "tokens")
    stream, models, told = stream_of(case, pooling=pooling)
    x_1xT = steps_of(case, 1)
    whole = jax.jit(lambda lengths: jnp.stack([model(x_1xT, lengths) for model in models]))
    for _ in range(2):  # The second time after the first sequence, of which nothing is left.
        for t in range(STEPS):
            outputs_Kx1xC = stream.step(x_1xT[:, t])
            np.testing.assert_allclose(
                outputs_Kx1xC, whole(np.array([t + 1])), rtol=1e-5, atol=2e-6
            )
        assert stream.describe() == ["told"]
        kept_K, _ = told.pop()
        np.testing.assert_array_equal([kept["outputs"] for kept in kept_K], outputs_Kx1xC)
        stream.restart()


def language_model(inputs, size, end=None):
    """A stream that tells the losses of each seed, and its models."""
    case = Case("tags", "tokens")
    changes = {"vocabulary_size": size, "num_outputs": size}
    models = cases.models_of(case, SEEDS, **FORWARD | changes)

    def tell(kept_K, offsets):
        losses = [" ".join(f"{loss:.6f}" for loss in kept["loss"]) for kept in kept_K]
        return ["/".join(losses)] * (len(offsets) - 1)

    task = NextToken([(str(number), 1) for number in range(size)])
    return Stream(models, inputs, task, tell, end=end), models


def losses_of(models, tokens_T):
    """Of every token but the first, given those before it: `[K, T - 1]`."""
    outputs_KxTxV = np.stack([model(np.array([tokens_T]))[0] for model in models]).astype(float)
    chances_KxTxV = np.exp(outputs_KxTxV) / np.exp(outputs_KxTxV).sum(-1, keepdims=True)
    return [-np.log(of[np.arange(len(tokens_T) - 1), tokens_T[1:]]) for of in chances_KxTxV]


def shown_losses(lines):
    """`[K, lines]`."""
    return np.array([[float(one) for one in line.split("  ")[0].split("/")] for line in lines]).T


def test_a_language_model_tells_how_likely_each_character_was_and_the_end():
    """A text in lines, an empty one, and a text that is read as if it were the first."""
    text = Text(Vocabulary(["a", "b", "\n"]), "characters")
    stream, models = language_model(text, 7, END)
    lines = list(answers(stream, ["ab", "?a", "", "", "b"]))
    assert [line.split("  ")[1] if line else "" for line in lines] == [
        "a", "b", "\\n", "?", "a", "(the end)", "", "b", "(the end)",
    ]  # fmt: skip
    expected = losses_of(models, [START, 4, 5, 6, 2, 4, END])
    np.testing.assert_allclose(shown_losses(lines[:6]), expected, atol=1e-5)
    np.testing.assert_allclose(
        shown_losses(lines[7:]), losses_of(models, [START, 5, END]), atol=1e-5
    )


def test_where_texts_do_not_end_empty_lines_are_read():
    text = Text(Vocabulary(["a", "\n"]), "characters")
    stream, models = language_model(text, 6)
    lines = list(answers(stream, ["a", "", "a"], ends=False))
    np.testing.assert_allclose(
        shown_losses(lines), losses_of(models, [START, 4, 5, 5, 4]), atol=1e-5
    )
    stream.restart()
    lines = list(answers(stream, ["", "", "a"], ends=False))
    np.testing.assert_allclose(shown_losses(lines), losses_of(models, [START, 5, 5, 4]), atol=1e-5)


def test_the_first_of_token_numbers_has_nothing_before_it():
    stream, models = language_model(Tokens(6), 6)
    first, *lines = answers(stream, ["3", "1", "5"])
    assert first == "/  3"
    np.testing.assert_allclose(shown_losses(lines), losses_of(models, [3, 1, 5]), atol=1e-5)


def test_answers_come_with_their_lines():
    """Each before the next line is read."""
    stream, *_ = stream_of(Case("tags", "vectors"))
    read = []

    def lines():
        for line in ("1,2,3", "0.5,-1,1e3", ""):
            read.append(line)
            yield line

    for number, answer in enumerate(answers(stream, lines()), 1):
        assert len(read) == number
        assert answer == (f"told  {read[-1]}" if read[-1] else "")


@pytest.mark.parametrize(
    ("case", "line", "told"),
    [
        (Case("tags", "vectors"), "1,2", "line 2 of the input: vectors have 2 numbers and must"),
        (Case("tags", "vectors"), "1,2,nan", "line 2 .*NaN"),
        (Case("tags", "vectors"), "1,,3", "line 2 of the input: there must be numbers with commas"),
        (Case("two", "tokens"), "99", "line 2 of the input: token 99 is not one of the 30"),
        (Case("two", "tokens"), "a", "line 2 of the input: there must be a number, and there is"),
    ],
)
def test_a_line_that_cannot_be_read_is_refused_by_its_number(case, line, told):
    stream, *_ = stream_of(case)
    with pytest.raises(UserError, match=told):
        list(answers(stream, ["", line]))


def test_a_word_is_one_word_and_there_is_one_for_each_row():
    stream, _ = language_model(Text(Vocabulary(["good"]), "keras"), 5)
    assert stream.step(["Good!"]).tolist() == stream.outputs_KxBxC.tolist()
    for wrong in ("good film", "", None, 1):
        with pytest.raises(UserError, match=f"row 0: a step is one word, which {wrong!r} is not"):
            stream.step([wrong])
    for wrong in (["good", "good"], 5):
        with pytest.raises(UserError, match="a step has a list of 1 inputs, one per sequence"):
            stream.step(wrong)


def test_what_is_no_vector_is_refused():
    stream, *_ = stream_of(Case("tags", "vectors"))
    with pytest.raises(ValueError, match="nothing has been read"):
        stream.describe()
    for wrong in (["a"], [None], ["1,2,3"]):
        with pytest.raises(UserError, match="row 0"):
            stream.step(wrong)


def test_what_reads_backwards_cannot_be_read_as_it_comes():
    with pytest.raises(ValueError, match="layer 1 reads from the end of a sequence to its start"):
        stream_of(Case("two", "tokens"), direction="bidirectional")


def test_lines_are_decoded_as_they_come(capsys):
    lines = [b"\xef\xbb\xbfone\r\n", "d\u00e9j\u00e0\n".encode(), b"\xff\n", b"\xff"]
    assert list(decode_lines(lines, "the input")) == ["one", "d\u00e9j\u00e0", "\ufffd", "\ufffd"]
    assert capsys.readouterr().err.startswith("note: line 3 of the input is not UTF-8")
    with pytest.raises(UserError, match="the input is in UTF-16"):
        list(decode_lines(["a\n".encode("utf-16")], "the input"))
