"""Comparisons of a layer with a reference implementation."""

import torch
from torch import nn


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def check_layer(layer: nn.Module, x: torch.Tensor, reference) -> None:
    """Outputs and gradients equal those of `reference`; parameters' gradients have the strides that DDP wants."""
    y = layer(x)
    with torch.no_grad():
        assert_close(layer(x), y)
    expected = reference(x)
    assert_close(y, expected)
    upstream, inputs = torch.randn_like(expected), (x, *layer.parameters())
    gradients = torch.autograd.grad(expected, inputs, upstream)
    y.backward(upstream)
    for value, gradient in zip(inputs, gradients, strict=True):
        assert_close(value.grad, gradient)
        assert value.grad.stride() == value.stride()
