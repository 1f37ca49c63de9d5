"""The registry of models and how one is built from a config. Users' models enter by `MODEL_REGISTRY` too."""

import difflib
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry
from torch import nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.ops import implementations, malloc

MODEL_REGISTRY = Registry("MODEL")  # name -> builder(cfg) -> model


def register_model(name: str, builder: Callable[[CfgNode], nn.Module]) -> None:
    """Enter `builder` under a name that need not be its own (`@MODEL_REGISTRY.register()` is for its own)."""
    entry = functools.partial(builder)
    entry.__name__ = name
    MODEL_REGISTRY.register(entry)


def build_model(cfg: CfgNode, arithmetic: Mapping[str, Any] | None = None) -> nn.Module:
    """The model `cfg.MODEL.MODEL_NAME` names, with fresh weights, on the default device.

    `arithmetic` (see weights.py) is what the weights to be loaded need where UNIFORMERV2's keys are "auto".
    Raises UserError for a name nobody registered; `cfg.MODEL.IMPORT` is imported first, so that it can.
    """
    _import(cfg.MODEL.get("IMPORT"))
    name = cfg.MODEL.MODEL_NAME
    if name not in MODEL_REGISTRY:
        known = sorted(name for name, _ in MODEL_REGISTRY)
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise UserError(f"MODEL.MODEL_NAME: no model {name}; the nearest is {nearest}, of {', '.join(known)}")
    model = MODEL_REGISTRY.get(name)(_resolved(cfg, arithmetic or {}))
    if cfg.MODEL.USE_CHECKPOINT:
        model.set_grad_checkpointing(cfg.MODEL.CHECKPOINT_NUM, cfg.MODEL.CHECKPOINT_POLICY)
        if cfg.get("NUM_GPUS") == 0:
            malloc.return_freed_memory()  # or else much of what is saved stays with the process
    return implementations.set_implementations(model, dw_conv=cfg.MODEL.DW_CONV, layout=cfg.MODEL.LAYOUT)


def _resolved(cfg: CfgNode, arithmetic: Mapping[str, Any]) -> CfgNode:
    """A copy of the config with "auto" replaced by what the weights need."""
    cfg = cfg.clone()
    cfg.defrost()
    for key, value in arithmetic.items():
        if cfg.UNIFORMERV2[key] == "auto":
            cfg.UNIFORMERV2[key] = value
    cfg.freeze()
    return cfg


def _import(module: str | None) -> None:
    if not module:
        return
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"MODEL.IMPORT: cannot import {module}: {error}; is it on PYTHONPATH?") from error
