"""Pieces that more than one architecture is made of."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from slowfast_uniformer.errors import UserError


def _taps(frames: int, kernel: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which slice of a kernel leads from a frame (column) to a frame (row), and whether it reaches so far."""
    times = torch.arange(frames)
    taps = times - times[:, None] + kernel // 2
    return taps.clamp(0, kernel - 1), (taps >= 0) & (taps < kernel)


class _Depthwise(torch.autograd.Function):
    """conv3d forwards; backwards the same sums as a 2-D convolution whose channels are the frames, its
    kernels holding the 3-D kernel's slices along a band."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        padding = [size // 2 for size in weight.shape[2:]]
        return F.conv3d(x, weight, bias, padding=padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        x, weight = ctx.saved_tensors
        dim, frames, kernel = len(weight), x.shape[2], weight.shape[2:]
        taps, inside = _taps(frames, kernel[0])
        band = weight[:, 0, taps] * inside[:, :, None, None]
        grad_x, grad_band, _ = torch.ops.aten.convolution_backward(
            upstream.flatten(1, 2),
            x.to(upstream.dtype).flatten(1, 2),
            band.to(upstream.dtype).flatten(0, 1),
            [0],
            [1, 1],
            [kernel[1] // 2, kernel[2] // 2],
            [1, 1],
            False,
            [0, 0],
            dim,
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
        )
        grad_weight = None
        if grad_band is not None:
            slices = grad_band.view_as(band).to(weight.dtype) * inside[:, :, None, None]
            grad_weight = torch.zeros_like(weight[:, 0]).index_add_(1, taps.flatten(), slices.flatten(1, 2))
            grad_weight = grad_weight.unsqueeze(1)
        grad_x = None if grad_x is None else grad_x.view_as(x).to(x.dtype)
        return grad_x, grad_weight, upstream.sum((0, 2, 3, 4)).to(weight.dtype)


class DepthwiseConv3d(nn.Conv3d):
    """A convolution of each channel by itself, zero-padded so that (B, dim, T, H, W) keeps its shape.

    On the CPU its gradients are taken several times faster than conv3d's (docs/performance.md).
    """

    def __init__(self, dim: int, kernel: int | tuple[int, int, int]):
        sizes = (kernel,) * 3 if isinstance(kernel, int) else kernel
        super().__init__(dim, dim, sizes, padding=tuple(size // 2 for size in sizes), groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        return _Depthwise.apply(x, self.weight, self.bias)


def drop_path(rate: float) -> nn.Module:
    """Stochastic depth (arXiv 1603.09382): in training, drop each row of dimension 0 at this rate."""
    return StochasticDepth(rate, mode="row")


class Mlp(nn.Module):
    """Two layers, GELU between: linear on (..., dim), or as 1x1x1 convolutions on (B, dim, T, H, W)."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0, conv: bool = False):
        super().__init__()
        self.fc1 = nn.Conv3d(dim, hidden, 1) if conv else nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Conv3d(hidden, dim, 1) if conv else nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


def resize_position(embedding: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Position embeddings (1 + s·s, dim), the class token's first, for a grid of H, W: (1 + H·W, dim).

    Another grid than s, s is interpolated bicubically, without antialiasing.
    """
    side = math.isqrt(len(embedding) - 1)
    if grid == (side, side):
        return embedding
    patches = embedding[1:].T.reshape(1, -1, side, side)
    patches = F.interpolate(patches.float(), grid, mode="bicubic", align_corners=False)
    return torch.cat((embedding[:1], patches.flatten(2)[0].T.to(embedding.dtype)))


def new_classifier(old: nn.Linear, num_classes: int) -> nn.Linear:
    """A freshly drawn classifier that reads what `old` read, on the same device and in the same precision."""
    new = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    init_linear(new)
    return new


def init_linear(module: nn.Module) -> None:
    """The weights a linear layer starts from (others are left alone); for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def repeated_parts(model: nn.Module) -> list[nn.Module]:
    """The blocks that a model repeats, inner ones first: members of its module lists that have parameters,
    without a head among them, which may not be called as a whole."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    heads = {model.get_submodule(name) for name in getattr(model, "classifier", ())}
    parts = [part for parts in reversed(lists) for part in parts]
    return [p for p in parts if any(True for _ in p.parameters()) and heads.isdisjoint(p.modules())]


def checkpoint_counts(num: int | Sequence[int], stages: int) -> list[int]:
    """How many blocks of each stage to recompute; one number stands for every stage."""
    counts = [num] * stages if isinstance(num, int) else list(num)
    if len(counts) != stages:
        raise UserError(f"MODEL.CHECKPOINT_NUM: {counts} must have an entry for each of {stages} stages")
    return counts


@contextmanager
def _scratch_statistics(block: nn.Module) -> Iterator[None]:
    """Let batch norms update copies of their running statistics, which are thrown away on leaving."""
    kept = [
        (norm, name, buffer)
        for norm in block.modules()
        if isinstance(norm, _BatchNorm)
        for name, buffer in norm.named_buffers(recurse=False)
    ]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)


def recomputed(block: nn.Module, function: Callable | None = None) -> Callable:
    """`block`, or the `function` around it, keeping its inputs alone and computing the rest again in the
    backward pass.

    Results, gradients and buffers are those of calling `block`: random draws are repeated, and running
    statistics count the first pass only.
    """
    function = function or block
    if not torch.is_grad_enabled():
        return function
    if torch.compiler.is_compiling():  # takes no contexts and needs none: it updates once by itself
        return lambda *args: checkpoint(function, *args, use_reentrant=False)
    contexts = lambda: (nullcontext(), _scratch_statistics(block))  # noqa: E731
    return lambda *args: checkpoint(function, *args, use_reentrant=False, context_fn=contexts)
