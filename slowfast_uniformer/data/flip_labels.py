"""Flipping clips left to right where classes name a side: what a class becomes in the mirror."""

import json
import re

from fvcore.common.config import CfgNode

from slowfast_uniformer import paths
from slowfast_uniformer.errors import UserError

_OTHER = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
_SIDE = re.compile(rf"\b({'|'.join(_OTHER)})\b", re.IGNORECASE)


def flipped_labels(cfg: CfgNode, names: list[str] | None) -> list[int | None]:
    """For each class the one that it becomes when a clip is flipped, itself if it names no side, or None if
    it must not be flipped, as DATA.FLIP_LABELS says.

    "auto" takes it from the class names: a class becomes the one with left and right, or clockwise and
    counterclockwise, exchanged. Otherwise the key names a JSON list of [class, its mirror], and [class] for
    one without; a class is a name or a label. UserError says what is wrong with either.
    """
    given = cfg.DATA.FLIP_LABELS
    if given != "auto":
        return _from_file(paths.expand(given), names or [], cfg.MODEL.NUM_CLASSES)
    if names is None:
        raise UserError('DATA.FLIP_LABELS: "auto" needs the class names; set DATA.CLASS_NAMES')
    at = {name.lower(): label for label, name in enumerate(names)}
    return [at.get(_SIDE.sub(lambda found: _OTHER[found[0].lower()], name).lower()) for name in names]


def _from_file(path: str, names: list[str], classes: int) -> list[int | None]:
    table: list[int | None] = list(range(classes))
    at = {name: label for label, name in enumerate(names)} | {label: label for label in range(classes)}
    try:
        with open(paths.fetch(path), encoding="utf-8") as file:
            groups = [[at[name] for name in group] for group in json.load(file)]
    except KeyError as error:
        raise UserError(f"{path}: {error} is not a class (DATA.FLIP_LABELS)") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot read DATA.FLIP_LABELS: {error}") from None
    for group in groups:
        if len(group) not in (1, 2):
            raise UserError(f"{path}: {group} should be [class, its mirror] or [class] (DATA.FLIP_LABELS)")
        table[group[0]] = None if len(group) == 1 else group[1]
        table[group[-1]] = None if len(group) == 1 else group[0]
    return table
