"""UniFormerV2 (arXiv 2211.09552): an image ViT with local blocks in its layers and global blocks after some.

Within the ViT's layers, local UniBlocks mix each position over neighbouring frames (section 3.2). After chosen
layers, a global UniBlock lets one query attend to the tokens of all frames (section 3.2). Multi-stage fusion
(section 3.3) joins what the queries found, and the result is averaged with the ViT's own class tokens. Parameter
names are those of the released checkpoints.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models import layers
from slowfast_uniformer.models.attentive import grid_tokens
from slowfast_uniformer.models.registry import VideoModel, register_model
from slowfast_uniformer.ops import activation_checkpointing, fusion, implementations
from slowfast_uniformer.ops.activations import QuickGELU
from slowfast_uniformer.ops.attention import attend, attention_weights, merge_heads, split_heads
from slowfast_uniformer.ops.convolution import PatchConv3d, PointwiseConv3d
from slowfast_uniformer.ops.depthwise import DepthwiseConv3d

# UNIFORMERV2.BACKBONE -> CLIP's image towers
_L14 = {"width": 1024, "layers": 24, "heads": 16, "patch_size": 14}
BACKBONES = {
    "uniformerv2_b16": {"width": 768, "layers": 12, "heads": 12, "patch_size": 16, "input_resolution": 224},
    "uniformerv2_l14": _L14 | {"input_resolution": 224},
    "uniformerv2_l14_336": _L14 | {"input_resolution": 336},
}
FUSIONS = ("sequential", "parallel", "hierarchical_kv", "hierarchical_q")
# The ViT variant: keys of UNIFORMERV2 whose value "auto" means what the weights need, or else CLIP's variant
CLIP_VARIANT = {"ACTIVATION": "quick_gelu", "LAYER_SCALE": False, "LN_PRE": True, "NORM_EPS": 1e-5}
ACTIVATIONS = {"quick_gelu": QuickGELU, "gelu": nn.GELU}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Keys of the config's UNIFORMERV2 section in lower case, and the number of classes."""

    num_classes: int = 400
    # the image ViT
    width: int = 768
    layers: int = 12
    heads: int = 12
    patch_size: int = 16
    input_resolution: int = 224  # of the position embedding; clips may have another size
    activation: str = "quick_gelu"
    layer_scale: bool = False
    ln_pre: bool = True
    norm_eps: float = 1e-5
    backbone_drop_path_rate: float = 0.0
    frozen: bool = False  # no gradients for the image ViT
    # local blocks
    dw_reduction: float = 1.5
    temporal_downsample: bool = True
    no_lmhra: bool = False
    double_lmhra: bool = True
    # global blocks
    n_layers: int = 4
    n_dim: int = 768
    n_head: int = 12
    mlp_factor: float = 4.0
    drop_path_rate: float = 0.0
    mlp_dropout: Sequence[float] = (0.5,) * 4
    cls_dropout: float = 0.5
    return_list: Sequence[int] = (8, 9, 10, 11)  # layers with a global block after them
    fusion: str = "sequential"
    fold_projections: bool = True  # fused key/value projections

    def check(self) -> None:
        """Raise UserError, naming the keys, for options that contradict each other."""
        width, n_dim, returns = self.width, self.n_dim, list(self.return_list)
        divisible = width % self.heads == 0 and n_dim % self.n_head == 0
        heads = f"HEADS {self.heads} and N_HEAD {self.n_head}"
        entries = self.n_layers == len(returns) <= len(self.mlp_dropout)
        rising = returns and sorted(set(returns)) == returns and 0 <= returns[-1] < self.layers
        rules = {
            f"WIDTH {width} and N_DIM {n_dim} must divide into {heads}": divisible,
            f"N_DIM {n_dim} must be the backbone's width, {width}": n_dim == width,
            f"RETURN_LIST and MLP_DROPOUT must have an entry for each of N_LAYERS {self.n_layers}": entries,
            f"RETURN_LIST {returns} must rise, and name layers from 0 to {self.layers - 1}": rising,
            f"FUSION {self.fusion!r} is not one of {', '.join(FUSIONS)}": self.fusion in FUSIONS,
            f"ACTIVATION {self.activation!r} is not one of {', '.join(ACTIVATIONS)}": self.activation in ACTIVATIONS,
        }
        faults = [rule for rule, kept in rules.items() if not kept]
        if faults:
            raise UserError("; ".join(f"UNIFORMERV2.{fault}" for fault in faults))


