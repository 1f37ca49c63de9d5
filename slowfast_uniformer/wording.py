"""Wording that messages share."""

import difflib
from collections.abc import Iterable


def counted(count: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural: "1 video", "2,000 videos", "0 classes"."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" with the most similar of the known words, or "" where none is similar."""
    similar = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {similar[0]}?" if similar else ""
