"""What `predict` says of a text is what the run said of it; and how texts come in and are shown."""

import csv
import hashlib
import io
import types
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from configs import base
from train_lib import devices, loop, metrics, predict, steps
from train_lib.data import batches, sources
from train_lib.data.corpus import Reviews
from train_lib.report import RunFolder

SIZES = {"train": 12, "test": 8}


class Corpus:
    """Any texts, the first of them to train on; labels alternate."""

    name = "made_up"

    def __init__(self, texts):
        assert len(texts) == sum(SIZES.values())
        self.texts = {"train": texts[: SIZES["train"]], "test": texts[SIZES["train"] :]}

    def identity(self):
        return hashlib.sha256(repr(self.texts).encode()).hexdigest()

    def read(self, split):
        return Reviews(self.texts[split], np.arange(SIZES[split]) % 2)


def train(corpus, folder, treatment="exact", **data):
    """A run of two units on a corpus, within this process; returns its logits, `[N]`."""
    config = base.get_config("test", treatment)
    config.model.embedding_size, config.model.hidden_sizes = 3, (2,)
    config.data.update(
        train_reviews=SIZES["train"] - 4, validation_reviews=4, test_reviews=SIZES["test"], **data
    )
    config.train.update(num_epochs=1, batch_size=4, learning_rate=0.5)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sources, "find", lambda _: corpus)
        monkeypatch.setattr(RunFolder, "plot_curves", lambda *_: None)  # Slow, and not read here.
        loop.run(config, str(folder))
    with open(folder / "predictions.csv", newline="") as file:
        return np.array([float(row["probability"]) for row in csv.DictReader(file)])


def assert_predicted(folder, corpus, probabilities_N):
    (again_N,) = predict.predict(str(folder), corpus.texts["test"])
    np.testing.assert_allclose(again_N, probabilities_N, atol=1e-5)


WORDS = "good bad film the a dull bright b".split()
ODD = [
    "\r\n", "\r", "\n", "\0", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029", "\u00a0",
    "\ufeff", "\u200f", "\u202e", "\u200d", "e\u0301", "\u0130", "\U0001f642", "\U00020000",
    "\\", "\\n", "\\x41", "\ufffd", "'", "\u2019", "\u2014", "\t",
]  # fmt: skip
ODD_TEXTS = st.lists(st.sampled_from([*WORDS, *ODD, " ", " "]), max_size=12).map("".join)
COUNT = sum(SIZES.values())


@pytest.fixture
def exactly_seen(monkeypatch):
    """Models that tell any two texts apart: a logit is the checksum of the tokens it is of."""

    def make(*_):
        def train(state_K, corpus, places_KxSxPxNxR, num_steps, widths):
            zeros_KxS = np.zeros(places_KxSxPxNxR.shape[:2], np.float32)
            return state_K, metrics.Sums(zeros_KxS, zeros_KxS, zeros_KxS + 1)

        def evaluate(params_K, corpus, places_SxPxNxR, widths):
            corpus, places = batches.Corpus(*map(np.asarray, corpus)), np.asarray(places_SxPxNxR)
            logits = np.zeros((1, *places.shape), np.float32)
            for place, review in np.ndenumerate(places):
                if review != batches.NO_REVIEW:
                    start = corpus.starts_N[review]
                    tokens = corpus.tokens[start : start + corpus.lengths_N[review]]
                    logits[0][place] = zlib.crc32(tokens.tobytes()) / 2**31 - 1
            return logits, metrics.Sums(*np.zeros((3, 1)) + 1)

        return steps.Steps(train, evaluate)

    monkeypatch.setattr(steps, "make", make)


