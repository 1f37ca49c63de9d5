"""Numbers and times of lists, and the segments that two of them make."""

import math
import re

from slowfast_uniformer.data.list_text import SPACES
from slowfast_uniformer.data.sample_list import SECONDS, Part
from slowfast_uniformer.errors import UserError

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+)(?:[.,](\d*))?")


def read_segment(start_text: str, end_text: str, where: str) -> Part | None:
    """The part from start to end in seconds (or as 1:02.5); None where both are empty, for the whole video.

    Raises:
        UserError: They are no times, or not in order.
    """
    if not start_text.strip(SPACES) and not end_text.strip(SPACES):
        return None
    start, end = (parse_time(text, name, where) for text, name in ((start_text, "start"), (end_text, "end")))
    if not 0 <= start < end < math.inf:
        fault = "begins before the video" if start < 0 else "ends where it begins" if start == end else "has no end"
        fault = "ends before it begins" if end < start else fault
        times = f"{start_text.strip(SPACES)} to {end_text.strip(SPACES)}"
        raise UserError(f"{where}: the segment from {times} s {fault}; correct or remove the line")
    return start, end, SECONDS


def parse_time(text: str, name: str, where: str) -> float:
    """Seconds, of a number of them or of [hours:]minutes:seconds. UserError names the place and the field."""
    if match := _CLOCK.fullmatch(text.strip(SPACES)):
        # one division of whole numbers rounds as reading the seconds themselves does: 1:02.5 is 62.5
        hours, minutes, seconds, decimals = match.groups("")
        whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
        return int(f"{whole}{decimals}") / 10 ** len(decimals)
    seconds = parse_number(re.sub(r"^([+-]?\d+),(\d+)$", r"\1.\2", text.strip(SPACES)), name, where, float)
    if math.isnan(seconds):
        raise UserError(f"{where}: {name} {text.strip()!r} is not a time, such as 62.5 or 1:02.5")
    return seconds


def parse_number(text: str, name: str, where: str, kind: type = int) -> int | float:
    """The number that a field holds; UserError names the place and the field."""
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{where}: {name} {text.strip()!r} is not {what}") from None
