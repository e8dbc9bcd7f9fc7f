"""What `predict` says of a text is what the run said of it; and how texts come in and are shown."""

import contextlib
import csv
import hashlib
import io
import json
import types
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from configs import base
from train_lib import evaluate, predict, run
from train_lib.data import finding
from train_lib.data.examples import Examples
from train_lib.records import curves, description
from train_lib.records.folder import RunFolder
from train_lib.restored import Restored
from train_lib.training import batching, devices, memory, program

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
        return Examples.numbered(self.texts[split], [n % 2 for n in range(SIZES[split])], split)

    def splits(self):
        return tuple(SIZES)


def train(corpus, folder, treatment="exact", **data):
    """A run of two units on a corpus, within this process; returns its probabilities, `[N]`."""
    config = base.get_config("test", treatment)
    config.model.embedding_size, config.model.hidden_sizes = 3, (2,)
    config.data.update(
        train_examples=SIZES["train"] - 4,
        validation_examples=4,
        test_examples=SIZES["test"],
        **data,
    )
    config.train.update(num_epochs=1, batch_size=4, learning_rate=0.5)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(finding, "find", lambda *_: corpus)
        # Slow, and not read here.
        monkeypatch.setattr(curves, "draw", lambda *_: None)
        monkeypatch.setattr(description, "write_pictures", lambda *_: None)
        run.run(config, str(folder))
    with open(folder / "predictions.csv", newline="") as file:
        return np.array([float(row["probability"]) for row in csv.DictReader(file)])


def probabilities(folder, texts):
    restored = Restored(str(folder))
    return np.array(restored.columns(restored.encode(texts, str))["probability"])


def assert_predicted(folder, corpus, probabilities_N):
    again_N = probabilities(folder, corpus.texts["test"])
    np.testing.assert_allclose(again_N, probabilities_N, atol=1e-5)


