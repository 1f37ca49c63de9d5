"""PyTorchVideo's models as baselines: X3D, SlowFast, Slow, CSN, R(2+1)D and MViT.

Parameter names are those of the package's hub, so that its published checkpoints load. In MODEL.ARGS, VARIANT is a
variant of the hub's. All other keys are arguments, in upper case, of the package's create function.
"""

import importlib
import inspect
import warnings
from functools import partial
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import VideoModel, register_model
from slowfast_uniformer.ops.convolution import Conv3d

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


# Registered name -> (module, its function, arguments of each of the hub's variants); the first one is the default
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


class _Baseline(VideoModel):
    """The layers of a PyTorchVideo network under their names, without its softmax.

    Takes float clips (B, 3, T, H, W), returns logits (B, num_classes). Subclasses add `forward_features` and `stages`.

    Args:
        network: the package's network.
        head: name of its head, whose layer `proj` is the classifier.
    """

    def __init__(self, network: nn.Module, head: str):
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)
        for module in self.modules():
            if type(module) is nn.Conv3d:
                module.__class__ = Conv3d  # with reliable gradients in bf16 on the CPU
        self.head_name = head
        self.classifier = (f"{head}.proj",)
        self.num_features = self.get_submodule(self.classifier[0]).in_features

    def forward(self, x: Tensor) -> Tensor:
        features, head = self.forward_features(x), self.get_submodule(self.head_name)
        return head.proj(features if head.dropout is None else head.dropout(features))

    def layer_groups(self) -> list[list[str]]:
        """Parameter names in groups from input to head: the stem, each block, the head.

        SlowFast's fusion of pathways belongs to the block before it.
        """
        blocks = [block for stage in self.stages() for block in stage]
        depth = {p: i for i, block in enumerate(blocks, 1) for module in block for p in module.parameters()}
        groups: list[list[str]] = [[] for _ in range(len(blocks) + 2)]
        reached = 0
        for name, parameter in self.named_parameters():  # in the order of their use
            reached = max(reached, depth.get(parameter, 0))
            outside = reached if reached < len(blocks) else len(blocks) + 1
            groups[depth.get(parameter, outside)].append(name)
        return groups


class _ConvNet(_Baseline):
    """Stem, four stages and head.

    With `alpha`, a slow pathway takes T / alpha frames beside the fast one (SlowFast, arXiv 1812.03982, section 3).
    """

    def __init__(self, network: nn.Module, alpha: int | None = None):
        super().__init__(network, f"blocks.{len(network.blocks) - 1}")
        self.alpha = alpha
        # The package's pooling windows fit one crop size. There, the mean over all positions is the same.
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
        for number, (stage, blocks) in enumerate(zip(middle, self.stages(), strict=True)):
            for index, block in enumerate(blocks):
                steps = [self._checkpointed(number, index, module) for module in block]
                paths = [step(path) for step, path in zip(steps, paths, strict=True)]
            if self.alpha:
                paths = stage.multipathway_fusion(paths)
        return (last(paths) if self.alpha else last.pool(paths[0])).flatten(1)


class _Transformer(_Baseline):
    """MViT (arXiv 2104.11227). Its position embedding fixes the size (T, H, W) of the clips."""

    def __init__(self, network: nn.Module, size: tuple[int, int, int]):
        super().__init__(network, "head")
        self.size = size
        position = self.cls_positional_encoding
        if position.cls_embed_on and position.sep_pos_embed:
            # Its gradient is a slice of a larger one, with strides that DDP would warn of.
            position.pos_embed_class.register_hook(lambda grad: grad.flatten().view_as(grad))

    def stages(self) -> list[list[tuple[nn.Module, ...]]]:
        stages: list[list[tuple[nn.Module, ...]]] = [[]]
        for block in self.blocks:
            if stages[-1] and block.pool_skip is not None:  # the block halves the resolution
                stages.append([])
            stages[-1].append((block,))
        return stages

    def forward_features(self, x: Tensor) -> Tensor:
        if x.shape[2:] != self.size:
            raise UserError(
                f"PTVMViT is built for clips of {self.size} frames, rows and columns, not {(*x.shape[2:],)}: "
                "its position embedding has one size. Set DATA.TEST_CROP_SIZE to DATA.TRAIN_CROP_SIZE"
            )
        for name, layer in self.named_children():  # in the order of their use
            if name == "blocks":
                x = self._run_blocks(x)
            else:
                x = layer.sequence_pool(x) if name == "head" else layer(x)
        return x

    def _run_blocks(self, x: Tensor) -> Tensor:
        size = self.cls_positional_encoding.patch_embed_shape
        for number, blocks in enumerate(self.stages()):
            for index, (block,) in enumerate(blocks):
                x, size = self._checkpointed(number, index, block)(x, size)
        return x


def pathways(clip: Tensor, alpha: int) -> list[Tensor]:
    """The inputs of SlowFast's slow pathway, T / alpha frames evenly spaced, and of its fast one, all T frames."""
    frames = clip.shape[2]
    slow = torch.linspace(0, frames - 1, frames // alpha, device=clip.device).long()
    return [clip.index_select(2, slow), clip]


def _options(cfg: CfgNode, name: str, create: Any) -> dict[str, Any]:
    """The keyword arguments of the package's function `create`, from DATA, the hub's variant and MODEL.ARGS."""
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
            raise UserError(f"MODEL.ARGS.{key.upper()}: {name} has no such argument; it has VARIANT, {choice}")
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
        with torch.device("cpu"):  # it reads values of tensors, which the meta device does not have
            network = create(**options)
    except AssertionError as error:
        raise UserError(f"MODEL.ARGS: {name} cannot be built with these arguments: {error}") from error
    network.to(torch.get_default_device())
    if name == "PTVMViT":
        if cfg.DATA.TEST_CROP_SIZE != cfg.DATA.TRAIN_CROP_SIZE:  # otherwise the test after training would fail
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
