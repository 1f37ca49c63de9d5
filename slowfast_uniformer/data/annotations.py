"""Annotation lists: one video per line. A data set is a row of `FORMATS` and its YAML.

Fields are counted from the end of the line, so a path may contain the separator. A path names a video file, a
folder of numbered frames, or a member of a tar file (data/shards.py). Lists and class names can be anywhere
iopath's path manager reaches. datasets/prepare.py converts the files that data sets are distributed with.

Imports neither PyTorch nor NumPy nor a decoder: commands check lists and class names before these are loaded.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fvcore.common.config import CfgNode

from slowfast_uniformer import paths
from slowfast_uniformer.errors import UserError

UNLABELLED = -1  # label of a video whose class only the data set's owner knows; valid in test lists alone
Fields = dict[str, str]  # name of a column to its text
Part = tuple[float, float, float]  # start, end and total length, all in one unit


@dataclass(frozen=True)
class Sample:
    """One video of a list.

    Attributes:
        path: Video file, frame folder or tar member.
        label: Class index; with DATA.MULTI_LABEL a tuple of class indices.
        frames: Number of frames of a frame folder; None for video files.
        part: The annotated part; None for the whole video.
    """

    path: str
    label: int | tuple[int, ...]
    frames: int | None = None
    part: Part | None = None

    @property
    def labels(self) -> tuple[int, ...]:
        """All labels: one, several with DATA.MULTI_LABEL, none for an unlabelled video."""
        if isinstance(self.label, tuple):
            return self.label
        return () if self.label == UNLABELLED else (self.label,)


class Row(NamedTuple):
    """One video of a list before parsing: its line number (its position in a JSON list), where it is for error
    messages, its text, and the function that splits the text into fields."""

    number: int
    where: str
    text: str
    fields: Callable[[], Fields]


def line_rows(text: str, path: str, cfg: CfgNode, columns: tuple[str, ...]) -> Iterator[Row]:
    """Rows of a list with one video per line; empty lines do not count."""
    separator = cfg.DATA.PATH_LABEL_SEPARATOR
    if separator == "auto":
        separator = "," if not cfg.DATA.MULTI_LABEL and _has_commas(text, len(columns)) else " "
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line:
            where = f"{path}, line {number}"
            yield Row(number, where, line, partial(_split, line, where, separator, columns))


def _has_commas(text: str, columns: int) -> bool:
    """Whether commas separate the fields of the first line: all fields but the path are numbers then."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    path, *numbers = line.rsplit(",", columns - 1)
    return len(numbers) == columns - 1 and all(re.fullmatch(r"\s*-?[\d.]+\s*", number) for number in numbers)


def _split(line: str, where: str, separator: str, columns: tuple[str, ...]) -> Fields:
    values = line.rsplit(separator, len(columns) - 1)
    if len(values) != len(columns) or not values[0]:
        raise UserError(
            f"{where}: expected {len(columns)} fields ({' '.join(columns)}) separated by {separator!r}, "
            f"found {line!r}. Correct the line or set DATA.PATH_LABEL_SEPARATOR"
        )
    return dict(zip(columns, values, strict=True))


