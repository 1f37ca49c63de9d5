"""Configs: every key (`keys`), loading (`load`), released and SlowFast keys (`compat`)."""

from slowfast_uniformer.config.keys import flatten, get_cfg
from slowfast_uniformer.config.load import difference, load_config, split_cfg_arguments, to_dict

__all__ = ["difference", "flatten", "get_cfg", "load_config", "split_cfg_arguments", "to_dict"]
