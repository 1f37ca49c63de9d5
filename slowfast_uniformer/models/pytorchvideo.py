"""PyTorchVideo's models as baselines: X3D, SlowFast, Slow, CSN, R(2+1)D and MViT.

Parameter names are those of the package's hub, so that its published checkpoints load. In MODEL.ARGS, VARIANT
chooses among the hub's; every other key goes, in lower case, to the package's create function.
"""

import importlib
import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models import layers
from slowfast_uniformer.models.registry import register_model
from slowfast_uniformer.ops import activation_checkpointing

_MVIT_B = {
    "embed_dim_mul": [[1, 2.0], [3, 2.0], [14, 2.0]],
    "atten_head_mul": [[1, 2.0], [3, 2.0], [14, 2.0]],
    "pool_q_stride_size": [[1, 1, 2, 2], [3, 1, 2, 2], [14, 1, 2, 2]],
    "pool_kv_stride_adaptive": [1, 8, 8],
    "pool_kvq_kernel": [3, 3, 3],
}


def _slowfast(depth: int, kernel: int, alpha: int) -> dict[str, Any]:
    sizes = {"slowfast_fusion_conv_kernel_size": (kernel, 1, 1), "slowfast_fusion_conv_stride": (alpha, 1, 1)}
    return {"model_depth": depth, **sizes}


# Registered name -> (module, its function, what the hub passes it for each variant); the first is the default
_TABLE: dict[str, tuple[str, str, dict[str, dict[str, Any]]]] = {
    "PTVX3D": ("x3d", "create_x3d", {"M": {}, "XS": {}, "S": {}, "L": {"depth_factor": 5.0}}),
    "PTVSlowFast": (
        "slowfast",
        "create_slowfast",
        {"R50_8x8": _slowfast(50, 7, 4), "R50_4x16": _slowfast(50, 5, 8), "R101_8x8": _slowfast(101, 5, 4)},
    ),
    "PTVSlow": ("resnet", "create_resnet", {"R50": {"stem_conv_kernel_size": (1, 7, 7), "model_depth": 50}}),
    "PTVCSN": ("csn", "create_csn", {"R101": {"model_depth": 101, "stem_pool": nn.MaxPool3d}}),
    "PTVR2plus1D": ("r2plus1d", "create_r2plus1d", {"R50": {"dropout_rate": 0.5}}),
    "PTVMViT": ("vision_transformers", "create_multiscale_vision_transformers", {"B": _MVIT_B}),
}


