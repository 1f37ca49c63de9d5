"""Class names: the files they are read from, their comparison, and the labels that names stand for."""

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence

from fvcore.common.config import CfgNode

from slowfast_uniformer import paths
from slowfast_uniformer.data.list_text import read_text, split_lines, unquote
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.wording import counted

# A line with a label and a name: "0 left", "1. left", "0,left", or "left 0"
_NUMBERED = (
    re.compile(r"(?P<id>\d+)(?P<mark>[\s,;:.)]+)(?P<name>.+)"),
    re.compile(r"(?P<name>.+?)(?P<mark>[\s,;:]+)(?P<id>\d+)"),
)
_HEADER = re.compile(
    r"(id|label|index|name|names|class|classes|class[_ ]?(id|name)|label[_ ]?(id|name)|category)", re.I
)
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff]")


def class_names(cfg: CfgNode) -> list[str] | None:
    """Class names in label order, or None if there is no file of them.

    DATA.CLASS_NAMES can be a text file (one name per line), a JSON list, or a JSON object of name to label or of
    label to name. If it is not set, classes.txt beside the lists is read, or Something-Something's labels.json.

    Raises:
        UserError: The file cannot be read or understood, or does not have MODEL.NUM_CLASSES different names.
    """
    path = names_path(cfg)
    return read_class_names(path, cfg.MODEL.NUM_CLASSES) if path else None


def names_path(cfg: CfgNode) -> str | None:
    """The file of class names: DATA.CLASS_NAMES or, beside the lists, the first of the usual ones."""
    usual = ("classes.txt", "labels.json", "something-something-v2-labels.json")
    return cfg.DATA.CLASS_NAMES or paths.first_file([os.path.join(cfg.DATA.PATH_TO_DATA_DIR, name) for name in usual])


def read_class_names(path: str, count: int | None = None) -> list[str]:
    """Class names of a file in label order. A text file has one name per line, with or without its label.

    Args:
        path: The file.
        count: Number of classes; None accepts any.

    Raises:
        UserError: See `class_names`; names the lines at fault.
    """
    text = read_text(path, "file of class names", ". Correct DATA.CLASS_NAMES")
    named = _of_json(path, text) if path.endswith(".json") or _is_json(text) else _of_lines(path, text, count)
    first: dict[str, str] = {}
    for where, name in named:
        if not name:
            raise UserError(f"{path}, {where}: the name of a class is empty")
        key = normalise(name)
        if key in first:
            raise UserError(
                f"{path}: {visible(name)} is the name of two classes: {first[key]} and {where}. Give each its own name"
            )
        first[key] = where
    if count is not None and len(named) != count:
        raise UserError(
            f"{path}: {counted(len(named), 'class name')}, but MODEL.NUM_CLASSES is {count}. Set MODEL.NUM_CLASSES "
            f"{len(named)}, or correct the file"
        )
    return [name for _, name in named]


# ---------------------------------------------------------------------------------------------------- text files
def _of_lines(path: str, text: str, count: int | None) -> list[tuple[str, str]]:
    """Place and name of each class. Empty lines do not count, unless they do in the number of classes."""
    lines = split_lines(text.rstrip())
    wheres = [f"line {number}" for number, line in enumerate(lines, 1) if line]
    names = [line for line in lines if line]
    if len(names) - 1 == count and all(map(_HEADER.fullmatch, map(unquote, re.split("[,;\t]", names[0])))):
        wheres, names = wheres[1:], names[1:]
    if order := _order_of_numbered(path, wheres, names):
        return [(wheres[k], name) for k, name in order]
    if count not in (None, len(names)) and names and "" in lines:
        raise UserError(
            f"{path}, line {lines.index('') + 1}: an empty line among the class names, {len(names)} where "
            f"MODEL.NUM_CLASSES is {count}. Each line is the name of a label: remove the line, or write the name"
        )
    return list(zip(wheres, map(unquote, names), strict=True))


def _order_of_numbered(path: str, wheres: Sequence[str], names: Sequence[str]) -> list[tuple[int, str]] | None:
    """Positions and names in the order of the labels that all lines have; None if they are names alone.

    Names may begin or end with numbers ("100 m"): after a space they are labels only if they are 0 to N-1, or 1 to N.
    """
    for pattern in _NUMBERED:
        matches = [pattern.fullmatch(name) for name in names]
        if len(names) < 2 or None in matches:
            continue
        labels, found = [int(match["id"]) for match in matches], [unquote(match["name"]) for match in matches]
        order = sorted(range(len(names)), key=labels.__getitem__)
        if sorted(labels) in (list(range(len(names))), list(range(1, len(names) + 1))):
            return [(k, found[k]) for k in order] if len(set(found)) == len(found) else None
        if min(labels) <= 1 and not any(match["mark"].isspace() for match in matches):
            wrong = next(k for k, label in enumerate(sorted(labels)) if label != k + min(labels))
            raise UserError(
                f"{path}, {wheres[order[wrong]]}: the labels of the class names must count from 0 (or 1) without a "
                f"gap, each once; {labels[order[wrong]]} follows {labels[order[wrong - 1]] if wrong else 'nothing'}"
            )
    return None


# --------------------------------------------------------------------------------------------------------- JSON
def _is_json(text: str) -> bool:
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        return isinstance(json.loads(text), dict | list)
    except ValueError:
        return False


