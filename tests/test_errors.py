"""Messages of errors, read from the sources: their form is the same everywhere."""

import ast
import re

import pytest
from conftest import ROOT

from slowfast_uniformer.errors import UserError, os_errors_reported

NAMES = {"UserError", "VideoError", "FetchError", "LostRankError", "ClassesDiffer", "error"}


def text_of(node: ast.expr) -> str | None:
    """The text of a message, with {} for each value in it; None where it is not written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def messages() -> dict[str, str]:
    """The message of every error that names the user's mistake, by file and line."""
    found = {}
    for path in (ROOT / "slowfast_uniformer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in NAMES:
                text = text_of(node.args[0]) if node.args else None
                if text is not None:
                    found[f"{path.relative_to(ROOT)}:{node.lineno}"] = text
    return found


def test_messages_have_one_form():
    """No full stop at the end, where many have a command or a value; no stray blanks; not a page of text."""
    found = messages()
    assert len(found) > 250
    for place, text in found.items():
        assert text == text.strip() and not re.search(r"  \w| [.,;](\s|$)", text), f"{place}: {text}"
        assert text[-1] not in ".:;," or "web_app" in place, f"{place}: {text}"  # a web page has sentences
        assert len(text) < 300, f"{place}: {text}"


def test_the_cause_of_the_system_is_part_of_the_message():
    with pytest.raises(UserError, match="^--out x: cannot write: No space left on device$"):
        with os_errors_reported("--out x: cannot write"):
            raise OSError(28, "No space left on device")
