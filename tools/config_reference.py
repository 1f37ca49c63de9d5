"""Write the tables of keys in docs/config.md and docs/migration.md, below the mark in each.

python tools/config_reference.py

The meaning of a key or section is its comment in slowfast_uniformer/config/defaults.yaml, and the reason why a key of
another program is not supported is in compat.yaml beside it.
"""

import re
from collections import Counter, defaultdict
from itertools import groupby
from pathlib import Path
from typing import Any

from slowfast_uniformer.config.compat import RENAMED, RETIRED
from slowfast_uniformer.config.keys import DEFAULTS, flatten, get_cfg, read_table
from slowfast_uniformer.config.load import difference, load_config
from slowfast_uniformer.config.recipes import list_recipes

ROOT = Path(__file__).resolve().parents[1]
MARK = "<!-- from here on written by tools/config_reference.py -->\n"
LIMITS = read_table(DEFAULTS.with_name("limits.yaml"))
TYPES = {bool: "True, False", int: "integer", float: "number", str: "text", list: "list", type(None): "any"}
NAMED_FOLDERS = 4  # of recipes that set a key; of more the recipes are counted
ANCHOR = "keys-of-other-programs-renamed-ignored-or-refused"  # the heading in docs/migration.md


def meanings() -> dict[str, str]:
    """Return the comment of every key and section in defaults.yaml."""
    found, section = {}, ""
    lines = re.findall(r"^( *)(\w+):.*  # (.+)$", DEFAULTS.read_text(encoding="utf-8"), re.MULTILINE)
    for indent, name, meaning in lines:
        section = section if indent else name
        found[f"{section}.{name}" if indent else name] = meaning
    return found


def to_markdown(text: str) -> str:
    """Return a sentence as Markdown, with keys as code and pages as links."""
    text = re.sub(r"([|*<])", r"\\\1", text)
    text = re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", text)
    return re.sub(r"\$?\b[A-Z][A-Z0-9]*[_.][A-Z0-9_.]*[A-Z0-9]\b", r"`\g<0>`", text)


def to_yaml(value: Any) -> str:
    """Return a value as code, in YAML's notation."""
    value = dict(value) if isinstance(value, dict) else value
    return f"`{ {'': chr(34) * 2, 'None': 'null'}.get(str(value), value) }`"


def is_section(key: str) -> bool:
    return not set("._") & set(key)


def key_name(key: str) -> str:
    """Return a retired key or section as code."""
    return f"`{key}.*`" if is_section(key) else f"`{key}`"


def accepted(key: str, default: Any) -> str:
    """Return what values a key accepts: its choices, or the type of its default with a minimum or a length."""
    if choices := LIMITS["choices"].get(key):
        return ", ".join(map(to_yaml, choices))
    kind = TYPES.get(type(default), type(default).__name__)
    if key in LIMITS["minimum"]:
        return f"{kind} from {LIMITS['minimum'][key]}"
    if lengths := LIMITS["lengths"].get(key):
        return f"{kind} of {' or '.join(map(str, lengths))}"
    return kind


def setters() -> dict[str, str]:
    """Return for each key which recipes, by folder of configs/, give it another value than the default; or how many."""
    found: dict[str, Counter] = defaultdict(Counter)
    for name, path in list_recipes().items():
        if not name.endswith("_1gpu"):
            for key in difference(load_config(path, runs_here=False)):
                found[key][name.split("/")[0]] += 1
    return {
        key: ", ".join(folders) if len(folders) <= NAMED_FOLDERS else f"{folders.total()} recipes"
        for key, folders in found.items()
    }


def sections() -> str:
    """Return what docs/config.md has below its mark: a table for each section, and the keys of other programs."""
    meaning, recipes, parts = meanings(), setters(), []
    for section, group in groupby(flatten(get_cfg()), lambda pair: pair[0].rpartition(".")[0]):
        about = meaning.get(section, "machines, seed and output")
        parts.append(f"\n## {section or 'Without a section'}\n\n{about[0].upper()}{about[1:]}.\n")
        parts.append("\n| key | default | accepts | meaning | set by |\n|---|---|---|---|---|\n")
        for key, value in group:
            texts = to_yaml(value), accepted(key, value), to_markdown(meaning[key]), recipes.get(key, "")
            parts.append(f"| `{key}` | {' | '.join(texts)} |\n")
    others = ",\n".join(map(key_name, [*RENAMED, *RETIRED]))
    intro = f"Accepted in files of the UniFormer releases and SlowFast; see [migration.md](migration.md#{ANCHOR})."
    return f"{''.join(parts)}\n## Keys of other programs\n\n{intro}\n\n{others}.\n"


def outcome(key: str) -> tuple[str, str]:
    """Return what happens to a key of other programs, and the reason."""
    if key in RENAMED:
        return f"`{RENAMED[key]}`", "one key for all models"
    harmless, reason = RETIRED[key]
    if harmless is None:
        return "ignored", reason
    values = "switched off" if is_section(key) else " or ".join(map(to_yaml, harmless)) or "empty"
    return f"ignored if {values}, else refused", reason


def table() -> str:
    """Return what docs/migration.md has below its mark: the table of keys of other programs."""
    groups = groupby([*RENAMED, *RETIRED], outcome)
    rows = [f"| {', '.join(map(key_name, keys))} | {what} | {to_markdown(why)} |\n" for (what, why), keys in groups]
    return f"\n| key | here | reason |\n|---|---|---|\n{''.join(rows)}"


def updated(text: str, generated: str) -> str:
    """Return a page with what is below its mark replaced."""
    return f"{text.partition(MARK)[0]}{MARK}{generated}"


if __name__ == "__main__":
    for name, generated in (("config", sections()), ("migration", table())):
        path = ROOT / f"docs/{name}.md"
        path.write_text(updated(path.read_text(encoding="utf-8"), generated), encoding="utf-8")
