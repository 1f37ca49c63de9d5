"""Pieces that more than one architecture is made of."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from slowfast_uniformer.errors import UserError


class DepthwiseConv3d(nn.Conv3d):
    """A convolution of each channel by itself, zero-padded so that (B, dim, T, H, W) keeps its shape.

    Where gradients will be taken on the CPU it runs as a 2-D convolution with the frames as channels, its
    kernels holding the 3-D kernel's slices along a band: the same sums, several times faster backwards
    (docs/performance.md).
    """

    def __init__(self, dim: int, kernel: int | tuple[int, int, int]):
        sizes = (kernel,) * 3 if isinstance(kernel, int) else kernel
        super().__init__(dim, dim, sizes, padding=tuple(size // 2 for size in sizes), groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        frames, times = x.shape[2], torch.arange(x.shape[2])
        tap = times - times[:, None] + self.padding[0]  # which slice leads from frame (column) to frame (row)
        inside = (tap >= 0) & (tap < self.kernel_size[0])
        band = self.weight[:, 0, tap.clamp(0, self.kernel_size[0] - 1)] * inside[:, :, None, None]
        bias = self.bias.repeat_interleave(frames)
        y = F.conv2d(x.flatten(1, 2), band.flatten(0, 1), bias, padding=self.padding[1:], groups=self.groups)
        return y.view(x.shape)


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


def recomputed(block: nn.Module) -> Callable:
    """`block` as a function that keeps its inputs alone and computes the rest again in the backward pass.

    Results, gradients and buffers are those of calling `block`: random draws are repeated, and running
    statistics count the first pass only.
    """
    if not torch.is_grad_enabled():
        return block
    if torch.compiler.is_compiling():  # takes no contexts and needs none: it updates once by itself
        return lambda *args: checkpoint(block, *args, use_reentrant=False)
    contexts = lambda: (nullcontext(), _scratch_statistics(block))  # noqa: E731
    return lambda *args: checkpoint(block, *args, use_reentrant=False, context_fn=contexts)
