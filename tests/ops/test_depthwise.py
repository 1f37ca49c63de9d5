"""Depth-wise convolutions are conv3d in every implementation."""

import pytest
import torch
import torch.nn.functional as F
from layer_checks import check_layer

from slowfast_uniformer.ops.depthwise import DepthwiseConv3d
from slowfast_uniformer.ops.implementations import set_implementations

CASES = [(3, (1, 5, 6)), (5, (4, 7, 5)), ((3, 1, 1), (6, 4, 4)), (5, (16, 5, 5)), (5, (2, 3, 3))]


@pytest.mark.parametrize("dw_conv", ["unrolled", "conv3d"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kernel, size", CASES)
def test_depthwise_convolution_is_conv3d(kernel, size, layout, dw_conv):
    torch.manual_seed(0)
    layer, x = DepthwiseConv3d(6, kernel), torch.randn(2, 6, *size, requires_grad=True)
    set_implementations(layer, dw_conv=dw_conv, layout=layout)
    check_layer(layer, x, lambda x: F.conv3d(x, layer.weight, layer.bias, padding=layer.padding, groups=6))
