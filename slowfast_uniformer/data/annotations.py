"""Lists of videos: one line, one video. A data set is a row of `FORMATS` and its YAML.

Fields are counted from the end of the line, so a path may contain the separator; it names a video file, a
folder of numbered frames, or a video in a tar (data/shards.py). Lists and class names may lie wherever
iopath's path manager reaches. What official files need to become such lists, datasets/prepare.py does.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from fvcore.common.config import CfgNode

from slowfast_uniformer import paths
from slowfast_uniformer.errors import UserError

UNLABELLED = -1  # the label of a video whose class only the data set's owner knows; in testing alone
Rows = Iterator[tuple[str, dict[str, str]]]  # where a row stands, and its fields


@dataclass(frozen=True)
class Sample:
    """One video of a list: path; label, or labels with DATA.MULTI_LABEL; for a folder of frames how many the
    list says it has; and of a video that is annotated in `part` only (start, end, total length), in one
    unit."""

    path: str
    label: int | tuple[int, ...]
    frames: int | None = None
    part: tuple[float, float, float] | None = None

    @property
    def labels(self) -> tuple[int, ...]:
        """Its labels: one, several with DATA.MULTI_LABEL, none where the list has none."""
        if isinstance(self.label, tuple):
            return self.label
        return () if self.label == UNLABELLED else (self.label,)


def _lines(text: str, path: str, cfg: CfgNode, fields: tuple[str, ...]) -> Rows:
    separator = separator_of(text, cfg, fields)
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, split_line(line, where, separator, fields)


def separator_of(text: str, cfg: CfgNode, fields: tuple[str, ...]) -> str:
    """What stands between the fields of a list's lines."""
    if cfg.DATA.PATH_LABEL_SEPARATOR != "auto":
        return cfg.DATA.PATH_LABEL_SEPARATOR
    return "," if not cfg.DATA.MULTI_LABEL and _has_commas(text, len(fields)) else " "


def split_line(line: str, where: str, separator: str, fields: tuple[str, ...]) -> dict[str, str]:
    """The fields of one line by name; UserError says `where` it has too few."""
    values = line.strip().rsplit(separator, len(fields) - 1)
    if len(values) != len(fields) or not values[0]:
        raise UserError(
            f"{where}: expected {len(fields)} fields ({' '.join(fields)}) separated by {separator!r}, "
            f"found {line.strip()!r}. Correct the line or set DATA.PATH_LABEL_SEPARATOR"
        )
    return dict(zip(fields, values, strict=True))


def _has_commas(text: str, fields: int) -> bool:
    """Whether commas separate the fields of a list's first line: all but the path are numbers then."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    path, *numbers = line.rsplit(",", fields - 1)
    return len(numbers) == fields - 1 and all(re.fullmatch(r"\s*-?[\d.]+\s*", number) for number in numbers)


def _sthv2(text: str, path: str, cfg: CfgNode, fields: tuple[str, ...]) -> Rows:
    """Something-Something V2's own JSON: the label is the template without its brackets."""
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
        name = None if template is None else template.replace("[", "").replace("]", "")
        if name is not None and name not in labels:
            raise UserError(f"{where}: no class is named {name!r}; correct labels.json or DATA.CLASS_NAMES")
        yield where, {"path": f"{video}.webm", "label": labels.get(name, str(UNLABELLED))}


@dataclass(frozen=True)
class Format:
    """How a data set is listed and sampled.

    `fields` name a line's columns; `list_names` gives the file names that the list of (cfg, split) may have;
    `sampling` is dense or sparse (data/sampling.py); `read` takes a list's text apart.
    """

    fields: tuple[str, ...]
    list_names: Callable[[CfgNode, str], list[str]]
    sampling: str
    read: Callable[[str, str, CfgNode, tuple[str, ...]], Rows] = _lines


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
    """The format that TRAIN.DATASET (or TEST.DATASET, for split val and test) names."""
    key = "TRAIN.DATASET" if split == "train" else "TEST.DATASET"
    name = cfg.TRAIN.DATASET if split == "train" else cfg.TEST.DATASET
    if name not in FORMATS:
        raise UserError(f"{key}: {name!r} is not one of {', '.join(FORMATS)}")
    return FORMATS[name]


def list_path(cfg: CfgNode, split: str) -> str:
    """Path of the list of a split (train, val or test)."""
    folder = paths.expand(cfg.DATA.PATH_TO_DATA_DIR)
    candidates = [os.path.join(folder, name) for name in format_of(cfg, split).list_names(cfg, split)]
    return paths.first_file(candidates) or candidates[0]


