"""Every key, its default and its meaning; loading is merge, validate, infer, freeze.

Names and defaults are those of the UniFormer releases and SlowFast, so that their YAML files load here. Keys
that have no meaning here stand in `RETIRED` with the reason. After `load_config` nobody writes the config.
"""

import ast
import difflib
import itertools
import os
from collections.abc import Sequence
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from slowfast_uniformer.config.check import validate
from slowfast_uniformer.config.compat import RENAMED, RETIRED, apply_released_defaults, retired_note
from slowfast_uniformer.config.keys import CN, flatten, get_cfg
from slowfast_uniformer.config.recipe_notes import departures
from slowfast_uniformer.errors import UserError

# Keys that take a value of another type than their default's: (key, types accepted besides)
_FREE_TYPES = {
    "UNIFORMER.MLP_RATIO": (int, float, list),
    "TRAIN.MIXED_PRECISION": (bool, str),
    "UNIFORMERV2.LAYER_SCALE": (bool, str),
    "UNIFORMERV2.LN_PRE": (bool, str),
    "UNIFORMERV2.NORM_EPS": (float, str),
}


def _read_yaml(path: str) -> dict:
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such config file. Configs are in configs/<dataset>/<model>.yaml")
    try:
        content = CN.load_yaml_with_base(path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark else path
        raise UserError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except FileNotFoundError as error:
        raise UserError(f"{path}: its _BASE_ {error.filename} does not exist") from None
    except (AttributeError, TypeError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a config; expected sections such as TRAIN: with keys below them")
    return content


def _coerce(key: str, value: Any, default: Any, source: str) -> Any:
    """`value` in the type of the key's default, or an error that says what the key takes."""
    wanted = type(default)
    if default is None:
        return value
    if key in _FREE_TYPES and isinstance(value, _FREE_TYPES[key]):
        return value
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    try:
        if wanted is float and not isinstance(value, bool):
            return float(value)  # also "1e-4", which YAML reads as a string
        if wanted is int and not isinstance(value, bool) and float(value) == int(float(value)):
            return int(float(value))
    except (TypeError, ValueError, OverflowError):
        pass
    if wanted is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    takes = {bool: "True or False", int: "a whole number", float: "a number", str: "text", list: "a list"}[wanted]
    raise UserError(f"{source}: {key}: {value!r} does not fit; it takes {takes} (default {default!r})")


def _merge(cfg: CfgNode, given: dict, source: str, notes: list[str]) -> None:
    known = dict(flatten(cfg))
    for key, value in flatten(given):
        key = RENAMED.get(key, key)
        if key == "MODEL.ARGS" or key.startswith("MODEL.ARGS."):
            cfg.MODEL.ARGS.update(value if isinstance(value, dict) else {key.split(".", 2)[2]: value})
            continue
        if key not in known:
            note = retired_note(key, value, source)
            if note is None:
                close = difflib.get_close_matches(key, [*known, *RETIRED], n=1, cutoff=0.0)[0]
                raise UserError(f"{source}: unknown key {key}; the nearest known one is {close}")
            if note not in notes:
                notes.append(note)
            continue
        *path, leaf = key.split(".")
        node = cfg
        for name in path:
            node = node[name]
        if key == "MODEL.INIT_FROM" and value is None:
            value = ""
        node[leaf] = _coerce(key, value, known[key], source)


def _decode(text: Any) -> Any:
    """A command-line value as Python reads it, or the text itself."""
    if not isinstance(text, str):
        return text
    literal = {"true": True, "false": False, "null": None}.get(text, text)
    try:
        return ast.literal_eval(literal) if isinstance(literal, str) else literal
    except (ValueError, SyntaxError):
        return text


def _nest(pairs: Sequence[Any]) -> dict:
    if len(pairs) % 2:
        raise UserError(f"command line: {pairs[-1]!r} has no value; overrides are KEY VALUE pairs")
    nested, defaults = {}, dict(flatten(get_cfg()))
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        *path, leaf = str(key).split(".")
        node = nested
        for name in path:
            node = node.setdefault(name, {})
        decoded = _decode(value)
        is_name = type(decoded) in (int, float) and isinstance(defaults.get(key), str)  # 2022_01 is no number
        node[leaf] = value if is_name else decoded
    return nested


def _infer(c: CfgNode) -> None:
    """Derive what follows from other keys."""
    amp = {True: "fp16", False: "none"}.get(c.TRAIN.MIXED_PRECISION, c.TRAIN.MIXED_PRECISION)
    c.TRAIN.MIXED_PRECISION = str(amp).lower()
    if c.NUM_GPUS == 0:
        c.DIST_BACKEND = "gloo"
    eps = c.UNIFORMERV2.NORM_EPS
    if eps != "auto":  # YAML reads 1e-6 as text
        c.UNIFORMERV2.NORM_EPS = _coerce("UNIFORMERV2.NORM_EPS as a number", eps, 1e-5, "config")


def load_config(
    path: str | dict | Sequence[str | dict] | None,
    overrides: Sequence[Any] = (),
    notes: list[str] | None = None,
    runs_here: bool = True,
) -> CfgNode:
    """Read, merge, validate, infer and freeze a config.

    `path` is a YAML file or several, later ones winning, or what `to_plain` has made of a config; `overrides`
    is a flat KEY, VALUE, ... list that wins over all. Sentences on released keys that have no meaning here,
    and on what makes a run another than the RECIPE it names, are appended to `notes`. Unless it `runs_here`,
    the config may ask for GPUs this machine lacks. Raises UserError, naming file and key, for a missing file,
    an unknown key or a value that does not fit.
    """
    cfg, notes = get_cfg(), [] if notes is None else notes
    recipe, given = None, {}
    for file in [path] if isinstance(path, str | dict) else path or []:
        stored = isinstance(file, dict)
        content = file if stored else _read_yaml(file)
        _merge(cfg, content, "stored config" if stored else file, notes)
        given |= flatten(content)
        recipe = recipe or cfg.clone()
    nested = _nest(list(overrides))
    _merge(cfg, nested, "command line", notes)
    given |= flatten(nested)
    if note := apply_released_defaults(cfg, given):
        notes.append(note)
    _infer(cfg)
    validate(cfg, runs_here)
    solver = cfg.SOLVER
    if solver.WARMUP_EPOCHS >= solver.MAX_EPOCH:
        notes.append(
            f"SOLVER.WARMUP_EPOCHS: {solver.WARMUP_EPOCHS:g} of SOLVER.MAX_EPOCH {solver.MAX_EPOCH}, so that "
            "the learning rate is still rising when the run ends and does not reach SOLVER.BASE_LR"
        )
    if recipe and cfg.RECIPE:
        notes.extend(departures(recipe, cfg))
    cfg.freeze()
    return cfg


def split_cfg_arguments(cfg: Sequence[str], opts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take apart what a command was given: of the words after --cfg, the YAML files and, with `opts`, the KEY
    VALUE pairs that follow them."""
    files = [cfg[0], *itertools.takewhile(lambda text: text.endswith((".yaml", ".yml")), cfg[1:])]
    return files, [*cfg[len(files) :], *opts]


def difference(cfg: CfgNode) -> dict[str, Any]:
    """The keys whose value is not the default, with their values."""
    defaults = dict(flatten(get_cfg()))
    return {key: value for key, value in flatten(cfg) if defaults.get(key) != value}


def to_dict(cfg: CfgNode) -> dict:
    """The config as nested dicts, as a checkpoint carries it."""
    return {key: to_dict(value) if isinstance(value, dict) else value for key, value in cfg.items()}
