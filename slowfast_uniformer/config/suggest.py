"""What error messages say of keys that there are not, and of words that are no KEY VALUE pair."""

import difflib
from collections.abc import Sequence
from typing import Any

from slowfast_uniformer.config.compat import RENAMED, RETIRED
from slowfast_uniformer.config.keys import flatten, get_cfg
from slowfast_uniformer.wording import did_you_mean


def unknown_key(key: str) -> str:
    """Return what is wrong with a key, with a similar one: in other letters, in another section, or spelt alike."""
    own, upper = list(dict(flatten(get_cfg()))), key.upper()
    if below := [name for name in own if name.startswith(f"{upper}.")]:
        return (
            f"{key} is a section, not a key; in YAML its keys go below it, each as 'KEY: value'; else write {below[0]}"
        )
    known = [*own, *RETIRED, *RENAMED]
    same_name = [name for name in known if name.split(".")[-1] == upper.split(".")[-1]]
    alike = [name for name in known if name.upper() == upper]
    if not alike and "." in key:
        alike = difflib.get_close_matches(upper, same_name, n=1, cutoff=0.8)
    alike = alike or same_name
    similar = f"; did you mean {' or '.join(alike)}?" if alike else did_you_mean(upper, known)
    return f"unknown key {key}{similar or '; docs/config.md lists all keys'}"


def broken_pair(words: Sequence[Any]) -> str | None:
    """Return what is wrong with the first words that are no KEY VALUE pair, or None.

    Args:
        words: KEY, VALUE, KEY, VALUE, ...
    """
    known = dict(flatten(get_cfg()))
    for key, *value in (words[n : n + 2] for n in range(0, len(words), 2)):
        name, equals, text = str(key).partition("=")
        name = name.strip("-:").upper()
        if name in known and (equals or str(key)[-1] == ":" or str(key)[0] == "-"):
            return f"{key}: write {' '.join([name, *([text] if equals else map(str, value))])}, with a space between"
        if not value:
            return f"{key} has no value; write KEY VALUE pairs, such as SOLVER.MAX_EPOCH 3"
        if isinstance(value[0], str) and value[0] in known:
            return f"{key} has no value: the key {value[0]} follows it; write KEY VALUE pairs"
        if isinstance(value[0], str) and value[0][:1] in ("[", "(") and value[0][-1] not in "])":
            return f"{key}: put a list in quotes, as '[1, 2]'"
    return None
