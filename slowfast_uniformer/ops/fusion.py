"""Layers that take over what their neighbours do in evaluation."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from slowfast_uniformer.ops.convolution import PointwiseConv3d


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose parameters take no gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def _affine(norm: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and summand for each channel that a batch norm is in evaluation, in double precision."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def fuse_into_next(norm: _BatchNorm, layer: nn.Linear | PointwiseConv3d) -> nn.Identity:
    """Make `layer`, which has a bias, do what `norm` did before it. Returns what takes the norm's place."""
    scale, shift = _affine(norm)
    weight = layer.weight.flatten(1).double()
    layer.bias.copy_(layer.bias.double() + weight @ shift)
    layer.weight.copy_((weight * scale).view_as(layer.weight))
    return nn.Identity()


def fuse_into_previous(layer: nn.Conv3d, norm: _BatchNorm) -> nn.Identity:
    """Make `layer`, which has a bias, do what `norm` did after it. Returns what takes the norm's place."""
    scale, shift = _affine(norm)
    scale_rows(layer, scale)
    layer.bias.copy_(layer.bias.double() + shift)
    return nn.Identity()


def scale_rows(layer: nn.Module, factor: torch.Tensor | None) -> None:
    """Make `layer`, which has a bias, multiply its outputs by a factor for each channel, or one for all."""
    if factor is not None:
        rows = factor.double().flatten()
        layer.bias.copy_(layer.bias.double() * rows)
        layer.weight.copy_((layer.weight.flatten(1).double() * rows[:, None]).view_as(layer.weight))
