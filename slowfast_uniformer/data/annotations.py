"""Lists of videos: one line, one video. A data set is a row of `FORMATS` and its YAML.

Kinetics-style lists are `path label`; Something-Something's are `path frames label`, where path is a folder
of numbered frames or a video file. Fields are counted from the end of the line, so a path may contain the
separator.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass

from fvcore.common.config import CfgNode

from slowfast_uniformer.errors import UserError


@dataclass(frozen=True)
class Sample:
    """One video of a list: path, label, and for a folder of frames how many the list says it has."""

    path: str
    label: int
    frames: int | None = None


@dataclass(frozen=True)
class Format:
    """How a data set is listed and sampled.

    `fields` name a line's columns; `list_name` gives the list's file name for (cfg, split); `sampling` is
    dense or sparse (data/sampling.py).
    """

    fields: tuple[str, ...]
    list_name: Callable[[CfgNode, str], str]
    sampling: str


def _csv(cfg: CfgNode, split: str) -> str:
    return f"{split}.csv"


def _template(cfg: CfgNode, split: str) -> str:
    return cfg.DATA.LABEL_PATH_TEMPLATE.format("train" if split == "train" else "val")


FORMATS = {
    "kinetics": Format(("path", "label"), _csv, "dense"),
    "kinetics_sparse": Format(("path", "label"), _csv, "sparse"),
    "sth": Format(("path", "frames", "label"), _template, "sparse"),
}


def format_of(cfg: CfgNode, split: str) -> Format:
    """The format that TRAIN.DATASET (or TEST.DATASET, for split val and test) names."""
    key = "TRAIN.DATASET" if split == "train" else "TEST.DATASET"
    name = cfg.TRAIN.DATASET if split == "train" else cfg.TEST.DATASET
    if name not in FORMATS:
        raise UserError(f"{key}: {name!r} is not one of {', '.join(FORMATS)}")
    return FORMATS[name]


def _path(text: str) -> str:
    return os.path.expanduser(os.path.expandvars(text))


def list_path(cfg: CfgNode, split: str) -> str:
    """Path of the list of a split (train, val or test)."""
    return os.path.join(_path(cfg.DATA.PATH_TO_DATA_DIR), format_of(cfg, split).list_name(cfg, split))


def load(cfg: CfgNode, split: str) -> list[Sample]:
    """Read a split's list. UserError names the file and line of what is wrong with it."""
    path = list_path(cfg, split)
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the {split} list ({error.strerror}). Set DATA.PATH_TO_DATA_DIR to the "
            "folder of your lists; tools/make_lists.py writes them from a folder of class folders"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    fields = format_of(cfg, split).fields
    samples = [
        _parse(line, fields, cfg, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not samples:
        raise UserError(f"{path}: the {split} list is empty")
    return samples


def _parse(line: str, fields: tuple[str, ...], cfg: CfgNode, where: str) -> Sample:
    separator = cfg.DATA.PATH_LABEL_SEPARATOR
    values = line.strip().rsplit(separator, len(fields) - 1)
    if len(values) != len(fields) or not values[0]:
        raise UserError(
            f"{where}: expected {len(fields)} fields ({' '.join(fields)}) separated by {separator!r}, found "
            f"{line.strip()!r}. Correct the line or set DATA.PATH_LABEL_SEPARATOR"
        )
    row = dict(zip(fields, values, strict=True))
    numbers = {name: _whole(row[name], name, where) for name in fields[1:]}
    if not 0 <= numbers["label"] < cfg.MODEL.NUM_CLASSES:
        raise UserError(
            f"{where}: label {numbers['label']} is outside 0 to {cfg.MODEL.NUM_CLASSES - 1} "
            f"(MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}). Correct the label or the key"
        )
    if numbers.get("frames", 1) < 1:
        raise UserError(f"{where}: a video of {numbers['frames']} frames")
    return Sample(os.path.join(_path(cfg.DATA.PATH_PREFIX), row["path"].strip()), **numbers)


def _whole(text: str, name: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{where}: {name} {text.strip()!r} is not a whole number") from None


def class_names(cfg: CfgNode) -> list[str] | None:
    """Class names in label order, or None where no file gives them.

    DATA.CLASS_NAMES may be a text file (a name a line), a JSON list, or a JSON object of name to label.
    """
    given = _path(cfg.DATA.CLASS_NAMES)
    path = given or os.path.join(_path(cfg.DATA.PATH_TO_DATA_DIR), "classes.txt")
    if not given and not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        content = (
            json.loads(text)
            if path.endswith(".json")
            else [line for line in text.splitlines() if line.strip()]
        )
        names = (
            sorted(content, key=lambda name: int(content[name]))
            if isinstance(content, dict)
            else list(content)
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot read class names ({error}). Correct DATA.CLASS_NAMES") from None
    if len(names) != cfg.MODEL.NUM_CLASSES:
        raise UserError(f"{path}: {len(names)} class names, but MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}")
    return names
