"""Reading the YAML files that users write: `_BASE_` files, the line of every key, and keys that occur twice."""

import os
import re
from typing import Any, NamedTuple

import yaml

from slowfast_uniformer import paths
from slowfast_uniformer.config.keys import YAML_LOADER, text_keys
from slowfast_uniformer.errors import UserError

_BASE = "_BASE_"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_NUMBERS = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")}


class YamlFile(NamedTuple):
    """A config file: its sections, and where each key is ("FILE, line N"), by dotted key."""

    content: dict[str, Any]
    places: dict[str, str]


def read_yaml(path: str, bases: bool = True) -> YamlFile:
    """Read a config file, merged over its `_BASE_` files, whose paths start at its folder; later ones win.

    A value of a key of text stays as it is written, also where YAML would read a number or a date.

    Args:
        bases: False refuses a file with `_BASE_`, which names other files or addresses.

    Raises:
        UserError: names file and line: it cannot be read, is no config, or has a section or key twice.
    """
    if not bases:
        found = _read_one(path)
        if _BASE in found.content:
            raise UserError(
                f"{found.places[_BASE]}: this config must not build on other files ({_BASE}); write all keys into it"
            )
        return found
    return _read(path, ())


def _read(path: str, above: tuple[str, ...]) -> YamlFile:
    content, places = _read_one(path)
    bases = content.pop(_BASE, None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list):
        raise UserError(f"{places[_BASE]}: _BASE_: write the path of a YAML file, or a list of paths")
    merged = YamlFile({}, {})
    for base in bases:
        found = paths.expand(str(base))
        if "://" not in found:
            found = os.path.join(os.path.dirname(path), found)
            if not os.path.isfile(found):
                raise UserError(f"{places[_BASE]}: _BASE_: no such file: {found}")
        if os.path.realpath(found) in map(os.path.realpath, (*above, path)):
            raise UserError(f"{places[_BASE]}: _BASE_: {found} builds on this file itself; remove one of the two")
        merged = _merged(merged, _read(found, (*above, path)))
    return _merged(merged, YamlFile(content, places))


def _merged(below: YamlFile, above: YamlFile) -> YamlFile:
    """`above` merged over `below`."""
    places = below.places | above.places
    return YamlFile(_merged_sections(below.content, above.content, places, ""), places)


def _merged_sections(below: dict, above: dict, places: dict[str, str], prefix: str) -> dict:
    merged = dict(below)
    for key, value in above.items():
        name, former = f"{prefix}{key}", merged.get(key)
        if isinstance(value, dict) and isinstance(former, dict):
            merged[key] = _merged_sections(former, value, places, f"{name}.")
        elif not isinstance(former, dict) and not (isinstance(value, dict) and former is not None):
            merged[key] = value
        elif value is not None:  # None: a section whose keys are all commented out
            raise UserError(
                f"{places.get(name, name)}: {name} is a section in one file and a value in another; remove one of them"
            )
    return merged


def _read_one(path: str) -> YamlFile:
    """One file alone."""
    text = _text(path)
    has_bytes = re.search(r"\\u[dD][c-fC-F]", text)  # of names that are not UTF-8, whose escapes libyaml refuses
    loader = (yaml.SafeLoader if has_bytes else YAML_LOADER)(text)
    lines: dict[str, int] = {}
    try:
        node = loader.get_single_node()
        _note_keys(node, path, "", lines)
        content = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UserError(_fault(path, text, error)) from None
    except RecursionError:
        raise UserError(f"{path}: not valid YAML: an alias refers to a node that contains it") from None
    finally:
        loader.dispose()
    if not isinstance(content, dict):
        found = "it is empty" if content is None else "not a config"
        raise UserError(f"{path}: {found}; expected sections such as TRAIN: with keys below them")
    return YamlFile(content, {key: f"{path}, line {line}" for key, line in lines.items()})


def _text(path: str) -> str:
    """The file's text: UTF-8 with or without a byte order mark, or UTF-16 with one."""
    try:
        with open(paths.fetch(path), "rb") as file:
            data = file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; save the file in that encoding") from None


def _note_keys(node: yaml.Node | None, path: str, prefix: str, lines: dict[str, int]) -> None:
    """Add the line of each key below `node` to `lines`; UserError where one is there already.

    Nodes and not values are looked at, because PyYAML takes the last of two equal keys. Of keys of text the values
    are marked as text.
    """
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
            continue
        if name in lines:
            what = "section" if isinstance(value, yaml.MappingNode) else "key"
            raise UserError(f"{path}, line {line}: the {what} {name} is in line {lines[name]} already; keep one")
        lines[name] = line
        if name in text_keys() and value.tag in _NUMBERS:
            value.tag = "tag:yaml.org,2002:str"
        _note_keys(value, path, f"{name}.", lines)


def _fault(path: str, text: str, error: yaml.YAMLError) -> str:
    """What is wrong with a file, for people."""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"{path}: not valid YAML: {problem}"
    number = mark.line + 1
    line = "".join(text.split("\n")[mark.line : number])
    if "\t" in line[: len(line) - len(line.lstrip())]:
        problem = "indented with a tab; use spaces"
    return f"{path}, line {number}: not valid YAML: {problem}"