WORDS = "good bad film the a dull bright b".split()
ODD = [
    "\r\n", "\r", "\n", "\0", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029", "\u00a0",
    "\ufeff", "\u200f", "\u202e", "\u200d", "e\u0301", "\u0130", "\U0001f642", "\U00020000",
    "\\", "\\n", "\\x41", "\ufffd", "'", "\u2019", "\u2014", "\t",
]  # fmt: skip
ODD_TEXTS = st.lists(st.sampled_from([*WORDS, *ODD, " ", " "]), max_size=12).map("".join)
COUNT = sum(SIZES.values())
# The same examples on every machine, so that a failure is never luck; fixtures keep no state.
ODD_SETTINGS = settings(
    deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


@pytest.fixture
def exactly_seen(monkeypatch):
    """Models that tell apart whatever they can read: a logit is the checksum of that."""

    def make(learner, *_):
        def sums(shape):
            ones = np.ones(shape, np.float32)
            return {"loss": ones, "accuracy": ones, "weight": ones}

        def train(state_K, split, places_KxSxPxNxR, num_steps, widths):
            return state_K, sums(places_KxSxPxNxR.shape[:2])

        def evaluate(params_K, split, places_SxPxNxR, widths):
            places = np.asarray(places_SxPxNxR)
            logits = np.zeros((1, *places.shape, 1), np.float32)
            for place, number in np.ndenumerate(places):
                if number != batching.NO_EXAMPLE:
                    start = split.starts_N[number]
                    tokens = np.asarray(split.values)[start : start + split.lengths_N[number]]
                    masked = learner.treatment.mask_padding
                    padding = 0 if masked else widths[-1] - len(tokens)
                    logits[0][place] = zlib.crc32(tokens.tobytes(), padding) / 2**31 - 1
            return {"outputs": logits}, sums((1, 1))

        return program.Compiled(train, evaluate)

    monkeypatch.setattr(program, "compile_steps", make)
    monkeypatch.setattr(memory, "needed", lambda *_: None)  # There is nothing to compile.


def not_blank(text):
    return text if text.strip() else f"{text}film"  # A source refuses an empty text.


@given(st.lists(ODD_TEXTS | st.text(max_size=20), min_size=COUNT, max_size=COUNT))
@example([f"good{end}bad{end}film {number}" for number, end in enumerate(ODD[:COUNT])])
@example([f"bright bright {ODD[1]} film {word} dull" for word in [*WORDS, *WORDS, *WORDS][:COUNT]])
@settings(ODD_SETTINGS, max_examples=8)
@pytest.mark.slow
def test_predict_says_of_the_test_examples_of_any_corpus_what_the_run_said(
    exactly_seen, tmp_path_factory, texts
):
    folder, corpus = tmp_path_factory.mktemp("run"), Corpus([*map(not_blank, texts)])
    assert_predicted(folder, corpus, train(corpus, folder))


@pytest.mark.parametrize("longest", [7, 40])
@pytest.mark.parametrize("max_length_tokens", [0, 5, 30])
def test_where_padding_is_read_all_examples_have_the_width_of_training(
    exactly_seen, tmp_path, longest, max_length_tokens
):
    """The longest training example has 20 words; the longest test example fewer, or more."""
    lengths = [20] * SIZES["train"] + [*range(1, SIZES["test"]), longest]
    corpus = Corpus([" ".join((WORDS * 5)[:length]) for length in lengths])
    probabilities_N = train(corpus, tmp_path, "tutorial", max_length_tokens=max_length_tokens)
    assert_predicted(tmp_path, corpus, probabilities_N)


def test_words_are_split_by_the_rules_that_the_config_names(exactly_seen, tmp_path):
    assert "text_rules" in base.get_config("test", "exact").data
    corpus = Corpus([f"The film I don\u2019t like\u2014{word}\u00a0{word}" for word in ODD[:COUNT]])
    agreed = {}
    for rules in ("keras", "unicode"):
        assert_predicted(
            tmp_path / rules, corpus, train(corpus, tmp_path / rules, text_rules=rules)
        )
        texts = ["don\u2019t\u2014like the\u00a0film", "don't like the film"]
        typeset, typed = probabilities(tmp_path / rules, texts)
        agreed[rules] = bool(typeset == typed)
    assert agreed == {"keras": False, "unicode": True}


NASTY = Corpus(
    [f"{WORDS[n % 8]} {WORDS[n % 5]}{ODD[n]}{WORDS[n % 3]} film{ODD[-n]}" for n in range(COUNT)]
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, train(NASTY, folder)


@pytest.mark.slow
def test_a_model_says_of_odd_texts_what_it_said_when_it_was_tested(finished):
    folder, probabilities_N = finished
    assert np.ptp(probabilities_N) > 1e-3
    assert_predicted(folder, NASTY, probabilities_N)


@pytest.mark.slow
def test_a_byte_order_mark_is_no_part_of_a_text(finished):
    with_mark, without = probabilities(finished[0], ["\ufeffbright film", "bright film"])
    assert with_mark == without


@pytest.fixture
def ask(capsys, monkeypatch):
    """Starts the program, which asks no model; returns the texts it reads, its lines and notes."""

    def ask(*arguments, stdin=b""):
        read = []

        def predict_half(_workdir, texts, *, best):
            read.extend(texts)
            return ["negative  0.5000"] * len(texts)

        monkeypatch.setattr(predict, "predict", predict_half)
        monkeypatch.setattr(devices, "configure", lambda: None)  # Long done, in this process.
        monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(stdin)))
        with contextlib.suppress(SystemExit):  # Where the arguments are refused.
            predict.main(["--workdir=run", *arguments])
        captured = capsys.readouterr()
        return read, captured.out.split("\n")[:-1], captured.err

    return ask


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_ends_where_everybody_sees_it_end(ask, end):
    texts = [f"good{one}bad" for one in ODD if not set(one) & set("\r\n")] + ["", "end"]
    for last in ("", end):
        read, lines, _ = ask("-", stdin=(end.join(texts) + last).encode())
        assert read == texts
        assert len(lines) == len(texts)


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))))
@ODD_SETTINGS
def test_the_input_has_as_many_answers_as_lines(ask, texts):
    texts = [*texts, "end"]
    assert len(ask("-", stdin="".join(f"{text}\n" for text in texts).encode())[1]) == len(texts)


