"""Wording that messages share."""


def counted(count: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural: "1 video", "2,000 videos", "0 classes"."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"
