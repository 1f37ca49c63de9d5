"""The text of lists and class names, in the encodings and with the line ends in which people have them.

Imports neither PyTorch nor NumPy, as all that reads lists: commands check them before these are loaded.
"""

import codecs
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from slowfast_uniformer import paths
from slowfast_uniformer.errors import UserError

# Spaces around lines and fields. `str.strip` and `str.splitlines` would also take U+2028, U+0085, form feeds and
# vertical tabs, which names of files can hold. Characters without width come with text that is copied from web pages,
# chats and dialogues.
SPACES = " \t\r\xa0\u3000\ufeff\u200b\u200e\u200f\u202a\u202c\u2060"
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHER_FILES = {
    b"PK\x03\x04": "is an Excel workbook or a ZIP file, not text; save it as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook, not text; save it as CSV (UTF-8)",
    b"\x1f\x8b": "is compressed; unpack it with gunzip",
}
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def read_text(path: str, kind: str, remedy: str = "") -> str:
    """Text of a list; `kind` and `remedy` are parts of the error message.

    Raises:
        UserError: The file cannot be read, or is no text in UTF-8, UTF-16 or UTF-32; names the line at fault.
    """
    try:
        data = Path(paths.fetch(path)).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the {kind} ({error.strerror}){remedy}") from None
    for start, cause in _OTHER_FILES.items():
        if data.startswith(start):
            raise UserError(f"{path}: the {kind} {cause}")
    encoding = _encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8-sig":
            number, line = data.count(b"\n", 0, error.start) + 1, _line_at(data, error.start)
            raise UserError(
                f"{path}, line {number}: the {kind} is not a text file in UTF-8, here '{line}'. Save it as UTF-8 "
                "(iconv -f LATIN1 -t UTF-8), or rename the file that has such a name"
            ) from None
        raise UserError(f"{path}: the {kind} is not a text file in UTF-8, nor in {encoding.upper()}") from None


def check_openable(path: str, videos: Iterable[str]) -> None:
    """Refuse a list with names that the encoding of this system's files lacks: opening them would be a traceback.

    Raises:
        UserError: Names the first one.
    """
    encoding = sys.getfilesystemencoding()
    if encoding.lower() in ("utf-8", "utf8"):
        return
    for video in videos:
        try:
            video.encode(encoding, "surrogateescape")
        except UnicodeEncodeError:
            raise UserError(
                f"{path}: {video!r} has letters that the encoding {encoding} of this system lacks. Set LC_ALL to a "
                "UTF-8 locale (LC_ALL=C.UTF-8), or PYTHONUTF8=1"
            ) from None


def _encoding(data: bytes) -> str:
    """By the byte order mark; without one UTF-16 is known by zero bytes, which no other text has."""
    for mark, encoding in _MARKS.items():  # UTF-32 first: its mark begins with that of UTF-16
        if data.startswith(mark):
            return encoding
    start = data[:1000]
    if start.count(0) > len(start) // 4:
        return "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"
    return "utf-8-sig"


def is_utf_8(start: bytes) -> bool:
    """Whether a file that begins so is read as UTF-8."""
    return _encoding(start) == "utf-8-sig" and not start.startswith(tuple(_OTHER_FILES))


def _line_at(data: bytes, position: int) -> str:
    """The line that holds a position, with escapes for what is not UTF-8; of a file without lines, its surroundings."""
    start = max(data.rfind(b"\n", 0, position) + 1, position - 80)
    end = data.find(b"\n", position)
    return data[start : end if 0 <= end < position + 80 else position + 20].decode("utf-8", "backslashreplace").strip()


def split_lines(text: str) -> list[str]:
    r"""Lines without spaces around them. Only \n and \r\n end a line; \r does where a text has no \n (old Macs)."""
    return [line.strip(SPACES) for line in text.split("\n" if "\n" in text else "\r")]


def unquote(text: str) -> str:
    """A field without spaces around it and, by the rules of csv, without its quotes."""
    text = text.strip(SPACES)
    if text[:1] == '"' and (match := _QUOTED.fullmatch(text)):
        return match[1].replace('""', '"')
    return text
