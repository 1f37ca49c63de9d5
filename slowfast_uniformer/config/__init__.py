"""The config: keys and defaults, loading and checking, recipes, keys of other programs. Needs no torch."""

from slowfast_uniformer.config.keys import get_cfg
from slowfast_uniformer.config.load import load_config

__all__ = ["get_cfg", "load_config"]
