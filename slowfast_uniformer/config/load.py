"""Loading a config: read, merge, derive, freeze, check. Afterwards it is read-only; see `variant`."""

import ast
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from fvcore.common.config import CfgNode

from slowfast_uniformer import paths
from slowfast_uniformer.config.check import check, check_devices, check_tracker
from slowfast_uniformer.config.compat import RENAMED, apply_released_defaults, retired_note
from slowfast_uniformer.config.files import read_yaml
from slowfast_uniformer.config.keys import DEFAULTS, flatten, get_cfg, read_table, set_key, text_keys
from slowfast_uniformer.config.recipes import find_config
from slowfast_uniformer.config.suggest import broken_pair, unknown_key
from slowfast_uniformer.errors import UserError

_STORED = "stored config"
# Keys that also accept other types than their default's
_OTHER_TYPES = {
    "UNIFORMER.MLP_RATIO": (int, float, list),
    "SOLVER.CLASS_WEIGHTS": (str, list),
    "TRAIN.MIXED_PRECISION": (bool, str),
    "TRAIN.TF32": (bool, str),
    "TRAIN.CUDNN_BENCHMARK": (bool, str),
    "UNIFORMERV2.LAYER_SCALE": (bool, str),
    "UNIFORMERV2.LN_PRE": (bool, str),
    "UNIFORMERV2.NORM_EPS": (float, str),
    "TEST.TEMPERATURE": (float, str),
}
_TEXT_LISTS = ("SOLVER.SPECIAL_LIST", "MODEL.INIT_ALLOW")  # the other lists hold numbers
PATHS: list[str] = read_table(DEFAULTS.with_name("limits.yaml"))["paths"]  # keys that hold paths
_TYPE_NAMES = {bool: "True or False", int: "an integer", float: "a number", str: "text", list: "a list"}
_TYPE_NAMES |= {CfgNode: "a section", type(None): "a number"}


def load_config(
    path: str | dict | Sequence[str | dict] | None,
    overrides: Sequence[Any] | Mapping[str, Any] = (),
    notes: list[str] | None = None,
    runs_here: bool = True,
) -> CfgNode:
    """Read, merge, derive, freeze and check a config.

    Args:
        path: a YAML file, a recipe's name (see `find_config`) or a config as nested dicts (see `to_dict`), or several
            of them; later ones win.
        overrides: a dict of values by key, or a flat list of KEY, VALUE, ... pairs, which wins over all of them. Values
            may be text as on a command line, and paths as `pathlib` makes them.
        notes: a list to which notes are appended: on keys that are ignored, on the defaults of released configs, and
            on a schedule that ends in its warm-up.
        runs_here: also check that this machine has the GPUs and the tracker that the config asks for.

    Returns:
        The config with every key, frozen.

    Raises:
        UserError: a missing or invalid file, an unknown key or an invalid value; names the file and the key.
    """
    notes = [] if notes is None else notes
    cfg = _merged(path, flat_pairs(overrides), notes)
    check(cfg)
    if cfg.SOLVER.WARMUP_EPOCHS >= cfg.SOLVER.MAX_EPOCH:
        notes.append(
            f"SOLVER.WARMUP_EPOCHS: {cfg.SOLVER.WARMUP_EPOCHS:g} of SOLVER.MAX_EPOCH {cfg.SOLVER.MAX_EPOCH}: the "
            "learning rate is still rising when the run ends and does not reach SOLVER.BASE_LR. Lower "
            "SOLVER.WARMUP_EPOCHS, or train longer"
        )
    if runs_here:
        check_tracker(cfg)
        check_devices(cfg)
    return cfg


def load_recipe(path: str | dict) -> CfgNode:
    """Return the config of one file alone, frozen but unchecked: it may be valid only with the overrides of a run.

    It is what `recipe_notes` compares a run with.
    """
    return _merged(path, (), [], complete=False)


def variant(cfg: CfgNode, overrides: Sequence[Any] = (), runs_here: bool = False) -> CfgNode:
    """Return a new frozen config: `cfg` with `overrides` (KEY, VALUE, ...), merged and checked as any other.

    Raises:
        UserError: as `load_config`.
    """
    return load_config(to_dict(cfg), overrides, runs_here=runs_here)


