"""Fusing batch norm and layer scale into the weights of neighbouring layers, for evaluation.

All functions change layers in place, and compute in fp64. Call them under `torch.no_grad()`.
"""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from slowfast_uniformer.ops.convolution import PointwiseConv3d


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose parameters take no gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def _scale_and_shift(norm: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """What a batch norm multiplies each channel by in evaluation, and what it adds."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def fuse_into_next(norm: _BatchNorm, layer: nn.Linear | PointwiseConv3d) -> nn.Identity:
    """Fuse a batch norm into the layer after it, which has a bias. Returns the module to put in the norm's place."""
    scale, shift = _scale_and_shift(norm)
    weight = layer.weight.flatten(1).double()
    layer.bias.copy_(layer.bias.double() + weight @ shift)
    layer.weight.copy_((weight * scale).view_as(layer.weight))
    return nn.Identity()


def fuse_into_previous(layer: nn.Conv3d, norm: _BatchNorm) -> nn.Identity:
    """Fuse a batch norm into the layer before it, which has a bias. Returns the module to put in the norm's place."""
    scale, shift = _scale_and_shift(norm)
    scale_outputs(layer, scale)
    layer.bias.copy_(layer.bias.double() + shift)
    return nn.Identity()


def scale_outputs(layer: nn.Module, factor: torch.Tensor | None) -> None:
    """Multiply the outputs of a layer, which has a bias, by a factor per channel or one for all; None is 1."""
    if factor is not None:
        rows = factor.double().flatten()
        layer.bias.copy_(layer.bias.double() * rows)
        layer.weight.copy_((layer.weight.flatten(1).double() * rows[:, None]).view_as(layer.weight))
