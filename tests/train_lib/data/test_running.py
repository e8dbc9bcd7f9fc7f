"""Running text: its end is held out, and nothing of it is lost."""

import pytest

from train_lib.data.finding import find, find_data
from train_lib.errors import UserError

TEXT = "".join(f"line {number}: é\n" for number in range(100))


def test_the_parts_of_a_file_are_the_whole(tmp_path):
    (tmp_path / "mine.txt").write_text(TEXT)
    source = find(str(tmp_path / "mine.txt"), {}, {"test_share": 0.25, "validation_share": 0.125})
    parts = [source.read(split).inputs[0] for split in source.splits()]
    assert "".join(parts) == TEXT
    assert [round(len(part) / len(TEXT), 2) for part in parts] == [0.62, 0.13, 0.25]
    last = source.read("test")
    assert last.targets == [None]
    line = int(last.where(0).rpartition(" ")[2])
    assert TEXT.count("\n", 0, len(TEXT) - len(parts[2])) + 1 == line


def test_a_folder_has_a_file_for_each_split(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text(f"the text of {split}")
    source = find(str(tmp_path), {}, {})
    assert source.splits() == ("train", "validation", "test")
    assert source.read("validation").inputs == ["the text of valid"]


def test_a_finished_run_answers_all_of_a_file(tmp_path):
    (tmp_path / "mine.txt").write_text(TEXT)
    source = find_data(str(tmp_path / "mine.txt"), {}, {}, labelled=False)
    assert source.splits() == ("train",)
    assert source.read("train").inputs == [TEXT]


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        ("", {}, "mine.txt is empty"),
        ("a", {}, "has no text for the validation split: it is too short"),
        (TEXT, {"test_share": 0}, "must be numbers between 0 and 1"),
        (TEXT, {"test_share": "a"}, "must be numbers between 0 and 1"),
        (TEXT, {"test_share": 0.9, "validation_share": 0.2}, "leave nothing to train on"),
        (TEXT.encode("utf-16"), {}, "is in UTF-16"),
    ],
)
def test_what_cannot_be_divided_is_refused(tmp_path, content, options, told):
    path = tmp_path / "mine.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=told):
        find(str(path), {}, options).read("validation")
