"""Lists of the usual forms, split by one regular expression for many lines: a million of them take a second.

A list is read here only where `list_reader` is known to read it in the same way. Anything unusual, and whatever is
wrong, is left to that reader, which knows more forms and what to say.
"""

import codecs
import re
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, BinaryIO

from fvcore.common.config import CfgNode

from slowfast_uniformer import paths
from slowfast_uniformer.data.list_reader import Layout, all_columns, find_header, is_unnamed_header, separators_to_try
from slowfast_uniformer.data.list_text import SPACES, is_utf_8, split_lines
from slowfast_uniformer.data.sample_list import SECONDS, Columns, Label, SampleList
from slowfast_uniformer.errors import UserError

if TYPE_CHECKING:
    from slowfast_uniformer.data.annotations import LabelReader

_BLOCK = 2**20  # bytes
_INTEGER, _DECIMAL = "[0-9]{1,9}", r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_NUMBERS = {"frames": _INTEGER, "total": _DECIMAL, "start": _DECIMAL, "end": _DECIMAL}
_SEPARATORS = ("\t", ";", ",", " ", "|")
_KNOWN_LABELS = 100_000  # texts of labels, of which several for each video can make very many
_EMPTY = re.compile(r"^[ \t\r]*$", re.MULTILINE)


def read_plain_list(path: str, cfg: CfgNode, columns: Sequence[str], labels: "LabelReader") -> SampleList | None:
    """The videos of a list with one per line; None where `list_reader` has to read it.

    Args:
        path: The list.
        cfg: The config.
        columns: Names of a line's fields.
        labels: Reads labels.
    """
    if labels.numbers_can_be_names():
        return None
    try:
        with open(paths.fetch(path), "rb") as file:
            return _read(file, path, cfg, columns, labels)
    except (OSError, UnicodeDecodeError, UserError):  # to be reported with file and line
        return None


def _read(file: BinaryIO, path: str, cfg: CfgNode, columns: Sequence[str], labels: "LabelReader") -> SampleList | None:
    found, pattern, order, known, number = Columns(), None, (), {}, 1
    while data := file.read(_BLOCK) + file.readline():
        if pattern is None:
            if not is_utf_8(data) or (b"\n" not in data and b"\r" in data):
                return None
            data = data.removeprefix(codecs.BOM_UTF8)
        text = data.decode().removesuffix("\n")
        if "\\" in text or "\0" in text:
            return None
        if pattern is None:
            first = next((line for line in split_lines(text) if line), "")
            if not (layout := _layout(path, first, cfg, columns, labels)):
                return None
            pattern, order, has_header = layout
            if has_header:
                end = text.index(first) + len(first)
                number, text = number + text.count("\n", 0, end) + 1, text[end:].partition("\n")[2]
        rows, count, empty = pattern.findall(text), text.count("\n") + 1, len(_EMPTY.findall(text))
        if len(rows) != count - empty:
            return None
        lines: Sequence[int] = range(number, number + count)
        if empty and "start" in order:
            lines = [at for at, line in zip(lines, text.split("\n"), strict=True) if line.strip(" \t\r")]
        number += count
        if rows and not _append(found, dict(zip(order, zip(*rows, strict=True), strict=True)), labels, known, lines):
            return None
    return SampleList(found.arrays, cfg.DATA.PATH_PREFIX) if len(found.arrays["labels"]) else None


