"""UniFormerV2 (arXiv 2211.09552): an image ViT whose layers get local blocks in time and feed global ones.

Inside the ViT's layers, local blocks mix each place over neighbouring frames. After chosen layers, a global
block lets one query attend to the tokens of all frames; what the queries found is put together with the
ViT's own class tokens. Parameter names are those of the released checkpoints.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models import layers
from slowfast_uniformer.models.registry import register_model
from slowfast_uniformer.ops import activation_checkpointing, fusion, implementations
from slowfast_uniformer.ops.activations import QuickGELU
from slowfast_uniformer.ops.attention import attend, attention_weights
from slowfast_uniformer.ops.convolution import PatchConv3d, PointwiseConv3d
from slowfast_uniformer.ops.depthwise import DepthwiseConv3d

# name of UNIFORMERV2.BACKBONE -> width, layers, heads, patch size and resolution of CLIP's image towers
BACKBONES = {
    "uniformerv2_b16": (768, 12, 12, 16, 224),
    "uniformerv2_l14": (1024, 24, 16, 14, 224),
    "uniformerv2_l14_336": (1024, 24, 16, 14, 336),
}
FUSIONS = ("sequential", "parallel", "hierarchical_kv", "hierarchical_q")
# How the image ViT computes, as keys of UNIFORMERV2; "auto" there means what the weights say, or else this.
CLIP_ARITHMETIC = {"ACTIVATION": "quick_gelu", "LAYER_SCALE": False, "LN_PRE": True, "NORM_EPS": 1e-5}


ACTIVATIONS = {"quick_gelu": QuickGELU, "gelu": nn.GELU}


class LayerNorm(nn.LayerNorm):
    """LayerNorm computed in fp32, whatever the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class Attention(implementations.HasImplementations, nn.Module):
    """Multi-head self-attention with the parameters of `nn.MultiheadAttention`, over tokens (B, N, dim)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.dim, self.heads = dim, heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        return self._attend(*F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1))

    def _attend(self, *qkv: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in qkv)
        scale = (self.dim // self.heads) ** -0.5
        weights = None if self.forms.attention == "fused" else attention_weights(q, k, scale)
        return self.out_proj(attend(q, k, v, scale, weights=weights).transpose(1, 2).flatten(2))


class CrossAttention(Attention):
    """Attention of few queries (B, M, dim) to many tokens (B, N, dim).

    With `fold`, keys and values are never computed: scores are taken with queries that went back through the
    key projection (its bias adds the same to each score of a query), and the value projection is applied to
    the weighted sum of the tokens. That is the same in exact arithmetic, for 2·M·heads instead of 2·dim + 2·M
    multiplications for each number in the tokens.
    """

    def __init__(self, dim: int, heads: int, fold: bool):
        super().__init__(dim, heads)
        self.fold = fold

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        weight, bias = self.in_proj_weight.split(self.dim), self.in_proj_bias.split(self.dim)
        q = F.linear(query, weight[0], bias[0])
        if not self.fold:
            return self._attend(q, F.linear(tokens, weight[1], bias[1]), F.linear(tokens, weight[2], bias[2]))
        to_head = (self.heads, -1)
        q = q.unflatten(2, to_head) * (self.dim // self.heads) ** -0.5
        q = torch.einsum("bmhd,hdc->bhmc", q, weight[1].unflatten(0, to_head)).flatten(1, 2)
        attention = (q @ tokens.transpose(1, 2)).softmax(dim=-1, dtype=torch.float32).to(q.dtype)
        seen = (attention @ tokens.to(q.dtype)).unflatten(1, to_head)
        values = torch.einsum("bhmc,hdc->bmhd", seen, weight[2].unflatten(0, to_head)).flatten(2)
        return self.out_proj(values + bias[2])


class LocalBlock(nn.Module):
    """What the local UniBlock adds to patch tokens (B, C, T, N, 1); at first nothing (section 3.2)."""

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
    """A layer of the image ViT, with `local` (0, 1, 2) local blocks in it: before attention, and after."""

    def __init__(
        self,
        dim: int,
        heads: int,
        drop_path: float,
        local: int,
        reduction: float,
        activation: str,
        layer_scale: bool,
        norm_eps: float,
    ):
        super().__init__()
        for name in ("ls_1", "ls_2"):
            self.register_parameter(name, nn.Parameter(torch.ones(dim)) if layer_scale else None)
        for number in range(1, local + 1):
            self.add_module(f"lmhra{number}", LocalBlock(dim, reduction))
        self.local = local
        self.attn = Attention(dim, heads)
        self.ln_1 = LayerNorm(dim, eps=norm_eps)
        mlp = {"c_fc": nn.Linear(dim, 4 * dim), "gelu": ACTIVATIONS[activation]()}
        self.mlp = nn.Sequential(OrderedDict(**mlp, c_proj=nn.Linear(4 * dim, dim)))
        self.ln_2 = LayerNorm(dim, eps=norm_eps)
        self.drop_path = layers.drop_path(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Take and return the tokens (B, T, 1 + N, dim) of every frame, the class token first."""
        if self.local > 0:
            x = self._mix_frames(self.lmhra1, x)
        frames = self.ln_1(x).flatten(0, 1)
        attended = self.attn(frames).view(x.shape)
        x = x + self.drop_path(attended if self.ls_1 is None else self.ls_1 * attended)
        if self.local > 1:
            x = self._mix_frames(self.lmhra2, x)
        mixed = self.mlp(self.ln_2(x))
        return x + self.drop_path(mixed if self.ls_2 is None else self.ls_2 * mixed)

    def _mix_frames(self, block: LocalBlock, x: Tensor) -> Tensor:
        cls, patches = x.split((1, x.shape[2] - 1), dim=2)
        added = block(implementations.to_memory_format(patches.permute(0, 3, 1, 2).unsqueeze(4), self.forms))
        return torch.cat((cls, patches + self.drop_path(added).squeeze(4).permute(0, 2, 3, 1)), dim=2)


