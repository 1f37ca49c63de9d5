"""Point-wise, patch and stem convolutions. Channels-last in memory, the first two are matrix products."""

import torch
import torch.nn.functional as F
from torch import nn

from slowfast_uniformer.ops.implementations import HasImplementations, is_tracing


class Conv3d(nn.Conv3d):
    """nn.Conv3d, but in fp32 where the CPU's bf16 weight gradient cannot be trusted.

    Where a volume is smaller than the kernel, oneDNN (of PyTorch 2.14, with AVX-512) leaves elements of the bf16 weight
    gradient uninitialised, or writes beyond its buffer. Such small convolutions cost next to nothing in fp32.
    """

    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        small = any(size < kernel for size, kernel in zip(x.shape[2:], self.kernel_size, strict=True))
        if not small or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super()._conv_forward(x, weight, bias)
        with torch.autocast("cpu", enabled=False):
            return super()._conv_forward(x.float(), weight, bias).to(torch.get_autocast_dtype("cpu"))


class PointwiseConv3d(HasImplementations, nn.Conv3d):
    """A 1x1x1 convolution of (B, C, T, H, W). Channels-last in memory, it is a linear layer."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__(in_dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.impl.uses_channels_last(x):
            return super().forward(x)
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class PatchConv3d(HasImplementations, Conv3d):
    """A convolution whose stride is its kernel in space: (B, in_dim, T, H, W) to (B, dim, T', H', W').

    Channels-last in memory, it is one matrix product with the patches. Its backward pass needs no convolution then,
    whose weight gradient is unreliable in bf16 (see `Conv3d`).

    Args:
        in_dim: channels of the input.
        dim: channels of the output.
        kernel: sizes in (T, H, W). An odd temporal size is zero-padded in time.
        stride: stride in time.
        bias: whether there is a bias.
    """

    def __init__(self, in_dim: int, dim: int, kernel: tuple[int, int, int], stride: int = 1, bias: bool = True):
        padding = (kernel[0] // 2, 0, 0)
        super().__init__(in_dim, dim, kernel, (stride, *kernel[1:]), padding=padding, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.impl.uses_channels_last(x):
            return super().forward(x)
        (time, *size), stride = self.kernel_size, self.stride[0]
        (height, width), frames = (n // k for n, k in zip(x.shape[3:], size, strict=True)), x.shape[2]
        x = x.movedim(1, -1)  # first of all, so that its gradient is channels-last, too
        if x.shape[2:4] != (height * size[0], width * size[1]):
            x = x[:, :, : height * size[0], : width * size[1]]
        x = x.unflatten(3, (width, size[1])).unflatten(2, (height, size[0]))
        x = x.transpose(3, 4).flatten(4)  # (B, T, H', W', values of a patch)
        if time > 1:
            x = F.pad(x, (0, 0, 0, 0, 0, 0, time // 2, time // 2))
            x = torch.cat([x[:, i : i + frames : stride] for i in range(time)], dim=-1)
        else:
            x = x[:, ::stride]
        weight = self.weight.permute(0, 2, 3, 4, 1).flatten(1)
        return F.linear(x, weight, self.bias).movedim(-1, 1)


class StemConv3d(HasImplementations, Conv3d):
    """A 3x3x3 convolution of a clip's pixels with spatial stride 2: (B, 3, T, H, W) to (B, dim, T, ⌈H/2⌉, ⌈W/2⌉).

    A single clip is computed as two halves in time. For a batch of one, PyTorch chooses a CPU implementation that
    takes about three times as long.
    """

    def __init__(self, dim: int):
        super().__init__(3, dim, 3, stride=(1, 2, 2), padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half, odd = divmod(x.shape[2], 2)
        if is_tracing() or len(x) > 1 or odd or not self.impl.uses_channels_last(x):
            return super().forward(x)
        padded = F.pad(x.movedim(1, -1), (0, 0, 0, 0, 0, 0, 1, 1))
        halves = torch.cat((padded[:, : half + 2], padded[:, half:])).movedim(-1, 1)
        y = F.conv3d(halves, self.weight, self.bias, self.stride, (0, 1, 1))
        return y.movedim(1, -1).flatten(0, 1).unsqueeze(0).movedim(-1, 1)