def _layout(
    path: str, first: str, cfg: CfgNode, columns: Sequence[str], labels: "LabelReader"
) -> tuple[re.Pattern, list[str], bool] | None:
    """By the first line: the expression of a line, the columns that its groups are, and whether there is a header."""
    separators, several = separators_to_try(cfg, [(1, first)], columns, None), cfg.DATA.MULTI_LABEL
    if first[:1] in ("", "#") or re.fullmatch("sep=.", first) or is_unnamed_header(first, separators, columns):
        return None
    layouts = [Layout(separator, columns, labels.is_label, several) for separator in separators]
    if not layouts[0].plain(first) and (header := find_header(path, (1, first), separators, columns)):
        if header[0] not in _SEPARATORS:
            return None
        columns = all_columns(columns, header[1])
        order = [name for name in dict.fromkeys(header[1]) if name in columns]
        names = [name if name in columns else "" for name in header[1]]
        return _with_header(header[0], names, several), order, True
    for layout in layouts:  # the first that fits the line, as `list_reader` decides if it fits all lines
        separator = layout.separator
        if separator not in _SEPARATORS or (several and separator == ","):
            return None
        pattern = _plain(separator, columns, several, quotes=separator == separators[0])
        if pattern.fullmatch(first):
            video = layout.plain(first)[0]
            in_quotes = video[0] == video.strip(SPACES)[-1] == "'"
            has_index = re.match(rf"\d+\s*{re.escape(separator)}", video)
            more_columns = separator != " " and separator in video
            return None if in_quotes or has_index or more_columns else (pattern, list(columns), False)
        if layout.split(first)[1]:
            return None
    return None


def _plain(separator: str, columns: Sequence[str], several_labels: bool, quotes: bool) -> re.Pattern:
    """A path, in which there can be `quotes`, then numbers."""
    path = ".+" if quotes else r'(?!\s)[^"\n]+'
    label = f"-|{_INTEGER}(?:,{_INTEGER})*" if several_labels else f"-?{_INTEGER}"
    between = re.escape(separator) + " *"
    fields = [f"({(_NUMBERS | {'label': label})[name]})" for name in columns[1:]]
    return _line(between.join([f"({path}){_path_end(several_labels)}", *fields]))


def _with_header(separator: str, header: Sequence[str], several_labels: bool) -> re.Pattern:
    """Columns in any order, and others between them."""
    other = rf'[^{re.escape(separator)}"\n]'
    spaces = "" if separator == " " else " *"
    patterns = {name: f"{spaces}({number}){spaces}" for name, number in _NUMBERS.items()}
    patterns |= {"group": f"({other}*)"}
    patterns |= {"path": f"(?![{SPACES}'])({other}+){_path_end(several_labels)}", "label": f"({other}*)"}
    fields = []
    for name in header:
        fields.append(patterns.pop(name, f"{other}*"))  # the first of several with a name is taken
    return _line(re.escape(separator).join(fields))


def _path_end(several_labels: bool) -> str:
    return f"(?<![{SPACES}{',' if several_labels else ''}])"  # a comma: labels with spaces between them


def _line(fields: str) -> re.Pattern:
    """A line without spaces around it, which is no comment and does not begin with quotes."""
    return re.compile(rf'^(?![{SPACES}#"]){fields}(?<![{SPACES}])[ \t\r]*$', re.MULTILINE)


def _append(
    found: Columns,
    fields: Mapping[str, Sequence[str]],
    labels: "LabelReader",
    known: dict[str, Label],
    lines: Sequence[int],
) -> bool:
    """Append the videos of a block, by column; False if some field is wrong. `known` are labels by their text, `lines`
    the numbers of the lines.

    Raises:
        UserError: A label is wrong.
    """
    if len(known) > _KNOWN_LABELS:
        known.clear()
    for text in set(fields["label"]) - known.keys():
        known[text] = labels.read(text.strip(SPACES), "")
    frames = [int(text) for text in fields.get("frames", ())]
    parts, in_seconds = [], "start" in fields and "total" not in fields
    if "start" in fields:
        totals = map(float, fields["total"]) if "total" in fields else repeat(SECONDS)
        parts = list(zip(map(float, fields["start"]), map(float, fields["end"]), totals, strict=False))
    if in_seconds and not all(start < end for start, end, _ in parts):
        return False
    if 0 in frames or not (in_seconds or all(0 <= start <= end and start < total for start, end, total in parts)):
        return False
    groups = [text.strip(SPACES) for text in fields.get("group", ())]
    wanted = [known[text] for text in fields["label"]]
    numbers = lines if in_seconds else ()
    found.extend(fields["path"], wanted, frames, chain.from_iterable(parts), numbers, groups)
    return True
