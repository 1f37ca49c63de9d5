"""Which implementation of an operation a module uses: the reference one, or the one that is fastest on a device."""

from dataclasses import dataclass, replace

import torch
from torch import nn


@dataclass(frozen=True)
class Implementations:
    """How operations are computed that have several forms of equal results (docs/performance.md).

    `layout` of volumes in memory: contiguous, (B, C, T, H, W) as they are indexed, or channels_last, where
    1x1x1 convolutions and patch embeddings are matrix products. `dw_conv`: depth-wise convolutions by conv3d,
    or with gradients that are unrolled over time. `attention`: fused, or explicit with all weights in memory.
    "auto" is what was measured to be fastest on the CPU, and elsewhere PyTorch's own operations.
    """

    layout: str = "auto"
    dw_conv: str = "auto"
    attention: str = "fused"

    def channels_last(self, x: torch.Tensor) -> bool:
        return self.layout == "channels_last" or self.layout == "auto" and x.device.type == "cpu"

    def unrolled(self, x: torch.Tensor) -> bool:
        return self.dw_conv == "unrolled" or self.dw_conv == "auto" and x.device.type == "cpu"


REFERENCE = Implementations(layout="contiguous", dw_conv="conv3d", attention="explicit")  # the straightforward ones


class HasImplementations:
    """A module with operations of several forms."""

    forms = Implementations()


def set_implementations(model: nn.Module, **changes: str) -> nn.Module:
    """Choose the forms of a model's operations, by the names of `Forms`; the others stay. Returns `model`."""
    for module in model.modules():
        if isinstance(module, HasImplementations):
            module.forms = replace(module.forms, **changes)
    return model


def use_reference(model: nn.Module) -> nn.Module:
    """Make `model` compute as a straightforward build of it would, which is what the fast forms are measured
    and tested against. Parameters stay as they are. Returns `model`."""
    for module in model.modules():
        if hasattr(module, "fold"):
            module.fold = False
    return set_implementations(model, **vars(REFERENCE))


def to_memory_format(x: torch.Tensor, forms: Implementations) -> torch.Tensor:
    """(B, C, T, H, W) in the memory layout that convolutions want; values and shape stay."""
    return channels_last(x) if forms.channels_last(x) else x.contiguous()


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """(B, C, T, H, W) with its channels last in memory. Views of one clip can have any stride of B, but
    convolutions read the layout from it: it gets that of several clips."""
    rows = x.movedim(1, -1).contiguous()
    return rows.flatten(0, 3).view(rows.shape).movedim(-1, 1)


def is_exporting() -> bool:
    """Whether a graph is being made for other programs, in which derivatives of ours have no place."""
    exports = (torch.compiler.is_exporting, torch.onnx.is_in_onnx_export, torch.jit.is_tracing)
    return any(export() for export in exports)


def is_tracing() -> bool:
    """Whether any graph is being made, whose operations are chosen by what makes it."""
    return torch.compiler.is_compiling() or is_exporting()
