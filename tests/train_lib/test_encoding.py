"""Bytes to text, and text to a line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train_lib.encoding import decode, escape, unescape
from train_lib.errors import UserError

# The same examples on every machine, so that a failure is never luck.
ALWAYS_THE_SAME = settings(deadline=None, derandomize=True, database=None)
TEXTS = {
    "Latin": "A good film, déjà vu or not.", "Cyrillic": "Очень хороший, добрый фильм.",
    "Greek": "Πολύ καλή ταινία.", "Arabic": "فيلم جيد جدا جدا", "Hebrew": "סרט טוב מאוד",
    "Hindi": "यह फिल्म बहुत अच्छी थी", "Thai": "หนังเรื่องนี้ดีมาก", "Japanese": "素晴らしい映画でした。",
    "Chinese": "这部电影非常好看我很喜欢它的故事。",
    "Korean": "정말 좋은 영화였어요.", "short": "great\n",
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_wide_encoding_is_named(text, encoding):
    with pytest.raises(UserError, match=f"named is in {encoding.upper()[:6]}"):
        decode({"good": b"good", "named": text.encode(encoding)})


@ALWAYS_THE_SAME
@given(st.lists(st.text()))
def test_utf8_is_read_without_its_mark(texts):
    contents = {str(number): text.encode() for number, text in enumerate(texts)}
    assert decode(contents) == [text.removeprefix("\ufeff") for text in texts]
    marked = {name: b"\xef\xbb\xbf" + data for name, data in contents.items()}
    assert decode(marked) == texts


def test_damage_is_noted_and_an_older_encoding_refused(capsys):
    words = "Tr\u00e8s dr\u00f4le, un film g\u00e9nial. " * 20
    damaged = bytearray(words.encode())
    damaged[10:13] = b"\xff\xff\xff"
    (text,) = decode({"mine": bytes(damaged)})
    assert text.count("\ufffd") == 3
    note = capsys.readouterr().err
    assert "3 of" in note
    assert "the first in mine" in note
    with pytest.raises(UserError, match="mine is not UTF-8"):
        decode({"good": b"good", "mine": words.encode("cp1252")})


@pytest.mark.parametrize(
    "data",
    [
        b"1\t2\t3\t4\t5\t6", b"\t\t\t\t", b"\0\0\0\0", b"good\0film\0good", b"a", b"ab",
        b"hi there",
        b"\x1b[31mgood\x1b[0m", b"good film " * 100, "Очень хороший".encode(), "यह फिल्म".encode(),
        "素晴らしい".encode(), b"\x01\x02\x03 control codes", bytes(range(32)),
    ],
)  # fmt: skip
def test_utf8_is_never_taken_for_another_encoding(data, capsys):
    assert decode({"mine": data}) == [data.decode()]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["cp1252", "cp1251", "shift-jis", "gbk", "euc-kr"])
def test_what_is_not_utf8_is_refused_even_where_it_is_short(encoding):
    text = {"cp1252": "café\n", "cp1251": "хороший", "euc-kr": "영화"}.get(encoding, "电影很好")
    text = "映画でした" if encoding == "shift-jis" else text
    with pytest.raises(UserError, match="mine is") as raised:
        decode({"mine": text.encode(encoding)})
    assert ("WINDOWS-1252" in str(raised.value)) == (encoding == "cp1252")


@ALWAYS_THE_SAME
@given(st.text() | st.text("a\\nrxu041\r\n\x85\u2028\x1b\ufeff\ud800"))
def test_an_escaped_text_is_printable_and_comes_back(text):
    assert escape(text).isprintable()
    assert unescape(escape(text)) == text
