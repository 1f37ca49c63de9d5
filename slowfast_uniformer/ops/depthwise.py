"""Depth-wise 3-D convolutions whose gradients are 2-D convolutions, which take a fraction of the time on the CPU.

conv3d's own weight gradient is slow there for depth-wise kernels (docs/measurements.md has times).
"""

import torch
import torch.nn.functional as F
from torch import library
from torch.autograd.function import once_differentiable

from slowfast_uniformer.ops.convolution import Conv3d
from slowfast_uniformer.ops.implementations import HasImplementations, is_exporting, to_channels_last, to_memory_format


def _conv2d_weight_gradient(grad_y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
    """The weight gradient of a 2-D convolution with stride 1 and "same" padding."""
    padding = [size // 2 for size in weight.shape[2:]]
    options = ([1, 1], padding, [1, 1], False, [0, 0], groups, [False, True, False])
    return torch.ops.aten.convolution_backward(grad_y, x, weight, [0], *options)[1]


def _to_channels_first(x: torch.Tensor) -> torch.Tensor:
    """`x.contiguous()`, by matrix transpositions, which are up to six times as fast."""
    y = x.new_empty(x.shape)
    for source, target in zip(x.flatten(2), y.flatten(2), strict=True):
        target.copy_(source)
    return y


def _banded_gradient(grad_y: torch.Tensor, x: torch.Tensor, kernel: torch.Size) -> torch.Tensor:
    """Gradient (C, *kernel) of a depth-wise kernel, from one 2-D convolution whose channels are the frames.

    Its weight (C·T, T, kH, kW) is a banded matrix of the 3-D kernel's temporal slices ("taps").
    """
    dim, frames = x.shape[1:3]
    times = torch.arange(frames, device=x.device)
    taps = times - times[:, None] + kernel[0] // 2  # which tap leads from an input frame (column) to an output frame
    in_band = (taps >= 0) & (taps < kernel[0])
    weight = x.new_empty(1).expand(dim * frames, frames, *kernel[1:])  # only its shape matters
    grad_y, x = (_to_channels_first(volume).flatten(1, 2) for volume in (grad_y, x))
    slices = _conv2d_weight_gradient(grad_y, x, weight, dim).unflatten(0, (dim, frames)) * in_band[:, :, None, None]
    taps = taps.clamp(0, kernel[0] - 1).flatten()
    return x.new_zeros(dim, *kernel).index_add_(1, taps, slices.flatten(1, 2))


def _tap_gradients(grad_y: torch.Tensor, x: torch.Tensor, kernel: torch.Size) -> torch.Tensor:
    """The same gradient, from a depth-wise 2-D convolution for each temporal slice of the kernel."""
    dim, frames = x.shape[1:3]
    weight, gradient = x.new_empty(dim, 1, *kernel[1:]), x.new_zeros(dim, *kernel)
    for tap in range(kernel[0]):
        shift = tap - kernel[0] // 2
        outputs = slice(max(0, -shift), frames - max(0, shift))
        inputs = slice(max(0, shift), frames + min(0, shift))
        for clip in range(len(x) if abs(shift) < frames else 0):
            pair = grad_y[clip, :, outputs].movedim(0, 1), x[clip, :, inputs].movedim(0, 1)
            gradient[:, tap] += _conv2d_weight_gradient(*pair, weight, dim).squeeze(1)
    return gradient


@library.custom_op("slowfast_uniformer::depthwise_weight_gradient", mutates_args=())
def _depthwise_weight_gradient(grad_y: torch.Tensor, x: torch.Tensor, kernel: list[int]) -> torch.Tensor:
    """(C, 1, *kernel), from channels-last volumes.

    A custom operator is opaque to torch.compile, which would otherwise use conv3d's gradient.
    """
    gradient = _tap_gradients if max(kernel[1:]) <= 3 else _banded_gradient  # large depth-wise 2-D kernels are slow
    return gradient(grad_y, x, torch.Size(kernel)).unsqueeze(1)


@_depthwise_weight_gradient.register_fake
def _(grad_y: torch.Tensor, x: torch.Tensor, kernel: list[int]) -> torch.Tensor:
    return x.new_empty(x.shape[1], 1, *kernel)


class _UnrolledDepthwise(torch.autograd.Function):
    """conv3d forward; backward conv3d with the flipped kernel, and 2-D convolutions for the weight."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.conv3d(x, weight, bias, padding=[size // 2 for size in weight.shape[2:]], groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        x, weight = ctx.saved_tensors
        kernel, grad_y = list(weight.shape[2:]), to_channels_last(grad_y)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            flipped = weight.flip(2, 3, 4).to(grad_y.dtype)
            padding = [size // 2 for size in kernel]
            grad_x = F.conv3d(grad_y, flipped, padding=padding, groups=len(weight)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            x = to_channels_last(x.to(grad_y.dtype))
            grad_weight = _depthwise_weight_gradient(grad_y, x, kernel).to(weight.dtype)
        return grad_x, grad_weight, grad_y.sum((0, 2, 3, 4)).to(weight.dtype)


class DepthwiseConv3d(HasImplementations, Conv3d):
    """A depth-wise convolution with "same" zero padding: (B, dim, T, H, W) to the same shape.

    Args:
        dim: channels.
        kernel: odd size, or sizes in (T, H, W).
    """

    def __init__(self, dim: int, kernel: int | tuple[int, int, int]):
        sizes = (kernel,) * 3 if isinstance(kernel, int) else kernel
        super().__init__(dim, dim, sizes, padding=tuple(size // 2 for size in sizes), groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = to_memory_format(x, self.impl)
        if self.impl.uses_unrolled(x) and self.kernel_size[1:] == (1, 1):  # over time alone: a 2-D convolution
            weight = self.weight.flatten(1)[:, None, :, None]
            plane = x.movedim(1, -1).flatten(2, 3)  # the strides of x.flatten(3) would hide the memory format
            y = F.conv2d(plane.movedim(-1, 1), weight, self.bias, 1, (self.padding[0], 0), 1, self.groups)
            return y.movedim(1, -1).unflatten(2, x.shape[3:]).movedim(-1, 1)
        if self.impl.uses_unrolled(x) and not is_exporting():
            return _UnrolledDepthwise.apply(x, self.weight, self.bias)
        # Through a view, the gradient gets the weight's strides in any memory format. Otherwise DDP would warn.
        return self._conv_forward(x, self.weight.squeeze(1).unsqueeze(1), self.bias)