class LayerNorm(nn.LayerNorm):
    """LayerNorm in fp32, whatever the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class Attention(implementations.HasImplementations, nn.Module):
    """Multi-head self-attention over tokens (B, N, dim), with the parameters of `nn.MultiheadAttention`."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.dim, self.heads = dim, heads
        self.scale = (dim // heads) ** -0.5
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        return self._attend(*F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1))

    def _attend(self, *qkv: Tensor) -> Tensor:
        q, k, v = (split_heads(x, self.heads) for x in qkv)
        weights = None if self.impl.attention == "fused" else attention_weights(q, k, self.scale)
        return self.out_proj(merge_heads(attend(q, k, v, self.scale, weights=weights)))


class CrossAttention(Attention):
    """Attention of few queries (B, M, dim) to many tokens (B, N, dim).

    With fused key/value projections, keys and values are never computed. The queries go back through the key
    projection, whose bias adds the same to all scores of a query, and the value projection is applied to the weighted
    mean of the tokens. This is equal up to rounding, for 2·M·heads instead of 2·dim + 2·M multiplications for each
    element of the tokens.
    """

    def __init__(self, dim: int, heads: int, fuse_projections: bool):
        super().__init__(dim, heads)
        self.fuse_projections = fuse_projections

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        weight, bias = self.in_proj_weight.split(self.dim), self.in_proj_bias.split(self.dim)
        q = F.linear(query, weight[0], bias[0])
        if not self.fuse_projections or self.impl.attention == "explicit":
            return self._attend(q, F.linear(tokens, weight[1], bias[1]), F.linear(tokens, weight[2], bias[2]))
        to_head = (self.heads, -1)
        q = q.unflatten(2, to_head) * self.scale
        q = torch.einsum("bmhd,hdc->bhmc", q, weight[1].unflatten(0, to_head)).flatten(1, 2)
        attention = (q @ tokens.transpose(1, 2)).softmax(dim=-1, dtype=torch.float32).to(q.dtype)
        means = (attention @ tokens.to(q.dtype)).unflatten(1, to_head)
        values = torch.einsum("bhmc,hdc->bmhd", means, weight[2].unflatten(0, to_head)).flatten(2)
        return self.out_proj(values + bias[2])


def _mlp(dim: int, hidden: int, activation: nn.Module, dropout: float | None = None) -> nn.Sequential:
    """The MLP of a block, whose modules have CLIP's names."""
    modules = OrderedDict(c_fc=nn.Linear(dim, hidden), gelu=activation)
    if dropout is not None:
        modules["dropout"] = nn.Dropout(dropout)
    return nn.Sequential(OrderedDict(modules, c_proj=nn.Linear(hidden, dim)))