# One fixture for all examples: each has a folder of its own.
@settings(
    max_examples=15, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(st.lists(ODD_TEXTS | st.text(max_size=20), min_size=COUNT, max_size=COUNT))
@example([f"good{end}bad{end}film {number}" for number, end in enumerate(ODD[:COUNT])])
@example([f"bright bright {ODD[1]} film {word} dull" for word in [*WORDS, *WORDS, *WORDS][:COUNT]])
def test_predict_says_of_the_test_reviews_of_any_corpus_what_the_run_said(
    exactly_seen, tmp_path_factory, texts
):
    folder, corpus = tmp_path_factory.mktemp("run"), Corpus(texts)
    assert_predicted(folder, corpus, train(corpus, folder))


NASTY = Corpus([f"{WORDS[n % 8]}{ODD[n]}{WORDS[n % 5]} film{ODD[-n]}" * 3 for n in range(COUNT)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, train(NASTY, folder)


def test_a_model_says_of_odd_texts_what_it_said_when_it_was_tested(finished):
    folder, probabilities_N = finished
    assert np.ptp(probabilities_N) > 1e-3
    assert_predicted(folder, NASTY, probabilities_N)


@pytest.mark.parametrize("test_words", [3, 40])
def test_where_padding_is_read_all_have_the_width_of_training(tmp_path, test_words):
    """Of the longest training review, 20 words; the longest test review is shorter, or longer."""
    numbers = np.random.default_rng(0).integers(len(WORDS), size=(COUNT, test_words))
    texts = [" ".join(WORDS[n] for n in row) for row in numbers]
    corpus = Corpus(["good bad " * (number + 1) for number in range(10)] * 1 + texts[:10])
    corpus.texts["train"][10:] = ["good bad " * 10] * 2
    probabilities_N = train(corpus, tmp_path, "tutorial")
    assert np.ptp(probabilities_N) > 1e-3
    assert_predicted(tmp_path, corpus, probabilities_N)


def told(capsys, monkeypatch, folder, *arguments, stdin=b""):
    """The lines that the program prints, and what it notes."""
    monkeypatch.setattr(devices, "configure", lambda: None)  # Long done, in this process.
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(stdin)))
    predict.main([f"--workdir={folder}", *arguments])
    captured = capsys.readouterr()
    return captured.out.split("\n")[:-1], captured.err


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_ends_where_everybody_sees_it_end(capsys, monkeypatch, finished, end):
    texts = [f"good{one}bad" for one in ODD if not set(one) & set("\r\n")] + ["", "end"]
    expected, _ = told(capsys, monkeypatch, finished[0], "--", *texts)
    assert len(expected) == len(texts)
    for last in ("", end):
        lines = (end.join(texts) + last).encode()
        assert told(capsys, monkeypatch, finished[0], "-", stdin=lines)[0] == expected


def test_a_byte_order_mark_is_no_part_of_a_text(capsys, monkeypatch, finished):
    (expected,), _ = told(capsys, monkeypatch, finished[0], "bright film")
    assert told(capsys, monkeypatch, finished[0], "\ufeffbright film")[0] == [expected]
    marked = "\ufeffbright film\n".encode()
    assert told(capsys, monkeypatch, finished[0], "-", stdin=marked)[0] == [expected]
    # A file that was put together of two has one within.
    lines, _ = told(capsys, monkeypatch, finished[0], "-", stdin=marked * 2)
    assert [line.split()[:2] for line in lines] == [expected.split()[:2]] * 2


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "cp1252"]
)
def test_another_encoding_is_refused_by_name(capsys, monkeypatch, finished, encoding):
    name = "Windows-1252" if encoding == "cp1252" else encoding.replace("-", "").upper()[:3] + "-"
    text = "Un film très drôle, une idée géniale.\nGood.\n".encode(encoding)
    with pytest.raises(predict.UserError, match=name):
        told(capsys, monkeypatch, finished[0], "-", stdin=text)


def test_a_few_bytes_that_are_not_utf8_are_noted(capsys, monkeypatch, finished):
    (line,), note = told(capsys, monkeypatch, finished[0], "-", stdin=b"good \xff film \xc3")
    assert line.endswith("good \ufffd film \ufffd")
    assert "2 of 13 characters are not UTF-8" in note


@pytest.mark.parametrize("text", ["-boring", "-happy film", "-h!", "--- a film", "-1", "-b", "-=-"])
def test_a_text_may_begin_with_a_dash(capsys, monkeypatch, finished, text):
    try:
        lines, _ = told(capsys, monkeypatch, finished[0], text, "good")
    except SystemExit:
        lines = []
    assert [line.partition("  ")[2].partition("  ")[2] for line in lines] == [text, "good"]


def test_after_two_dashes_all_are_texts(capsys, monkeypatch, finished):
    lines, _ = told(capsys, monkeypatch, finished[0], "--", "--best", "--", "-h")
    assert [line.split()[2] for line in lines] == ["--best", "--", "-h"]


def test_a_mistyped_option_is_no_text(capsys, monkeypatch, finished):
    with pytest.raises(SystemExit):
        told(capsys, monkeypatch, finished[0], "--bset", "good")
    assert "--bset is not an option" in capsys.readouterr().err


# Surrogates cannot be printed; as arguments they are bytes that are not UTF-8.
@settings(max_examples=10, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.lists(ODD_TEXTS | st.text(max_size=100), min_size=1, max_size=3))
@example(["good\nbad", "\x1b[31mred\x1b[0m", "a\rb", "\u202eabc", "x" * 100])
def test_a_text_is_shown_on_one_line_without_control_codes(capsys, monkeypatch, finished, texts):
    lines, _ = told(capsys, monkeypatch, finished[0], "--", *(f"={text}" for text in texts))
    assert len(lines) == len(texts)
    assert all(line.isprintable() and len(line) < 90 for line in lines)
