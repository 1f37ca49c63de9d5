"""Loading a config: read, merge, derive, freeze, check. Afterwards it is read-only; see `variant`."""

import ast
import difflib
import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from slowfast_uniformer.config.check import check, check_devices, check_tracker
from slowfast_uniformer.config.compat import RENAMED, RETIRED, apply_released_defaults, retired_note
from slowfast_uniformer.config.keys import flatten, get_cfg, set_key
from slowfast_uniformer.config.recipes import find_config
from slowfast_uniformer.errors import UserError

# Keys that also accept other types than their default's
_OTHER_TYPES = {
    "UNIFORMER.MLP_RATIO": (int, float, list),
    "TRAIN.MIXED_PRECISION": (bool, str),
    "UNIFORMERV2.LAYER_SCALE": (bool, str),
    "UNIFORMERV2.LN_PRE": (bool, str),
    "UNIFORMERV2.NORM_EPS": (float, str),
}
_TYPE_NAMES = {bool: "True or False", int: "an integer", float: "a number", str: "text", list: "a list"}
_TYPE_NAMES[CfgNode] = "a section"


def load_config(
    path: str | dict | Sequence[str | dict] | None,
    overrides: Sequence[Any] = (),
    notes: list[str] | None = None,
    runs_here: bool = True,
) -> CfgNode:
    """Read, merge, derive, freeze and check a config.

    Args:
        path: a YAML file, a recipe's name (see `find_config`) or a config as nested dicts (see `to_dict`), or several
            of them; later ones win.
        overrides: KEY, VALUE, ... pairs, which win over all of them; values may be text as on a command line.
        notes: a list to which notes are appended: on keys that are ignored, on the defaults of released configs, and
            on a schedule that ends in its warm-up.
        runs_here: also check that this machine has the GPUs and the tracker that the config asks for.

    Returns:
        The config with every key, frozen.

    Raises:
        UserError: a missing or invalid file, an unknown key or an invalid value; names the file and the key.
    """
    notes = [] if notes is None else notes
    cfg = _merged(path, overrides, notes)
    check(cfg)
    if cfg.SOLVER.WARMUP_EPOCHS >= cfg.SOLVER.MAX_EPOCH:
        notes.append(
            f"SOLVER.WARMUP_EPOCHS: {cfg.SOLVER.WARMUP_EPOCHS:g} of SOLVER.MAX_EPOCH {cfg.SOLVER.MAX_EPOCH}: the "
            "learning rate is still rising when the run ends and does not reach SOLVER.BASE_LR"
        )
    if runs_here:
        check_tracker(cfg)
        check_devices(cfg)
    return cfg


def load_recipe(path: str | dict) -> CfgNode:
    """Return the config of one file alone, frozen but unchecked: it may be valid only with the overrides of a run.

    It is what `recipe_notes` compares a run with.
    """
    return _merged(path, (), [])


def variant(cfg: CfgNode, overrides: Sequence[Any] = (), runs_here: bool = False) -> CfgNode:
    """Return a new frozen config: `cfg` with `overrides` (KEY, VALUE, ...), merged and checked as any other.

    Raises:
        UserError: as `load_config`.
    """
    return load_config(to_dict(cfg), overrides, runs_here=runs_here)


def _merged(path: str | dict | Sequence[str | dict] | None, overrides: Sequence[Any], notes: list[str]) -> CfgNode:
    """The defaults with files and overrides merged over them and values derived, frozen."""
    cfg, given = get_cfg(), {}
    sources = [path] if isinstance(path, str | dict) else path or []
    for name, values in [*map(_read, sources), ("command line", _parse_overrides(overrides))]:
        _merge(cfg, values, name, notes)
        given |= values
    if note := apply_released_defaults(cfg, given):
        notes.append(note)
    _derive(cfg)
    cfg.freeze()
    return cfg


def _read(source: str | dict) -> tuple[str, dict[str, Any]]:
    """The name of a config for messages, and its values by key."""
    if isinstance(source, dict):
        return "stored config", dict(flatten(source))
    path = find_config(source)
    return path, dict(flatten(_read_yaml(path)))


