"""Write docs/config.md, and the table of keys in docs/migration.md, from slowfast_uniformer/config/keys.py.

python tools/config_reference.py

What a key or section means is the comment behind its line there; why a key is retired is the sentence that a
run logs.
"""

import inspect
import re
from itertools import groupby
from pathlib import Path
from typing import Any

from slowfast_uniformer.config.compat import RENAMED, RETIRED
from slowfast_uniformer.config.keys import flatten, get_cfg

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Config keys

Made by `python tools/config_reference.py` from [keys.py](../slowfast_uniformer/config/keys.py). A value is
looked for on the command line, then in the files after `--cfg`, the last one first, then in those that they
name as `_BASE_`; what none of them has is as below.

    python tools/run_net.py --cfg configs/demo/uniformer.yaml TRAIN.BATCH_SIZE 32 DATA.RANDOM_FLIP True

In a YAML that is `TRAIN:` and `DATA:` with `BATCH_SIZE: 32` and `RANDOM_FLIP: True` indented below them. A
value has the type of its default: text, a number, True or False, a list; `null` is nothing. In paths of
lists and videos `~`, `$NAME` and `${NAME:-otherwise}` are replaced. An unknown key ends the run with
the nearest known one, a value that cannot work with the reason. What a run had for every key is in the
`config.yaml` of its OUTPUT_DIR; its log begins with those that are not as below.
"""
RETIRED_HEAD = """
## Keys of other programs

Understood in files of the UniFormer releases and of SlowFast, but no keys here; what becomes of them is in
[migration.md](migration.md#keys-that-are-other-ones-or-none-here).

"""
MARK = "<!-- from here on written by tools/config_reference.py -->\n"
TABLE_HEAD = "\n| key there | here | because |\n|---|---|---|\n"


def meanings() -> dict[str, str]:
    """The comment behind every key and section of `config.get_cfg`."""
    line = r"^    c\.([A-Z0-9_.]+) = .*  # (.+)$"
    return dict(re.findall(line, inspect.getsource(get_cfg), re.MULTILINE))


def marked_up(text: str) -> str:
    """A sentence of config.py as Markdown: keys and pages stand out, and nothing else does."""
    text = re.sub(r"([|*<])", r"\\\1", text)
    text = re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", text)
    return re.sub(r"\$?\b[A-Z][A-Z0-9]*[_.][A-Z0-9_.]*[A-Z0-9]\b", r"`\g<0>`", text)


def shown(value: Any) -> str:
    """A value as a YAML has it."""
    value = dict(value) if isinstance(value, dict) else value
    return f"`{ {'': chr(34) * 2, 'None': 'null'}.get(str(value), value) }`"


def is_section(key: str) -> bool:
    return not set("._") & set(key)


def page() -> str:
    """The text of docs/config.md."""
    told, parts = meanings(), [HEAD]
    leaves = flatten(get_cfg())
    for section, group in groupby(leaves, lambda leaf: leaf[0].rpartition(".")[0]):
        about = told.get(section, "machines, folder, seed")
        title = f"{section or 'Without a section'}\n\n{about[0].upper()}{about[1:]}."
        parts.append(f"\n## {title}\n\n| key | default | meaning |\n|---|---|---|\n")
        parts.extend(f"| `{key}` | {shown(value)} | {marked_up(told[key])} |\n" for key, value in group)
    names = [f"`{key}.*`" if is_section(key) else f"`{key}`" for key in [*RENAMED, *RETIRED]]
    return "".join([*parts, RETIRED_HEAD, ",\n".join(names), ".\n"])


def fate(key: str) -> tuple[str, str]:
    """What becomes of a key that is none here, and why."""
    if key in RENAMED:
        return f"`{RENAMED[key]}`", "one key for all models"
    harmless, reason = RETIRED[key]
    if harmless is None:
        return "ignored", reason
    values = "switched off" if is_section(key) else " or ".join(map(shown, harmless)) or "empty"
    return f"ignored if {values}, else refused", reason


def table() -> str:
    """The table of docs/migration.md."""
    rows = []
    for (what, reason), keys in groupby([*RENAMED, *RETIRED], fate):
        names = ", ".join(f"`{key}.*`" if is_section(key) else f"`{key}`" for key in keys)
        rows.append(f"| {names} | {what} | {marked_up(reason)} |\n")
    return TABLE_HEAD + "".join(rows)


def guide(text: str) -> str:
    """docs/migration.md with the table as it is now."""
    return text.partition(MARK)[0] + MARK + table()


if __name__ == "__main__":
    (ROOT / "docs/config.md").write_text(page(), encoding="utf-8")
    path = ROOT / "docs/migration.md"
    path.write_text(guide(path.read_text(encoding="utf-8")), encoding="utf-8")
