"""GELU and CLIP's QuickGELU."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from slowfast_uniformer.ops.implementations import HasImplementations, is_tracing


class _QuickGELU(torch.autograd.Function):
    """Saves x alone for the backward pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.silu(1.702 * x, inplace=True).div_(1.702)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        (x,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad_y, 1.702 * x)


class QuickGELU(HasImplementations, nn.Module):
    """CLIP's approximation of GELU, x · σ(1.702 x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.impl.uses_channels_last(x) and not is_tracing():
            return _QuickGELU.apply(x)
        return x * torch.sigmoid(1.702 * x)


class GELU(HasImplementations, nn.GELU):
    """x · Φ(x).

    Channels-last volumes are permuted to a contiguous tensor, which takes about half the time on the CPU.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() < 5 or not self.impl.uses_channels_last(x):
            return super().forward(x)
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
