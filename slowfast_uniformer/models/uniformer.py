"""UniFormer V1 (arXiv 2201.04676) and its light models, which prune tokens like Evo-ViT (arXiv 2108.01390).

Four stages, each a patch embedding and blocks: convolutional ("local") in stages 1 and 2, attention over all
tokens ("global") in stages 3 and 4. Parameter names are those of the released checkpoints.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
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
from slowfast_uniformer.ops.activations import GELU
from slowfast_uniformer.ops.attention import attend, attention_weights
from slowfast_uniformer.ops.chunked import map_chunked
from slowfast_uniformer.ops.convolution import PatchConv3d, PointwiseConv3d, StemConv3d
from slowfast_uniformer.ops.depthwise import DepthwiseConv3d


class PatchEmbed(implementations.HasImplementations, nn.Module):
    """Strided convolution, then LayerNorm over channels: (B, C, T, H, W) -> (B, dim, T', H', W').

    The norm's eps is 1e-5 here and for the class token, 1e-6 in blocks, as the released models were trained.
    """

    def __init__(self, in_dim: int, dim: int, kernel: tuple[int, int, int], stride: int = 1):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.proj = PatchConv3d(in_dim, dim, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return implementations.to_memory_format(self.norm(self.proj(x).movedim(1, -1)).movedim(-1, 1), self.forms)


class ConvStem(implementations.HasImplementations, nn.Module):
    """The light models' first embedding: (B, 3, T, H, W) -> (B, dim, T/2, H/4, W/4), rounded up."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Sequential(
            StemConv3d(dim // 2),
            nn.BatchNorm3d(dim // 2),
            GELU(),
            nn.Conv3d(dim // 2, dim, 3, stride=2, padding=1),
            nn.BatchNorm3d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return implementations.to_memory_format(self.proj(implementations.to_memory_format(x, self.forms)), self.forms)

    def fuse(self) -> None:
        for i in (0, 3):
            self.proj[i + 1] = fusion.fuse_into_previous(self.proj[i], self.proj[i + 1])


class Attention(implementations.HasImplementations, nn.Module):
    """Multi-head self-attention over the N tokens of (B, N, dim)."""

    def __init__(self, dim: int, heads: int, qkv_bias: bool, qkv_scale: float | None, drop: float, attn_drop: float):
        super().__init__()
        self.heads = heads
        self.scale = qkv_scale or (dim // heads) ** -0.5
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (B, heads, N, dim / heads)."""
        parts = self.qkv(x).chunk(3, dim=-1)  # whose gradients are put together by one copy
        return tuple(part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)

    def _merge(self, x: Tensor) -> Tensor:
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))

    def forward(self, x: Tensor) -> Tensor:
        rate = self.attn_drop if self.training else 0.0
        q, k, v = self._heads(x)
        weights = None if self.forms.attention == "fused" else attention_weights(q, k, self.scale)
        return self._merge(attend(q, k, v, self.scale, rate, weights))


class ClassAttention(Attention):
    """Attention that also tells how much the first token attends to each of the others."""

    def __init__(self, dim: int, fp32: bool, **options: Any):
        super().__init__(dim, **options)
        self.fp32 = fp32

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new tokens (B, N, dim) and the first one's attention to the others (B, N - 1)."""
        q, k, v = self._heads(x)
        if self.fp32:
            q, k, v = q.float(), k.float(), v.float()
        rate, fused = self.attn_drop if self.training else 0.0, self.forms.attention == "fused"
        with torch.autocast(x.device.type, enabled=False) if self.fp32 else nullcontext():
            weights = attention_weights(q[:, :, :1] if fused else q, k, self.scale)
            out = attend(q, k, v, self.scale, rate, None if fused else weights)
        return self._merge(out), weights[:, :, 0, 1:].mean(dim=1)


class _Block(implementations.HasImplementations, nn.Module):
    """What all blocks have: position encoding, stochastic depth and, with an `init_value`, layer scale."""

    def __init__(self, dim: int, drop_path: float, init_value: float | None, shape: tuple[int, ...]):
        super().__init__()
        for name in ("gamma_1", "gamma_2"):
            gamma = None if init_value is None else nn.Parameter(torch.full(shape, float(init_value)))
            self.register_parameter(name, gamma)
        self.pos_embed = DepthwiseConv3d(dim, 3)
        self.drop_path = layers.drop_path(drop_path)

    @staticmethod
    def _scaled(gamma: Tensor | None, x: Tensor) -> Tensor:
        return x if gamma is None else gamma * x

    def _fuse_scale(self, *branches: nn.Module) -> None:
        """Put layer scale into the last layers of the two branches."""
        for name, last in zip(("gamma_1", "gamma_2"), branches, strict=True):
            fusion.scale_rows(last, getattr(self, name))
            setattr(self, name, None)


class LocalBlock(_Block):
    """Position encoding, convolutional attention to 5x5x5 neighbours, MLP: (B, dim, T, H, W) to the same."""

    def __init__(self, dim: int, mlp_ratio: float, drop_path: float, drop: float, init_value: float | None):
        super().__init__(dim, drop_path, init_value, (1, dim, 1, 1, 1))
        self.norm1 = nn.BatchNorm3d(dim)
        self.conv1 = PointwiseConv3d(dim, dim)
        self.conv2 = PointwiseConv3d(dim, dim)
        self.attn = DepthwiseConv3d(dim, 5)
        self.norm2 = nn.BatchNorm3d(dim)
        self.mlp = layers.Mlp(dim, int(dim * mlp_ratio), drop, conv=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        mixed = self.attn(self.conv1(self.norm1(x)))
        return self._rest(x, mixed) if self.training else map_chunked(self._rest, x, mixed)

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What is done to each position by itself."""
        x = x + self.drop_path(self._scaled(self.gamma_1, self.conv2(mixed)))
        return x + self.drop_path(self._scaled(self.gamma_2, self.mlp(self.norm2(x))))

    def fuse(self) -> None:
        self.norm1 = fusion.fuse_into_next(self.norm1, self.conv1)
        self.norm2 = fusion.fuse_into_next(self.norm2, self.mlp.fc1)
        self._fuse_scale(self.conv2, self.mlp.fc2)


class GlobalBlock(_Block):
    """Position encoding, self-attention over all T·H·W tokens, MLP: (B, dim, T, H, W) to the same.

    With `split`, attention goes over T at each position, then over H·W in each frame.
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: float,
        drop_path: float,
        drop: float,
        init_value: float | None,
        attention: Callable[[int], Attention],
        split: bool = False,
    ):
        super().__init__(dim, drop_path, init_value, (dim,))
        self.split = split
        if split:
            self.t_norm = nn.LayerNorm(dim, eps=1e-6)
            self.t_attn = attention(dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attention(dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = layers.Mlp(dim, int(dim * mlp_ratio), drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        if self.split:
            tokens = self._attend_split(x)
        else:
            tokens = x.flatten(2).transpose(1, 2)
            tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return self._volume(tokens, x.shape)

    def fuse(self) -> None:
        self._fuse_scale(self.attn.proj, self.mlp.fc2)

    def _volume(self, tokens: Tensor, shape: torch.Size) -> Tensor:
        return implementations.to_memory_format(tokens.transpose(1, 2).reshape(shape), self.forms)

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
    """A global block in which only the tokens of highest running score take part (Evo-ViT, section 3).

    The rest follow the update of one token, their mean weighted by score. With `prune_ratio` 1 all take part.
    """

    def __init__(self, prune_ratio: float, trade_off: float, **options: Any):
        super().__init__(**options)
        self.prune_ratio = prune_ratio
        self.trade_off = trade_off

    def forward(self, x: Tensor, cls: Tensor, score: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Take and return (B, dim, T, H, W), the class token (B, 1, dim) and the running score (B, T·H·W).

        The score is None before the first block of a model, which must not prune.
        """
        x = x + self.pos_embed(x)
        tokens = x.flatten(2).transpose(1, 2)
        if self.prune_ratio == 1:
            tokens, _, new = self._update(torch.cat((cls, tokens), dim=1))
            cls, tokens = tokens[:, :1], tokens[:, 1:]
            score = new if score is None else self._running(score, new)
        else:
            cls, tokens, score = self._forward_pruned(cls, tokens, score)
        return self._volume(tokens, x.shape), cls, score

    def chosen(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """By scores (B, N): the numbers of the tokens that take part, (B, int(N * prune_ratio)), and how much
        each of the rest counts in the one that stands for them, (B, N)."""
        order = score.argsort(dim=1, descending=True)[:, : int(score.shape[1] * self.prune_ratio)]
        weight = score.scatter(1, order, 0.0)
        return order, weight / weight.sum(dim=1, keepdim=True)

    def _forward_pruned(self, cls: Tensor, tokens: Tensor, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (order, weight), (clips, count) = self.chosen(score), score.shape
        rows = (order + count * torch.arange(clips, device=order.device).unsqueeze(1)).flatten()
        kept = tokens.flatten(0, 1).index_select(0, rows).unflatten(0, order.shape)
        representative = (weight.unsqueeze(-1) * tokens).sum(dim=1, keepdim=True)
        sequence, fast_update, new = self._update(torch.cat((cls, kept, representative), dim=1))
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
    """Scores of T·H·W tokens to those of T·(H/2)·(W/2), their sum per clip kept."""
    pooled = F.avg_pool3d(score.unflatten(1, (1, *size)), (1, 2, 2)).flatten(1)
    return pooled * (score.sum(dim=1, keepdim=True) / pooled.sum(dim=1, keepdim=True))


class _FourStages(nn.Module):
    """What V1 and the light models share: the layers and the questions every model answers.

    `global_block(stage, index, **options)` makes a block of the third or fourth stage (2, 3); `light` adds
    the class token and its head. The other arguments are keys of the config's UNIFORMER section. What is made
    of it has `_last_stage(x)`, from a clip to the last stage's (B, dim, T, H, W).
    """

    classifier: tuple[str, ...] = ("head",)  # the layers that depend on the number of classes
    video_only = ("t_norm.", "t_attn.", "gamma_")  # in names of parameters that image checkpoints may lack

    def __init__(
        self,
        global_block: Callable[..., nn.Module],
        light: bool,
        init_value: float | None,
        *,
        num_classes: int = 400,
        embed_dim: Sequence[int] = (64, 128, 320, 512),
        depth: Sequence[int] = (3, 4, 8, 3),
        head_dim: int = 64,
        mlp_ratio: float | Sequence[float] = 4.0,
        qkv_bias: bool = True,
        qkv_scale: float | None = None,
        representation_size: int | None = None,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_depth_rate: float = 0.0,
        std: bool = False,
    ):
        super().__init__()
        ratios = list(mlp_ratio) if isinstance(mlp_ratio, Sequence) else [mlp_ratio] * 4
        _check_stages(embed_dim, depth, ratios, head_dim)
        if light:
            ratios[2] = ratios[3]  # the released light models build stage 3 with the last entry
            self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim[2]))
        depth_rates = iter(torch.linspace(0, drop_depth_rate, sum(depth), device="cpu").tolist())

        def block(stage: int, index: int) -> nn.Module:
            options = {"dim": embed_dim[stage], "mlp_ratio": ratios[stage], "init_value": init_value}
            options |= {"drop_path": next(depth_rates), "drop": dropout_rate}
            if stage < 2:
                return LocalBlock(**options)
            scaling = {"qkv_bias": qkv_bias, "qkv_scale": qkv_scale}
            rates = {"drop": dropout_rate, "attn_drop": attention_dropout_rate}
            heads = embed_dim[stage] // head_dim
            attention = partial(ClassAttention if light else Attention, heads=heads, **scaling, **rates)
            return global_block(stage, index, attention=attention, **options)

        dim, kernel = embed_dim, (3 if std else 1, 2, 2)
        self.patch_embed1 = ConvStem(dim[0]) if light else PatchEmbed(3, dim[0], (3, 4, 4), stride=2)
        for i in (1, 2, 3):
            self.add_module(f"patch_embed{i + 1}", PatchEmbed(dim[i - 1], dim[i], kernel))
        if light:
            self.cls_upsample = nn.Linear(dim[2], dim[3])
        self.pos_drop = nn.Dropout(dropout_rate)
        for stage in range(4):
            self.add_module(f"blocks{stage + 1}", nn.ModuleList(block(stage, i) for i in range(depth[stage])))
        self.checkpoint_num, self.checkpoint_policy = [0, 0, 0, 0], "full"
        self.norm = nn.BatchNorm3d(dim[3])
        if light:
            self.norm_cls = nn.LayerNorm(dim[3])
        self.num_features = representation_size or dim[3]
        self.pre_logits = nn.Sequential()
        if representation_size:
            self.pre_logits.add_module("fc", nn.Linear(dim[3], representation_size))
            self.pre_logits.add_module("act", nn.Tanh())
        self.head = nn.Linear(self.num_features, num_classes)
        if light:
            self.head_cls = nn.Linear(dim[3], num_classes)
        self.apply(layers.init_linear)

    def _run(self, stage: int, *state: Any) -> Any:
        """Pass `state`, the clip's tokens first, through the blocks of stage 1, 2, 3 or 4."""
        for index, block in enumerate(getattr(self, f"blocks{stage}")):
            step = block
            if index < self.checkpoint_num[stage - 1]:
                step = activation_checkpointing.checkpointed(block, policy=self.checkpoint_policy)
            state = step(*state) if len(state) > 1 else (step(*state),)
        return state if len(state) > 1 else state[0]

    def _local_stages(self, x: Tensor) -> Tensor:
        x = self._run(1, self.pos_drop(self.patch_embed1(x)))
        return self._run(2, self.patch_embed2(x))

    def _tokens(self, x: Tensor) -> Tensor:
        """The last stage's (B, dim, T, H, W) as (B, T·H·W, num_features), whose mean the classifier reads."""
        return self.pre_logits(self.norm(x).flatten(2).transpose(1, 2))

    def _pool(self, x: Tensor) -> Tensor:
        return self._tokens(x).mean(dim=1)

    def forward_features(self, x: Tensor) -> Tensor:
        """What the classifier (of the tokens) reads, (B, num_features)."""
        return self._pool(self._last_stage(x))

    def forward_frames(self, x: Tensor) -> Tensor:
        """The same before its mean over time, (B, T/2, num_features)."""
        x = self._last_stage(x)
        return self._tokens(x).unflatten(1, (x.shape[2], -1)).mean(dim=2)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a new one for `num_classes` classes."""
        for name in self.classifier:
            setattr(self, name, layers.new_classifier(getattr(self, name), num_classes))

    def no_weight_decay(self) -> set[str]:
        """Parameters that must not decay: none (in the released recipes even the class token decays)."""
        return set()

    def layer_groups(self) -> list[list[str]]:
        """Names of all parameters in groups from input to head: the stem, each block, the head."""
        blocks = [f"{s}.{i}" for s in (1, 2, 3, 4) for i in range(len(getattr(self, f"blocks{s}")))]
        entrance = {"2.0": ("patch_embed2.",), "3.0": ("patch_embed3.", "cls_token")}
        entrance["4.0"] = ("patch_embed4.", "cls_upsample.")
        prefixes = [("patch_embed1.",), *((f"blocks{block}.", *entrance.get(block, ())) for block in blocks)]
        prefixes.append(("norm.", "norm_cls.", "pre_logits.", "head.", "head_cls."))
        names = [name for name, _ in self.named_parameters()]
        return [[name for name in names if name.startswith(prefix)] for prefix in prefixes]

    def set_grad_checkpointing(self, num: int | Sequence[int], policy: str = "full") -> None:
        """Recompute the first num[i] blocks of stage i + 1 in the backward pass; an int is for all stages.
        For `policy` see recompute.recomputed."""
        self.checkpoint_num, self.checkpoint_policy = activation_checkpointing.checkpoint_counts(num, stages=4), policy

    @torch.no_grad()
    def fuse(self) -> "_FourStages":
        """A copy for evaluation: batch norms and layer scale are in the weights of the layers beside them."""
        model = fusion.frozen_copy(self)
        for stage in (1, 2, 3, 4):
            for block in getattr(model, f"blocks{stage}"):
                block.fuse()
        if isinstance(model.patch_embed1, ConvStem):
            model.patch_embed1.fuse()
        reader = model.pre_logits.fc if len(model.pre_logits) else model.head
        model.norm = fusion.fuse_into_next(model.norm, reader)
        return model


class Uniformer(_FourStages):
    """UniFormer V1. Takes float clips (B, 3, T, H, W), returns logits (B, num_classes)."""

    def __init__(self, *, split: bool = False, **options: Any):
        block = lambda stage, index, **own: GlobalBlock(split=split, **own)  # noqa: E731
        super().__init__(block, light=False, init_value=None, **options)
        for block in (*self.blocks3, *self.blocks4) if split else ():
            # Temporal attention adds nothing at first, but the gradient of its values is not zero.
            nn.init.zeros_(block.t_attn.qkv.weight)
            nn.init.ones_(block.t_attn.proj.weight)

    def _last_stage(self, x: Tensor) -> Tensor:
        x = self._run(3, self.patch_embed3(self._local_stages(x)))
        return self._run(4, self.patch_embed4(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))


class UniformerLight(_FourStages):
    """UniFormer-XS and -XXS. Takes float clips (B, 3, T, H, W), returns logits (B, num_classes).

    In training it returns two, the tokens' and the class token's; the loss is the mean of their losses.
    `prune_ratio` and `trade_off` hold a list per stage with an entry per block (the first two are not read).
    `layer_scale` scales every branch, from `init_value` on; `fp32` attends in fp32 even under autocast.
    """

    classifier = ("head", "head_cls")

    def __init__(
        self,
        *,
        prune_ratio: Sequence[Sequence[float]],
        trade_off: Sequence[Sequence[float]],
        layer_scale: bool = False,
        init_value: float = 0.1,
        fp32: bool = False,
        **options: Any,
    ):
        def block(stage: int, index: int, attention: Callable, **own: Any) -> EvoBlock:
            for key, value in (("PRUNE_RATIO", prune_ratio), ("TRADE_OFF", trade_off)):
                if len(value) != 4 or len(value[stage]) <= index:
                    raise UserError(f"UNIFORMER.{key}: needs an entry for each block of stage {stage + 1}")
            ratio, weight = prune_ratio[stage][index], trade_off[stage][index]
            if (stage, index) == (2, 0) and ratio != 1:
                raise UserError("UNIFORMER.PRUNE_RATIO: stage 3 must begin with 1; it finds the scores")
            return EvoBlock(ratio, weight, attention=partial(attention, fp32=fp32), **own)

        super().__init__(block, light=True, init_value=init_value if layer_scale else None, **options)

    def _two_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the two classifiers read, the tokens' (B, dim, T, H, W) before its mean, the class token's
        (B, dim) before its norm."""
        x, cls = self.patch_embed3(self._local_stages(x)), self.cls_token.expand(x.shape[0], -1, -1)
        x, cls, score = self._run(3, x, cls, None)
        score = _pool_score(score, x.shape[2:])
        x, cls, _ = self._run(4, self.patch_embed4(x), self.cls_upsample(cls), score)
        return x, cls.squeeze(1)

    def _last_stage(self, x: Tensor) -> Tensor:
        return self._two_features(x)[0]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x, cls = self._two_features(x)
        logits = self.head(self._pool(x))
        return (logits, self.head_cls(self.norm_cls(cls))) if self.training else logits


def _check_stages(embed_dim: Sequence[int], depth: Sequence[int], ratios: list[float], head_dim: int) -> None:
    for key, value in (("EMBED_DIM", embed_dim), ("DEPTH", depth), ("MLP_RATIO", ratios)):
        if len(value) != 4:
            raise UserError(f"UNIFORMER.{key}: {list(value)} must have an entry for each of the 4 stages")
    for dim in embed_dim[2:]:
        if dim < head_dim or dim % (dim // head_dim):
            raise UserError(f"UNIFORMER.EMBED_DIM: {dim} is not divisible into heads of HEAD_DIM {head_dim}")


_SHARED = (
    "embed_dim depth head_dim mlp_ratio qkv_bias qkv_scale representation_size"
    " dropout_rate attention_dropout_rate drop_depth_rate"
)


def _build(cfg: CfgNode, model: Callable[..., nn.Module], own: str, **switches: bool) -> nn.Module:
    """`model` from the keys of UNIFORMER that are called like its arguments, shared ones and its `own`."""
    options = {name: cfg.UNIFORMER[name.upper()] for name in f"{_SHARED} {own}".split()}
    return model(num_classes=cfg.MODEL.NUM_CLASSES, **options, **switches)


register_model("Uniformer", partial(_build, model=Uniformer, own="split std"))
_light = partial(_build, model=UniformerLight, own="prune_ratio trade_off init_value")
register_model("Uniformer_light", _light)
register_model("Uniformer_light_fp32", partial(_light, fp32=True))
register_model("Uniformer_light_ls_fp32", partial(_light, layer_scale=True, fp32=True))
