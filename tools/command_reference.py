"""Write docs/commands.md, the page of all commands, from their parsers. `make docs` calls it.

python tools/command_reference.py
"""

import argparse
import re
from pathlib import Path
from unittest import mock

from slowfast_uniformer.cli import common, main

PAGE = Path(__file__).resolve().parents[1] / "docs/commands.md"
INTRO = """\
# Commands

`uniformer COMMAND --help` prints what is here. Config keys follow as `KEY VALUE` pairs where a command takes `--cfg`;
they are in [config.md](config.md).
"""


class _FoundParserError(Exception):
    """Raised in place of parsing."""


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser that a command builds before it parses."""
    with mock.patch.object(common, "autocomplete", side_effect=_FoundParserError) as autocomplete:
        try:
            main.load_command(name).parse_args([])
        except _FoundParserError:
            return autocomplete.call_args.args[0]
    raise AssertionError(f"{name} parses its arguments without common.parse_arguments")


def to_markdown(text: str) -> str:
    """A help text: options become code, and what Markdown would read as marks is escaped. Code stays as it is."""

    def replace(match: re.Match) -> str:
        word = match[0]
        if word.startswith("`"):
            return word
        return f"`{word}`" if word.startswith("--") else f"\\{word}"

    return re.sub(r"`[^`]*`|(?<![\w-])--[a-z][\w-]*|[|*<]", replace, text)


def section(name: str) -> str:
    """The part of the page on one command."""
    parser = parser_of(name)
    title, *about = parser.description.strip().split("\n\n")
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    parts = [f"### {name}", " ".join(title.split()), f"    {usage}"]
    for paragraph in about:
        is_code = paragraph.startswith("    ")
        parts.append(paragraph if is_code else to_markdown(" ".join(paragraph.split())))
    rows = []
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.help in (None, argparse.SUPPRESS) and not action.option_strings:
            continue
        if isinstance(action, argparse._HelpAction):
            continue
        said = formatter._expand_help(action) if action.help else ""
        invocation = formatter._format_action_invocation(action).replace("|", r"\|")
        rows.append(f"| `{invocation}` | {to_markdown(said)} |")
    if rows:
        parts.append("\n".join(["| argument | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def page() -> str:
    """The whole page."""
    parts = [INTRO.strip()]
    for title, names in main.COMMANDS.items():
        parts += [f"## {title}", *map(section, names)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
