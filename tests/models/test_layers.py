"""Layers that several architectures share."""

import pytest
import torch
from torchvision.ops import StochasticDepth

from slowfast_uniformer.models.layers import DropPath


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("training", [True, False])
def test_drop_path_is_stochastic_depth_draw_for_draw(p, training):
    x, outputs = torch.randn(6, 3, 4, requires_grad=True), []
    for layer in (DropPath(p), StochasticDepth(p, mode="row")):
        torch.manual_seed(0)
        first, second = layer.train(training)(x), layer(x.bfloat16())
        (gradient,) = torch.autograd.grad(first.sum(), x)
        outputs.append((first, second, gradient, torch.rand(1)))
    for found, expected in zip(*outputs, strict=True):
        assert torch.equal(found, expected) and found.dtype == expected.dtype