def load(cfg: CfgNode, split: str) -> list[Sample]:
    """Read a split's list. UserError names the file and line of what is wrong with it."""
    path, form = list_path(cfg, split), format_of(cfg, split)
    try:
        with open(paths.fetch(path), encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the {split} list ({error.strerror}). Set DATA.PATH_TO_DATA_DIR to the "
            "folder of your lists; tools/make_lists.py writes them from a folder of class folders, "
            "datasets/prepare.py from a data set's own files"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    rules = Rules.of(cfg, split)
    samples = [to_sample(row, where, rules) for where, row in form.read(text, path, cfg, form.fields)]
    if not samples:
        raise UserError(f"{path}: the {split} list is empty")
    return samples


class Rules(NamedTuple):
    """What rows are read by; looking into the config for each would take longer than all the rest."""

    prefix: str
    classes: int
    multi_label: bool
    may_lack_label: bool

    @classmethod
    def of(cls, cfg: CfgNode, split: str) -> "Rules":
        prefix = paths.expand(cfg.DATA.PATH_PREFIX)
        return cls(prefix, cfg.MODEL.NUM_CLASSES, cfg.DATA.MULTI_LABEL, split == "test")


def to_sample(row: dict[str, str], where: str, rules: Rules) -> Sample:
    """The sample that a row of a list means; UserError says `where` it is wrong."""
    path = os.path.join(rules.prefix, row["path"].strip())
    frames = _number(row["frames"], "frames", where) if "frames" in row else None
    label = _label(row["label"].strip(), where, rules)
    if frames is not None and frames < 1:
        raise UserError(f"{where}: a video of {frames} frames")
    if "total" not in row:
        return Sample(path, label, frames)
    start, end, total = (_number(row[name], name, where, float) for name in ("start", "end", "total"))
    if not (0 <= start <= end and start < total):
        raise UserError(f"{where}: a part from {start:g} to {end:g} of {total:g}; correct or remove the line")
    return Sample(path, label, frames, (start, end, total))


def _label(text: str, where: str, rules: Rules) -> int | tuple[int, ...]:
    """The label, or with DATA.MULTI_LABEL those that commas separate; "-" is none of the classes."""
    if rules.multi_label and text == "-":
        return ()
    labels = [_number(text, "label", where) for text in (text.split(",") if rules.multi_label else [text])]
    if labels == [UNLABELLED] and rules.may_lack_label and not rules.multi_label:
        return UNLABELLED
    for label in labels:
        if not 0 <= label < rules.classes:
            raise UserError(
                f"{where}: label {label} is outside 0 to {rules.classes - 1} "
                f"(MODEL.NUM_CLASSES is {rules.classes}). Correct the label or the key"
            )
    return tuple(labels) if rules.multi_label else labels[0]


def _number(text: str, name: str, where: str, kind: type = int) -> int | float:
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{where}: {name} {text.strip()!r} is not {what}") from None


def class_names(cfg: CfgNode) -> list[str] | None:
    """Class names in label order, or None where no file gives them.

    DATA.CLASS_NAMES may be a text file (a name a line), a JSON list, or a JSON object of name to label. Not
    set, it is classes.txt beside the lists, or Something-Something's labels.json.
    """
    folder = paths.expand(cfg.DATA.PATH_TO_DATA_DIR)
    usual = ("classes.txt", "labels.json", "something-something-v2-labels.json")
    path = paths.expand(cfg.DATA.CLASS_NAMES) or paths.first_file([os.path.join(folder, n) for n in usual])
    if not path:
        return None
    try:
        with open(paths.fetch(path), encoding="utf-8") as file:
            content = json.load(file) if path.endswith(".json") else file.read().splitlines()
        if isinstance(content, dict):
            content = sorted(content, key=lambda name: int(content[name]))
        names = [name for name in content if name.strip()]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot read class names ({error}). Correct DATA.CLASS_NAMES") from None
    if len(names) != cfg.MODEL.NUM_CLASSES:
        raise UserError(f"{path}: {len(names)} class names, but MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}")
    return names


def check_same_classes(theirs: list[str] | None, ours: list[str] | None, path: str) -> None:
    """Refuse weights whose class names differ from the data's: every answer would carry the wrong name."""
    if theirs and ours and list(theirs) != list(ours):
        at = next(
            (i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours))
        )
        raise UserError(
            f"{path}: its class names differ from the data's, first at label {at}. Give the lists the "
            "checkpoint's order of classes, or correct DATA.CLASS_NAMES"
        )
