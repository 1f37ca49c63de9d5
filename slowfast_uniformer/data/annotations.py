"""Annotation lists: one video per line. A data set is a row of `FORMATS` and its YAML.

list_reader.py splits the lines into fields. A path names a video file, a folder of numbered frames, or a member of a
tar file (data/shards.py). Lists and class names can be anywhere iopath's path manager reaches. datasets/prepare.py
converts the files that data sets are distributed with.

Imports neither PyTorch nor NumPy nor a decoder: commands check lists and class names before these are loaded.
"""

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from fvcore.common.config import CfgNode

from slowfast_uniformer import paths
from slowfast_uniformer.data import classes, shards, shared_lists
from slowfast_uniformer.data.classes import class_names
from slowfast_uniformer.data.list_numbers import parse_number, read_segment
from slowfast_uniformer.data.list_reader import (
    HEADER_NAMES,
    SEPARATOR_NAMES,
    SEPARATORS,
    list_lines,
    read_table,
    separators_to_try,
)
from slowfast_uniformer.data.list_text import SPACES, check_openable, read_text
from slowfast_uniformer.data.plain_list import read_plain_list
from slowfast_uniformer.data.sample_list import UNLABELLED, Sample, SampleList
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.wording import counted

_COMPARED = 100  # labels of a list for which the nearest class name is looked for, which takes milliseconds
Fields = dict[str, str]  # name of a column to its text


class Row(NamedTuple):
    """One video of a list before parsing: its line number (its position in a JSON list), where it is for error
    messages, its text, and its fields or what is wrong with them."""

    number: int
    where: str
    text: str
    fields: Fields | UserError


def line_rows(text: str, path: str, cfg: CfgNode, columns: tuple[str, ...], labels: "LabelReader") -> Iterator[Row]:
    """Rows of a list with one video per line; empty lines and comments do not count."""
    prefix = cfg.DATA.PATH_PREFIX

    def exists(video: str) -> bool:
        return shards.exists(os.path.join(prefix, video.strip(SPACES)))

    lines, named = list_lines(text, exists)
    separators = separators_to_try(cfg, lines, columns, named)
    table = read_table(path, lines, separators, columns, labels.is_label, cfg.DATA.MULTI_LABEL, exists)
    for number, line, values, separator, found in table:
        where = f"{path}, line {number}"
        if values is None:
            fields: Fields | UserError = _wrong_fields(where, line, separator, found, cfg)
        else:
            fields = dict(zip(found, values, strict=True))
        yield Row(number, where, line, fields)


def _wrong_fields(where: str, line: str, separator: str, columns: tuple[str, ...], cfg: CfgNode) -> UserError:
    remedy = "Correct the line, put a field that holds the separator in double quotes,"
    if not any(mark in line for mark in (separator, *SEPARATORS)):
        remedy = (
            f"Write the {columns[-1]} behind the path (`uniformer lists` makes lists for a folder of class folders),"
        )
    by = SEPARATOR_NAMES.get(separator, repr(separator))
    return UserError(
        f"{where}: expected {counted(len(columns), 'field')} ({' '.join(columns)}) separated by {by}, found {line!r}. "
        f"{remedy} or set DATA.PATH_LABEL_SEPARATOR" + ("" if cfg.DATA.PATH_LABEL_SEPARATOR == "auto" else " auto")
    )


