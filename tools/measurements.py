"""Write the tables of docs/measurements.md from the raw figures in docs/measurements/*.json.

python tools/measurements.py

A file holds one measurement: `subject`, `date`, `machine` (cpu, cores, threads), `commit`, `command`, `note`, `columns`
(title and format by the name of a field) and `rows`. What was not recorded is null; a range is a list of two. The
benchmarks with --json print `date`, `machine`, `commit`, `command` and `rows`. A mark in the page says which table
stands there: `<!-- table NAME -->`, or `<!-- index -->` for the list of all files.
"""

import json
import re
import textwrap
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs/measurements.md"
BLOCK = re.compile(r"(<!-- (?:table (\w+)|index) -->\n).*?(<!-- end -->)", re.DOTALL)
TEXT, CODE = 120, 85  # characters of a line


def read() -> dict[str, dict[str, Any]]:
    """Return the measurements by the names of their files."""
    paths = sorted(PAGE.with_suffix("").glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def cell(value: Any, form: str) -> str:
    """Return a value as text: nothing for null, "A to B" for a range."""
    if value is None:
        return ""
    if isinstance(value, list):
        first, last = (form.split("}")[0] + "}").format(value[0]), form.format(value[1])
        return f"{first} to {last}"
    return form.format(value)


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of Markdown."""
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def command_lines(command: str) -> str:
    """Return a command as an indented block, broken before options and keys where it is long."""
    lines = [""]
    for part in re.split(r" (?=--|python |[A-Z][A-Z_.]* )", command):
        if lines[-1] and len(lines[-1]) + len(part) > CODE:
            lines.append("   ")
        lines[-1] += f" {part}" if lines[-1] else part
    return " \\\n".join(f"    {line}" for line in lines)


def day(iso: str) -> str:
    """Return a date such as 29 November 2026."""
    when = date.fromisoformat(iso)
    return f"{when.day} {when:%B %Y}"


def machine(facts: dict[str, Any]) -> str:
    """Return a machine in words."""
    parts = [facts["cpu"] or "x86-64, model not recorded", f"{facts['cores']} cores"]
    if threads := facts["threads"]:
        parts.append(f"{threads} thread{'s' if threads > 1 else ''}")
    return ", ".join(parts)


def section(name: str, measurement: dict[str, Any]) -> str:
    """Return the command, table, date, machine and note of a measurement."""
    columns = measurement["columns"]
    rows = [[cell(row.get(key), form) for key, (_, form) in columns.items()] for row in measurement["rows"]]
    parts = [command_lines(measurement["command"])] if measurement["command"] else []
    parts.append(table((title for title, _ in columns.values()), rows))
    about = f"{day(measurement['date'])}; {machine(measurement['machine'])}; [{name}.json](measurements/{name}.json)."
    parts.append(textwrap.fill(f"{about} {measurement['note'] or ''}", TEXT, break_on_hyphens=False))
    return "\n\n".join(parts)


def index(measurements: dict[str, dict[str, Any]]) -> str:
    """Return the table of all files."""
    rows = [
        [f"[{name}](measurements/{name}.json)", found["subject"], day(found["date"]), machine(found["machine"])]
        for name, found in measurements.items()
    ]
    return table(("file", "what was measured", "date", "machine"), rows)


def updated(text: str, measurements: dict[str, dict[str, Any]]) -> str:
    """Return the page with the tables at its marks replaced."""

    def block(match: re.Match) -> str:
        name = match[2]
        return f"{match[1]}\n{section(name, measurements[name]) if name else index(measurements)}\n\n{match[3]}"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8"), read()), encoding="utf-8")