class GlobalBlock(nn.Module):
    """Queries (B, M, dim) attend to the tokens (B, N, dim) of all frames; at first they stay as they are."""

    def __init__(self, dim: int, heads: int, mlp_factor: float, dropout: float, drop_path: float, fold: bool):
        super().__init__()
        hidden = round(mlp_factor * dim)
        self.attn = CrossAttention(dim, heads, fold)
        self.ln_1 = nn.LayerNorm(dim)
        mlp = {"c_fc": nn.Linear(dim, hidden), "gelu": QuickGELU(), "dropout": nn.Dropout(dropout)}
        self.mlp = nn.Sequential(OrderedDict(**mlp, c_proj=nn.Linear(hidden, dim)))
        self.ln_2 = nn.LayerNorm(dim)
        self.ln_3 = nn.LayerNorm(dim)
        self.drop_path = layers.drop_path(drop_path)
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

    def __init__(
        self,
        dim: int,
        layer: partial,
        layers_: int,
        drop_path: float,
        blocks: list[GlobalBlock],
        return_list: Sequence[int],
        fusion: str,
        cls_dropout: float,
        num_classes: int,
        frozen: bool,
    ):
        super().__init__()
        count = len(blocks)
        self.return_list, self.fusion = list(return_list), fusion
        self.temporal_cls_token = nn.Parameter(torch.zeros(1, 1 if fusion == "sequential" else count, dim))
        self.register_parameter("balance", None if frozen else nn.Parameter(torch.zeros(dim)))
        rates = torch.linspace(0, drop_path, layers_, device="cpu").tolist()
        self.resblocks = nn.ModuleList(layer(drop_path=rate) for rate in rates)
        self.dpe = nn.ModuleList(DepthwiseConv3d(dim, 3) for _ in blocks)
        for convolution in self.dpe:
            nn.init.zeros_(convolution.bias)
        self.dec = nn.ModuleList(blocks)
        if fusion == "parallel":
            self.join = nn.Linear(count * dim, dim)
            layers.init_linear(self.join)
        self.proj = nn.Sequential(nn.LayerNorm(dim), nn.Dropout(cls_dropout), nn.Linear(dim, num_classes))
        layers.init_linear(self.proj[2])
        self.checkpoint_num, self.checkpoint_policy = 0, "full"

    def forward(self, x: Tensor, grid: tuple[int, int], frames: bool = False) -> Tensor:
        """Tokens (B, T, 1 + H·W, dim) of a grid H, W to what the head normalizes, (B, dim), or to the last
        layer's class tokens of all `frames`, (B, T, dim)."""
        video = self.temporal_cls_token.expand(x.shape[0], -1, -1)
        if self.fusion != "sequential":
            video = video[:, :0]  # the tokens found so far
        for index, resblock in enumerate(self.resblocks):
            step = partial(self._step, index, grid)
            if index < self.checkpoint_num:
                step = activation_checkpointing.checkpointed(resblock, step, self.checkpoint_policy)
            x, video = step(x, video)
        if frames:
            return x[:, :, 0]
        if self.fusion == "parallel":
            video = self.join(video.flatten(1))
        else:  # of several, which hierarchical_q has, their mean
            video = video.mean(dim=1)
        if self.balance is None:
            return video
        weight = self.balance.sigmoid()
        return (1 - weight) * video + weight * x[:, :, 0].mean(dim=1)

    def _step(self, index: int, grid: tuple[int, int], x: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """A layer and the global block after it, if any."""
        x = self.resblocks[index](x)
        if index in self.return_list:
            number = self.return_list.index(index)
            video = self._fuse(number, video, self._all_tokens(number, x, grid))
        return x, video

    def _all_tokens(self, number: int, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """The tokens of all frames, (B, T·(1 + H·W), dim), with dynamic position encoding on the patches."""
        cls, patches = x.split((1, x.shape[2] - 1), dim=2)
        volume = patches.unflatten(2, grid).permute(0, 4, 1, 2, 3)
        patches = patches + self.dpe[number](volume).flatten(3).permute(0, 2, 3, 1)
        return torch.cat((cls, patches), dim=2).flatten(1, 2)

    def _fuse(self, number: int, video: Tensor, tokens: Tensor) -> Tensor:
        """What a global block makes of the video tokens (B, M, dim) found before it (section 3.3)."""
        block = self.dec[number]
        if self.fusion == "sequential":
            return block(video, tokens)
        own = self.temporal_cls_token[:, number : number + 1].expand(tokens.shape[0], -1, -1)
        if self.fusion == "parallel":
            return torch.cat((video, block(own, tokens)), dim=1)
        if self.fusion == "hierarchical_kv":
            return block(own, torch.cat((video.to(tokens.dtype), tokens), dim=1))
        return block(torch.cat((video, own), dim=1), tokens)


class VisionTransformer(nn.Module):
    """The image ViT's entrance, applied to each frame (or pair of frames), and the transformer."""

    def __init__(
        self,
        dim: int,
        patch: int,
        resolution: int,
        temporal_downsample: bool,
        ln_pre: bool,
        norm_eps: float,
        transformer: Transformer,
    ):
        super().__init__()
        self.class_embedding = nn.Parameter(dim**-0.5 * torch.randn(dim))
        tokens = 1 + (resolution // patch) ** 2
        self.positional_embedding = nn.Parameter(dim**-0.5 * torch.randn(tokens, dim))
        time = (3, 2) if temporal_downsample else (1, 1)  # kernel, stride
        self.conv1 = PatchConv3d(3, dim, (time[0], patch, patch), time[1], bias=False)
        self.ln_pre = LayerNorm(dim, eps=norm_eps) if ln_pre else nn.Identity()
        self.transformer = transformer

    def forward(self, x: Tensor, frames: bool = False) -> Tensor:
        x = self.conv1(x)
        grid = tuple(x.shape[3:])
        x = x.flatten(3).permute(0, 2, 3, 1)
        cls = self.class_embedding.expand(*x.shape[:2], 1, -1)
        x = torch.cat((cls, x), dim=2) + layers.resize_position(self.positional_embedding, grid)
        return self.transformer(self.ln_pre(x), grid, frames)


class Uniformerv2(nn.Module):
    """UniFormerV2. Takes float clips (B, 3, T, H, W), returns logits (B, num_classes).

    The arguments are keys of the config's UNIFORMERV2 section. T, H and W are free: the position embedding is
    interpolated where the frames' grid differs from `input_resolution`'s.
    """

    classifier: tuple[str, ...] = ("backbone.transformer.proj.2",)
    # in names of parameters that image checkpoints may lack
    video_only = ("lmhra", ".dpe.", ".dec.", "temporal_cls_token", "balance", ".join.", ".proj.0.")
    inflates_center = True  # where an image kernel goes in time

    def __init__(
        self,
        *,
        num_classes: int = 400,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        patch_size: int = 16,
        input_resolution: int = 224,
        n_layers: int = 4,
        n_dim: int = 768,
        n_head: int = 12,
        mlp_factor: float = 4.0,
        backbone_drop_path_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        mlp_dropout: Sequence[float] = (0.5,) * 4,
        cls_dropout: float = 0.5,
        return_list: Sequence[int] = (8, 9, 10, 11),
        dw_reduction: float = 1.5,
        temporal_downsample: bool = True,
        no_lmhra: bool = False,
        double_lmhra: bool = True,
        frozen: bool = False,
        fusion: str = "sequential",
        activation: str = "quick_gelu",
        layer_scale: bool = False,
        ln_pre: bool = True,
        norm_eps: float = 1e-5,
        fold_projections: bool = True,
    ):
        super().__init__()
        _check(width, layers, heads, n_layers, n_dim, n_head, mlp_dropout, return_list, fusion, activation)
        local = 0 if no_lmhra else 1 + double_lmhra
        arithmetic = {"activation": activation, "layer_scale": layer_scale, "norm_eps": norm_eps}
        layer = partial(Layer, width, heads, local=local, reduction=dw_reduction, **arithmetic)
        rates = zip(mlp_dropout, torch.linspace(0, drop_path_rate, n_layers, device="cpu").tolist())  # noqa: B905
        blocks = [GlobalBlock(n_dim, n_head, mlp_factor, *each, fold_projections) for each in rates]
        transformer = Transformer(
            width, layer, layers, backbone_drop_path_rate, blocks, return_list, fusion, cls_dropout, num_classes, frozen
        )
        self.backbone = VisionTransformer(
            width, patch_size, input_resolution, temporal_downsample, ln_pre, norm_eps, transformer
        )
        self.num_features = width
        self.arithmetic = {key.upper(): value for key, value in arithmetic.items()} | {"LN_PRE": ln_pre}
        if frozen:
            parameters = dict(self.named_parameters())
            for name in self.image_backbone():
                parameters[name].requires_grad = False

    def forward_features(self, x: Tensor) -> Tensor:
        """What the classifier reads, (B, num_features)."""
        return self.backbone.transformer.proj[0](self.backbone(x))

    def forward_frames(self, x: Tensor) -> Tensor:
        """The image ViT's class token of each frame after the last layer, (B, T, num_features); T is half the
        clip's with `temporal_downsample`."""
        return self.backbone(x, frames=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone.transformer.proj(self.backbone(x))

    def image_backbone(self) -> list[str]:
        """Names of the image ViT's parameters: what an image checkpoint fills and FROZEN keeps."""
        parts = ("class_", "positional_", "conv1.", "ln_pre.", "transformer.resblocks.")
        prefixes = tuple(f"backbone.{part}" for part in parts)
        names = [name for name, _ in self.named_parameters()]
        return [name for name in names if name.startswith(prefixes) and "lmhra" not in name]

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a new one for `num_classes` classes."""
        head = self.backbone.transformer.proj
        head[2] = layers.new_classifier(head[2], num_classes)

    def no_weight_decay(self) -> set[str]:
        """Parameters that must not decay: none beyond those SOLVER.ZERO_WD_1D_PARAM names."""
        return set()

    def layer_groups(self) -> list[list[str]]:
        """Names of all parameters in groups from input to head: the stem, each layer with the global block
        after it, the fusion and the head."""
        names, transformer = [name for name, _ in self.named_parameters()], "backbone.transformer."
        groups = [[name for name in names if not name.startswith(transformer)]]
        for index in range(len(self.backbone.transformer.resblocks)):
            parts = [f"resblocks.{index}."]
            if index in self.backbone.transformer.return_list:
                number = self.backbone.transformer.return_list.index(index)
                parts += [f"dpe.{number}.", f"dec.{number}."]
            groups.append([n for n in names if n.removeprefix(transformer).startswith(tuple(parts))])
        taken = {name for group in groups for name in group}
        return [*groups, [name for name in names if name not in taken]]

    def set_grad_checkpointing(self, num: int | Sequence[int], policy: str = "full") -> None:
        """Recompute the first `num` layers (of a list, its first entry), each with the global block after it,
        in the backward pass. For `policy` see recompute.recomputed."""
        transformer = self.backbone.transformer
        transformer.checkpoint_num = num if isinstance(num, int) else num[0]
        transformer.checkpoint_policy = policy

    @torch.no_grad()
    def fuse(self) -> "Uniformerv2":
        """A copy for evaluation, with batch norms, layer scale and the factor of QuickGELU in the weights of
        the layers beside them."""
        model = fusion.frozen_copy(self)
        for module in list(model.modules()):
            if isinstance(module, LocalBlock):
                module.pos_embed[0] = fusion.fuse_into_next(module.pos_embed[0], module.pos_embed[1])
            elif isinstance(module, Layer):
                for name, last in (("ls_1", module.attn.out_proj), ("ls_2", module.mlp.c_proj)):
                    fusion.scale_rows(last, getattr(module, name))
                    setattr(module, name, None)
            if isinstance(module, (Layer, GlobalBlock)) and isinstance(module.mlp.gelu, QuickGELU):
                fusion.scale_rows(module.mlp.c_fc, torch.tensor(1.702))
                module.mlp.c_proj.weight /= 1.702
                module.mlp.gelu = nn.SiLU()
        return model


def _check(
    width: int,
    depth: int,
    heads: int,
    n_layers: int,
    n_dim: int,
    n_head: int,
    mlp_dropout: Sequence[float],
    return_list: Sequence[int],
    fusion: str,
    activation: str,
) -> None:
    section, faults = "UNIFORMERV2", []
    if width % heads or n_dim % n_head:
        faults.append(f"WIDTH {width} and N_DIM {n_dim} must divide into HEADS {heads} and N_HEAD {n_head}")
    if n_dim != width:
        faults.append(f"N_DIM {n_dim} must be the backbone's width, {width}")
    if n_layers != len(return_list) or n_layers > len(mlp_dropout):
        faults.append(f"RETURN_LIST and MLP_DROPOUT must have an entry for each of N_LAYERS {n_layers}")
    if not n_layers or sorted(set(return_list)) != list(return_list) or not 0 <= max(return_list) < depth:
        faults.append(f"RETURN_LIST {list(return_list)} must rise, and name layers from 0 to {depth - 1}")
    if fusion not in FUSIONS:
        faults.append(f"FUSION {fusion!r} is not one of {', '.join(FUSIONS)}")
    if activation not in ACTIVATIONS:  # which the weights may ask for, too
        faults.append(f"ACTIVATION {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    if faults:
        raise UserError(f"{section}.{f'; {section}.'.join(faults)}")


_OPTIONS = (
    "n_layers n_dim n_head mlp_factor backbone_drop_path_rate drop_path_rate mlp_dropout cls_dropout "
    "return_list dw_reduction temporal_downsample no_lmhra double_lmhra frozen fusion fold_projections"
)


def _build(cfg: CfgNode) -> Uniformerv2:
    section = cfg.UNIFORMERV2
    keys = "width layers heads patch_size input_resolution".split()
    if section.BACKBONE == "vit":
        backbone = {key: section[key.upper()] for key in keys}
    elif section.BACKBONE in BACKBONES:
        backbone = dict(zip(keys, BACKBONES[section.BACKBONE], strict=True))
    else:
        known = ", ".join([*BACKBONES, "vit"])
        raise UserError(f"UNIFORMERV2.BACKBONE: {section.BACKBONE!r} is not one of {known}")
    options: dict[str, Any] = {name: section[name.upper()] for name in _OPTIONS.split()}
    for key, default in CLIP_ARITHMETIC.items():
        options[key.lower()] = default if section[key] == "auto" else section[key]
    return Uniformerv2(num_classes=cfg.MODEL.NUM_CLASSES, **backbone, **options)


register_model("Uniformerv2", _build)
