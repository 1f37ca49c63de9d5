"""Saliency maps of a clip: Grad-CAM, attention rollout, and the attention of UniFormerV2's queries.

All are computed from outside, by forward hooks on a model's modules; models know nothing of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models import uniformer, uniformerv2
from slowfast_uniformer.ops.attention import attention_weights

METHODS = ("auto", "gradcam", "attention")
QUERY_CHUNK = 256  # queries whose attention weights are in memory at a time
Calls = dict[nn.Module, tuple[tuple[Any, ...], Any]]  # inputs and output, in the order in which modules return


class SaliencyMap(NamedTuple):
    """The importance of each place of a clip.

    Attributes:
        stage: of the model ("3", "4 slow"), the layer of a global block ("11"), or "mean" of all such layers.
        kind: "Grad-CAM", "attention rollout" or "attention".
        values: (T', H', W'), not negative. Attention sums to 1 together with what class tokens get.
    """

    stage: str
    kind: str
    values: Tensor

    @property
    def title(self) -> str:
        """Of its row on a contact sheet."""
        word = "layer " if self.kind == "attention" else "stage "
        return "mean of layers" if self.stage == "mean" else word + self.stage


def saliency_maps(
    model: nn.Module, clip: Tensor, label: int | None = None, method: str = "auto"
) -> tuple[Tensor, list[SaliencyMap]]:
    """Compute the maps of a model's stages for one clip.

    Args:
        model: in evaluation mode.
        clip: normalised, (3, T, H, W).
        label: the class that Grad-CAM explains; None is the most probable one.
        method: "gradcam" is what in the output of a stage speaks for the class; "attention", which does not depend on
            a class, what stages of global blocks attend to; "auto" the former for convolutional stages and the latter
            for those that attend.

    Returns:
        Logits (K,), and the maps from the first stage to the last.

    Raises:
        UserError: the model has no such stages.
    """
    vit = next((m for m in model.modules() if isinstance(m, uniformerv2.VisionTransformer)), None)
    blocks = [m for m in model.modules() if isinstance(m, uniformer.GlobalBlock)]
    if method == "attention" and not (vit or blocks) or method == "gradcam" and vit:
        have = "no global blocks" if method == "attention" else "no stages with a volume of features"
        raise UserError(f"--method {method}: the model has {have}; use --method auto")
    clip = clip.unsqueeze(0).requires_grad_(not vit and method != "attention")
    # Only what maps are computed from: recording every module would take as much memory as training
    kinds = (uniformer.PatchEmbed, uniformer.GlobalBlock, uniformer.Attention, uniformerv2.CrossAttention)
    others = {part for stage in stages_of(model).values() for part in stage[-1]} | ({vit.conv1} if vit else set())
    recorded = [m for m in model.modules() if isinstance(m, kinds) or m in others]
    with torch.enable_grad(), _recorded_calls(recorded) as calls:
        logits = model(clip)[0]
    with torch.no_grad():
        attention = _query_attention(vit, calls) if vit else _rollout(model, calls) if blocks else []
    if not clip.requires_grad:
        return logits.detach(), attention
    attending = {each.stage for each in attention if method == "auto"}
    outputs = {stage: output for stage, output in _stage_outputs(model, calls).items() if stage not in attending}
    score = logits[int(logits.argmax()) if label is None else label]
    cams = _grad_cam(outputs, score) if outputs else []
    return logits.detach(), cams + [each for each in attention if each.stage in attending]


@contextmanager
def _recorded_calls(modules: Iterable[nn.Module]) -> Iterator[Calls]:
    """Inputs and outputs of modules that are each called once inside the block."""
    calls: Calls = {}

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] = inputs, output

    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(record))
        yield calls


def stages_of(model: nn.Module) -> dict[str, Sequence[tuple[nn.Module, ...]]]:
    """A model's blocks by stage number; each block is a tuple with one module for each pathway."""
    lists = [child for child in model.children() if isinstance(child, nn.ModuleList) and len(child)]
    stages = model.stages() if hasattr(model, "stages") else [[(block,) for block in blocks] for blocks in lists]
    return {str(number): blocks for number, blocks in enumerate(stages, 1)}


def _stage_outputs(model: nn.Module, calls: Calls) -> dict[str, Tensor]:
    """Outputs (1, C, T, H, W) of the stages."""
    found = {}
    for stage, blocks in stages_of(model).items():
        for pathway, block in enumerate(blocks[-1]):
            output = calls[block][1] if block in calls else None
            output = output[0] if isinstance(output, tuple) else output
            if isinstance(output, Tensor) and output.ndim == 5:
                found[f"{stage} {('slow', 'fast')[pathway]}" if len(blocks[-1]) > 1 else stage] = output
    if not found:
        raise UserError(
            "no map can be drawn: the model has neither global blocks of UniFormer nor "
            "stages (a method stages(), or module lists) whose blocks put out volumes (B, C, T, H, W)"
        )
    return found


def _grad_cam(outputs: dict[str, Tensor], score: Tensor) -> list[SaliencyMap]:
    """Grad-CAM (arXiv 1610.02391, section 3) over space and time: the sum of channels weighted by the mean gradient of
    `score`, without what speaks against it."""
    maps = []
    gradients = torch.autograd.grad(score, list(outputs.values()))
    for (stage, output), gradient in zip(outputs.items(), gradients, strict=True):
        values = (gradient.mean(dim=(2, 3, 4), keepdim=True) * output.detach()).sum(dim=1).relu()
        maps.append(SaliencyMap(stage, "Grad-CAM", values[0]))
    return maps


def _rollout(model: nn.Module, calls: Calls) -> list[SaliencyMap]:
    """Attention rollout (arXiv 2005.00928, section 3), from the mean over all tokens, which the classifier reads, back
    through each block to the input of each stage.

    A residual connection counts as much as the attention beside it, and heads are averaged. Convolutional position
    encodings are skipped; a patch embedding spreads the relevance of a token evenly over its receptive field.
    """
    stage_of = {part: s for s, blocks in stages_of(model).items() for block in blocks for part in block}
    modules = [m for m in calls if isinstance(m, (uniformer.GlobalBlock, uniformer.PatchEmbed))]
    relevance, maps = None, {}
    for module in reversed(modules):
        size = calls[module][0][0].shape[2:]  # of its input
        if relevance is None:  # of the mean over tokens, which a class token, the first, is not part of
            relevance = torch.full((size.numel(),), 1 / size.numel(), device=module.norm1.weight.device)
            if isinstance(module, uniformer.EvoBlock):
                relevance = torch.cat((relevance.new_zeros(1), relevance))
        if isinstance(module, uniformer.PatchEmbed):
            if not any(isinstance(m, uniformer.GlobalBlock) for m in modules[: modules.index(module)]):
                break
            relevance = _through_conv(relevance, module.proj, calls[module][1].shape[2:], size)
        else:
            relevance = _through_block(module, calls, relevance)
            maps[stage_of[module]] = relevance[-size.numel() :].unflatten(0, size)
    return [SaliencyMap(stage, "attention rollout", values) for stage, values in reversed(maps.items())]


def _through_conv(relevance: Tensor, conv: nn.Conv3d, size: torch.Size, before: torch.Size) -> Tensor:
    """Spread the relevance of tokens of a volume of `size` over the volume `before`, the input of `conv`."""
    cls, relevance = relevance.split((len(relevance) - size.numel(), size.numel()))
    kernel = relevance.new_full((1, 1, *conv.kernel_size), 1.0)
    # Positions that each token has read; padding does not count
    read = F.conv3d(relevance.new_ones(1, 1, *before), kernel, None, conv.stride, conv.padding)
    each = relevance.view(1, 1, *size) / read
    axes = zip(before, size, conv.stride, conv.kernel_size, conv.padding, strict=True)
    rest = [b - ((n - 1) * s + k - 2 * p) for b, n, s, k, p in axes]  # rows that the last window did not reach
    spread = F.conv_transpose3d(each, kernel, None, conv.stride, conv.padding, rest)
    return torch.cat((cls, spread.flatten()))


def _through_block(block: uniformer.GlobalBlock, calls: Calls, relevance: Tensor) -> Tensor:
    """Relevance of a block's inputs, (1 + THW,) with a class token, else (THW,), from that of its outputs."""
    if isinstance(block, uniformer.EvoBlock) and block.prune_ratio != 1:
        return _through_pruned_block(block, calls, relevance)
    if not block.split:
        return (relevance + _through_attention(block.attn, calls, relevance.unsqueeze(0))[0]) / 2
    frames = calls[block][0][0].shape[2]
    in_space = _through_attention(block.attn, calls, relevance.unflatten(0, (frames, -1)))  # (T, HW)
    in_time = _through_attention(block.t_attn, calls, in_space.T).T
    # the second attention reads x + output of the first, and its output is added to x
    return (relevance + (in_space + in_time).flatten() / 2) / 2


def _through_pruned_block(block: uniformer.EvoBlock, calls: Calls, relevance: Tensor) -> Tensor:
    """Pruned tokens are weighted as in the token that represents them, and share its relevance."""
    order, weight = (part[0] for part in block.select_tokens(calls[block][0][2]))
    cls, tokens = relevance[:1], relevance[1:]
    rest = tokens.sum() - tokens[order].sum()
    kept = torch.cat((cls, tokens[order], rest.view(1))).unsqueeze(0)
    found = _through_attention(block.attn, calls, kept)[0]
    attended = (weight * found[-1]).index_add(0, order, found[1:-1])
    return (relevance + torch.cat((found[:1], attended))) / 2


def _through_attention(attn: uniformer.Attention, calls: Calls, relevance: Tensor) -> Tensor:
    """Relevance (B, N) of an attention's inputs from that of its outputs, by its weights."""
    q, k = (_heads(part, attn.heads) for part in attn.qkv(calls[attn][0][0]).chunk(3, dim=-1)[:2])
    found = torch.zeros_like(relevance)
    for queries, part in zip(q.split(QUERY_CHUNK, dim=2), relevance.split(QUERY_CHUNK, dim=1), strict=True):
        weights = attention_weights(queries, k, attn.scale).mean(dim=1)
        found += (part.unsqueeze(1) @ weights).squeeze(1)
    return found


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) to (B, heads, N, C / heads)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _query_attention(vit: uniformerv2.VisionTransformer, calls: Calls) -> list[SaliencyMap]:
    """Attention over space and time of the query of each global block (arXiv 2211.09552), averaged over heads and
    queries; and the mean of all blocks."""
    frames, *grid = calls[vit.conv1][1].shape[2:]
    maps = []
    for layer, block in zip(vit.transformer.return_list, vit.transformer.dec, strict=True):
        attn, (query, tokens) = block.attn, calls[block.attn][0]
        # zip ends before the third chunk, the values
        both = zip((query, tokens), attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3), strict=False)
        q, k = (_heads(F.linear(*each), attn.heads) for each in both)
        weights = attention_weights(q, k, (attn.dim // attn.heads) ** -0.5)[0].mean(dim=(0, 1))
        patches = weights[-frames * (1 + grid[0] * grid[1]) :].unflatten(0, (frames, -1))[:, 1:]
        maps.append(SaliencyMap(str(layer), "attention", patches.unflatten(1, grid)))
    return [*maps, SaliencyMap("mean", "attention", torch.stack([each.values for each in maps]).mean(dim=0))]
