"""Finished runs of every task answer data in files, and are tested on others."""

import csv
import json

import numpy as np
import pytest

from configs import base
from tests.train_lib import cases
from tests.train_lib.cases import CASES, Case
from train_lib import evaluate, predict, run
from train_lib.errors import UserError
from train_lib.records import curves, description
from train_lib.records.folder import RunFolder
from train_lib.restored import Restored
from train_lib.training import devices

pytestmark = [pytest.mark.usefixtures("compiled_once"), pytest.mark.slow]
TEXTS = [f"{word} film number {number}" for number, word in enumerate(["good", "bad"] * 20)]


def train(folder, source, task, seeds=2, treatment="exact", **data):
    config = base.get_config("test", treatment)
    config.model.update(embedding_size=3, hidden_sizes=(2,))
    config.data.update(source=str(source), **data)
    config.task.name = task
    config.train.update(num_epochs=1, batch_size=4, learning_rate=0.1, seeds=seeds)
    with pytest.MonkeyPatch.context() as monkeypatch:
        # Slow, and not read here.
        monkeypatch.setattr(curves, "draw", lambda *_: None)
        monkeypatch.setattr(description, "write_pictures", lambda *_: None)
        run.run(config, str(folder))
    return folder


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path, **columns):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def write_jsonl(path, **columns):
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def ask(folder, data, out):
    """What `python -m train_lib.predict` writes."""
    predict.main([f"--workdir={folder}", f"--data={data}", f"--out={out}"])
    return read_csv(out)


@pytest.fixture(autouse=True)
def no_configuring(monkeypatch):
    monkeypatch.setattr(devices, "configure", lambda: None)  # Long done, in this process.


@pytest.fixture(scope="module")
def of_texts(tmp_path_factory, compiled_once):
    """A run of two seeds on texts of two classes."""
    folder = tmp_path_factory.mktemp("texts")
    source = write_csv(folder / "all.csv", text=TEXTS, label=["yes", "no"] * 20)
    return train(folder / "run", source, "classes")


