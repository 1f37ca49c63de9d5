"""Keys of the UniFormer releases and of SlowFast: renamed, ignored with a note, or refused with the reason.

The keys are in `compat.yaml` beside this file.
"""

import os
from typing import Any

from fvcore.common.config import CfgNode

from slowfast_uniformer.config.keys import DEFAULTS, read_table, set_key
from slowfast_uniformer.errors import UserError

_TABLES = read_table(DEFAULTS.with_name("compat.yaml"))
RENAMED: dict[str, str] = _TABLES["renamed"]
# key or section -> values without effect (None: all of them), reason
RETIRED: dict[str, tuple[list | None, str]] = {key: tuple(entry) for key, entry in _TABLES["retired"].items()}
SECTION_SWITCHES = ("ENABLE", "SHORT_CYCLE", "LONG_CYCLE")  # keys that turn a retired section on

# The image weights that UniFormerV2's release starts from by default, by UNIFORMERV2.BACKBONE
CLIP = {"uniformerv2_b16": "ViT-B-16", "uniformerv2_l14": "ViT-L-14", "uniformerv2_l14_336": "ViT-L-14-336px"}


def retired_note(key: str, value: Any, source: str) -> str | None:
    """Return the note on a retired key, or None if the key is not retired.

    Args:
        key: a key that this program does not have.
        value: its value in `source`.
        source: a file's name, or "command line".

    Raises:
        UserError: the value asks for something that is not supported.
    """
    parts = key.split(".")
    sections = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    name = next((section for section in sections if section in RETIRED), None)
    if name is None:
        return None
    harmless, reason = RETIRED[name]
    switches = name == key or key.removeprefix(f"{name}.") in SECTION_SWITCHES
    if isinstance(value, tuple):
        value = list(value)
    if harmless is not None and switches and value not in harmless and value != harmless:
        raise UserError(f"{source}: {key}: {value} is not supported: {reason}")
    return f"{key} ignored: {reason}"


def apply_released_defaults(cfg: CfgNode, given: dict[str, Any]) -> str | None:
    """Set the defaults of the releases' own programs, if the config is one of a release.

    The files of the releases name MODEL.ARCH. Keys that are in `given` keep their value.

    Args:
        cfg: the merged config, which is changed.
        given: what files and command line contain, by key.

    Returns:
        A note on the values that were set, or None for other configs.
    """
    arch, init_from = given.get("MODEL.ARCH"), cfg.MODEL.INIT_FROM
    if arch == "uniformer":
        values = {"TEST.ADD_SOFTMAX": False, "MODEL.INIT_HEAD": "new"}
    elif arch == "uniformerv2":
        values = {"SOLVER.BACKBONE_LR_RATIO": 0.1, "MODEL.INIT_HEAD": "new"}
        if not init_from:
            values["MODEL.INIT_FROM"] = CLIP.get(cfg.UNIFORMERV2.BACKBONE, "")
        elif not given.get("UNIFORMERV2.DELETE_SPECIAL_HEAD"):
            from_k710 = os.path.basename(init_from).removeprefix("frozen_").startswith("k710_")
            mapped = from_k710 and cfg.MODEL.NUM_CLASSES in (400, 600, 700)
            values["MODEL.INIT_HEAD"] = f"map:k710_to_k{cfg.MODEL.NUM_CLASSES}" if mapped else "keep"
    else:
        return None
    values = {key: value for key, value in values.items() if key not in given}
    for key, value in values.items():
        set_key(cfg, key, value)
    filled = ", ".join(f"{key} {value}" for key, value in values.items())
    return f"MODEL.ARCH: {arch} marks a released config; keys set to the release's defaults: {filled or 'none'}"
