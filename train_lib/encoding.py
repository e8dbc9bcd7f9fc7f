"""Text as it comes in, which is bytes, and as it goes out: on one line, without control codes."""

import re
import sys
from collections.abc import Mapping

from train_lib.errors import UserError

# That of UTF-32 begins with that of UTF-16.
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}  # fmt: skip
# Where a character has its lowest byte, and where upper ones, all of them or the uppermost two.
_BYTES = {"UTF-32LE": "l.uu", "UTF-32BE": "uu.l", "UTF-16LE": "lu", "UTF-16BE": "ul"}
_CONTROL_CODES = re.compile(rb"[\0-\x08\x0e-\x1f]")  # Those that are no white space.
_SAMPLE_BYTES = 1 << 16
_MIN_SAMPLE_BYTES = 16  # Of a shorter text, too little is known.
_MIN_INVALID, _MIN_INVALID_SHARE = 3, 0.001  # Fewer may be damage.


def decode(contents: Mapping[str, bytes]) -> list[str]:
    """Decodes texts in UTF-8 and drops the byte-order mark that some programs write in front.

    A few bytes that are not UTF-8 become U+FFFD, with a notice.

    Args:
        contents: each text under a name by which a person finds it.

    Raises:
        UserError: one of them is in UTF-16 or UTF-32, or together they are clearly not UTF-8.
    """
    for name, data in contents.items():
        if encoding := _wide_encoding(data):
            raise UserError(
                f"{name} is in {encoding}, and texts must be in UTF-8. "
                f"`iconv -f {encoding} -t UTF-8 OLD > NEW` converts a file."
            )
    texts = [data.decode("utf-8-sig", "replace") for data in contents.values()]
    invalid = {
        name: text.count("\ufffd") - data.count("\ufffd".encode())
        for (name, data), text in zip(contents.items(), texts, strict=True)
        if "\ufffd" in text
    }
    if count := sum(invalid.values()):
        first = next(name for name, of_text in invalid.items() if of_text)
        characters = sum(map(len, texts))
        valid = sum(len(re.findall(r"[^\x00-\x7f]", text)) for text in texts) - count
        # Of damaged UTF-8, most characters beyond ASCII are still whole.
        if count > max(valid, _MIN_INVALID_SHARE * characters) and count >= _MIN_INVALID:
            raise UserError(
                f"{first} is not in UTF-8 but, if it is text, in an older encoding such as "
                f"Windows-1252 (Latin-1): {count:,} of {characters:,} characters are not UTF-8. "
                "`iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW` converts a file."
            )
        print(
            f"note: {count:,} of {characters:,} characters are not UTF-8, the first in {first}; "
            "they are read as U+FFFD, the replacement character",
            file=sys.stderr,
        )
    return texts


def _wide_encoding(data: bytes) -> str | None:
    """UTF-16 or UTF-32, if that is what the bytes are.

    Without a mark it shows in alphabetic scripts: the upper bytes of almost all characters are
    control codes, 0 in Latin, 4 in Cyrillic, and few of the lowest bytes are.
    """
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            return name
    sample = data[:_SAMPLE_BYTES]
    if len(sample) < _MIN_SAMPLE_BYTES or not _CONTROL_CODES.search(sample):
        return None
    for name, pattern in _BYTES.items():
        places = [sample[first :: len(pattern)] for first in range(len(pattern))]
        shares = [len(_CONTROL_CODES.findall(place)) / len(place) for place in places]
        found = "".join("u" if share > 0.9 else "l" if share < 0.3 else "?" for share in shares)
        if re.fullmatch(pattern, found):
            return name
    return None


def escape(text: str) -> str:
    r"""A text on one line that a terminal shows as it is: a newline as `\n`, a backslash as `\\`.

    Whatever is not printable is escaped as in Python's string literals; `unescape` undoes it.
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        one if one.isprintable() and one != "\\" else one.encode("unicode_escape").decode()
        for one in text
    )


_ESCAPE = re.compile(r"\\(?:[\\nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


def unescape(text: str) -> str:
    """The text that `escape` was given."""
    return _ESCAPE.sub(lambda match: match[0].encode().decode("unicode_escape"), text)
