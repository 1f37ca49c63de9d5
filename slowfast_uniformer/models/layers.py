"""Pieces that more than one architecture is made of."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torchvision.ops import StochasticDepth

from slowfast_uniformer.ops import chunked
from slowfast_uniformer.ops.activations import GELU
from slowfast_uniformer.ops.convolution import PointwiseConv3d
from slowfast_uniformer.ops.implementations import HasImplementations, is_tracing


def drop_path(rate: float) -> nn.Module:
    """Stochastic depth (arXiv 1603.09382): in training, drop each row of dimension 0 at this rate."""
    return StochasticDepth(rate, mode="row")


class Mlp(HasImplementations, nn.Module):
    """Two layers, GELU between: linear on (..., dim), or as 1x1x1 convolutions on (B, dim, T, H, W)."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0, conv: bool = False):
        super().__init__()
        layer = PointwiseConv3d if conv else nn.Linear
        self.conv = conv
        self.fc1 = layer(dim, hidden)
        self.act = GELU()
        self.fc2 = layer(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self._goes_by_parts(x):
            return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
        last = x.movedim(1, -1) if self.conv else x
        weights = (self.fc1.weight.flatten(1), self.fc1.bias, self.fc2.weight.flatten(1), self.fc2.bias)
        y = chunked.ChunkedMlp.apply(last.flatten(0, -2), *weights).view(last.shape)
        return y.movedim(-1, 1) if self.conv else y

    def _goes_by_parts(self, x: torch.Tensor) -> bool:
        """Whether all gradients will be asked for, of enough rows, and nobody watches single operations."""
        if not (torch.is_grad_enabled() and all(p.requires_grad for p in self.parameters())):
            return False
        if is_tracing() or is_in_torch_dispatch_mode() or self.training and self.drop.p:
            return False
        single = x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
        much = x.numel() > chunked.CHUNK_SIZE * torch.get_num_threads() * self.fc1.weight.shape[1]
        return single and much and x.device.type == "cpu" and self.forms.channels_last(x)


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


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that a model repeats, inner ones first: members of its module lists that have parameters,
    without a head among them, which may not be called as a whole."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    heads = {model.get_submodule(name) for name in getattr(model, "classifier", ())}
    parts = [part for parts in reversed(lists) for part in parts]
    return [p for p in parts if any(True for _ in p.parameters()) and heads.isdisjoint(p.modules())]


def compile_blocks(model: nn.Module) -> None:
    """Have torch.compile take the blocks that a model repeats, when they are first called."""
    parts, config = repeated_blocks(model), torch._dynamo.config
    # With its own rate of stochastic depth each is a variant, in training and in evaluation; what is above
    # the limit would stay as it is.
    config.recompile_limit = max(config.recompile_limit, 2 * len(parts))
    for part in parts:
        part.compile()
