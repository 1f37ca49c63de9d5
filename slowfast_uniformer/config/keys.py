"""The config keys. Every key, its default and its meaning are in `defaults.yaml` beside this file."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

DEFAULTS = Path(__file__).with_name("defaults.yaml")
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is many times faster, where it is built in


def read_table(path: Path) -> dict:
    """Return the content of a YAML file of the package."""
    return yaml.load(path.read_text(encoding="utf-8"), YAML_LOADER)


@functools.cache
def _defaults() -> CfgNode:
    cfg = CfgNode(read_table(DEFAULTS))
    cfg.MODEL.ARGS.set_new_allowed(True)
    return cfg


def get_cfg() -> CfgNode:
    """Return a new config with every key at its default, which may be changed."""
    return _defaults().clone()


def flatten(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ("SECTION.KEY", value) of every key; MODEL.ARGS, whose keys are free, is one."""
    for key, value in node.items():
        if isinstance(value, dict) and prefix + key != "MODEL.ARGS":
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value


@functools.cache
def text_keys() -> frozenset[str]:
    """Return the keys whose default is text."""
    return frozenset(key for key, value in flatten(_defaults()) if isinstance(value, str))


def set_key(cfg: CfgNode, key: str, value: Any) -> None:
    """Set the value of a dotted key, with the sections above it if they are missing."""
    *sections, leaf = key.split(".")
    for section in sections:
        cfg = cfg.setdefault(section, CfgNode())
    cfg[leaf] = value