def _merged(
    path: str | dict | Sequence[str | dict] | None, overrides: Sequence[Any], notes: list[str], complete: bool = True
) -> CfgNode:
    """The defaults with files and overrides merged over them and values derived, frozen.

    In a config that is not `complete`, variables of paths may be unknown.
    """
    cfg, given, places = get_cfg(), {}, {}
    sources = [path] if isinstance(path, str | dict) else path or []
    for values, found in [*map(_read, sources), _parse_overrides(overrides)]:
        _merge(cfg, values, found, notes)
        given |= values
        places |= {RENAMED.get(key, key): place for key, place in found.items()}
    if note := apply_released_defaults(cfg, given):
        notes.append(note)
    _derive(cfg)
    _expand_paths(cfg, places, complete)
    cfg.freeze()
    return cfg


def _read(source: str | dict) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of a config by key, and where each is."""
    if isinstance(source, dict):
        values = dict(flatten(source))
        return values, dict.fromkeys(values, _STORED)
    path = find_config(source)
    content, places = read_yaml(path)
    values = dict(flatten(content))
    return values, {key: places.get(key, path) for key in values}  # one that << merges has no place of its own


def flat_pairs(overrides: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
    """Overrides as a flat list of KEY, VALUE, ..., with paths as text."""
    words = [word for pair in overrides.items() for word in pair] if isinstance(overrides, Mapping) else overrides
    return [os.fspath(word) if isinstance(word, os.PathLike) else word for word in words]


def _parse_overrides(pairs: Sequence[Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by key, text as Python would read it, and where each is."""
    if fault := broken_pair(pairs):
        raise UserError(f"command line: {fault}")
    values = {}
    for key, text in zip(map(str, pairs[::2]), pairs[1::2], strict=True):
        value = _parse(text) if isinstance(text, str) else text
        is_name = key in text_keys() and type(value) in (int, float)  # 2022_01 is a file's name
        values[key] = text if is_name else value
    values = dict(flatten(values))
    return values, dict.fromkeys(values, "command line")


def _parse(text: str) -> Any:
    """A value on the command line: a Python literal, true, false, null, or else the text itself."""
    words = {"true": True, "false": False, "null": None}
    try:
        return words[text] if text in words else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _merge(cfg: CfgNode, given: dict[str, Any], places: dict[str, str], notes: list[str]) -> None:
    """Set the keys in `given`; append notes on those that are retired."""
    defaults = dict(flatten(get_cfg()))
    for key, value in given.items():
        place, key = places[key], RENAMED.get(key, key)
        if key == "MODEL.ARGS":
            cfg.MODEL.ARGS.update(_coerce(key, value, defaults[key], place))
        elif key in defaults:
            set_key(cfg, key, _coerce(key, value, defaults[key], place))
        elif key.startswith("MODEL.ARGS."):
            set_key(cfg, key, value)
        elif note := retired_note(key, value, place):
            if note not in notes:  # several files may have the key
                notes.append(note)
        elif value is not None or not isinstance(get_cfg().get(key), CfgNode):  # None: all keys are commented out
            raise UserError(f"{place}: {unknown_key(key)}")


