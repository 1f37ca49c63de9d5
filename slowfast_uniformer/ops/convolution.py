"""Point-wise, patch and stem convolutions; with channels last in memory they are matrix products."""

import torch
import torch.nn.functional as F
from torch import nn

from slowfast_uniformer.ops.implementations import HasImplementations, is_tracing


class PointwiseConv3d(HasImplementations, nn.Conv3d):
    """A 1x1x1 convolution of (B, C, T, H, W), which is a linear layer where channels are last in memory."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__(in_dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.forms.channels_last(x):
            return super().forward(x)
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class PatchConv3d(HasImplementations, nn.Conv3d):
    """A convolution whose stride is its kernel in space, zero-padded in time if that is odd.

    Where channels are last in memory it is one matrix product with the patches, which need no
    convolution's backward pass: oneDNN's has given garbage for small ones in bf16.
    """

    def __init__(self, in_dim: int, dim: int, kernel: tuple[int, int, int], stride: int = 1, bias: bool = True):
        padding = (kernel[0] // 2, 0, 0)
        super().__init__(in_dim, dim, kernel, (stride, *kernel[1:]), padding=padding, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.forms.channels_last(x):
            return super().forward(x)
        (time, *size), stride = self.kernel_size, self.stride[0]
        (height, width), frames = (n // k for n, k in zip(x.shape[3:], size, strict=True)), x.shape[2]
        x = x.movedim(1, -1)  # before anything else, so that its gradient has its layout, too
        if x.shape[2:4] != (height * size[0], width * size[1]):
            x = x[:, :, : height * size[0], : width * size[1]]
        x = x.unflatten(3, (width, size[1])).unflatten(2, (height, size[0]))
        x = x.transpose(3, 4).flatten(4)  # (B, T, H', W', values of a patch)
        if time > 1:
            x = F.pad(x, (0, 0, 0, 0, 0, 0, time // 2, time // 2))
        shifted = [x[:, i : i + frames : stride] for i in range(time)]
        x = torch.cat(shifted, dim=-1) if time > 1 else shifted[0]
        weight = self.weight.permute(0, 2, 3, 4, 1).flatten(1)
        return F.linear(x, weight, self.bias).movedim(-1, 1)


class StemConv3d(HasImplementations, nn.Conv3d):
    """A 3x3x3 convolution of a clip's pixels, of stride 2 in space: (B, 3, T, H, W) -> (B, dim, T, H/2, W/2),
    rounded up.

    A single clip goes through it as two halves in time: for one alone PyTorch chooses a form on the CPU that
    takes about three times as long.
    """

    def __init__(self, dim: int):
        super().__init__(3, dim, 3, stride=(1, 2, 2), padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half, odd = divmod(x.shape[2], 2)
        if is_tracing() or len(x) > 1 or odd or not self.forms.channels_last(x):
            return super().forward(x)
        padded = F.pad(x.movedim(1, -1), (0, 0, 0, 0, 0, 0, 1, 1))
        halves = torch.cat((padded[:, : half + 2], padded[:, half:])).movedim(-1, 1)
        y = F.conv3d(halves, self.weight, self.bias, self.stride, (0, 1, 1))
        return y.movedim(1, -1).flatten(0, 1).unsqueeze(0).movedim(-1, 1)
