"""UniFormer V1 (arXiv 2201.04676) and its light models, which prune tokens as Evo-ViT does (arXiv 2108.01390).

Four stages, each a patch embedding and blocks (section 3.1): local blocks, whose token affinity is a convolution, in
stages 1 and 2 (section 3.2); global blocks with self-attention over all tokens in stages 3 and 4. Parameter names are
those of the released checkpoints.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
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
from slowfast_uniformer.ops import fusion, implementations
from slowfast_uniformer.ops.activations import GELU
from slowfast_uniformer.ops.attention import attend, attention_weights, merge_heads, split_heads
from slowfast_uniformer.ops.chunked import map_chunked
from slowfast_uniformer.ops.convolution import Conv3d, PatchConv3d, PointwiseConv3d, StemConv3d
from slowfast_uniformer.ops.depthwise import DepthwiseConv3d


@dataclass(frozen=True, kw_only=True)
class Options:
    """Keys of the config's UNIFORMER section in lower case, the number of classes, and what a model's name sets.

    Lists have an entry for each stage. `split` and `std` are for V1 alone, the last five for light models alone.
    """

    num_classes: int = 400
    embed_dim: Sequence[int] = (64, 128, 320, 512)
    depth: Sequence[int] = (3, 4, 8, 3)
    head_dim: int = 64
    mlp_ratio: float | Sequence[float] = 4.0
    qkv_bias: bool = True
    qkv_scale: float | None = None
    representation_size: int | None = None
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_depth_rate: float = 0.0
    split: bool = False  # attention over time, then over space
    std: bool = False  # patch embeddings that overlap in time
    prune_ratio: Sequence[Sequence[float]] = ()  # per block: share of tokens that take part; stages 1 and 2 are unused
    trade_off: Sequence[Sequence[float]] = ()  # per block: weight of the new score in the running one
    init_value: float = 0.1  # of layer scale
    layer_scale: bool = False
    fp32: bool = False  # attention in fp32 even under autocast

    def check(self, light: bool) -> None:
        """Raise UserError, naming the key, for lists of a wrong length and channels that heads do not divide."""
        for key in ("embed_dim", "depth", "mlp_ratio"):
            value = getattr(self, key)
            if isinstance(value, Sequence) and len(value) != 4:
                raise UserError(f"UNIFORMER.{key.upper()}: {list(value)} must have an entry for each of the 4 stages")
        for dim in self.embed_dim[2:]:
            if dim < self.head_dim or dim % (dim // self.head_dim):
                raise UserError(f"UNIFORMER.EMBED_DIM: {dim} is not divisible into heads of HEAD_DIM {self.head_dim}")
        for key in ("prune_ratio", "trade_off") if light else ():
            value = getattr(self, key)
            for stage in (2, 3):
                if len(value) != 4 or len(value[stage]) < self.depth[stage]:
                    raise UserError(f"UNIFORMER.{key.upper()}: needs an entry for each block of stage {stage + 1}")
        if light and self.depth[2] and self.prune_ratio[2][0] != 1:
            raise UserError("UNIFORMER.PRUNE_RATIO: stage 3 must begin with 1; its first block computes the scores")


class PatchEmbed(implementations.HasImplementations, nn.Module):
    """Strided convolution, then LayerNorm over channels: (B, C, T, H, W) to (B, dim, T', H', W').

    The norm's eps is 1e-5 here and for the class token, 1e-6 in blocks, as the released models were trained.
    """

    def __init__(self, in_dim: int, dim: int, kernel: tuple[int, int, int], stride: int = 1):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.proj = PatchConv3d(in_dim, dim, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.proj(x).movedim(1, -1)).movedim(-1, 1)
        return implementations.to_memory_format(x, self.impl)


class ConvStem(implementations.HasImplementations, nn.Module):
    """The light models' first patch embedding: (B, 3, T, H, W) to (B, dim, T/2, H/4, W/4), rounded up."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Sequential(
            StemConv3d(dim // 2),
            nn.BatchNorm3d(dim // 2),
            GELU(),
            Conv3d(dim // 2, dim, 3, stride=2, padding=1),
            nn.BatchNorm3d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(implementations.to_memory_format(x, self.impl))
        return implementations.to_memory_format(x, self.impl)

    def fuse(self) -> None:
        for i in (0, 3):
            self.proj[i + 1] = fusion.fuse_into_previous(self.proj[i], self.proj[i + 1])


class Attention(implementations.HasImplementations, nn.Module):
    """Multi-head self-attention over tokens (B, N, dim)."""

    def __init__(self, options: Options, dim: int):
        super().__init__()
        self.heads = dim // options.head_dim
        self.scale = options.qkv_scale or (dim // self.heads) ** -0.5
        self.attn_drop = options.attention_dropout_rate
        self.fp32 = options.fp32
        self.qkv = nn.Linear(dim, dim * 3, bias=options.qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(options.dropout_rate)

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, ...]:
        """Each (B, heads, N, dim / heads)."""
        parts = self.qkv(x).chunk(3, dim=-1)  # whose gradients are joined by a single copy
        return tuple(split_heads(part, self.heads) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        rate = self.attn_drop if self.training else 0.0
        q, k, v = self._queries_keys_values(x)
        weights = None if self.impl.attention == "fused" else attention_weights(q, k, self.scale)
        return self.proj_drop(self.proj(merge_heads(attend(q, k, v, self.scale, rate, weights))))


class ClassAttention(Attention):
    """Attention that also returns how much the class token attends to each other token (Evo-ViT, section 3.2)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, dim), the class token first, to the same and its attention to the others (B, N - 1)."""
        q, k, v = self._queries_keys_values(x)
        if self.fp32:
            q, k, v = q.float(), k.float(), v.float()
        rate, fused = self.attn_drop if self.training else 0.0, self.impl.attention == "fused"
        with torch.autocast(x.device.type, enabled=False) if self.fp32 else nullcontext():
            weights = attention_weights(q[:, :, :1] if fused else q, k, self.scale)
            out = attend(q, k, v, self.scale, rate, None if fused else weights)
        return self.proj_drop(self.proj(merge_heads(out))), weights[:, :, 0, 1:].mean(dim=1)


class _Block(implementations.HasImplementations, nn.Module):
    """What all blocks share: dynamic position embedding, stochastic depth and, in some models, layer scale.

    Args:
        options: the model's.
        stage: number of the stage, from 0.
        index: number of the block in its stage, from 0.
        drop_path: rate of stochastic depth.
    """

    gamma_shape: tuple[int, ...] = (-1,)

    def __init__(self, options: Options, stage: int, index: int, drop_path: float):
        super().__init__()
        dim = options.embed_dim[stage]
        for name in ("gamma_1", "gamma_2"):
            gamma = torch.full((dim,), float(options.init_value)).view(self.gamma_shape)
            self.register_parameter(name, nn.Parameter(gamma) if options.layer_scale else None)
        self.pos_embed = DepthwiseConv3d(dim, 3)
        self.drop_path = layers.DropPath(drop_path)

    @staticmethod
    def _scaled(gamma: Tensor | None, x: Tensor) -> Tensor:
        return x if gamma is None else gamma * x

    def _fuse_scale(self, *branches: nn.Module) -> None:
        """Fuse layer scale into the last layers of the two branches."""
        for name, last in zip(("gamma_1", "gamma_2"), branches, strict=True):
            fusion.scale_outputs(last, getattr(self, name))
            setattr(self, name, None)


class LocalBlock(_Block):
    """A local block: affinity of 5x5x5 neighbours by convolution, then MLP; (B, dim, T, H, W) to the same."""

    gamma_shape = (1, -1, 1, 1, 1)

    def __init__(self, options: Options, stage: int, index: int, drop_path: float):
        super().__init__(options, stage, index, drop_path)
        dim = options.embed_dim[stage]
        self.norm1 = nn.BatchNorm3d(dim)
        self.conv1 = PointwiseConv3d(dim, dim)
        self.conv2 = PointwiseConv3d(dim, dim)
        self.attn = DepthwiseConv3d(dim, 5)
        self.norm2 = nn.BatchNorm3d(dim)
        self.mlp = layers.Mlp(dim, int(dim * options.mlp_ratio[stage]), options.dropout_rate, conv=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        mixed = self.attn(self.conv1(self.norm1(x)))
        return self._pointwise(x, mixed) if self.training else map_chunked(self._pointwise, x, mixed)

    def _pointwise(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The part of the block that treats each position by itself."""
        x = x + self.drop_path(self._scaled(self.gamma_1, self.conv2(mixed)))
        return x + self.drop_path(self._scaled(self.gamma_2, self.mlp(self.norm2(x))))

    def fuse(self) -> None:
        self.norm1 = fusion.fuse_into_next(self.norm1, self.conv1)
        self.norm2 = fusion.fuse_into_next(self.norm2, self.mlp.fc1)
        self._fuse_scale(self.conv2, self.mlp.fc2)


class GlobalBlock(_Block):
    """A global block: self-attention over all T·H·W tokens, then MLP; (B, dim, T, H, W) to the same.

    With `split`, attention is over T at each position, then over H·W in each frame.
    """

    attention: type[Attention] = Attention

    def __init__(self, options: Options, stage: int, index: int, drop_path: float):
        super().__init__(options, stage, index, drop_path)
        dim = options.embed_dim[stage]
        self.split = options.split
        if self.split:
            self.t_norm = nn.LayerNorm(dim, eps=1e-6)
            self.t_attn = self.attention(options, dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = self.attention(options, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = layers.Mlp(dim, int(dim * options.mlp_ratio[stage]), options.dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        if self.split:
            tokens = self._attend_split(x)
        else:
            tokens = x.flatten(2).transpose(1, 2)
            tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return self._to_volume(tokens, x.shape)

    def fuse(self) -> None:
        self._fuse_scale(self.attn.proj, self.mlp.fc2)

    def _to_volume(self, tokens: Tensor, shape: torch.Size) -> Tensor:
        return implementations.to_memory_format(tokens.transpose(1, 2).reshape(shape), self.impl)

    def _attend_split(self, x: Tensor) -> Tensor:
        """Tokens (B, T·H·W, dim). The residual of the second attention is x, as in the released models."""
        frames, space = x.shape[2], x.shape[3] * x.shape[4]
        tubes = x.flatten(3).permute(0, 3, 2, 1).flatten(0, 1)  # (B·HW, T, dim)
        tubes = tubes + self.drop_path(self.t_attn(self.t_norm(tubes)))
        images = tubes.unflatten(0, (-1, space)).transpose(1, 2).flatten(0, 1)  # (B·T, HW, dim)
        residual = x.flatten(3).permute(0, 2, 3, 1).flatten(0, 1)
        images = residual + self.drop_path(self.attn(self.norm1(images)))
        return images.unflatten(0, (-1, frames)).flatten(1, 2)


class EvoBlock(GlobalBlock):
    """A global block for the tokens with the highest running scores (slow-fast token evolution, Evo-ViT, section 3.3).

    The other tokens take the update of one representative token, their mean weighted by score. With a prune ratio of
    1, all tokens take part.
    """

    attention = ClassAttention

    def __init__(self, options: Options, stage: int, index: int, drop_path: float):
        super().__init__(options, stage, index, drop_path)
        self.prune_ratio = options.prune_ratio[stage][index]
        self.trade_off = options.trade_off[stage][index]

    def forward(self, x: Tensor, cls: Tensor, score: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Update all three arguments.

        Args:
            x: (B, dim, T, H, W).
            cls: the class token (B, 1, dim).
            score: the running score (B, T·H·W). None in the first block of a model, which must not prune.
        """
        x = x + self.pos_embed(x)
        tokens = x.flatten(2).transpose(1, 2)
        if self.prune_ratio == 1:
            tokens, _, new = self._update(torch.cat((cls, tokens), dim=1))
            cls, tokens = tokens[:, :1], tokens[:, 1:]
            score = new if score is None else self._running(score, new)
        else:
            cls, tokens, score = self._forward_pruned(cls, tokens, score)
        return self._to_volume(tokens, x.shape), cls, score

    def select_tokens(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """Select tokens by their scores (B, N).

        Returns:
            Indices of the selected tokens (B, int(N * prune_ratio)), and the weight of each other token in the
            representative one (B, N), zero for selected tokens.
        """
        order = score.argsort(dim=1, descending=True)[:, : int(score.shape[1] * self.prune_ratio)]
        weight = score.scatter(1, order, 0.0)
        return order, weight / weight.sum(dim=1, keepdim=True)

    def _forward_pruned(self, cls: Tensor, tokens: Tensor, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (order, weight), (clips, count) = self.select_tokens(score), score.shape
        rows = (order + count * torch.arange(clips, device=order.device).unsqueeze(1)).flatten()
        selected = tokens.flatten(0, 1).index_select(0, rows).unflatten(0, order.shape)
        representative = (weight.unsqueeze(-1) * tokens).sum(dim=1, keepdim=True)
        sequence, fast_update, new = self._update(torch.cat((cls, selected, representative), dim=1))
        updated = (tokens + fast_update).flatten(0, 1).index_copy(0, rows, sequence[:, 1:-1].flatten(0, 1))
        running = self._running(score.gather(1, order), new[:, :-1])
        return sequence[:, :1], updated.view_as(tokens), score.scatter(1, order, running)

    def _update(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attention and MLP over (B, N, dim); what both add to the last token; the new score (B, N - 1)."""
        attended, new = self.attn(self.norm1(tokens))
        attended = self._scaled(self.gamma_1, attended)
        tokens = tokens + self.drop_path(attended)
        mixed = self._scaled(self.gamma_2, self.mlp(self.norm2(tokens)))
        return tokens + self.drop_path(mixed), attended[:, -1:] + mixed[:, -1:], new

    def _running(self, score: Tensor, new: Tensor) -> Tensor:
        return (1 - self.trade_off) * score + self.trade_off * new


def _pool_score(score: Tensor, size: Sequence[int]) -> Tensor:
    """Scores of T·H·W tokens to those of T·(H/2)·(W/2); each clip's sum stays."""
    pooled = F.avg_pool3d(score.unflatten(1, (1, *size)), (1, 2, 2)).flatten(1)
    return pooled * (score.sum(dim=1, keepdim=True) / pooled.sum(dim=1, keepdim=True))


class _FourStages(VideoModel):
    """What V1 and the light models share.

    A subclass has `global_block`, the class of blocks in stages 3 and 4, and `_last_stage`, which computes from clips
    the last stage's (B, dim, T, H, W) and its class token (B, dim) or None. `light` adds the class token and its head.
    """

    classifier = ("head",)
    video_only = ("t_norm.", "t_attn.", "gamma_")
    global_block: type[GlobalBlock] = GlobalBlock
    light = False

    def __init__(self, **options: Any):
        super().__init__()
        o = Options(**options)
        o.check(self.light)
        ratios = list(o.mlp_ratio) if isinstance(o.mlp_ratio, Sequence) else [o.mlp_ratio] * 4
        if self.light:
            ratios[2] = ratios[3]  # the released light models have the last entry in stage 3, too
            self.cls_token = nn.Parameter(torch.zeros(1, 1, o.embed_dim[2]))
        o = replace(o, mlp_ratio=ratios)
        dim, kernel = o.embed_dim, (3 if o.std else 1, 2, 2)
        self.patch_embed1 = ConvStem(dim[0]) if self.light else PatchEmbed(3, dim[0], (3, 4, 4), stride=2)
        for i in (1, 2, 3):
            self.add_module(f"patch_embed{i + 1}", PatchEmbed(dim[i - 1], dim[i], kernel))
        if self.light:
            self.cls_upsample = nn.Linear(dim[2], dim[3])
        self.pos_drop = nn.Dropout(o.dropout_rate)
        rates = iter(layers.drop_path_rates(o.drop_depth_rate, sum(o.depth)))
        for stage, block in enumerate((LocalBlock, LocalBlock, self.global_block, self.global_block)):
            blocks = [block(o, stage, index, next(rates)) for index in range(o.depth[stage])]
            self.add_module(f"blocks{stage + 1}", nn.ModuleList(blocks))
        self.norm = nn.BatchNorm3d(dim[3])
        if self.light:
            self.norm_cls = nn.LayerNorm(dim[3])
        self.num_features = o.representation_size or dim[3]
        self.pre_logits = nn.Sequential()
        if o.representation_size:
            self.pre_logits.add_module("fc", nn.Linear(dim[3], o.representation_size))
            self.pre_logits.add_module("act", nn.Tanh())
        self.head = nn.Linear(self.num_features, o.num_classes)
        self.attentive = None
        if self.light:
            self.head_cls = nn.Linear(dim[3], o.num_classes)
        self.apply(layers.init_linear)

    def stages(self) -> list[list[tuple[nn.Module, ...]]]:
        return [[(block,) for block in getattr(self, f"blocks{stage}")] for stage in (1, 2, 3, 4)]

    def _run_stage(self, stage: int, *state: Any) -> Any:
        """Pass `state`, the clips' tokens first, through the blocks of stage 1, 2, 3 or 4."""
        for index, block in enumerate(getattr(self, f"blocks{stage}")):
            step = self._checkpointed(stage - 1, index, block)
            state = step(*state) if len(state) > 1 else (step(*state),)
        return state if len(state) > 1 else state[0]

    def _local_stages(self, x: Tensor) -> Tensor:
        x = self._run_stage(1, self.pos_drop(self.patch_embed1(x)))
        return self._run_stage(2, self.patch_embed2(x))

    def _tokens(self, x: Tensor) -> Tensor:
        """The last stage's (B, dim, T, H, W) as (B, T·H·W, num_features), whose mean the classifier takes."""
        return self.pre_logits(self.norm(x).flatten(2).transpose(1, 2))

    def _features(self, x: Tensor) -> Tensor:
        """The last stage's (B, dim, T, H, W) to the input of the (tokens') classifier, (B, num_features)."""
        tokens = self._tokens(x)
        features = tokens.mean(dim=1)
        if self.attentive is None:
            return features
        return self.attentive(features, grid_tokens(tokens.unflatten(1, x.shape[2:]), self.attentive.grid))

    def forward_features(self, x: Tensor) -> Tensor:
        """The input of the (tokens') classifier, (B, num_features)."""
        return self._features(self._last_stage(x)[0])

    def forward_tokens(self, x: Tensor, grid: int) -> tuple[Tensor, Tensor]:
        x, _ = self._last_stage(x)
        tokens = self._tokens(x)
        return tokens.mean(dim=1), grid_tokens(tokens.unflatten(1, x.shape[2:]), grid)

    def forward_frames(self, x: Tensor) -> Tensor:
        """The same before its mean over time, (B, T/2, num_features)."""
        x, _ = self._last_stage(x)
        return self._tokens(x).unflatten(1, (x.shape[2], -1)).mean(dim=2)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x, cls = self._last_stage(x)
        logits = self.head(self._features(x))
        return (logits, self.head_cls(self.norm_cls(cls))) if self.light and self.training else logits

    def layer_groups(self) -> list[list[str]]:
        """Parameter names in groups from input to head: the stem, each block, the head."""
        names = [name for name, _ in self.named_parameters()]
        entrance = {"blocks2.0.": ("patch_embed2.",), "blocks3.0.": ("patch_embed3.", "cls_token")}
        entrance["blocks4.0."] = ("patch_embed4.", "cls_upsample.")
        blocks = [f"blocks{s}.{i}." for s, stage in enumerate(self.stages(), 1) for i in range(len(stage))]
        head = ("norm.", "norm_cls.", "pre_logits.", "attentive.", "head.", "head_cls.")
        prefixes = [("patch_embed1.",), *((block, *entrance.get(block, ())) for block in blocks), head]
        return [[name for name in names if name.startswith(prefix)] for prefix in prefixes]

    @torch.no_grad()
    def fuse(self) -> "_FourStages":
        """A copy for evaluation with batch norms and layer scale fused into neighbouring layers."""
        model = fusion.frozen_copy(self)
        for (block,) in sum(model.stages(), []):
            block.fuse()
        if self.light:
            model.patch_embed1.fuse()
        reader = model.pre_logits.fc if len(model.pre_logits) else model.head
        if reader is not model.head or model.attentive is None:  # the attentive head has other readers, too
            model.norm = fusion.fuse_into_next(model.norm, reader)
        return model


class Uniformer(_FourStages):
    """UniFormer V1: float clips (B, 3, T, H, W) to logits (B, num_classes).

    Args:
        **options: fields of `Options`.
    """

    def __init__(self, **options: Any):
        super().__init__(**options)
        for block in (*self.blocks3, *self.blocks4):
            if block.split:  # temporal attention adds nothing at first, but its value projection gets a gradient
                nn.init.zeros_(block.t_attn.qkv.weight)
                nn.init.ones_(block.t_attn.proj.weight)

    def _last_stage(self, x: Tensor) -> tuple[Tensor, None]:
        x = self._run_stage(3, self.patch_embed3(self._local_stages(x)))
        return self._run_stage(4, self.patch_embed4(x)), None


class UniformerLight(_FourStages):
    """UniFormer-XS and -XXS: float clips (B, 3, T, H, W) to logits (B, num_classes).

    In training it returns the logits of both classifiers, the tokens' and the class token's. The loss is the mean of
    theirs.

    Args:
        **options: fields of `Options`. `prune_ratio` and `trade_off` are required.
    """

    classifier = ("head", "head_cls")
    global_block = EvoBlock
    light = True

    def _last_stage(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, cls = self.patch_embed3(self._local_stages(x)), self.cls_token.expand(x.shape[0], -1, -1)
        x, cls, score = self._run_stage(3, x, cls, None)
        score = _pool_score(score, x.shape[2:])
        x, cls, _ = self._run_stage(4, self.patch_embed4(x), self.cls_upsample(cls), score)
        return x, cls.squeeze(1)


def _build(cfg: CfgNode, model: type[_FourStages], **switches: bool) -> nn.Module:
    """`model` from the section UNIFORMER; `switches` override its keys."""
    options = {key.lower(): value for key, value in cfg.UNIFORMER.items()} | switches
    return model(num_classes=cfg.MODEL.NUM_CLASSES, **options)


register_model("Uniformer", partial(_build, model=Uniformer))
_light = partial(_build, model=UniformerLight, split=False, std=False)  # which are V1's
register_model("Uniformer_light", _light)
register_model("Uniformer_light_fp32", partial(_light, fp32=True))
register_model("Uniformer_light_ls_fp32", partial(_light, layer_scale=True, fp32=True))