class _Baseline(nn.Module):
    """A network of the package with its layers taken over, which keep their names, and without softmax.

    Takes float clips (B, 3, T, H, W), returns logits (B, num_classes). A layout of layers adds
    `forward_features`, (B, num_features), which the classifier reads, and `stages`: the blocks of each stage
    and, of a block, what stands side by side in the pathways.
    """

    def __init__(self, network: nn.Module, head: str):
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)
        self.head_name = head
        self.classifier = (f"{head}.proj",)
        self.num_features = self.get_submodule(self.classifier[0]).in_features
        self.checkpoint_num, self.checkpoint_policy = [0] * len(self.stages()), "full"

    def forward(self, x: Tensor) -> Tensor:
        features, head = self.forward_features(x), self.get_submodule(self.head_name)
        return head.proj(features if head.dropout is None else head.dropout(features))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a new one for `num_classes` classes."""
        head = self.get_submodule(self.head_name)
        head.proj = layers.new_classifier(head.proj, num_classes)

    def no_weight_decay(self) -> set[str]:
        """Parameters that must not decay: none, as in the published recipes."""
        return set()

    def layer_groups(self) -> list[list[str]]:
        """Names of all parameters in groups from input to head: the stem, each block, the head.

        What leads from one SlowFast pathway to the other belongs to the block before it.
        """
        blocks = [block for stage in self.stages() for block in stage]
        depth = {p: i for i, block in enumerate(blocks, 1) for module in block for p in module.parameters()}
        groups: list[list[str]] = [[] for _ in range(len(blocks) + 2)]
        reached = 0
        for name, parameter in self.named_parameters():  # in the order in which they are used
            reached = max(reached, depth.get(parameter, 0))
            outside = reached if reached < len(blocks) else len(blocks) + 1
            groups[depth.get(parameter, outside)].append(name)
        return groups

    def set_grad_checkpointing(self, num: int | Sequence[int], policy: str = "full") -> None:
        """Recompute the first num[i] blocks of stage i + 1 in the backward pass; an int is for all stages.
        For `policy` see recompute.recomputed."""
        self.checkpoint_num = activation_checkpointing.checkpoint_counts(num, len(self.stages()))
        self.checkpoint_policy = policy

    def _recomputed(self, block: nn.Module) -> Callable:
        return activation_checkpointing.checkpointed(block, policy=self.checkpoint_policy)


class _ConvNet(_Baseline):
    """Stem, four stages and head; with `alpha` a second pathway sees every alpha-th frame (SlowFast)."""

    def __init__(self, network: nn.Module, alpha: int | None = None):
        super().__init__(network, f"blocks.{len(network.blocks) - 1}")
        self.alpha = alpha
        # The package's windows fit one crop size only; at that size the mean over all positions is the same.
        for module in [module for block in self.blocks[5:] for module in block.modules()]:
            for name, child in module.named_children():
                if isinstance(child, nn.AvgPool3d):
                    setattr(module, name, nn.AdaptiveAvgPool3d(1))

    def stages(self) -> list[list[tuple[nn.Module, ...]]]:
        paths = [getattr(stage, "multipathway_blocks", [stage]) for stage in list(self.blocks)[1:5]]
        return [list(zip(*(path.res_blocks for path in stage), strict=True)) for stage in paths]

    def forward_features(self, x: Tensor) -> Tensor:
        stem, *middle, last = list(self.blocks)[:6]
        paths = stem(pathways(x, self.alpha)) if self.alpha else [stem(x)]
        for layer, stage, count in zip(middle, self.stages(), self.checkpoint_num, strict=True):
            for index, block in enumerate(stage):
                steps = map(self._recomputed, block) if index < count else block
                paths = [step(path) for step, path in zip(steps, paths, strict=True)]
            if self.alpha:
                paths = layer.multipathway_fusion(paths)
        return (last(paths) if self.alpha else last.pool(paths[0])).flatten(1)


class _Transformer(_Baseline):
    """MViT. Its position encoding fixes the size (T, H, W) of the clips."""

    def __init__(self, network: nn.Module, size: tuple[int, int, int]):
        super().__init__(network, "head")
        self.size = size
        position = self.cls_positional_encoding
        if position.cls_embed_on and position.sep_pos_embed:
            # Its gradient is a slice of a larger one, with strides that DDP warns of.
            position.pos_embed_class.register_hook(lambda grad: grad.flatten().view_as(grad))

    def stages(self) -> list[list[tuple[nn.Module, ...]]]:
        stages: list[list[tuple[nn.Module, ...]]] = [[]]
        for block in self.blocks:
            if stages[-1] and block.pool_skip is not None:  # it halves the resolution
                stages.append([])
            stages[-1].append((block,))
        return stages

    def forward_features(self, x: Tensor) -> Tensor:
        if x.shape[2:] != self.size:
            raise UserError(
                f"PTVMViT is built for clips of {self.size} frames, rows and columns, not {(*x.shape[2:],)}: "
                "its position encoding has one size. Set DATA.TEST_CROP_SIZE to DATA.TRAIN_CROP_SIZE"
            )
        for name, layer in self.named_children():  # in the order in which they are used
            if name == "blocks":
                x = self._run_blocks(x)
            else:
                x = layer.sequence_pool(x) if name == "head" else layer(x)
        return x

    def _run_blocks(self, x: Tensor) -> Tensor:
        size = self.cls_positional_encoding.patch_embed_shape
        for stage, count in zip(self.stages(), self.checkpoint_num, strict=True):
            for index, (block,) in enumerate(stage):
                x, size = (self._recomputed(block) if index < count else block)(x, size)
        return x


def pathways(clip: Tensor, alpha: int) -> list[Tensor]:
    """SlowFast's two inputs (arXiv 1812.03982, section 3) in a new list: T / alpha frames, and all T."""
    frames = clip.shape[2]
    slow = torch.linspace(0, frames - 1, frames // alpha, device=clip.device).long()
    return [clip.index_select(2, slow), clip]


def _options(cfg: CfgNode, name: str, create: Any) -> dict[str, Any]:
    """The keyword arguments for the package's function `create`."""
    args = {key.lower(): value for key, value in cfg.MODEL.ARGS.items()}
    variants = _TABLE[name][2]
    variant = args.pop("variant", next(iter(variants)))
    if variant not in variants:
        raise UserError(f"MODEL.ARGS.VARIANT: {name} has no {variant!r}; it has {', '.join(variants)}")
    sizes = {"temporal_size": cfg.DATA.NUM_FRAMES, "spatial_size": [cfg.DATA.TRAIN_CROP_SIZE] * 2}
    ours = dict.fromkeys(("model_num_class", "head_num_classes"), cfg.MODEL.NUM_CLASSES)
    ours["head_activation"] = None
    known = list(inspect.signature(create).parameters)
    for key in args:
        if key not in known or key in ours:
            choice = ", ".join(other.upper() for other in known if other not in ours)
            raise UserError(f"MODEL.ARGS.{key.upper()}: no argument of {name}; it has VARIANT, {choice}")
    options = {**sizes, **variants[variant], **args, **ours}
    return {key: value for key, value in options.items() if key in known}


def _build(cfg: CfgNode, name: str) -> nn.Module:
    module, function, _ = _TABLE[name]
    try:
        with warnings.catch_warnings():  # the package scripts functions on import
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
            create = getattr(importlib.import_module(f"pytorchvideo.models.{module}"), function)
    except ImportError as error:
        raise UserError(
            f"MODEL.MODEL_NAME: {name} is PyTorchVideo's, which cannot be imported: {error}. "
            "pip install pytorchvideo==0.1.5, or choose another model"
        ) from error
    options = _options(cfg, name, create)
    try:
        with torch.device("cpu"):  # it reads numbers off tensors, which the meta device does not have
            network = create(**options)
    except AssertionError as error:
        raise UserError(f"MODEL.ARGS: {name} cannot be built so: {error}") from error
    network.to(torch.get_default_device())
    if name == "PTVMViT":
        if cfg.DATA.TEST_CROP_SIZE != cfg.DATA.TRAIN_CROP_SIZE:  # or the test after training would fail
            raise UserError("DATA.TEST_CROP_SIZE must be DATA.TRAIN_CROP_SIZE: PTVMViT has one clip size")
        side = options["spatial_size"]
        sides = (side, side) if isinstance(side, int) else side
        return _Transformer(network, (options["temporal_size"], *sides))
    alpha = options["slowfast_fusion_conv_stride"][0] if name == "PTVSlowFast" else None
    if alpha and cfg.DATA.NUM_FRAMES % alpha:
        raise UserError(f"DATA.NUM_FRAMES: {cfg.DATA.NUM_FRAMES}, but SlowFast needs a multiple of {alpha}")
    return _ConvNet(network, alpha)


for _name in _TABLE:
    register_model(_name, partial(_build, name=_name))
