"""Point-wise, patch and stem convolutions are conv3d."""

import pytest
import torch
import torch.nn.functional as F
from layer_checks import check_layer

from slowfast_uniformer.ops.convolution import Conv3d, PatchConv3d, PointwiseConv3d, StemConv3d
from slowfast_uniformer.ops.depthwise import DepthwiseConv3d
from slowfast_uniformer.ops.implementations import set_implementations


@pytest.mark.parametrize("kernel, stride", [((3, 4, 4), 2), ((1, 2, 2), 1), ((3, 2, 3), 1), ((1, 2, 2), 2)])
@pytest.mark.parametrize("frames", [1, 4, 5])
def test_patch_embedding_is_conv3d(kernel, stride, frames):
    torch.manual_seed(0)
    layer = PatchConv3d(3, 7, kernel, stride)
    x = torch.randn(2, 3, frames, 9, 8, requires_grad=True)
    check_layer(layer, x, lambda x: F.conv3d(x, layer.weight, layer.bias, layer.stride, layer.padding))


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 5, 8])
def test_stem_convolution_is_conv3d(clips, frames):
    torch.manual_seed(0)
    layer, x = StemConv3d(7), torch.randn(clips, 3, frames, 9, 8, requires_grad=True)
    check_layer(layer, x, lambda x: F.conv3d(x, layer.weight, layer.bias, (1, 2, 2), 1))


@pytest.mark.parametrize("size", [(8, 8), (9, 8)])
def test_patch_embeddings_keep_the_memory_format_in_the_gradient_of_their_input(size):
    x = torch.randn(2, 3, 4, *size).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    PatchConv3d(3, 7, (1, 2, 2))(x).sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last_3d)


def test_pointwise_convolution_is_conv3d():
    torch.manual_seed(0)
    layer, x = PointwiseConv3d(4, 6), torch.randn(2, 4, 3, 5, 2, requires_grad=True)
    check_layer(layer, x, lambda x: F.conv3d(x, layer.weight, layer.bias))


@pytest.mark.parametrize(("kernel", "size"), [((3, 1, 1), (2, 2, 3)), ((3, 1, 1), (2, 4, 6)), ((5, 1, 1), (4, 2, 2))])
@pytest.mark.parametrize("depthwise", [False, True])
def test_bf16_gradients_of_volumes_smaller_than_the_kernel_are_right(kernel, size, depthwise):
    """oneDNN leaves elements of the weight gradient uninitialised; memory that was freed before holds NaN here."""
    torch.manual_seed(0)
    if depthwise:
        layer = set_implementations(DepthwiseConv3d(16, kernel), layout="channels_last", dw_conv="conv3d")
    else:
        layer = Conv3d(16, 16, kernel, padding=(kernel[0] // 2, 0, 0))
    x = torch.randn(2, 16, *size)
    layer(x).sum().backward()
    expected, layer.weight.grad = layer.weight.grad, None
    for _ in range(5):
        freed = [torch.full((count,), float("nan")) for count in range(16, 8192, 40)]
        del freed
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        y.sum().backward()
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(layer.weight.grad, expected, rtol=2e-2, atol=2e-2 * expected.abs().max().item())
        layer.weight.grad = None