def _read_yaml(path: str) -> dict:
    """The content of a file, merged over that of its _BASE_ files."""
    try:
        content = CfgNode.load_yaml_with_base(path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark else path
        raise UserError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except FileNotFoundError as error:
        raise UserError(f"{path}: its _BASE_ {error.filename} does not exist") from None
    except (AssertionError, AttributeError, TypeError):  # it, or a file below it, has values where sections belong
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a config; expected sections such as TRAIN: with keys below them")
    return content


def _parse_overrides(pairs: Sequence[Any]) -> dict[str, Any]:
    """Values by key, text as Python would read it."""
    if len(pairs) % 2:
        raise UserError(f"command line: {pairs[-1]!r} has no value; overrides are KEY VALUE pairs")
    defaults, values = dict(flatten(get_cfg())), {}
    for key, text in zip(map(str, pairs[::2]), pairs[1::2], strict=True):
        value = _parse(text) if isinstance(text, str) else text
        is_name = isinstance(defaults.get(key), str) and type(value) in (int, float)  # 2022_01 is a file's name
        values[key] = text if is_name else value
    return dict(flatten(values))


def _parse(text: str) -> Any:
    """A value on the command line: a Python literal, true, false, null, or else the text itself."""
    words = {"true": True, "false": False, "null": None}
    try:
        return words[text] if text in words else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _merge(cfg: CfgNode, given: dict[str, Any], source: str, notes: list[str]) -> None:
    """Set the keys in `given`; append notes on those that are retired."""
    defaults = dict(flatten(get_cfg()))
    for key, value in given.items():
        key = RENAMED.get(key, key)
        if key == "MODEL.INIT_FROM" and value is None:
            value = ""
        if key == "MODEL.ARGS":
            cfg.MODEL.ARGS.update(_coerce(key, value, defaults[key], source))
        elif key in defaults:
            set_key(cfg, key, _coerce(key, value, defaults[key], source))
        elif key.startswith("MODEL.ARGS."):
            set_key(cfg, key, value)
        elif note := retired_note(key, value, source):
            if note not in notes:  # several files may have the key
                notes.append(note)
        else:
            nearest = difflib.get_close_matches(key, [*defaults, *RETIRED], n=1, cutoff=0.0)[0]
            raise UserError(f"{source}: unknown key {key}; the nearest known one is {nearest}")


def _coerce(key: str, value: Any, default: Any, source: str) -> Any:
    """`value` in the type of the key's default; an error if it has another."""
    wanted = type(default)
    if isinstance(value, tuple):
        value = list(value)
    if default is None or isinstance(value, _OTHER_TYPES.get(key, ())):
        return value
    if wanted is CfgNode and isinstance(value, dict):
        return CfgNode(value)
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    if not isinstance(value, bool):
        with suppress(TypeError, ValueError, OverflowError):
            if wanted is float:
                return float(value)  # also "1e-4", which YAML reads as text
            if wanted is int and float(value) == int(float(value)):
                return int(float(value))
        if wanted is str and isinstance(value, int | float):
            return str(value)
    raise UserError(f"{source}: {key}: {value!r} is not {_TYPE_NAMES[wanted]} (default {default!r})")


def _derive(cfg: CfgNode) -> None:
    """Set values that follow from others."""
    precision = {True: "fp16", False: "none"}.get(cfg.TRAIN.MIXED_PRECISION, cfg.TRAIN.MIXED_PRECISION)
    cfg.TRAIN.MIXED_PRECISION = str(precision).lower()
    if cfg.NUM_GPUS == 0:
        cfg.DIST_BACKEND = "gloo"
    if cfg.UNIFORMERV2.NORM_EPS != "auto":  # YAML reads 1e-6 as text
        cfg.UNIFORMERV2.NORM_EPS = _coerce("UNIFORMERV2.NORM_EPS as a number", cfg.UNIFORMERV2.NORM_EPS, 1e-5, "config")


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