def _sthv2(text: str, path: str, cfg: CfgNode, columns: tuple[str, ...], labels: "LabelReader") -> Iterator[Row]:
    """Something-Something V2's own JSON: the class name is the template without its brackets."""
    names = class_names(cfg)
    if names is None:
        raise UserError(f"{path}: its classes are given by name; put labels.json beside it")
    label_of = {name: str(label) for label, name in enumerate(names)}
    try:
        entries = [(str(entry["id"]), entry.get("template")) for entry in json.loads(text)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a JSON list of videos with an id each ({error})") from None
    for number, (video, template) in enumerate(entries, 1):
        where = f"{path}, video {number} (id {video})"
        name = None if template is None else template.replace("[", "").replace("]", "")
        fields: Fields | UserError = {"path": f"{video}.webm", "label": label_of.get(name, str(UNLABELLED))}
        if name is not None and name not in label_of:
            fields = UserError(f"{where}: no class is named {name!r}; correct labels.json or DATA.CLASS_NAMES")
        yield Row(number, where, video, fields)


@dataclass(frozen=True)
class Format:
    """How a data set is listed and sampled.

    Attributes:
        columns: Names of a line's fields.
        list_names: File names that the list of (cfg, split) can have.
        sampling: "dense" or "sparse" (data/sampling.py).
        rows: Splits the text of a list into rows.
    """

    columns: tuple[str, ...]
    list_names: Callable[[CfgNode, str], list[str]]
    sampling: str
    rows: Callable[[str, str, CfgNode, tuple[str, ...], "LabelReader"], Iterator[Row]] = line_rows


def _csv(cfg: CfgNode, split: str) -> list[str]:
    return [f"{split}.csv"]


def _template(cfg: CfgNode, split: str) -> list[str]:
    names, template = ["train"] if split == "train" else ["validation", "val"], cfg.DATA.LABEL_PATH_TEMPLATE
    try:
        return [template.format(name) for name in names]
    except (LookupError, ValueError):
        raise UserError(f"DATA.LABEL_PATH_TEMPLATE: {template!r} is no file name with {{}} for the split") from None


def _json(cfg: CfgNode, split: str) -> list[str]:
    name = "train" if split == "train" else "validation"
    given = [name for name in _template(cfg, split) if name.endswith(".json")]
    return [*given, f"{name}.json", f"something-something-v2-{name}.json"]


FORMATS = {
    "kinetics": Format(("path", "label"), _csv, "dense"),
    "kinetics_sparse": Format(("path", "label"), _csv, "sparse"),
    "mit": Format(("path", "label"), _csv, "sparse"),
    "ant": Format(("path", "total", "start", "end", "label"), _csv, "sparse"),
    "sth": Format(("path", "frames", "label"), _template, "sparse"),
    "hmdb": Format(("path", "frames", "label"), _template, "dense"),
    "sthv2_json": Format(("path", "label"), _json, "sparse", _sthv2),
}


def format_of(cfg: CfgNode, split: str) -> Format:
    """The format that TRAIN.DATASET names, or TEST.DATASET for the splits val and test."""
    section = "TRAIN" if split == "train" else "TEST"
    name = cfg[section].DATASET
    if name not in FORMATS:
        raise UserError(f"{section}.DATASET: {name!r} is not one of {', '.join(FORMATS)}")
    return FORMATS[name]


def list_path(cfg: CfgNode, split: str) -> str:
    """Path of the list of a split (train, val or test)."""
    folder = cfg.DATA.PATH_TO_DATA_DIR
    candidates = [os.path.join(folder, name) for name in format_of(cfg, split).list_names(cfg, split)]
    return paths.first_file(candidates) or candidates[0]


_loaded: dict[tuple, SampleList] = {}  # the latest lists of `load`: they are checked before a run, then used in it


def load(cfg: CfgNode, split: str) -> SampleList:
    """Read the list of a split, once in a process while its file is the same.

    Raises:
        UserError: The list cannot be read or has a wrong line; the message names file and line.
    """
    path, form, data = list_path(cfg, split), format_of(cfg, split), cfg.DATA
    version = _version(path)
    key = (split, form.columns, form.rows.__name__, version, _version(classes.names_path(cfg)), cfg.MODEL.NUM_CLASSES)
    key += (data.PATH_PREFIX, data.PATH_LABEL_SEPARATOR, data.MULTI_LABEL)
    if key not in _loaded:
        if topology.ranks_share_machine(cfg) and version and version[1] >= shared_lists.MIN_BYTES:
            samples = shared_lists.shared(key, data.PATH_PREFIX, lambda: _read(cfg, split))
        else:
            samples = _read(cfg, split)
        check_openable(path, (sample.path for sample in samples))
        if "://" in path:  # it may change without its copy here
            return samples
        while len(_loaded) > 2:
            _loaded.pop(next(iter(_loaded)))
        _loaded[key] = samples
    return _loaded[key]


def _read(cfg: CfgNode, split: str) -> SampleList:
    path, form = list_path(cfg, split), format_of(cfg, split)
    plain = form.rows is line_rows and read_plain_list(path, cfg, form.columns, LabelReader(cfg, split))
    if plain:
        return plain
    errors: list[UserError] = []

    def samples() -> Iterator[Sample]:
        for _, sample in _read_rows(cfg, split):
            if isinstance(sample, UserError):
                errors.append(sample)
            else:
                yield sample

    found = SampleList.of(samples(), cfg.DATA.PATH_PREFIX)
    if errors:
        raise UserError(f"{errors[0]}{_others_like_it(errors)}")
    return found


def _version(path: str | None) -> tuple | None:
    """Path, size and time of change of a local file."""
    with suppress(OSError, TypeError):
        status = os.stat(path)
        return os.path.abspath(path), status.st_size, status.st_mtime_ns
    return None


def _others_like_it(errors: list[UserError]) -> str:
    """How many of the errors of a list's lines say the same as the first one, and how many others there are."""
    alike = [re.sub(r" \(the nearest is .*\)(?=\. Correct the label)", "", str(error)) for error in errors]
    kinds = [re.sub(r"'.*'|\".*\"|\d+", "", message) for message in alike]
    like, others = kinds.count(kinds[0]) - 1, len(kinds) - kinds.count(kinds[0])
    parts = [f"{like} more line{'s' * (like > 1)} like it"] * bool(like)
    parts += [f"{others} more with other faults"] * bool(others)
    return f" ({', '.join(parts)})" if parts else ""


def read_rows(cfg: CfgNode, split: str) -> Iterator[tuple[Row, Sample | UserError]]:
    """Each row of a split's list with its sample, or with the error that says what is wrong with it.

    Raises:
        UserError: The list as a whole cannot be read or is empty.
    """
    for row, sample in _read_rows(cfg, split):
        if isinstance(sample, Sample):
            sample = replace(sample, path=os.path.join(cfg.DATA.PATH_PREFIX, sample.path))
        yield row, sample


def _read_rows(cfg: CfgNode, split: str) -> Iterator[tuple[Row, Sample | UserError]]:
    """`read_rows` with paths as they are in the list."""
    path, form = list_path(cfg, split), format_of(cfg, split)
    remedy = (
        ". Set DATA.PATH_TO_DATA_DIR to the folder of your lists; `uniformer lists` writes lists for a folder of class "
        "folders, datasets/prepare.py for a public data set"
    )
    if cfg.DATA.PATH_TO_DATA_DIR == "data/demo":
        remedy = ". `uniformer demo-data` renders the demo's videos and writes their lists"
    without = {
        "val": "; TRAIN.EVAL_PERIOD 0 trains without validation",
        "test": "; TEST.ENABLE False trains without a test",
    }.get(split, "")
    text = read_text(path, f"{split} list", remedy + (without if cfg.TRAIN.ENABLE else ""))
    labels, row = LabelReader(cfg, split), None

    def label_texts() -> Iterator[str]:
        rows = form.rows(text, path, cfg, form.columns, labels)
        return (row.fields["label"] for row in rows if isinstance(row.fields, dict))

    labels.look_at_all(label_texts)
    for row in form.rows(text, path, cfg, form.columns, labels):
        try:
            yield row, _sample(row, labels)
        except UserError as error:
            yield row, error
    if row is None:
        raise UserError(f"{path}: the {split} list is empty; write a video and its label on each line{without}")


def _sample(row: Row, labels: "LabelReader") -> Sample:
    fields, where = row.fields, row.where
    if isinstance(fields, UserError):
        raise UserError(f"{fields}{labels.unlabelled_hint()}")
    path = fields["path"].strip(SPACES)
    if not path:
        raise UserError(f"{where}: the line names no video, found {row.text!r}")
    if labels.multi_label and path.endswith(","):  # "a.mp4 1, 5"
        raise UserError(f"{where}: commas separate labels, without spaces (path 1,5); found {row.text!r}")
    frames = parse_number(fields["frames"], "frames", where) if "frames" in fields else None
    label = labels.read(fields["label"].strip(SPACES), where)
    if frames is not None and frames < 1:
        raise UserError(f"{where}: the number of frames is {frames}, but must be 1 or more; correct or remove the line")
    group = fields.get("group", "").strip(SPACES)
    if "total" not in fields:
        part = read_segment(fields["start"], fields["end"], where) if "start" in fields else None
        return Sample(path, label, frames, part, row.number if part else None, group)
    start, end, total = (parse_number(fields[name], name, where, float) for name in ("start", "end", "total"))
    if not (0 <= start <= end and start < total):
        raise UserError(
            f"{where}: the part from {start:g} to {end:g} does not fit a video from 0 to {total:g}; correct or "
            "remove the line"
        )
    return Sample(path, label, frames, (start, end, total), group=group)


class LabelReader:
    """Reads labels: numbers, also as pandas writes them (3.0), or class names.

    Takes the keys out of the config once: lists have up to a million lines. Class names are read where a label is one.
    """

    def __init__(self, cfg: CfgNode, split: str):
        self.cfg, self.classes, self.multi_label = cfg, cfg.MODEL.NUM_CLASSES, cfg.DATA.MULTI_LABEL
        self.split, self.unlabelled_allowed = split, split == "test" and not cfg.DATA.MULTI_LABEL
        self._numbers_are_names = False
        self._nearest: dict[str, list[str]] = {}  # class names by the text that is none
        self._texts: Callable[[], Iterator[str]] = lambda: iter(())

    @cached_property
    def lookup(self) -> classes.ClassLookup:
        return classes.ClassLookup(class_names(self.cfg) or [])

    def look_at_all(self, texts: Callable[[], Iterator[str]]) -> None:
        """Look at all labels of a list where numbers may be class names ("007"): they are where all labels are class
        names, and not all are labels."""
        self._texts = texts
        if self.numbers_can_be_names():
            known = {text: self.lookup.exact(text) is not None for text in set(texts())}
            outside = any(not text.isdecimal() or int(text) >= self.classes for text in known)
            self._numbers_are_names = outside and all(known.values())

    def numbers_can_be_names(self) -> bool:
        """Whether some class has a number for its name, and not its label."""
        try:
            numeric = {name for name in class_names(self.cfg) or () if name.isdecimal()}
        except UserError:  # a file of names that is at fault is reported where names are needed
            return False
        return bool(numeric) and numeric != {str(label) for label in range(self.classes)}

    @cached_property
    def _has_names_of_numbers(self) -> bool:
        """Whether the name of some class looks like several labels."""
        return any(re.search(r"\d\s*,\s*\d", name) for name in self.lookup.names)

    def is_label(self, text: str) -> bool:
        """Whether a text has the form of a label (or of several)."""
        if self._label(text) is not None or (self.multi_label and text == "-"):
            return True
        return self.multi_label and all(self._label(part.strip(SPACES)) is not None for part in text.split(","))

    def read(self, text: str, where: str) -> int | tuple[int, ...]:
        """The label, or with DATA.MULTI_LABEL the labels that commas separate; "-" is an empty set of them."""
        if text.isdecimal() and not self._numbers_are_names and int(text) < self.classes:  # nearly all
            return (int(text),) if self.multi_label else int(text)
        if self.multi_label and text == "-":
            return ()
        if self.multi_label and not self._numbers_are_names and not self._has_names_of_numbers:
            numbers = text.split(",")
            if all(map(str.isdecimal, numbers)) and max(found := tuple(map(int, numbers))) < self.classes:
                return found
        parts = text.split(",") if self.multi_label and self._label(text) is None else [text]
        labels = [self._checked(part.strip(SPACES), where) for part in parts]
        return tuple(labels) if self.multi_label else labels[0]

    def _label(self, text: str) -> int | None:
        """The number that a text means, also one that is no label here; None for a text that means none."""
        if not self._numbers_are_names:
            with suppress(ValueError):
                return int(text)
            decimal = text if self.multi_label else re.sub(r",(?=0*$)", ".", text)  # a European 3,0
            if re.fullmatch(r"[+-]?\d+\.\d*(e[+-]\d+)?", decimal) and float(decimal).is_integer():
                return int(float(decimal))
        return self.lookup.get(text)

    def _checked(self, text: str, where: str) -> int:
        label = self._label(text)
        if label is None:
            raise UserError(f"{where}: label {text!r} is not a whole number{self._why_no_label(text)}")
        if 0 <= label < self.classes or (label == UNLABELLED and self.unlabelled_allowed):
            return label
        raise UserError(
            f"{where}: label {label} is outside 0 to {self.classes - 1} (MODEL.NUM_CLASSES is {self.classes})"
            f"{self._why_outside(label)}"
        )

    def _why_no_label(self, text: str) -> str:
        if text.lower() in ("", "nan", "none", "null", "na"):
            return f"; the line has no label{self.unlabelled_hint()}"
        if text.strip().lower() in HEADER_NAMES["label"]:
            return "; if this line names the columns, name them path and label"
        if re.search(r"\.[A-Za-z]\w{1,4}$", text):
            order = "For another order name the columns in a first line, such as label,path"
            return f"; the line has no label at its end. {order}{self.unlabelled_hint()}"
        if not (names := self.lookup.names):
            return (
                ". If labels are class names, put classes.txt beside the list, with a name per line in label order, or "
                "set DATA.CLASS_NAMES"
            )
        names_file = os.path.basename(classes.names_path(self.cfg))
        if len(self._nearest) < _COMPARED:
            self._nearest[text] = difflib.get_close_matches(text, names, n=1)
        nearest = self._nearest.get(text)
        near = f" (the nearest is {nearest[0]!r})" if nearest else ""
        return f", nor the name of a class in {names_file}{near}. Correct the label or that file"

    def _why_outside(self, label: int) -> str:
        if label == UNLABELLED:
            return ". Only videos of test lists may have no label (-1)"
        numbers = self._span
        if numbers and min(numbers) == 1 and max(numbers) == self.classes:
            return ". Labels of this list start at 1 instead of 0: subtract 1 from each"
        if label < 0 or not numbers:
            return ". Correct the label"
        return f". The highest label is {max(numbers)}: correct it, or set MODEL.NUM_CLASSES {max(numbers) + 1}"

    @cached_property
    def _span(self) -> set[int]:
        """The numbers that are labels in the list."""
        texts = set(self._texts())
        parts = {part for text in texts for part in (text.split(",") if self.multi_label else [text])}
        return {number for part in parts if (number := self._label(part.strip(SPACES))) is not None}

    def unlabelled_hint(self) -> str:
        return ". A test video whose class is not known has the label -1" if self.unlabelled_allowed else ""
