"""Which implementation of an operation a module uses: the reference one, or the fastest one of a device.

Implementations of an operation give equal results up to rounding (docs/measurements.md has their speeds).
"""

from dataclasses import dataclass, replace

import torch
from torch import nn


@dataclass(frozen=True)
class Implementations:
    """The implementation chosen for each operation that has several.

    "auto" is what was measured to be fastest on the CPU, and PyTorch's own operations on other devices.

    Attributes:
        layout: memory format of volumes (B, C, T, H, W). "contiguous", or "channels_last", where 1x1x1 convolutions
            and patch embeddings are matrix products; "auto".
        dw_conv: depth-wise convolutions. "conv3d", or "unrolled", whose gradients are 2-D convolutions unrolled over
            time; "auto".
        attention: "fused" (scaled_dot_product_attention; UniFormerV2's fused key/value projections), or "explicit",
            with all attention weights in memory.
    """

    layout: str = "auto"
    dw_conv: str = "auto"
    attention: str = "fused"

    def uses_channels_last(self, x: torch.Tensor) -> bool:
        """Whether volumes on the device of `x` are channels-last in memory."""
        return self.layout == "channels_last" or self.layout == "auto" and x.device.type == "cpu"

    def uses_unrolled(self, x: torch.Tensor) -> bool:
        """Whether depth-wise convolutions on the device of `x` have unrolled gradients."""
        return self.dw_conv == "unrolled" or self.dw_conv == "auto" and x.device.type == "cpu"


REFERENCE = Implementations(layout="contiguous", dw_conv="conv3d", attention="explicit")


class HasImplementations:
    """Mixin of modules whose operations have several implementations."""

    impl = Implementations()


def set_implementations(model: nn.Module, **changes: str) -> nn.Module:
    """Choose implementations for all modules of a model.

    Args:
        model: changed in place.
        **changes: fields of `Implementations`. The others keep their values.

    Returns:
        `model`.
    """
    for module in model.modules():
        if isinstance(module, HasImplementations):
            module.impl = replace(module.impl, **changes)
    return model


def use_reference(model: nn.Module) -> nn.Module:
    """Choose the reference implementations, against which the fast ones are tested and timed. Returns `model`."""
    return set_implementations(model, **vars(REFERENCE))


def to_memory_format(x: torch.Tensor, impl: Implementations) -> torch.Tensor:
    """(B, C, T, H, W) in the memory format that `impl` chooses for its device. Values and shape stay."""
    return to_channels_last(x) if impl.uses_channels_last(x) else x.contiguous()


def to_channels_last(x: torch.Tensor) -> torch.Tensor:
    """(B, C, T, H, W) in channels-last memory format.

    A view of a single clip can have any stride of dimension B, but convolutions read the memory format from it. The
    result has the stride that several clips would have.
    """
    rows = x.movedim(1, -1).contiguous()
    return rows.flatten(0, 3).view(rows.shape).movedim(-1, 1)


def is_exporting() -> bool:
    """Whether a graph is traced for export, in which custom autograd functions have no place."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()


def is_tracing() -> bool:
    """Whether any graph is traced. The compiler or the exported program then chooses implementations itself."""
    return torch.compiler.is_compiling() or is_exporting()
