"""The text of lists: encodings, line ends, and files that are no text."""

import gzip
import sys

import pytest

from slowfast_uniformer.data.list_text import check_openable, read_text, split_lines, unquote
from slowfast_uniformer.errors import UserError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(tmp_path, encoding):
    (tmp_path / "list.csv").write_bytes("naïve.mp4 1\n".encode(encoding))
    assert read_text(str(tmp_path / "list.csv"), "list") == "naïve.mp4 1\n"


@pytest.mark.parametrize(
    "data, message",
    [
        (b"a.mp4 0\nna\xefve.mp4 1\n", r"list.csv, line 2: .* not a text file in UTF-8, here 'na\\xefve.mp4 1'.*iconv"),
        (b"PK\x03\x04\x14\0", "Excel workbook or a ZIP file"),
        (gzip.compress(b"a.mp4 0\n", mtime=0), "compressed; unpack it"),
        (b"\xff\xfea", "not a text file in UTF-8, nor in UTF-16"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, data, message):
    (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_text(str(tmp_path / "list.csv"), "list")


def test_lines_end_where_files_say_so():
    assert split_lines("a \r\n b\x0b\x0c\x85\u2028c\n") == ["a", "b\x0b\x0c\x85\u2028c", ""]
    assert split_lines("a\rb\r") == ["a", "b", ""]
    assert split_lines("a\rb\n") == ["a\rb", ""]
    assert split_lines("\ufeffa\n\xa0b\n") == ["a", "b", ""]


def test_quotes_by_the_rules_of_csv():
    texts = {
        '"a"': "a",
        ' "a, ""b""" ': 'a, "b"',
        '"a".mp4': '"a".mp4',
        '"': '"',
        '""': "",
        "a ": "a",
        '"a" "b"': '"a" "b"',
    }
    assert {text: unquote(text) for text in texts} == texts


def test_names_that_the_encoding_of_the_system_lacks(monkeypatch):
    names = ["a.mp4", "b\xe9.mp4", "\udce9.mp4", "走.mp4"]
    check_openable("l.csv", names)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    check_openable("l.csv", names[:3])
    with pytest.raises(UserError, match="l.csv: '走.mp4' has letters .* iso8859-1 .*LC_ALL=C.UTF-8"):
        check_openable("l.csv", names)