class LocalBlock(nn.Module):
    """The residual of a local UniBlock, for patch tokens (B, dim, T, N, 1); zero at first (section 3.2)."""

    def __init__(self, dim: int, reduction: float):
        super().__init__()
        hidden = int(dim // reduction)
        self.pos_embed = nn.Sequential(
            nn.BatchNorm3d(dim),
            PointwiseConv3d(dim, hidden),
            DepthwiseConv3d(hidden, (3, 1, 1)),
            PointwiseConv3d(hidden, dim),
        )
        nn.init.zeros_(self.pos_embed[3].weight)
        nn.init.zeros_(self.pos_embed[3].bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.pos_embed(x)


class Layer(implementations.HasImplementations, nn.Module):
    """A layer of the image ViT, with up to two local blocks: before attention, and after it."""

    def __init__(self, options: Options, drop_path: float):
        super().__init__()
        dim = options.width
        for name in ("ls_1", "ls_2"):
            self.register_parameter(name, nn.Parameter(torch.ones(dim)) if options.layer_scale else None)
        self.local = 0 if options.no_lmhra else 1 + options.double_lmhra
        for number in range(1, self.local + 1):
            self.add_module(f"lmhra{number}", LocalBlock(dim, options.dw_reduction))
        self.attn = Attention(dim, options.heads)
        self.ln_1 = LayerNorm(dim, eps=options.norm_eps)
        self.mlp = _mlp(dim, 4 * dim, ACTIVATIONS[options.activation]())
        self.ln_2 = LayerNorm(dim, eps=options.norm_eps)
        self.drop_path = layers.DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of all frames, (B, T, 1 + N, dim) with the class token first, to the same."""
        if self.local > 0:
            x = self._mix_frames(self.lmhra1, x)
        attended = self.attn(self.ln_1(x).flatten(0, 1)).view(x.shape)
        x = x + self.drop_path(attended if self.ls_1 is None else self.ls_1 * attended)
        if self.local > 1:
            x = self._mix_frames(self.lmhra2, x)
        mixed = self.mlp(self.ln_2(x))
        return x + self.drop_path(mixed if self.ls_2 is None else self.ls_2 * mixed)

    def _mix_frames(self, block: LocalBlock, x: Tensor) -> Tensor:
        """Add a local block's residual to the patch tokens."""
        cls, patches = x.split((1, x.shape[2] - 1), dim=2)
        added = block(implementations.to_memory_format(patches.permute(0, 3, 1, 2).unsqueeze(4), self.impl))
        return torch.cat((cls, patches + self.drop_path(added).squeeze(4).permute(0, 2, 3, 1)), dim=2)


class GlobalBlock(nn.Module):
    """A global UniBlock: queries (B, M, dim) attend to tokens (B, N, dim); at first they stay as they are."""

    def __init__(self, options: Options, dropout: float, drop_path: float):
        super().__init__()
        dim = options.n_dim
        self.attn = CrossAttention(dim, options.n_head, options.fold_projections)
        self.ln_1 = nn.LayerNorm(dim)
        self.mlp = _mlp(dim, round(options.mlp_factor * dim), QuickGELU(), dropout)
        self.ln_2 = nn.LayerNorm(dim)
        self.ln_3 = nn.LayerNorm(dim)
        self.drop_path = layers.DropPath(drop_path)
        nn.init.xavier_uniform_(self.mlp.c_fc.weight)
        nn.init.zeros_(self.mlp.c_fc.bias)
        for last in (self.attn.out_proj, self.mlp.c_proj):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        query = query + self.drop_path(self.attn(self.ln_1(query), self.ln_3(tokens)))
        return query + self.drop_path(self.mlp(self.ln_2(query)))


class Transformer(nn.Module):
    """The layers, the global blocks after those in `return_list`, their fusion, and the classifier."""

    def __init__(self, options: Options):
        super().__init__()
        dim, count = options.width, options.n_layers
        rates = layers.drop_path_rates(options.drop_path_rate, count)
        blocks = [GlobalBlock(options, options.mlp_dropout[i], rates[i]) for i in range(count)]
        self.return_list, self.fusion = list(options.return_list), options.fusion
        queries = 1 if options.fusion == "sequential" else count
        self.temporal_cls_token = nn.Parameter(torch.zeros(1, queries, dim))
        self.register_parameter("balance", None if options.frozen else nn.Parameter(torch.zeros(dim)))
        rates = layers.drop_path_rates(options.backbone_drop_path_rate, options.layers)
        self.resblocks = nn.ModuleList(Layer(options, rate) for rate in rates)
        self.dpe = nn.ModuleList(DepthwiseConv3d(dim, 3) for _ in blocks)
        for convolution in self.dpe:
            nn.init.zeros_(convolution.bias)
        self.dec = nn.ModuleList(blocks)  # built first: seeded weights depend on the order
        if options.fusion == "parallel":
            self.join = nn.Linear(count * dim, dim)
            layers.init_linear(self.join)
        head = nn.Linear(dim, options.num_classes)
        self.proj = nn.Sequential(nn.LayerNorm(dim), nn.Dropout(options.cls_dropout), head)
        layers.init_linear(head)
        self.checkpoint_num, self.checkpoint_policy = 0, "full"

    def forward(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Run the layers and the global blocks.

        Args:
            x: tokens (B, T, 1 + H·W, dim).
            grid: H and W.

        Returns:
            (B, dim), the input of the head's norm, and the last layer's tokens (B, T, 1 + H·W, dim).
        """
        video = self.temporal_cls_token.expand(x.shape[0], -1, -1)
        if self.fusion != "sequential":
            video = video[:, :0]  # queries so far
        for index, resblock in enumerate(self.resblocks):
            step = partial(self._step, index, grid)
            if index < self.checkpoint_num:
                step = activation_checkpointing.checkpoint_block(resblock, step, self.checkpoint_policy)
            x, video = step(x, video)
        if self.fusion == "parallel":
            video = self.join(video.flatten(1))
        else:  # hierarchical_q has several queries; the others have one
            video = video.mean(dim=1)
        if self.balance is None:
            return video, x
        weight = self.balance.sigmoid()
        return (1 - weight) * video + weight * x[:, :, 0].mean(dim=1), x

    def _step(self, index: int, grid: tuple[int, int], x: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """A layer, and the global block after it, if any."""
        x = self.resblocks[index](x)
        if index in self.return_list:
            number = self.return_list.index(index)
            video = self._fuse(number, video, self._all_tokens(number, x, grid))
        return x, video

    def _all_tokens(self, number: int, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """The tokens of all frames, (B, T·(1 + H·W), dim), with dynamic position embedding of the patches."""
        cls, patches = x.split((1, x.shape[2] - 1), dim=2)
        volume = patches.unflatten(2, grid).permute(0, 4, 1, 2, 3)
        patches = patches + self.dpe[number](volume).flatten(3).permute(0, 2, 3, 1)
        return torch.cat((cls, patches), dim=2).flatten(1, 2)

    def _fuse(self, number: int, video: Tensor, tokens: Tensor) -> Tensor:
        """Update the queries (B, M, dim) by a global block (multi-stage fusion, section 3.3)."""
        block = self.dec[number]
        if self.fusion == "sequential":
            return block(video, tokens)
        query = self.temporal_cls_token[:, number : number + 1].expand(tokens.shape[0], -1, -1)
        if self.fusion == "parallel":
            return torch.cat((video, block(query, tokens)), dim=1)
        if self.fusion == "hierarchical_kv":
            return block(query, torch.cat((video.to(tokens.dtype), tokens), dim=1))
        return block(torch.cat((video, query), dim=1), tokens)


class VisionTransformer(nn.Module):
    """The image ViT's embeddings of each frame (or pair of frames), and the transformer."""

    def __init__(self, options: Options):
        super().__init__()
        dim, patch = options.width, options.patch_size
        transformer = Transformer(options)  # built first: seeded weights depend on the order
        self.class_embedding = nn.Parameter(dim**-0.5 * torch.randn(dim))
        tokens = 1 + (options.input_resolution // patch) ** 2
        self.positional_embedding = nn.Parameter(dim**-0.5 * torch.randn(tokens, dim))
        kernel, stride = (3, 2) if options.temporal_downsample else (1, 1)  # in time
        self.conv1 = PatchConv3d(3, dim, (kernel, patch, patch), stride, bias=False)
        self.ln_pre = LayerNorm(dim, eps=options.norm_eps) if options.ln_pre else nn.Identity()
        self.transformer = transformer

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Clips (B, 3, T, H, W) to what `Transformer.forward` returns."""
        x = self.conv1(x)
        grid = tuple(x.shape[3:])
        x = x.flatten(3).permute(0, 2, 3, 1)
        cls = self.class_embedding.expand(*x.shape[:2], 1, -1)
        x = torch.cat((cls, x), dim=2) + layers.resize_position(self.positional_embedding, grid)
        return self.transformer(self.ln_pre(x), grid)


class Uniformerv2(VideoModel):
    """UniFormerV2: float clips (B, 3, T, H, W) to logits (B, num_classes).

    T, H and W are free: the position embedding is interpolated to another grid than `input_resolution` has.

    Args:
        **options: fields of `Options`.
    """

    classifier = ("backbone.transformer.proj.2",)
    video_only = ("lmhra", ".dpe.", ".dec.", "temporal_cls_token", "balance", ".join.", ".proj.0.")
    inflates_center = True

    def __init__(self, **options: Any):
        super().__init__()
        self.options = Options(**options)
        self.options.check()
        self.backbone = VisionTransformer(self.options)
        self.num_features = self.options.width
        self.attentive = None
        self.vit_variant = {key: getattr(self.options, key.lower()) for key in CLIP_VARIANT}
        if self.options.frozen:
            for name in self.image_backbone():
                self.get_parameter(name).requires_grad = False

    def forward_features(self, x: Tensor) -> Tensor:
        """The input of the classifier, (B, num_features)."""
        video, tokens = self.backbone(x)
        features = self.backbone.transformer.proj[0](video)
        if self.attentive is None:
            return features
        return self.attentive(features, self._grid_tokens(x, tokens, self.attentive.grid))

    def forward_tokens(self, x: Tensor, grid: int) -> tuple[Tensor, Tensor]:
        video, tokens = self.backbone(x)
        return self.backbone.transformer.proj[0](video), self._grid_tokens(x, tokens, grid)

    def _grid_tokens(self, x: Tensor, tokens: Tensor, grid: int) -> Tensor:
        """The last layer's tokens of clips x, with the norm of the head, as `forward_tokens` returns them."""
        cls, patches = self.backbone.transformer.proj[0](tokens).split((1, tokens.shape[2] - 1), dim=2)
        patches = patches.unflatten(2, tuple(size // self.options.patch_size for size in x.shape[3:]))
        return torch.cat((cls, grid_tokens(patches, grid)), dim=2)

    def forward_frames(self, x: Tensor) -> Tensor:
        """The class token of each frame after the ViT's last layer, (B, T', num_features).

        T' is T, or T / 2 with `temporal_downsample`.
        """
        return self.backbone(x)[1][:, :, 0]

    def forward(self, x: Tensor) -> Tensor:
        if self.attentive is None:
            return self.backbone.transformer.proj(self.backbone(x)[0])
        _, dropout, head = self.backbone.transformer.proj
        return head(dropout(self.forward_features(x)))

    def image_backbone(self) -> list[str]:
        """Parameter names of the image ViT, which an image checkpoint has and FROZEN freezes."""
        parts = ("class_", "positional_", "conv1.", "ln_pre.", "transformer.resblocks.")
        prefixes = tuple(f"backbone.{part}" for part in parts)
        names = [name for name, _ in self.named_parameters()]
        return [name for name in names if name.startswith(prefixes) and "lmhra" not in name]

    def stages(self) -> list[list[tuple[nn.Module, ...]]]:
        """One stage, of all layers."""
        return [[(layer,) for layer in self.backbone.transformer.resblocks]]

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from input to head: the stem, each layer with its global block, fusion and head."""
        transformer, prefix = self.backbone.transformer, "backbone.transformer."
        names = [name for name, _ in self.named_parameters()]
        groups = [[name for name in names if not name.startswith(prefix)]]
        for index in range(len(transformer.resblocks)):
            parts = [f"{prefix}resblocks.{index}."]
            if index in transformer.return_list:
                number = transformer.return_list.index(index)
                parts += [f"{prefix}dpe.{number}.", f"{prefix}dec.{number}."]
            groups.append([name for name in names if name.startswith(tuple(parts))])
        taken = {name for group in groups for name in group}
        return [*groups, [name for name in names if name not in taken]]

    def set_grad_checkpointing(self, num: int | Sequence[int], policy: str = "full") -> None:
        """Use activation checkpointing in the first `num` layers, each with its global block; of a list, num[0]."""
        transformer = self.backbone.transformer
        transformer.checkpoint_num = num if isinstance(num, int) else num[0]
        transformer.checkpoint_policy = policy

    @torch.no_grad()
    def fuse(self) -> "Uniformerv2":
        """A copy for evaluation with batch norms, layer scale and QuickGELU's factor fused into linear layers."""
        model = fusion.frozen_copy(self)
        for module in list(model.modules()):
            if isinstance(module, LocalBlock):
                module.pos_embed[0] = fusion.fuse_into_next(module.pos_embed[0], module.pos_embed[1])
            elif isinstance(module, Layer):
                for name, last in (("ls_1", module.attn.out_proj), ("ls_2", module.mlp.c_proj)):
                    fusion.scale_outputs(last, getattr(module, name))
                    setattr(module, name, None)
            if isinstance(module, Layer | GlobalBlock) and isinstance(module.mlp.gelu, QuickGELU):
                fusion.scale_outputs(module.mlp.c_fc, torch.tensor(1.702))
                module.mlp.c_proj.weight /= 1.702
                module.mlp.gelu = nn.SiLU()
        return model


def _build(cfg: CfgNode, vit_variant: Mapping[str, Any] | None = None) -> Uniformerv2:
    section, variant = cfg.UNIFORMERV2, CLIP_VARIANT | (vit_variant or {})
    options = {key.lower(): value for key, value in section.items() if key != "BACKBONE"}
    if section.BACKBONE in BACKBONES:
        options |= BACKBONES[section.BACKBONE]
    elif section.BACKBONE != "vit":
        known = ", ".join([*BACKBONES, "vit"])
        raise UserError(f"UNIFORMERV2.BACKBONE: {section.BACKBONE!r} is not one of {known}")
    options |= {key.lower(): variant[key] for key in CLIP_VARIANT if section[key] == "auto"}
    return Uniformerv2(num_classes=cfg.MODEL.NUM_CLASSES, **options)


register_model("Uniformerv2", _build)
