"""Depth-wise 3-D convolutions whose gradients are 2-D convolutions, a fraction of the time on the CPU."""

import torch
import torch.nn.functional as F
from torch import library, nn
from torch.autograd.function import once_differentiable

from slowfast_uniformer.ops.implementations import HasImplementations, channels_last, is_exporting, to_memory_format


def _taps(frames: int, kernel: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which slice of a kernel leads from a frame (column) to a frame (row), and whether it reaches so far."""
    times = torch.arange(frames)
    taps = times - times[:, None] + kernel // 2
    return taps.clamp(0, kernel - 1), (taps >= 0) & (taps < kernel)


def _weight_gradient(upstream: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Of a 2-D convolution that keeps its size."""
    padding = [size // 2 for size in weight.shape[2:]]
    options = ([1, 1], padding, [1, 1], False, [0, 0], groups, [False, True, False])
    return torch.ops.aten.convolution_backward(upstream, x, weight, [0], *options)[1]


def _channels_first(x: torch.Tensor) -> torch.Tensor:
    """x.contiguous(), by transpositions of matrices, which are up to six times as fast."""
    y = x.new_empty(x.shape)
    for clip, to in zip(x.flatten(2), y.flatten(2), strict=True):
        to.copy_(clip)
    return y


def _banded(upstream: torch.Tensor, x: torch.Tensor, kernel: torch.Size) -> torch.Tensor:
    """Gradient (C, *kernel) of a depth-wise kernel as that of one 2-D convolution whose channels are the
    frames: its kernels hold the 3-D kernel's slices along a band."""
    dim, frames = x.shape[1:3]
    taps, inside = (each.to(x.device) for each in _taps(frames, kernel[0]))
    band = x.new_empty(1).expand(dim * frames, frames, *kernel[1:])  # only its shape matters
    upstream, x = (_channels_first(volume).flatten(1, 2) for volume in (upstream, x))
    found = _weight_gradient(upstream, x, band, dim)
    slices = found.unflatten(0, (dim, frames)) * inside[:, :, None, None]
    return x.new_zeros(dim, *kernel).index_add_(1, taps.flatten(), slices.flatten(1, 2))


def _by_taps(upstream: torch.Tensor, x: torch.Tensor, kernel: torch.Size) -> torch.Tensor:
    """The same, as that of a depth-wise 2-D convolution for each slice of the kernel."""
    dim, frames = x.shape[1:3]
    weight, found = x.new_empty(dim, 1, *kernel[1:]), x.new_zeros(dim, *kernel)
    for tap in range(kernel[0]):
        shift = tap - kernel[0] // 2
        rows = slice(max(0, -shift), frames - max(0, shift))
        columns = slice(max(0, shift), frames + min(0, shift))
        for clip in range(len(x) if abs(shift) < frames else 0):
            pair = upstream[clip, :, rows].movedim(0, 1), x[clip, :, columns].movedim(0, 1)
            found[:, tap] += _weight_gradient(*pair, weight, dim).squeeze(1)
    return found


@library.custom_op("slowfast_uniformer::depthwise_weight_gradient", mutates_args=())
def _depthwise_weight_gradient(upstream: torch.Tensor, x: torch.Tensor, kernel: list[int]) -> torch.Tensor:
    """(C, 1, *kernel), of volumes whose channels are last in memory. torch.compile takes it as it is: its own
    way would be conv3d's, which takes several times as long."""
    gradient = _by_taps if max(kernel[1:]) <= 3 else _banded  # larger ones are slow in 2-D, too
    return gradient(upstream, x, torch.Size(kernel)).unsqueeze(1)


@_depthwise_weight_gradient.register_fake
def _(upstream: torch.Tensor, x: torch.Tensor, kernel: list[int]) -> torch.Tensor:
    return x.new_empty(x.shape[1], 1, *kernel)


class _Depthwise(torch.autograd.Function):
    """conv3d forwards; backwards the same with the kernel turned round, and 2-D convolutions."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.conv3d(x, weight, bias, padding=[size // 2 for size in weight.shape[2:]], groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        x, weight = ctx.saved_tensors
        kernel, upstream = list(weight.shape[2:]), channels_last(upstream)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            turned = weight.flip(2, 3, 4).to(upstream.dtype)
            padding = [size // 2 for size in kernel]
            grad_x = F.conv3d(upstream, turned, padding=padding, groups=len(weight)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            x = channels_last(x.to(upstream.dtype))
            grad_weight = _depthwise_weight_gradient(upstream, x, kernel).to(weight.dtype)
        return grad_x, grad_weight, upstream.sum((0, 2, 3, 4)).to(weight.dtype)


class DepthwiseConv3d(HasImplementations, nn.Conv3d):
    """A convolution of each channel by itself, zero-padded so that (B, dim, T, H, W) keeps its shape.

    Unrolled, its gradients take a fraction of conv3d's time on the CPU (docs/performance.md).
    """

    def __init__(self, dim: int, kernel: int | tuple[int, int, int]):
        sizes = (kernel,) * 3 if isinstance(kernel, int) else kernel
        super().__init__(dim, dim, sizes, padding=tuple(size // 2 for size in sizes), groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = to_memory_format(x, self.forms)
        if self.forms.unrolled(x) and self.kernel_size[1:] == (1, 1):  # over time alone: two dimensions do
            weight = self.weight.flatten(1)[:, None, :, None]
            plane = x.movedim(1, -1).flatten(2, 3)  # x.flatten(3) has strides that hide the layout
            y = F.conv2d(plane.movedim(-1, 1), weight, self.bias, 1, (self.padding[0], 0), 1, self.groups)
            return y.movedim(1, -1).unflatten(2, x.shape[3:]).movedim(-1, 1)
        if self.forms.unrolled(x) and not is_exporting():
            return _Depthwise.apply(x, self.weight, self.bias)
        # By way of a view the gradient gets the weight's strides, whatever the layout; else DDP would warn.
        return F.conv3d(x, self.weight.squeeze(1).unsqueeze(1), self.bias, 1, self.padding, 1, self.groups)
