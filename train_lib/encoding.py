"""Decodes texts from bytes, and escapes them for output on one line, without control codes."""

import codecs
import collections
import re
import sys
from collections.abc import Iterable, Iterator, Mapping

from train_lib.errors import UserError

# The mark of UTF-32 begins with that of UTF-16.
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}  # fmt: skip
_WIDE = ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE")
_SAMPLE_BYTES = 1 << 16
_MIN_INVALID_SHARE = 0.001  # Fewer may be damage.


def decode(contents: Mapping[str, bytes]) -> list[str]:
    """Decodes texts in UTF-8 and drops the byte-order mark that some programs prepend.

    A few bytes that are not UTF-8 become U+FFFD, with a notice.

    Args:
        contents: each text, under a name that tells a person where it is.

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
        # In damaged UTF-8, most characters beyond ASCII are still whole; a cut one comes last.
        if count > max(valid, _MIN_INVALID_SHARE * characters) and not _is_cut(contents[first]):
            older = "an older encoding such as Windows-1252 (Latin-1)"
            is_latin = 2 * (count + valid) < characters
            raise UserError(
                f"{first} is not UTF-8; if it is text, it is probably in "
                f"{older if is_latin else 'another encoding'}: {count:,} of {characters:,} "
                "characters are not valid UTF-8. "
                f"`iconv -f {'WINDOWS-1252' if is_latin else 'ENCODING'} -t UTF-8 OLD > NEW` "
                "converts a file."
            )
        print(
            f"note: {count:,} of {characters:,} characters are not valid UTF-8, the first in "
            f"{first}; they are read as U+FFFD, the replacement character",
            file=sys.stderr,
        )
    return texts


def decode_lines(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Decodes lines as they arrive, and strips their ends and a leading byte-order mark.

    Bytes that are not UTF-8 become U+FFFD, with a notice the first time.

    Args:
        lines: the lines, with their ends.
        name: the name of the source, for messages.

    Raises:
        UserError: the input begins with the byte-order mark of UTF-16 or UTF-32.
    """
    is_noted = False
    for number, line in enumerate(lines, 1):
        if number == 1:
            for mark, encoding in _MARKS.items():
                if line.startswith(mark):
                    raise UserError(f"{name} is in {encoding}, and must be in UTF-8.")
            line = line.removeprefix(codecs.BOM_UTF8)
        text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "replace")
        if not is_noted and text.count("\ufffd") > line.count("\ufffd".encode()):
            print(
                f"note: line {number} of {name} is not UTF-8; what is not is read as U+FFFD, the "
                "replacement character",
                file=sys.stderr,
            )
            is_noted = True
        yield text


def _is_cut(data: bytes) -> bool:
    """Whether data are UTF-8, apart from an incomplete character at the end."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def _wide_encoding(data: bytes) -> str | None:
    """UTF-16 or UTF-32, if that is what the bytes are."""
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            return name
    sample = data[:_SAMPLE_BYTES]
    found = {name: score for name in _WIDE if (score := _wide_score(sample, name))}
    return max(found, key=lambda name: found[name]) if found else None


def _wide_score(sample: bytes, encoding: str) -> float:
    """How uniform the upper bytes of a text in a wide encoding are, in (0, 1]; 0: it is not one."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return 0
    if len(text) < 2 or sum(map(_is_shown, text)) < 0.98 * len(text):
        return 0
    if "32" in encoding:
        return 1  # Other bytes are hardly ever code points.
    uppers, lowers = sample[1::2], sample[::2]
    if encoding.endswith("BE"):
        uppers, lowers = lowers, uppers
    (upper, count), *_ = collections.Counter(uppers).most_common(1)
    share = count / len(uppers)
    # The upper byte of an alphabet is a control code: 0 in Latin, 4 in Cyrillic. In Indian scripts
    # it is white space, which may stand between ASCII letters; but there, lower bytes are control
    # codes too.
    if upper < 32 and share > 0.5 and (not chr(upper).isspace() or _controls(lowers) > 0.05):
        return share
    # Kana share one upper byte; ideographs may have any.
    is_utf8 = "\ufffd" not in sample.decode("utf-8", "replace")
    is_wide = not is_utf8 and len(text) > 7 and (share > 0.4 or _controls(sample) > 0.04)
    return share if is_wide else 0


def _is_shown(character: str) -> bool:
    return character.isprintable() or character in "\t\n\r\ufeff\u200c\u200d\u200e\u200f"


def _controls(data: bytes) -> float:
    """The share of control codes other than white space."""
    return sum(byte < 32 and not chr(byte).isspace() for byte in data) / len(data)


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
