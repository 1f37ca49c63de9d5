"""Horizontal flips for classes that name a side: the label of a flipped clip (DATA.FLIP_LABELS)."""

import json
import re

from fvcore.common.config import CfgNode

from slowfast_uniformer.data.list_text import read_text
from slowfast_uniformer.errors import UserError

_OPPOSITE = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
_SIDE = re.compile(rf"\b({'|'.join(_OPPOSITE)})\b", re.IGNORECASE)


def flipped_labels(cfg: CfgNode, names: list[str] | None) -> list[int | None]:
    """The label that each class has after a horizontal flip.

    With DATA.FLIP_LABELS "auto" it follows from the class names: left and right, clockwise and counterclockwise
    are exchanged. Otherwise the key names a JSON list of pairs [class, class when flipped], and of [class] for a
    class that must not be flipped; a class is a name or a label.

    Args:
        cfg: The config.
        names: Class names in label order, or None if there are none.

    Returns:
        For each class the label after a flip: its own if it names no side, None if it must not be flipped.

    Raises:
        UserError: "auto" without class names, or a file that is not as described.
    """
    given = cfg.DATA.FLIP_LABELS
    if given != "auto":
        return _from_file(given, names or [], cfg.MODEL.NUM_CLASSES)
    if names is None:
        raise UserError('DATA.FLIP_LABELS: "auto" needs the class names; set DATA.CLASS_NAMES')
    label_of = {name.lower(): label for label, name in enumerate(names)}
    return [label_of.get(_SIDE.sub(lambda side: _OPPOSITE[side[0].lower()], name).lower()) for name in names]


def _from_file(path: str, names: list[str], classes: int) -> list[int | None]:
    table: list[int | None] = list(range(classes))
    label_of = {name: label for label, name in enumerate(names)} | {label: label for label in range(classes)}
    try:
        groups = [[label_of[name] for name in group] for group in json.loads(read_text(path, "DATA.FLIP_LABELS"))]
    except KeyError as error:
        raise UserError(f"{path}: {error} is not a class (DATA.FLIP_LABELS)") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot read DATA.FLIP_LABELS: {error}") from None
    for group in groups:
        if len(group) not in (1, 2):
            raise UserError(f"{path}: {group} should be [class, class when flipped] or [class] (DATA.FLIP_LABELS)")
        table[group[0]] = None if len(group) == 1 else group[1]
        table[group[-1]] = None if len(group) == 1 else group[0]
    return table