def _of_json(path: str, text: str) -> list[tuple[str, str]]:
    """Place and name of each class, in label order."""
    try:
        content = json.loads(text, object_pairs_hook=_Pairs)
    except ValueError as error:
        raise UserError(f"{path}: cannot read class names ({error}). Correct DATA.CLASS_NAMES") from None
    if isinstance(content, _Pairs):  # the config.json of Hugging Face has one of these
        content = next((value for key, value in content if key in ("id2label", "label2id")), content)
    if isinstance(content, list) and not isinstance(content, _Pairs) and content:
        if all(isinstance(entry, str) for entry in content):
            return [(f"entry {number}", unquote(name)) for number, name in enumerate(content, 1)]
        if all(isinstance(entry, _Pairs) for entry in content):  # COCO's categories
            rows = [dict(entry) for entry in content]
            if all({"id", "name"} <= row.keys() for row in rows):
                content = _Pairs((row["name"], row["id"]) for row in rows)
    pairs = content if isinstance(content, _Pairs) else ()
    if pairs and all(map(_is_label, (value for _, value in pairs))):
        labels = [(int(label), str(name)) for name, label in pairs]
    elif pairs and all(_is_label(key) and isinstance(value, str) for key, value in pairs):
        labels = [(int(label), name) for label, name in pairs]
    else:
        raise UserError(
            f"{path}: cannot read class names: expected a list of names, or an object of name to label or of label to "
            "name. Correct DATA.CLASS_NAMES"
        )
    labels.sort(key=lambda pair: pair[0])
    for k, (label, name) in enumerate(labels):
        if label != k + min(labels[0][0], 1) or label < 0:
            before = f"after {labels[k - 1][0]} ({visible(labels[k - 1][1])})" if k else "first"
            raise UserError(
                f"{path}: the labels of the class names must count from 0 (or 1) without a gap, each once; "
                f"{label} ({visible(name)}) comes {before}"
            )
    return [(f"label {label}", unquote(name)) for label, name in labels]


class _Pairs(list):
    """The keys and values of a JSON object, also of keys that are there twice."""


def _is_label(value: object) -> bool:
    return isinstance(value, int | str) and re.fullmatch(r"\s*-?\d+\s*", str(value)) is not None


# --------------------------------------------------------------------------------------------------- comparison
def normalise(name: str) -> str:
    """A name for comparison: without quotes, byte order marks and characters without width, accents composed (NFC),
    and one space where there are several of any kind."""
    return " ".join(unquote(_INVISIBLE.sub("", unicodedata.normalize("NFC", name))).split())


def comparable(names: Sequence[str]) -> list[str]:
    """Names for comparison with others: normalised and without labels before them ("0 left"), which checkpoints hold
    whose names were read as they are."""
    order = _order_of_numbered("", [""] * len(names), [normalise(name) for name in names]) if _in_order(names) else None
    return [name for _, name in order] if order else [normalise(name) for name in names]


def _in_order(names: Sequence[str]) -> bool:
    numbers = [re.match(r"\d+", normalise(name)) for name in names]
    return None not in numbers and [int(n[0]) - int(numbers[0][0]) for n in numbers] == list(range(len(names)))


def visible(name: str) -> str:
    """A name in quotes, with escapes for characters that cannot be seen or that are not composed."""
    if unicodedata.is_normalized("NFC", name):
        return repr(name)
    return "".join(c if not unicodedata.combining(c) else f"\\u{ord(c):04x}" for c in repr(name))


def differences(theirs: Sequence[str], ours: Sequence[str], most: int = 3) -> str:
    """The first labels whose names differ, side by side; `theirs` are the checkpoint's, `ours` the data's."""
    pairs = list(zip(comparable(theirs), comparable(ours), strict=False))
    labels = [label for label, (their, our) in enumerate(pairs) if their != our]
    parts = [f"label {k} is {visible(theirs[k])} there and {visible(ours[k])} here" for k in labels[:most]]
    if len(labels) > most:
        parts.append(f"{len(labels) - most} more differ")
    if len(theirs) != len(ours):
        parts.append(f"{counted(len(theirs), 'class')} there, {len(ours)} here")
    elif sorted(comparable(theirs)) == sorted(comparable(ours)):
        parts.append("the same names in another order")
    return "; ".join(parts)


def check_same_classes(checkpoint_names: list[str] | None, data_names: list[str] | None, path: str) -> None:
    """Refuse a checkpoint whose class names differ from the data's: every prediction would get a wrong name.

    Raises:
        UserError: The names or their order differ; the message shows the first labels that do.
    """
    if checkpoint_names and data_names and comparable(checkpoint_names) != comparable(data_names):
        both = zip(comparable(checkpoint_names), comparable(data_names), strict=False)
        shorter = min(len(checkpoint_names), len(data_names))
        first = next((label for label, (theirs, ours) in enumerate(both) if theirs != ours), shorter)
        raise UserError(
            f"{path}: its class names differ from the data's, first at label {first} "
            f"({differences(checkpoint_names, data_names)}). Give the lists the checkpoint's order of classes, or "
            "correct DATA.CLASS_NAMES"
        )


class ClassLookup:
    """The labels that class names stand for: by the exact name, or else one that differs from it in case, spaces,
    underscores and hyphens alone, if there is only one."""

    def __init__(self, names: Iterable[str]):
        self.names = list(names)
        self._exact = {normalise(name): label for label, name in enumerate(self.names)}
        self._loose: dict[str, int | None] = {}
        for name, label in self._exact.items():
            key = self._fold(name)
            self._loose[key] = None if key in self._loose else label

    @staticmethod
    def _fold(name: str) -> str:
        return re.sub(r"[\s_-]+", " ", name.casefold()).strip()

    def exact(self, text: str) -> int | None:
        return self._exact.get(text, self._exact.get(normalise(text)))

    def get(self, text: str) -> int | None:
        """The label of a name; None if there is none, or more than one."""
        label = self.exact(text)
        return self._loose.get(self._fold(normalise(text))) if label is None else label