def test_a_byte_order_mark_is_dropped_from_arguments_and_the_input(ask):
    assert ask("\ufeffgood", "-", stdin="\ufeffbad\n".encode())[0] == ["good", "bad"]


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "cp1252"]
)
def test_another_encoding_is_refused_by_name(ask, encoding):
    name = "Windows-1252" if encoding == "cp1252" else encoding.upper()[:6]
    text = "Un film très drôle, une idée géniale.\nGood.\n".encode(encoding)
    with pytest.raises(predict.UserError, match=f"the input .*{name}"):
        ask("-", stdin=text)


def test_a_few_bytes_that_are_not_utf8_are_noted(ask):
    read, _, note = ask("-", stdin="d\u00e9j\u00e0 \u00e9t\u00e9".encode() + b" \xff film \xc3")
    assert read == ["d\u00e9j\u00e0 \u00e9t\u00e9 \ufffd film \ufffd"]
    assert "2 of 17 characters are not valid UTF-8" in note


@pytest.mark.parametrize("text", ["-boring", "-happy film", "-h!", "--- a film", "-1", "-b", "-=-"])
def test_a_text_may_begin_with_a_dash(ask, text):
    assert ask(text, "good")[0] == [text, "good"]
    assert ask("bad", text)[0] == ["bad", text]


def test_after_two_dashes_all_are_texts(ask):
    assert ask("--", "--best", "--", "-h")[0] == ["--best", "--", "-h"]


def test_a_mistyped_option_is_no_text(ask):
    read, _, message = ask("--bset", "good")
    assert not read
    assert "--bset is not an option" in message


@given(st.lists(ODD_TEXTS | st.text(max_size=100), min_size=1, max_size=3))
@example(["good\nbad", "\x1b[31mred\x1b[0m", "a\rb", "\u202eabc", "x" * 100])
@ODD_SETTINGS
def test_a_text_is_shown_on_one_line_without_control_codes(ask, texts):
    _, lines, _ = ask("--", *(f"={text}" for text in texts))
    assert len(lines) == len(texts)
    assert all(line.isprintable() and len(line) < 90 for line in lines)


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_data_are_answered_beside_their_columns(finished, tmp_path):
    folder, probabilities_N = finished
    source, answers = tmp_path / "mine.csv", tmp_path / "answers.csv"
    with open(source, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "text"])
        texts = [text for text in NASTY.texts["test"] if "\0" not in text]
        writer.writerows(enumerate(texts))
    count = predict.predict_data(str(folder), str(source), str(answers))
    rows = read_csv(answers)
    assert count == len(rows) == len(texts)
    assert [row["number"] for row in rows] == [str(number) for number in range(len(texts))]
    assert [row["text"] for row in rows] == texts
    told = np.array([float(row["probability"]) for row in rows])
    expected = [
        probability
        for text, probability in zip(NASTY.texts["test"], probabilities_N, strict=True)
        if "\0" not in text
    ]
    np.testing.assert_allclose(told, expected, atol=1e-5)
    before = answers.read_bytes()
    with pytest.raises(predict.UserError, match="will not be overwritten"):
        predict.predict_data(str(folder), str(source), str(answers))
    assert answers.read_bytes() == before


def test_evaluating_on_the_test_examples_gives_the_result_of_the_run(finished, tmp_path):
    folder, _ = finished
    rows = [
        json.dumps({"text": text, "label": n % 2}) for n, text in enumerate(NASTY.texts["test"])
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    out = RunFolder(tmp_path / "out")
    out.path.mkdir()
    found = evaluate.evaluate(Restored(str(folder)), str(tmp_path / "test.jsonl"), out)
    result = json.loads((folder / "result.json").read_text("utf-8"))
    assert found["accuracy"]["mean"] == result["test_accuracy"]["mean"]
    of_run = result["seeds"][0]["test_figures"]
    assert found["seeds"][0]["accuracy"] == of_run["accuracy"]
    np.testing.assert_allclose(found["seeds"][0]["log_loss"], of_run["log_loss"], rtol=1e-4)
    of_both = [read_csv(one / "predictions.csv") for one in (folder, out.path)]
    assert [row["answer"] for row in of_both[0]] == [row["answer"] for row in of_both[1]]


def test_a_class_that_training_lacks_is_refused_with_its_line(finished, tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("text,label\ngood,0\nbad,7\n", "utf-8")
    with pytest.raises(predict.UserError, match=r"other.csv, line 3: .*7"):
        Restored(str(finished[0])).read(str(path), labelled=True)
