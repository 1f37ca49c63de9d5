"""The registry of models, the contract they keep, and building one from a config.

A user's model enters by `@MODEL_REGISTRY.register()` in a module that MODEL.IMPORT names. It is an nn.Module with

- `forward`: normalised clips (B, 3, T, H, W) to logits (B, num_classes), or in training to a tuple of logits, whose
  losses are averaged;
- `classifier`: names of the linear layers that give logits. The first one gives those of evaluation.

All else is optional. A feature that needs an optional part raises a UserError which names it (`require`):

- `forward_features`: clips to what the first classifier reads, (B, num_features). Embeddings, `uniformer features`.
- `forward_tokens`: clips and a size of grid to what the first classifier of a linear head reads, (B, C), and the tokens
  of each frame or pair of frames, (B, T', N, C): patches averaged over a grid of at most that size, and a class token
  where frames have one. MODEL.HEAD attentive, `uniformer probe --method attentive`.
- `forward_frames`: clips to features of each frame, (B, T', C). `uniformer features --per-frame`.
- `set_grad_checkpointing(num, policy)`: MODEL.USE_CHECKPOINT.
- `layer_groups()`: all parameter names in groups from input to head. SOLVER.LAYER_DECAY.
- `image_backbone()`: parameter names of the image ViT. SOLVER.BACKBONE_LR_RATIO.
- `no_weight_decay()`: parameter names without weight decay. Default: none.
- `fuse()`: a copy for evaluation with batch norms fused. Default: the model itself.
- `stages()`: lists of blocks, each a tuple of the modules side by side in the pathways. Grad-CAM. Default: the
  module lists among its children.
- `video_only`, `inflates_center`: what of an image checkpoint may be missing, and how its kernels are inflated.
- `vit_variant`: keys of UNIFORMERV2 that its weights need. It is saved in checkpoints, and given to builders that
  take an argument `vit_variant`.

`VideoModel` has the defaults. tests/models/test_contract.py holds every registered model to all of this.
"""

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry
from torch import nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models import layers
from slowfast_uniformer.models.attentive import AttentivePool
from slowfast_uniformer.ops import activation_checkpointing, implementations, malloc

MODEL_REGISTRY = Registry("MODEL")  # name -> builder(cfg) or builder(cfg, vit_variant) -> model


class VideoModel(nn.Module):
    """Base class of this package's models: the parts of the contract that they share."""

    classifier: tuple[str, ...]
    num_features: int
    attentive: AttentivePool | None  # between the tokens and the first classifier, with MODEL.HEAD attentive
    video_only: tuple[str, ...] = ()  # substrings of parameter names that image checkpoints lack
    inflates_center = False  # inflate image kernels into the temporal centre, instead of evenly
    checkpoint_num: Sequence[int] = ()  # blocks with activation checkpointing in each stage
    checkpoint_policy = "full"

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifiers by newly initialised ones, on the same device and in the same dtype."""
        for name in self.classifier:
            old = self.get_submodule(name)
            new = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
            layers.init_linear(new)
            self.set_submodule(name, new)

    def add_attentive_head(self, queries: int, frames: int, grid: int) -> None:
        """Pool the tokens by attention, too, for a newly initialised first classifier (see `AttentivePool`)."""
        old = self.get_submodule(self.classifier[0])
        self.attentive = AttentivePool(old.in_features, queries, frames, grid)
        self.num_features = old.in_features * (1 + queries)
        new = nn.Linear(self.num_features, old.out_features)
        layers.init_linear(new)
        self.set_submodule(self.classifier[0], new)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay: none, as in the released recipes."""
        return set()

    def set_grad_checkpointing(self, num: int | Sequence[int], policy: str = "full") -> None:
        """Use activation checkpointing in the first num[i] blocks of stage i + 1; an int holds for all stages.

        See `activation_checkpointing.checkpoint_block` for `policy`.
        """
        self.checkpoint_num = activation_checkpointing.checkpoint_counts(num, len(self.stages()))
        self.checkpoint_policy = policy

    def _checkpointed(self, stage: int, index: int, block: nn.Module) -> Callable:
        """`block`, which is number `index` of a stage (both from 0), as set_grad_checkpointing wants it called."""
        if not self.checkpoint_num or index >= self.checkpoint_num[stage]:
            return block
        return activation_checkpointing.checkpoint_block(block, policy=self.checkpoint_policy)


def require(model: nn.Module, part: str, needed_by: str) -> None:
    """Raise UserError if a model lacks an optional part of the contract that a key or command needs."""
    if not hasattr(model, part):
        raise UserError(
            f"{needed_by}: the model {type(model).__name__} has no {part}. "
            "Add it to the class as slowfast_uniformer/models/registry.py describes, or do without this option"
        )


def register_model(name: str, builder: Callable[..., nn.Module]) -> None:
    """Register `builder` under a name other than its own (`@MODEL_REGISTRY.register()` uses its own)."""
    entry = functools.partial(builder)
    entry.__name__ = name
    MODEL_REGISTRY.register(entry)


def build_model(cfg: CfgNode, vit_variant: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the model that MODEL.MODEL_NAME names, with new weights, on the default device.

    Args:
        cfg: the config. The module MODEL.IMPORT is imported first, so that it can register models.
        vit_variant: keys of UNIFORMERV2 -> what the weights to be loaded need where the key is "auto".

    Raises:
        UserError: no model has this name, it lacks a part of the contract that the config needs, or cannot be built
            so.
    """
    if module := cfg.MODEL.get("IMPORT"):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(f"MODEL.IMPORT: cannot import {module}: {error}; is it on PYTHONPATH?") from error
    name = cfg.MODEL.MODEL_NAME
    if name not in MODEL_REGISTRY:
        known = sorted(name for name, _ in MODEL_REGISTRY)
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise UserError(f"MODEL.MODEL_NAME: no model {name}; the nearest is {nearest}. There are {', '.join(known)}")
    builder = MODEL_REGISTRY.get(name)
    takes_variant = "vit_variant" in inspect.signature(builder).parameters
    model = builder(cfg, vit_variant=vit_variant) if takes_variant else builder(cfg)
    _check_classifier(model)
    if cfg.MODEL.HEAD == "attentive":
        for part in ("forward_tokens", "add_attentive_head"):
            require(model, part, "MODEL.HEAD attentive")
        model.add_attentive_head(cfg.MODEL.HEAD_QUERIES, cfg.DATA.NUM_FRAMES, cfg.MODEL.HEAD_GRID)
    if cfg.MODEL.USE_CHECKPOINT:
        require(model, "set_grad_checkpointing", "MODEL.USE_CHECKPOINT")
        model.set_grad_checkpointing(cfg.MODEL.CHECKPOINT_NUM, cfg.MODEL.CHECKPOINT_POLICY)
        if cfg.get("NUM_GPUS") == 0:
            malloc.return_freed_memory()  # otherwise the process keeps much of the memory that is saved
    return implementations.set_implementations(model, dw_conv=cfg.MODEL.DW_CONV, layout=cfg.MODEL.LAYOUT)


def _check_classifier(model: nn.Module) -> None:
    require(model, "classifier", "MODEL.MODEL_NAME")
    modules, names = dict(model.named_modules()), model.classifier
    if not isinstance(names, tuple | list) or not names or not all(name in modules for name in names):
        raise UserError(
            f"MODEL.MODEL_NAME: {type(model).__name__}.classifier is {names!r}; it must be a tuple of names of "
            'layers, such as ("head",)'
        )
