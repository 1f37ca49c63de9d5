"""Standard streams that are closed, full, or lack a name's letters."""

import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT

from slowfast_uniformer import terminal

NAME = os.fsdecode("caf\u00e9 \u65e5\u672c \U0001f600 ".encode() + b"\xe9")
CLOSED = """
import json, os, sys
from slowfast_uniformer import terminal
terminal.prepare()
first = os.open(os.devnull, os.O_RDONLY)
print("lost"); print("lost", file=sys.stderr)
streams = [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)]
inherited = [os.get_inheritable(n) for n in (0, 1, 2)]
with open(sys.argv[1], "w") as file:
    json.dump([first, streams, inherited, terminal.settle()], file)
"""


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_becomes_the_null_device_and_no_file_gets_its_number(closed, tmp_path):
    command = f'exec "$0" -c "$1" "$2" {closed}'
    out = tmp_path / "out.json"
    words = ["bash", "-c", command, sys.executable, CLOSED, str(out)]
    done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, cwd=ROOT)
    first, streams, inherited, error = json.loads(out.read_text())
    assert done.returncode == 0 and first > 2 and all(inherited) and error is None
    for number, mark in ((0, "<&-"), (1, " >&-"), (2, "2>&-")):
        assert (streams[number] == os.devnull) == (number == 0 or mark in f" {closed}")


@pytest.fixture
def stream(monkeypatch):
    """Puts a stream in place of standard output; returns its bytes."""

    def put(encoding: str) -> io.BytesIO:
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        return raw

    return put


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252", "gbk"])
def test_a_name_that_an_encoding_lacks_is_shown_with_escapes(stream, encoding):
    raw = stream(encoding)
    terminal.show(NAME)  # in another program, whose streams stay as they are
    assert sys.stdout.errors == "strict"
    terminal.prepare()
    print(NAME, flush=True)
    first, second = raw.getvalue().decode(encoding).splitlines()
    assert first == second == NAME.encode(encoding, "backslashreplace").decode(encoding)


@pytest.mark.parametrize(
    ("encoding", "lacks"), [("ascii", True), ("latin-1", True), ("UTF-8", False), ("utf16", False)]
)
def test_whether_letters_may_be_lacking(stream, encoding, lacks):
    stream(encoding)
    assert terminal.lacks_letters() == lacks


def test_a_program_without_streams_is_served(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    terminal.show("nowhere")
    terminal.show("nowhere", error=True)
    assert not terminal.lacks_letters()


def test_a_line_that_cannot_be_written_fails_nothing(monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=full, flush=full, encoding="utf-8"))
    terminal.show("lost", error=True)


def test_what_a_full_stream_holds_is_dropped(monkeypatch):
    copy = os.dup(1)
    try:
        with open("/dev/full", "w") as full:
            os.dup2(full.fileno(), 1)
        monkeypatch.setattr(sys, "stdout", open(1, "w", closefd=False))
        print("lost")
        assert terminal.settle().strerror == "No space left on device"
        assert terminal.settle() is None and os.readlink("/proc/self/fd/1") == os.devnull
    finally:
        os.dup2(copy, 1)
        os.close(copy)
