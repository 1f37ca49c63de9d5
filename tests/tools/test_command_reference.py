"""The page of all commands, which is written from their parsers."""

import argparse
import re

import pytest
from conftest import load_script

from slowfast_uniformer.cli import main

reference = load_script("tools/command_reference.py")


@pytest.mark.parametrize("name", main.NAMES)
def test_a_command_has_a_section_with_all_its_options(name):
    text = reference.section(name)
    assert text.startswith(f"### {name}\n") and f"    uniformer {name} [" in text
    for action in reference.parser_of(name)._actions:
        if action.option_strings and action.help != argparse.SUPPRESS and "--help" not in action.option_strings:
            assert f"| `{action.option_strings[0]}" in text, action.option_strings


def test_code_of_a_help_text_stays_code():
    text = reference.to_markdown("as `uniformer train --folds` and `a*b` do, --init_method too, 2*3 | <x>")
    assert text == r"as `uniformer train --folds` and `a*b` do, `--init_method` too, 2\*3 \| \<x>"


def test_marks_of_code_are_balanced_on_the_page():
    """In each cell of a table and each paragraph, and no code inside of code."""
    for line in reference.page().splitlines():
        for cell in re.split(r"(?<!\\)\|", line):
            assert cell.count("`") % 2 == 0 and "``" not in cell, line


def test_the_page_has_every_command_once():
    page = reference.page()
    assert [line[4:] for line in page.splitlines() if line.startswith("### ")] == main.NAMES
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) > 50 and all(row.count("|") - row.count(r"\|") == 3 for row in rows)
