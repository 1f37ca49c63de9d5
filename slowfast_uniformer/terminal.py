"""Standard output and standard error, which may be closed, full, or in an encoding that lacks a name's letters."""

import codecs
import os
import sys
from contextlib import suppress
from typing import TextIO


def prepare() -> None:
    """Make the standard streams of a command usable; to be called before it opens any file.

    A stream that is closed becomes the null device: otherwise the next file to be opened, a checkpoint perhaps, would
    take its number, and get what libraries write to that number. What an encoding lacks is shown as an escape.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _discard(number)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8", errors="backslashreplace"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # the streams of a test or a notebook may be others
            stream.reconfigure(errors="backslashreplace")


def settle() -> OSError | None:
    """Flush the standard streams. What cannot be written is dropped, lest the interpreter fails on it when it ends.

    Returns:
        The error of standard output, if there is one.
    """
    errors = [_flush(stream, number) for number, stream in ((2, sys.stderr), (1, sys.stdout))]
    return errors[1]


def lacks_letters() -> bool:
    """Whether the encoding of standard output is not one that has all letters."""
    encoding = getattr(sys.stdout, "encoding", None)
    return bool(encoding) and not codecs.lookup(encoding).name.startswith("utf")


def show(text: str, error: bool = False) -> None:
    """Write a line to standard output, or standard error, as far as it can be written: nothing fails with it."""
    stream = sys.stderr if error else sys.stdout
    if stream is None:
        return
    with suppress(OSError, ValueError):  # full; closed
        try:
            print(text, file=stream, flush=True)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def _flush(stream: TextIO, number: int) -> OSError | None:
    try:
        stream.flush()
    except OSError as error:
        _discard(number)
        return error
    except ValueError:  # closed in Python
        return None
    return None


def _discard(number: int) -> None:
    """Make the null device of a file descriptor, also for processes that are started later."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    os.set_inheritable(number, True)