@pytest.fixture(scope="module")
def of_words(tmp_path_factory, compiled_once):
    """A run of one seed that tags words."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "all.conll").write_text("good B\nfilm O\n\nbad B\nold I\nfilm O\n\n" * 15)
    return train(folder / "run", folder / "all.conll", "tags", seeds=1)


@pytest.fixture(scope="module")
def of_two_numbers(tmp_path_factory, compiled_once):
    """A run of two seeds on two numbers for each sequence of vectors."""
    folder = tmp_path_factory.mktemp("numbers")
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(2 + n % 3, 2)).tolist() for n in range(40)]
    source = write_jsonl(
        folder / "all.jsonl", values=values, height=rng.normal(size=40).tolist(),
        weight=rng.normal(size=40).tolist(),
    )  # fmt: skip
    return train(folder / "run", source, "numbers", target_column="height,weight")


def probabilities_of(folder, texts):
    """Of both seeds and of their mean."""
    restored = Restored(str(folder))
    kept_K = restored.answer(restored.encode(texts, str))
    of_seeds = [1 / (1 + np.exp(-kept["outputs"][:, 0].astype(float))) for kept in kept_K]
    return np.array(of_seeds), np.mean(of_seeds, 0)


def test_several_seeds_say_how_many_of_them_agree(of_texts):
    texts = ["good film", "bad film", "unheard of"]
    probabilities_KxN, mean_N = probabilities_of(of_texts, texts)
    for number, line in enumerate(predict.predict(str(of_texts), texts)):
        answer, probability, agreement = line.split("  ")
        assert answer == ["no", "yes"][int(mean_N[number] > 0.5)]
        of_answer = max(mean_N[number], 1 - mean_N[number])
        np.testing.assert_allclose(float(probability), of_answer, atol=6e-5)
        count = np.sum((probabilities_KxN[:, number] > 0.5) == (mean_N[number] > 0.5))
        assert agreement == f"[{count} of 2 seeds]"


def test_one_seed_gives_its_answer_and_probability_alone(tmp_path):
    source = write_csv(tmp_path / "all.csv", text=TEXTS, label=["yes", "no"] * 20)
    folder = train(tmp_path / "run", source, "classes", seeds=1)
    ((probability,),), _ = probabilities_of(folder, ["good film"])
    (line,) = predict.predict(str(folder), ["good film"])
    says_yes = probability > 0.5
    of_answer = probability if says_yes else 1 - probability
    assert line == f"{['no', 'yes'][int(says_yes)]}  {of_answer:.4f}"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_answers_stand_beside_the_columns_of_a_table(of_texts, suffix, tmp_path, capsys):
    columns = {"name": ["a", "b,c", 'd"'], "text": TEXTS[:3], "place": ["x", "", "\u00e9\nf"]}
    write = write_csv if suffix == ".csv" else write_jsonl
    rows = ask(of_texts, write(tmp_path / f"mine{suffix}", **columns), tmp_path / "out.csv")
    assert "3 answers in" in capsys.readouterr().out
    for name, values in columns.items():
        assert [row[name] for row in rows] == values
    assert [*rows[0]] == [*columns, "answer", "logit", "probability", "seeds"]
    _, mean_N = probabilities_of(of_texts, TEXTS[:3])
    np.testing.assert_allclose([float(row["probability"]) for row in rows], mean_N, atol=1e-5)
    assert {row["seeds"] for row in rows} <= {"1 of 2 seeds", "2 of 2 seeds"}


def test_columns_keep_all_their_digits_and_types(of_texts, tmp_path):
    columns = {
        "text": TEXTS[:2], "time": [1700000000.25, 0.1234567890123], "id": [2**60 + 1, 7],
        "flag": [True, False], "none": [None, None], "list": [[1, "\u00e9"], []],
    }  # fmt: skip
    rows = ask(of_texts, write_jsonl(tmp_path / "mine.jsonl", **columns), tmp_path / "out.csv")
    for name in ("time", "id", "flag", "list"):
        assert [json.loads(row[name]) for row in rows] == columns[name], name
    assert [row["none"] for row in rows] == ["", ""]


def streamed(folder, lines):
    """What `python -m train_lib.predict --stream` writes."""
    return list(predict.answer_stream(str(folder), [f"{line}\n".encode() for line in lines]))


def test_after_every_word_a_stream_says_what_is_said_of_the_text_so_far(of_texts):
    """With how many of the seeds agree; and so of the next text."""
    lines = streamed(of_texts, ["good film,", "bad", "", "unheard of"])
    so_far = ["good", "good film", "good film bad", "unheard", "unheard of"]
    words = ["good", "film", "bad", "unheard", "of"]
    of_wholes = predict.predict(str(of_texts), so_far)
    expected = [f"{told}  {word}" for told, word in zip(of_wholes, words, strict=True)]
    assert lines == [*expected[:3], "", *expected[3:]]


def test_a_stream_tags_every_word(of_words):
    (tags,) = predict.predict(str(of_words), ["good old film"])
    lines = streamed(of_words, ["good old", "film"])
    expected = zip(tags.split(" "), ["good", "old", "film"], strict=True)
    assert lines == ["  ".join(pair) for pair in expected]


def test_a_stream_of_vectors_is_told_of_after_each(of_two_numbers):
    values_TxD = np.random.default_rng(2).normal(size=(3, 2)).round(3)
    restored = Restored(str(of_two_numbers))
    split = restored.encode([values_TxD[: t + 1] for t in range(3)], str)
    rows = [",".join(map(str, row)) for row in values_TxD]
    expected = zip(restored.describe(split), rows, strict=True)
    assert [line.split("  [")[0] for line in streamed(of_two_numbers, rows)] == [
        told.split("  [")[0] for told, _ in expected
    ]


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("data.mask_padding", False, "read the padding around a sequence too"),
        ("data.max_length_tokens", 9, "read the last 9 steps of a sequence alone"),
    ],
)
def test_what_does_not_read_all_of_a_text_and_it_alone_has_no_stream(of_texts, field, value, told):
    restored = Restored(str(of_texts))
    restored.config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=f"cannot be asked a step at a time: its models {told}"):
        restored.stream()


def test_a_run_that_reads_backwards_has_no_stream(of_texts, monkeypatch):
    restored = Restored(str(of_texts))
    backward = cases.models_of(Case("two", "tokens"))[0]
    monkeypatch.setattr(restored, "model", lambda *_: backward)
    with pytest.raises(UserError, match="in its models layer 1 reads from the end"):
        restored.stream()


def test_targets_need_not_be_there_and_do_not_matter(of_texts, tmp_path):
    plain = write_csv(tmp_path / "plain.csv", text=TEXTS[:3])
    other = write_csv(tmp_path / "other.csv", text=TEXTS[:3], label=["no", "what", ""])
    rows = ask(of_texts, plain, tmp_path / "1.csv"), ask(of_texts, other, tmp_path / "2.csv")
    assert [row["logit"] for row in rows[0]] == [row["logit"] for row in rows[1]]


def test_answers_can_be_answered_again(of_texts, tmp_path):
    path = write_csv(tmp_path / "0.csv", text=TEXTS[:3])
    for number in range(1, 4):
        rows = ask(of_texts, path, path := tmp_path / f"{number}.csv")
    assert [name for name in rows[0] if name.startswith("answer")] == [
        "answer", "answer_2", "answer_3",
    ]  # fmt: skip
    for row in rows:
        assert row["answer"] == row["answer_2"] == row["answer_3"]


def test_of_a_folder_of_splits_the_test_split_is_answered(of_texts, tmp_path):
    (tmp_path / "data").mkdir()
    for split, words in (("train", "bad"), ("test", "good")):
        write_csv(tmp_path / "data" / f"{split}.csv", text=[f"{words} {n}" for n in range(3)])
    rows = ask(of_texts, tmp_path / "data", tmp_path / "out.csv")
    assert [row["text"] for row in rows] == ["good 0", "good 1", "good 2"]


def test_the_answers_to_sentences_stand_beside_their_lines(of_words, tmp_path):
    (tmp_path / "mine.conll").write_text("good X\nfilm X\n\nnew X\n\n\nbad X\nold X\nfilm X\n")
    rows = ask(of_words, tmp_path / "mine.conll", tmp_path / "out.csv")
    assert [row["row"] for row in rows] == ["1", "4", "7"]
    assert [len(row["answer"].split(" ")) for row in rows] == [2, 1, 3]
    assert all({*row["answer"].split(" ")} <= set("BIO") for row in rows)
    # Words alone, a line each, are the same sentences.
    (tmp_path / "words.conll").write_text("good\nfilm\n\nnew\n\n\nbad\nold\nfilm\n")
    assert ask(of_words, tmp_path / "words.conll", tmp_path / "words.csv") == rows
    lines = predict.predict(str(of_words), ["good film", "new"])
    assert lines == [row["answer"] for row in rows[:2]]


def test_several_numbers_have_an_answer_each_and_their_range_over_seeds(of_two_numbers, tmp_path):
    lengths = [3, 1]
    values_SxD = np.random.default_rng(1).normal(size=(4, 2))
    np.savez(tmp_path / "mine.npz", values=values_SxD, lengths=lengths)
    rows = ask(of_two_numbers, tmp_path / "mine.npz", tmp_path / "out.csv")
    assert [row["row"] for row in rows] == ["0", "1"]
    for row in rows:
        for name in ("height", "weight"):
            low, high = map(float, row[f"seeds_{name}"].split(" to "))
            assert low <= float(row[f"answer_{name}"]) <= high
    restored = Restored(str(of_two_numbers))
    split, *_ = restored.read(str(tmp_path / "mine.npz"), labelled=False)
    shown = [f"[{row['seeds_height']}; {row['seeds_weight']}]" for row in rows]
    assert [line.split("  ")[-1] for line in restored.describe(split)] == shown


def test_what_is_there_is_never_overwritten(of_texts, tmp_path):
    source = write_csv(tmp_path / "mine.csv", text=TEXTS[:3])
    before = source.read_bytes()
    with pytest.raises(UserError, match=r"mine\.csv already exists and will not be overwritten"):
        ask(of_texts, source, source)
    assert source.read_bytes() == before
    with pytest.raises(UserError, match=r"out\.csv cannot be written: .*nowhere is not a folder"):
        ask(of_texts, source, tmp_path / "nowhere" / "out.csv")


@pytest.mark.parametrize("other", ["of_texts", "of_words", "of_two_numbers"])
def test_inputs_of_another_kind_are_refused_with_their_place(other, request, tmp_path):
    folder = request.getfixturevalue(other)
    path = write_jsonl(tmp_path / "tokens.jsonl", text=[[1, 2, 3], [4]])
    with pytest.raises(UserError, match=r"tokens\.jsonl, line 1: the input"):
        ask(folder, path, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_vectors_are_not_asked_about_texts(of_two_numbers):
    with pytest.raises(UserError, match="was trained on vectors, so it cannot answer texts"):
        predict.predict(str(of_two_numbers), ["good"])


def write_test_examples(case, path):
    """Those of `cases` that have a label, which the others do not matter for."""
    found = cases.MadeUp(*case).read("test")
    kept = [number for number, target in enumerate(found.targets) if target is not None]
    return write_jsonl(
        path,
        values=[found.inputs[number].tolist() for number in kept],
        target=[found.targets[number] for number in kept],
    )


def evaluated(folder, data, out):
    """What `python -m train_lib.evaluate` writes."""
    evaluate.main([str(folder), str(data), f"--out={out}"])
    return json.loads((out / "evaluation.json").read_text("utf-8"))


def assert_close(one, other):
    """Equal but for the last digits of numbers."""
    if isinstance(other, dict):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert_close(one[name], value)
    elif isinstance(other, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_close(*pair)
    elif isinstance(other, float):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    else:
        assert one == other


def assert_evaluates_as_tested(folder, data, out):
    found = evaluated(folder, data, out)
    result = json.loads((folder / "result.json").read_text("utf-8"))
    score = result["task"]["score"]
    assert found["score"] == score
    for one, of_run in zip(found["seeds"], result["seeds"], strict=True):
        assert one.pop("seed") == of_run["seed"]
        assert_close(one, of_run["test_figures"])
    if f"test_{score}" in result:
        assert found[score]["mean"] == pytest.approx(result[f"test_{score}"]["mean"], rel=1e-4)
    together, of_run = found["seeds_together"], result["seeds_together"]
    assert of_run.keys() - together.keys() <= {score}
    assert_close(together, {name: of_run[name] for name in together})
    of_run, again = (read_csv(one / "predictions.csv") for one in (folder, out))
    labelled = [row for row in of_run if float(row["weight"])]
    assert len(labelled) == len(again)
    for name in ("target", "answer", "steps", "weight"):
        of_both = [[row[name] for row in rows] for rows in (labelled, again)]
        if result["task"].get("means") and name == "answer":  # Numbers.
            of_both = [[*map(float, values)] for values in of_both]
            np.testing.assert_allclose(*of_both, rtol=1e-4)
        else:
            assert of_both[0] == of_both[1], name


@pytest.mark.parametrize("case", CASES)
def test_evaluating_the_test_examples_gives_the_figures_of_the_run(case, tmp_path):
    folder = train(
        tmp_path / "run", cases.PATH, cases.TASKS[case.task], source_options=cases.options(case)
    )
    data = write_test_examples(case, tmp_path / "test.jsonl")
    assert_evaluates_as_tested(folder, data, tmp_path / "out")


def test_where_padding_is_read_steps_beyond_the_longest_of_training_are_no_items(tmp_path):
    """The longest training sequence has 6 steps."""
    case = Case("tags", "tokens")
    (tmp_path / "data").mkdir()
    for split, longest in (("train", 6), ("validation", 9), ("test", 12)):
        found = cases.examples(case, 40, longest, longest)
        write_jsonl(
            tmp_path / "data" / f"{split}.jsonl",
            values=[one.tolist() for one in found.inputs], target=found.targets,
        )  # fmt: skip
    folder = train(tmp_path / "run", tmp_path / "data", "tags", treatment="tutorial")
    assert_evaluates_as_tested(folder, tmp_path / "data", tmp_path / "out")
    steps = [int(row["steps"]) for row in read_csv(tmp_path / "out" / "predictions.csv")]
    assert max(steps) == 6


def test_evaluating_prints_the_score_and_where_the_rest_is(of_texts, tmp_path, capsys):
    data = write_csv(tmp_path / "other.csv", text=TEXTS[:6], label=["yes", "no"] * 3)
    found = evaluated(of_texts, data, tmp_path / "out")
    out = capsys.readouterr().out
    assert f"on 6 examples of {data}\n" in out
    assert f"{100 * found['unknown_share']:.2g} % of the tokens are unknown to the run\n" in out
    assert out.endswith(f"folder: {tmp_path / 'out'}\n")
    assert "accuracy" in out
    assert f"{found['accuracy']['mean']:.4f}" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "predictions.csv", "evaluation.json", "confusion.png",
    }  # fmt: skip
    with pytest.raises(UserError, match="out is not empty"):
        evaluated(of_texts, data, tmp_path / "out")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["good", "bad"], "label": ["yes", "maybe"]},
         r"data\.csv, line 3: the target is the class 'maybe', which no training example has; "
         "theirs are 'no', 'yes'"),
        ({"text": ["good", "bad"]}, r"data\.csv: name the column with config\.data\.target_column"),
        ({"text": ["good", "bad"], "label": ["yes", ""]}, r"line 3: there is nothing in column"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_evaluated_are_refused_and_leave_nothing(
    of_texts, columns, message, tmp_path
):
    data = write_csv(tmp_path / "data.csv", **columns)
    with pytest.raises(UserError, match=message):
        evaluated(of_texts, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_data_whose_steps_have_no_label_are_refused(of_words, tmp_path):
    rows = {"tokens": [["good", "film"], ["bad"]], "tags": [[None, None], [None]]}
    data = write_jsonl(tmp_path / "data.jsonl", **rows)
    with pytest.raises(UserError, match=r"data\.jsonl has no label, so there is nothing to"):
        evaluated(of_words, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evaluating_refuses_what_is_no_finished_run(tmp_path):
    data = write_csv(tmp_path / "data.csv", text=["good"], label=["yes"])
    with pytest.raises(UserError, match="is not the folder of a finished run"):
        evaluated(tmp_path, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert RunFolder(tmp_path).is_finished() is False
