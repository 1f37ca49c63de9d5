"""Where in a clip a model looks: Grad-CAM, attention rollout, and the attention of UniFormerV2's queries.

All of it is read off a model from outside, by hooks on its modules while it answers: the models know nothing
of it.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models import uniformer, uniformerv2
from slowfast_uniformer.ops.attention import attention_weights

METHODS = ("auto", "gradcam", "attention")
AT_ONCE = 256  # queries whose attention is in memory at a time
Calls = dict[nn.Module, tuple[tuple[Any, ...], Any]]  # inputs and output, in the order of the returns


class Map(NamedTuple):
    """How much each place of a clip counts, `values` (T', H', W') of at least 0, in a stage ("3"), or in the
    global block after a layer ("11") or all of them ("mean"). Shares of attention sum to 1 with those that
    class tokens get."""

    stage: str
    kind: str
    values: Tensor

    @property
    def title(self) -> str:
        word = "layer " if self.kind == "attention" else "stage "
        return "mean of layers" if self.stage == "mean" else word + self.stage


def look(model: nn.Module, clip: Tensor, label: int | None = None, method: str = "auto") -> tuple[Tensor, list[Map]]:
    """Logits (K,) of a normalised clip (3, T, H, W) and the maps of the model's stages, first to last.

    `gradcam` is what speaks for class `label` (None: the model's answer) in the output of a stage;
    `attention`, which knows no class, is what stages of global blocks attend to; `auto` is the former for
    stages of convolutions and the latter for those that attend. UserError if the model lacks such stages.
    """
    vit = next((m for m in model.modules() if isinstance(m, uniformerv2.VisionTransformer)), None)
    blocks = [m for m in model.modules() if isinstance(m, uniformer.GlobalBlock)]
    if method == "attention" and not (vit or blocks) or method == "gradcam" and vit:
        have = "no global blocks" if method == "attention" else "no stages with a volume of features"
        raise UserError(f"--method {method}: the model has {have}; use --method auto")
    clip = clip.unsqueeze(0).requires_grad_(not vit and method != "attention")
    with torch.enable_grad(), _recorded(_watched(model)) as calls:
        logits = model(clip)[0]
    with torch.no_grad():
        attention = _query_attention(vit, calls) if vit else _rollout(model, calls) if blocks else []
    if not clip.requires_grad:
        return logits.detach(), attention
    attending = {each.stage for each in attention if method == "auto"}
    volumes = {stage: volume for stage, volume in _volumes(model, calls).items() if stage not in attending}
    score = logits[int(logits.argmax()) if label is None else label]
    cams = _grad_cam(volumes, score) if volumes else []
    return logits.detach(), cams + [each for each in attention if each.stage in attending]


def _watched(model: nn.Module) -> list[nn.Module]:
    """What maps are read off; to keep what every module gives would take as much memory as training."""
    kinds = (uniformer.PatchEmbed, uniformer.GlobalBlock, uniformer.Attention, uniformerv2.CrossAttention)
    last = {part for blocks in stages_of(model).values() for part in blocks[-1]}
    stems = {m.conv1 for m in model.modules() if isinstance(m, uniformerv2.VisionTransformer)}
    return [m for m in model.modules() if isinstance(m, kinds) or m in last | stems]


@contextmanager
def _recorded(modules: Iterable[nn.Module]) -> Iterator[Calls]:
    """What these modules take and give when they are called, once each."""
    calls: Calls = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] = inputs, output

    handles = [module.register_forward_hook(note) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def stages_of(model: nn.Module) -> dict[str, Sequence[tuple[nn.Module, ...]]]:
    """A model's blocks by the number of their stage; of a block, what stands side by side in its pathways."""
    if hasattr(model, "stages"):
        stages = model.stages()
    else:
        lists = [child for child in model.children() if isinstance(child, nn.ModuleList) and len(child)]
        stages = [[(block,) for block in blocks] for blocks in lists]
    return {str(number): blocks for number, blocks in enumerate(stages, 1)}


def _volumes(model: nn.Module, calls: Calls) -> dict[str, Tensor]:
    """What the stages put out, (1, C, T, H, W)."""
    found = {}
    for stage, blocks in stages_of(model).items():
        for path, block in enumerate(blocks[-1]):
            output = calls[block][1] if block in calls else None
            output = output[0] if isinstance(output, tuple) else output
            if isinstance(output, Tensor) and output.ndim == 5:
                found[f"{stage} {('slow', 'fast')[path]}" if len(blocks[-1]) > 1 else stage] = output
    if not found:
        raise UserError(
            "no map can be drawn: the model has neither global blocks of UniFormer nor "
            "stages (a method stages(), or module lists) whose blocks put out volumes (B, C, T, H, W)"
        )
    return found


def _grad_cam(volumes: dict[str, Tensor], score: Tensor) -> list[Map]:
    """Grad-CAM (arXiv 1610.02391, section 3) over space and time: channels weighted by the mean gradient of
    `score`, added, and what speaks against it left out."""
    maps = []
    for (stage, volume), gradient in zip(
        volumes.items(), torch.autograd.grad(score, list(volumes.values())), strict=True
    ):
        values = (gradient.mean(dim=(2, 3, 4), keepdim=True) * volume.detach()).sum(dim=1).relu()
        maps.append(Map(stage, "Grad-CAM", values[0]))
    return maps


def _rollout(model: nn.Module, calls: Calls) -> list[Map]:
    """Attention rollout (arXiv 2005.00928, section 3) from the mean over all tokens, which the classifier
    reads, back through each block to the input of each stage.

    A residual connection counts as much as the attention beside it, heads are averaged. Convolutions for
    position are passed over; a patch embedding spreads evenly what its token gets over what it has read.
    """
    stage_of = {part: s for s, blocks in stages_of(model).items() for block in blocks for part in block}
    steps = [m for m in calls if isinstance(m, (uniformer.GlobalBlock, uniformer.PatchEmbed))]
    share, maps = None, {}
    for module in reversed(steps):
        size = calls[module][0][0].shape[2:]  # of what it read
        if share is None:
            share = _uniform(module, size)
        if isinstance(module, uniformer.PatchEmbed):
            if not any(isinstance(m, uniformer.GlobalBlock) for m in steps[: steps.index(module)]):
                break
            share = _spread(share, module.proj, calls[module][1].shape[2:], size)
        else:
            share = _through(module, calls, share)
            maps[stage_of[module]] = share[-size.numel() :].unflatten(0, size)
    return [Map(stage, "attention rollout", values) for stage, values in reversed(maps.items())]


def _uniform(block: uniformer.GlobalBlock, size: torch.Size) -> Tensor:
    """The mean over the tokens; a class token, which comes first, is not part of it."""
    share = torch.full((size.numel(),), 1 / size.numel(), device=block.norm1.weight.device)
    return torch.cat((share.new_zeros(1), share)) if isinstance(block, uniformer.EvoBlock) else share


def _spread(share: Tensor, conv: nn.Conv3d, size: torch.Size, before: torch.Size) -> Tensor:
    """Shares of tokens of a volume of `size` over the volume `before`, of which `conv` made it."""
    cls, share = share.split((len(share) - size.numel(), size.numel()))
    kernel = share.new_full((1, 1, *conv.kernel_size), 1.0)
    read = F.conv3d(share.new_ones(1, 1, *before), kernel, None, conv.stride, conv.padding)
    each = share.view(1, 1, *size) / read  # without what lies outside
    reach = [
        (n - 1) * s + k - 2 * p for n, s, k, p in zip(size, conv.stride, conv.kernel_size, conv.padding, strict=True)
    ]
    rest = [n - r for n, r in zip(before, reach, strict=True)]  # what the last window left over
    spread = F.conv_transpose3d(each, kernel, None, conv.stride, conv.padding, rest)
    return torch.cat((cls, spread.flatten()))


def _through(block: uniformer.GlobalBlock, calls: Calls, share: Tensor) -> Tensor:
    """Shares of what leaves a block, traced back to what enters it: the class token, if any, and T·H·W."""
    if isinstance(block, uniformer.EvoBlock) and block.prune_ratio != 1:
        return _through_pruned(block, calls, share)
    if not block.split:
        return (share + _traced(block.attn, calls, share.unsqueeze(0))[0]) / 2
    frames = calls[block][0][0].shape[2]
    in_space = _traced(block.attn, calls, share.unflatten(0, (frames, -1)))  # (T, HW)
    in_time = _traced(block.t_attn, calls, in_space.T).T
    # the second attention reads x + what the first adds, and is added to x
    return (share + (in_space + in_time).flatten() / 2) / 2


def _through_pruned(block: uniformer.EvoBlock, calls: Calls, share: Tensor) -> Tensor:
    """Tokens that are left out get what the one that stands for them gets, and count as much as they do in
    it."""
    order, weight = (part[0] for part in block.chosen(calls[block][0][2]))
    cls, tokens = share[:1], share[1:]
    rest = tokens.sum() - tokens[order].sum()
    found = _traced(block.attn, calls, torch.cat((cls, tokens[order], rest.view(1))).unsqueeze(0))[0]
    attended = (weight * found[-1]).index_add(0, order, found[1:-1])
    return (share + torch.cat((found[:1], attended))) / 2


def _traced(attn: uniformer.Attention, calls: Calls, share: Tensor) -> Tensor:
    """Shares (B, N) of what an attention puts out, by its weights those of the tokens that it read."""
    q, k = (_heads(part, attn.heads) for part in attn.qkv(calls[attn][0][0]).chunk(3, dim=-1)[:2])
    found = torch.zeros_like(share)
    for queries, part in zip(q.split(AT_ONCE, dim=2), share.split(AT_ONCE, dim=1), strict=True):
        weights = attention_weights(queries, k, attn.scale).mean(dim=1)
        found += (part.unsqueeze(1) @ weights).squeeze(1)
    return found


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _query_attention(vit: uniformerv2.VisionTransformer, calls: Calls) -> list[Map]:
    """What the query of each global block attends to in space and time (arXiv 2211.09552), over heads and, if
    there are several queries, over them averaged; and the mean of all blocks."""
    frames, *grid = calls[vit.conv1][1].shape[2:]
    maps = []
    for layer, block in zip(vit.transformer.return_list, vit.transformer.dec, strict=True):
        attn, (query, tokens) = block.attn, calls[block.attn][0]
        both = zip((query, tokens), attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3), strict=False)
        q, k = (_heads(F.linear(*each), attn.heads) for each in both)
        weights = attention_weights(q, k, (attn.dim // attn.heads) ** -0.5)[0].mean(dim=(0, 1))
        patches = weights[-frames * (1 + grid[0] * grid[1]) :].unflatten(0, (frames, -1))[:, 1:]
        maps.append(Map(str(layer), "attention", patches.unflatten(1, grid)))
    return [*maps, Map("mean", "attention", torch.stack([each.values for each in maps]).mean(dim=0))]
