"""Files of one JSON object a line."""

import errno
import os
from typing import Any

import simplejson as json


def append_json_lines(path: str, *rows: dict[str, Any]) -> None:
    """Add rows to a file of one JSON object a line, all or none, so that they survive the machine. OSError if
    that cannot be done."""
    with open(path, "ab", buffering=0) as file:
        start = file.seek(0, os.SEEK_END)
        try:
            data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(start)
            raise
