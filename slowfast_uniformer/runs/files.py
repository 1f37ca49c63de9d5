"""JSON Lines files: one JSON object a line."""

import errno
import json
import os
from typing import Any

from slowfast_uniformer.errors import UserError

Row = dict[str, Any]


def append_json_lines(path: str, *rows: Row) -> None:
    """Append rows, all or none, and flush them to the disk.

    Raises:
        OSError: they cannot be written; the file is as before.
    """
    data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    with open(path, "ab", buffering=0) as file:
        start = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(start)
            raise


def read_json_lines(path: str) -> list[Row]:
    """Read rows, without the last one if it is incomplete: a run may be writing it, or was killed while it did.

    Raises:
        UserError: naming file and line of what is no JSON object.
    """
    rows, lines = [], read_text(path).rstrip().split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}: not valid JSON. Remove the line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object. Remove the line")
        rows.append(row)
    return rows


def read_text(path: str) -> str:
    """The content of a UTF-8 text file, with line ends as they are. Raises UserError if it cannot be read."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
