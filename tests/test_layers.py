"""The forms that layers take for speed are the layers they stand for."""

import pytest
import torch
import torch.nn.functional as F

from slowfast_uniformer.models.layers import DepthwiseConv3d

CASES = [(3, (1, 5, 6)), (5, (4, 7, 5)), ((3, 1, 1), (6, 4, 4)), (5, (16, 5, 5))]


@pytest.mark.parametrize("kernel, size", CASES)
def test_depthwise_convolution_is_conv3d(kernel, size):
    torch.manual_seed(0)
    layer, x = DepthwiseConv3d(6, kernel), torch.randn(2, 6, *size, requires_grad=True)
    y = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), y, rtol=1e-5, atol=1e-6)
    plain = F.conv3d(x, layer.weight, layer.bias, padding=layer.padding, groups=6)
    torch.testing.assert_close(y, plain, rtol=1e-5, atol=1e-6)
    upstream, inputs = torch.randn_like(y), (x, layer.weight, layer.bias)
    gradients = (torch.autograd.grad(out, inputs, upstream) for out in (y, plain))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert ours.is_contiguous(), "DDP wants gradients laid out as the parameters are"