def _sthv2(text: str, path: str, cfg: CfgNode, columns: tuple[str, ...]) -> Iterator[Row]:
    """Something-Something V2's own JSON: the class name is the template without its brackets."""
    names = class_names(cfg)
    if names is None:
        raise UserError(f"{path}: its classes are given by name; put labels.json beside it")
    labels = {name: str(label) for label, name in enumerate(names)}
    try:
        entries = [(str(entry["id"]), entry.get("template")) for entry in json.loads(text)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a JSON list of videos with an id each ({error})") from None
    for number, (video, template) in enumerate(entries, 1):
        where = f"{path}, video {number} (id {video})"
        yield Row(number, where, video, partial(_sthv2_fields, video, template, where, labels))


def _sthv2_fields(video: str, template: str | None, where: str, labels: dict[str, str]) -> Fields:
    name = None if template is None else template.replace("[", "").replace("]", "")
    if name is not None and name not in labels:
        raise UserError(f"{where}: no class is named {name!r}; correct labels.json or DATA.CLASS_NAMES")
    return {"path": f"{video}.webm", "label": labels.get(name, str(UNLABELLED))}


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
    rows: Callable[[str, str, CfgNode, tuple[str, ...]], Iterator[Row]] = line_rows


def _csv(cfg: CfgNode, split: str) -> list[str]:
    return [f"{split}.csv"]


def _template(cfg: CfgNode, split: str) -> list[str]:
    names = ["train"] if split == "train" else ["validation", "val"]
    return [cfg.DATA.LABEL_PATH_TEMPLATE.format(name) for name in names]


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
    folder = paths.expand(cfg.DATA.PATH_TO_DATA_DIR)
    candidates = [os.path.join(folder, name) for name in format_of(cfg, split).list_names(cfg, split)]
    return paths.first_file(candidates) or candidates[0]


def load(cfg: CfgNode, split: str) -> list[Sample]:
    """Read the list of a split.

    Raises:
        UserError: The list cannot be read or has a wrong line; the message names file and line.
    """
    samples = []
    for _, sample in read_rows(cfg, split):
        if isinstance(sample, UserError):
            raise sample
        samples.append(sample)
    return samples


def read_rows(cfg: CfgNode, split: str) -> Iterator[tuple[Row, Sample | UserError]]:
    """Each row of a split's list with its sample, or with the error that says what is wrong with it.

    Raises:
        UserError: The list as a whole cannot be read or is empty.
    """
    path, form = list_path(cfg, split), format_of(cfg, split)
    remedy = (
        ". Set DATA.PATH_TO_DATA_DIR to the folder of your lists; `uniformer lists` writes lists for a folder of class "
        "folders, datasets/prepare.py for a public data set"
    )
    text = read_text(path, f"{split} list", remedy)
    parser, row = _SampleParser(cfg, split), None
    for row in form.rows(text, path, cfg, form.columns):
        try:
            sample = parser.sample(row.fields(), row.where)
        except UserError as error:
            sample = error
        yield row, sample
    if row is None:
        raise UserError(f"{path}: the {split} list is empty")


def read_text(path: str, kind: str, remedy: str = "") -> str:
    """Text of a list; `kind` and `remedy` are parts of the error message."""
    try:
        return Path(paths.fetch(path)).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot read the {kind} ({error.strerror}){remedy}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: the {kind} is not a text file in UTF-8") from None


class _SampleParser:
    """Makes samples of fields. Takes the keys out of the config once: lists have up to a million lines."""

    def __init__(self, cfg: CfgNode, split: str):
        self.prefix = paths.expand(cfg.DATA.PATH_PREFIX)
        self.classes, self.multi_label = cfg.MODEL.NUM_CLASSES, cfg.DATA.MULTI_LABEL
        self.unlabelled_allowed = split == "test" and not self.multi_label

    def sample(self, fields: Fields, where: str) -> Sample:
        path = os.path.join(self.prefix, fields["path"].strip())
        frames = parse_number(fields["frames"], "frames", where) if "frames" in fields else None
        label = self.label(fields["label"].strip(), where)
        if frames is not None and frames < 1:
            raise UserError(f"{where}: a video of {frames} frames")
        if "total" not in fields:
            return Sample(path, label, frames)
        start, end, total = (parse_number(fields[name], name, where, float) for name in ("start", "end", "total"))
        if not (0 <= start <= end and start < total):
            raise UserError(f"{where}: a part from {start:g} to {end:g} of {total:g}; correct or remove the line")
        return Sample(path, label, frames, (start, end, total))

    def label(self, text: str, where: str) -> int | tuple[int, ...]:
        """The label, or with DATA.MULTI_LABEL the labels that commas separate; "-" is an empty set of them."""
        if self.multi_label and text == "-":
            return ()
        labels = [parse_number(label, "label", where) for label in (text.split(",") if self.multi_label else [text])]
        if labels == [UNLABELLED] and self.unlabelled_allowed:
            return UNLABELLED
        for label in labels:
            if not 0 <= label < self.classes:
                raise UserError(
                    f"{where}: label {label} is outside 0 to {self.classes - 1} "
                    f"(MODEL.NUM_CLASSES is {self.classes}). Correct the label or the key"
                )
        return tuple(labels) if self.multi_label else labels[0]


def parse_number(text: str, name: str, where: str, kind: type = int) -> int | float:
    """The number that a field holds; UserError names the place and the field."""
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{where}: {name} {text.strip()!r} is not {what}") from None


def class_names(cfg: CfgNode) -> list[str] | None:
    """Class names in label order, or None if there is no file of them.

    DATA.CLASS_NAMES can be a text file (one name per line), a JSON list, or a JSON object of name to label. If
    it is not set, classes.txt beside the lists is read, or Something-Something's labels.json.
    """
    folder = paths.expand(cfg.DATA.PATH_TO_DATA_DIR)
    usual = ("classes.txt", "labels.json", "something-something-v2-labels.json")
    path = paths.expand(cfg.DATA.CLASS_NAMES) or paths.first_file([os.path.join(folder, n) for n in usual])
    if not path:
        return None
    try:
        with open(paths.fetch(path), encoding="utf-8-sig") as file:
            content = json.load(file) if path.endswith(".json") else file.read().splitlines()
        if isinstance(content, dict):
            content = sorted(content, key=lambda name: int(content[name]))
        names = [name for name in content if name.strip()]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot read class names ({error}). Correct DATA.CLASS_NAMES") from None
    if len(names) != cfg.MODEL.NUM_CLASSES:
        raise UserError(f"{path}: {len(names)} class names, but MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}")
    return names


def check_same_classes(checkpoint_names: list[str] | None, data_names: list[str] | None, path: str) -> None:
    """Refuse a checkpoint whose class names differ from the data's: every prediction would get a wrong name.

    Raises:
        UserError: The names or their order differ; the message names the first label that does.
    """
    if checkpoint_names and data_names and list(checkpoint_names) != list(data_names):
        pairs = enumerate(zip(checkpoint_names, data_names, strict=False))
        shorter = min(len(checkpoint_names), len(data_names))
        first = next((label for label, (theirs, ours) in pairs if theirs != ours), shorter)
        raise UserError(
            f"{path}: its class names differ from the data's, first at label {first}. Give the lists the "
            "checkpoint's order of classes, or correct DATA.CLASS_NAMES"
        )
