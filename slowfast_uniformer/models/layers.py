"""Layers and initialisations that several architectures share."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from slowfast_uniformer.ops import chunked
from slowfast_uniformer.ops.activations import GELU
from slowfast_uniformer.ops.convolution import PointwiseConv3d
from slowfast_uniformer.ops.implementations import HasImplementations, is_tracing


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382, section 3): in training, zero each sample's branch with probability `p`.

    It equals torchvision.ops.StochasticDepth(p, mode="row"), draw for draw. Importing torchvision takes seconds.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        survival = 1 - self.p
        mask = torch.empty((len(x), *[1] * (x.ndim - 1)), dtype=x.dtype, device=x.device).bernoulli_(survival)
        return x * (mask.div_(survival) if survival > 0 else mask)


class Mlp(HasImplementations, nn.Module):
    """Two layers with GELU between.

    Args:
        dim: channels of input and output.
        hidden: channels between.
        drop: dropout rate after each layer.
        conv: take (B, dim, T, H, W) with 1x1x1 convolutions, instead of (..., dim) with linear layers.
    """

    def __init__(self, dim: int, hidden: int, drop: float = 0.0, conv: bool = False):
        super().__init__()
        layer = PointwiseConv3d if conv else nn.Linear
        self.conv = conv
        self.fc1 = layer(dim, hidden)
        self.act = GELU()
        self.fc2 = layer(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self._is_chunked(x):
            return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
        last = x.movedim(1, -1) if self.conv else x
        weights = (self.fc1.weight.flatten(1), self.fc1.bias, self.fc2.weight.flatten(1), self.fc2.bias)
        y = chunked.ChunkedMlp.apply(last.flatten(0, -2), *weights).view(last.shape)
        return y.movedim(-1, 1) if self.conv else y

    def _is_chunked(self, x: torch.Tensor) -> bool:
        """Whether all gradients are needed, for enough rows, and nothing observes single operations."""
        if not (torch.is_grad_enabled() and all(p.requires_grad for p in self.parameters())):
            return False
        if is_tracing() or is_in_torch_dispatch_mode() or self.training and self.drop.p:
            return False
        fp32 = x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
        large = x.numel() > chunked.CHUNK_SIZE * torch.get_num_threads() * self.fc1.weight.shape[1]
        return fp32 and large and x.device.type == "cpu" and self.impl.uses_channels_last(x)


def drop_path_rates(last: float, count: int) -> list[float]:
    """Rates of stochastic depth that rise linearly from 0 to `last` (arXiv 1603.09382, section 3)."""
    return torch.linspace(0, last, count, device="cpu").tolist()


def resize_position(embedding: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Interpolate position embeddings to another grid of patches, bicubically and without antialiasing.

    Args:
        embedding: (1 + s·s, dim), with the class token's first.
        grid: H and W in patches.

    Returns:
        (1 + H·W, dim); `embedding` itself if the grid is (s, s).
    """
    side = math.isqrt(len(embedding) - 1)
    if grid == (side, side):
        return embedding
    patches = embedding[1:].T.reshape(1, -1, side, side)
    patches = F.interpolate(patches.float(), grid, mode="bicubic", align_corners=False)
    return torch.cat((embedding[:1], patches.flatten(2)[0].T.to(embedding.dtype)))


def init_linear(module: nn.Module) -> None:
    """Initialise a linear layer (truncated normal of std 0.02, zero bias), and nothing else; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model, inner ones first: the units of torch.compile and FSDP.

    These are the members of its module lists that have parameters and do not contain a classifier, whose module may
    not be called as a whole.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    heads = {model.get_submodule(name) for name in getattr(model, "classifier", ())}
    blocks = [block for blocks in reversed(lists) for block in blocks]
    return [block for block in blocks if any(True for _ in block.parameters()) and heads.isdisjoint(block.modules())]