def _coerce(key: str, value: Any, default: Any, place: str) -> Any:
    """`value` in the type of the key's default; an error if it has another."""
    wanted = type(default)
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, _OTHER_TYPES.get(key, ())) and not isinstance(value, list):
        return value
    if value == "None":  # which YAML reads as text
        value = None
    with suppress(ValueError, OverflowError):
        if isinstance(value, list) and list in (wanted, *_OTHER_TYPES.get(key, ())) and key not in _TEXT_LISTS:
            return _numbers(value, whole=isinstance(default, list) and {type(item) for item in default} == {int})
        if default is None:
            return value if value is None else _numbers(value)
    if value is None and default == "":
        return ""
    if wanted is CfgNode and isinstance(value, dict):
        return CfgNode(value)
    in_type = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
    if in_type and (wanted is not list or key in _TEXT_LISTS):
        return value
    if not isinstance(value, bool):
        with suppress(TypeError, ValueError, OverflowError):
            if wanted is float:
                return float(value)  # also "1e-4", which YAML reads as text
            if wanted is int and float(value) == int(float(value)):
                return int(float(value))
        if wanted is str and isinstance(value, int | float):
            return str(value)
    name = "a list of numbers" if isinstance(value, list) else _TYPE_NAMES[wanted]
    message = f"{place}: {key}: {value!r} is not {name} (default {default!r})"
    if wanted is str and value is None:
        message += '; "" is no text, and a single ~ or nothing is None in YAML'
    elif wanted is str and isinstance(value, bool):
        message += "; put a word such as no or true in quotes"
    elif key in _TEXT_LISTS:
        message += "; write it as \"['a', 'b']\""
    raise UserError(message)


def _numbers(value: Any, whole: bool = False) -> Any:
    """A number, or a list of them at any depth; YAML reads one such as 1e-3 as text. ValueError for another value."""
    if isinstance(value, list):
        return [_numbers(item, whole) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    number = (int if re.fullmatch(r"[+-]?\d+", value) else float)(value) if isinstance(value, str) else value
    if whole and number != int(number):
        raise ValueError
    return int(number) if whole else number


def _derive(cfg: CfgNode) -> None:
    """Set values that follow from others."""
    precision = {True: "fp16", False: "none"}.get(cfg.TRAIN.MIXED_PRECISION, cfg.TRAIN.MIXED_PRECISION)
    cfg.TRAIN.MIXED_PRECISION = str(precision).lower()
    if cfg.NUM_GPUS == 0:
        cfg.DIST_BACKEND = "gloo"
    if cfg.TEST.TEMPERATURE != "auto":
        place = "TEST.TEMPERATURE as a number or auto"
        cfg.TEST.TEMPERATURE = _coerce(place, cfg.TEST.TEMPERATURE, 1.0, "config")
    if cfg.UNIFORMERV2.NORM_EPS != "auto":  # YAML reads 1e-6 as text
        cfg.UNIFORMERV2.NORM_EPS = _coerce("UNIFORMERV2.NORM_EPS as a number", cfg.UNIFORMERV2.NORM_EPS, 1e-5, "config")


def _expand_paths(cfg: CfgNode, places: dict[str, str], complete: bool) -> None:
    """Replace ~ and variables in all paths: nothing else in the program does that to a path of a config.

    Those of a config that is not `complete` or that comes with a checkpoint, of another machine perhaps, stay as they
    are where this machine does not know them.
    """
    for key in PATHS:
        place = places.get(key, "default")
        value = dict(flatten(cfg))[key]
        mark = "map:" if value.startswith("map:") else ""  # of MODEL.INIT_HEAD
        try:
            set_key(cfg, key, mark + paths.expand(value.removeprefix(mark)))
        except UserError as error:
            if complete and place != _STORED:
                raise UserError(f"{place}: {key}: {error}") from None


def split_cfg_arguments(words: Sequence[str], opts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split what follows --cfg into configs and KEY VALUE pairs.

    Args:
        words: the words after --cfg. The first is a config, and so are those next to it that end in .yaml or .yml or,
            as names of recipes and unlike keys, contain a slash.
        opts: further words of KEY VALUE pairs.

    Returns:
        The configs and all words of the pairs.
    """
    further = itertools.takewhile(lambda word: word.endswith((".yaml", ".yml")) or "/" in word, words[1:])
    configs = [words[0], *further]
    return configs, [*words[len(configs) :], *opts]


def difference(cfg: CfgNode) -> dict[str, Any]:
    """Return the keys whose value is not the default, with their values."""
    defaults = dict(flatten(get_cfg()))
    return {key: value for key, value in flatten(cfg) if defaults.get(key) != value}


def to_dict(cfg: CfgNode) -> dict:
    """Return the config as nested dicts, as a checkpoint contains it."""
    return {key: to_dict(value) if isinstance(value, dict) else value for key, value in cfg.items()}
