"""The forms that layers take for speed are the layers they stand for."""

import pytest
import torch
import torch.nn.functional as F
from test_models import SMALL, small_clip, small_model, training_step
from torch import nn

from slowfast_uniformer.models import layers

OURS = [label for label, (name, _) in SMALL.items() if name.startswith("Uniformer")]
CASES = [(3, (1, 5, 6)), (5, (4, 7, 5)), ((3, 1, 1), (6, 4, 4)), (5, (16, 5, 5)), (5, (2, 3, 3))]


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def check(layer: nn.Module, x: torch.Tensor, reference) -> None:
    """The layer and its gradients are those of `reference`; those of parameters lie as DDP wants them."""
    y = layer(x)
    with torch.no_grad():
        same(layer(x), y)
    expected = reference(x)
    same(y, expected)
    upstream, inputs = torch.randn_like(expected), (x, *layer.parameters())
    gradients = torch.autograd.grad(expected, inputs, upstream)
    y.backward(upstream)
    for value, gradient in zip(inputs, gradients, strict=True):
        same(value.grad, gradient)
        assert value.grad.stride() == value.stride()


@pytest.mark.parametrize("dw_conv", ["unrolled", "conv3d"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kernel, size", CASES)
def test_depthwise_convolution_is_conv3d(kernel, size, layout, dw_conv):
    torch.manual_seed(0)
    layer, x = layers.DepthwiseConv3d(6, kernel), torch.randn(2, 6, *size, requires_grad=True)
    layers.set_forms(layer, dw_conv=dw_conv, layout=layout)
    check(layer, x, lambda x: F.conv3d(x, layer.weight, layer.bias, padding=layer.padding, groups=6))


@pytest.mark.parametrize("kernel, stride", [((3, 4, 4), 2), ((1, 2, 2), 1), ((3, 2, 3), 1), ((1, 2, 2), 2)])
@pytest.mark.parametrize("frames", [1, 4, 5])
def test_patch_embedding_is_conv3d(kernel, stride, frames):
    torch.manual_seed(0)
    layer = layers.PatchConv3d(3, 7, kernel, stride)
    x = torch.randn(2, 3, frames, 9, 8, requires_grad=True)
    check(layer, x, lambda x: F.conv3d(x, layer.weight, layer.bias, layer.stride, layer.padding))


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 5, 8])
def test_stem_convolution_is_conv3d(clips, frames):
    torch.manual_seed(0)
    layer, x = layers.StemConv3d(7), torch.randn(clips, 3, frames, 9, 8, requires_grad=True)
    check(layer, x, lambda x: F.conv3d(x, layer.weight, layer.bias, (1, 2, 2), 1))


@pytest.mark.parametrize("size", [(8, 8), (9, 8)])
def test_patch_embeddings_hand_down_gradients_in_the_layout_of_their_input(size):
    x = torch.randn(2, 3, 4, *size).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    layers.PatchConv3d(3, 7, (1, 2, 2))(x).sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last_3d)


def test_what_treats_tokens_alike_may_get_them_by_parts():
    torch.manual_seed(0)
    mlp, counts = layers.Mlp(6, 24, conv=True), []
    x = torch.randn(2, 6, 3, 30, 29).contiguous(memory_format=torch.channels_last_3d)

    def function(x, y):
        counts.append(x[0, 0].numel())
        return x + mlp(y)

    expected = layers.by_tokens(function, x, 2 * x)
    with torch.no_grad():
        found = layers.by_tokens(function, x, 2 * x)
    same(found, expected)
    assert found.stride() == expected.stride()
    assert counts == [2610, 2048, 2048, 2 * 2610 - 4096]


def test_pointwise_convolution_is_conv3d():
    torch.manual_seed(0)
    layer, x = layers.PointwiseConv3d(4, 6), torch.randn(2, 4, 3, 5, 2, requires_grad=True)
    check(layer, x, lambda x: F.conv3d(x, layer.weight, layer.bias))


def test_quick_gelu():
    x = torch.randn(50, requires_grad=True)
    check(layers.QuickGELU(), x, lambda x: x * torch.sigmoid(1.702 * x))


@pytest.mark.parametrize("label", OURS)
def test_fused_models_compute_the_same_without_batch_norms(label):
    model = small_model(label)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "num_batches" not in name:
                value.copy_(torch.rand(value.shape) + 0.5 if "var" in name else torch.randn(value.shape) / 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fused, clip = model.fuse(), small_clip()
    with torch.inference_mode():
        torch.testing.assert_close(fused(clip), model.eval()(clip), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in fused.modules())
    assert not any("gamma" in name or ".ls_" in name for name in fused.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("label", OURS)
def test_plain_models_compute_the_same(label):
    """Golden figures tell that these are right; here that each form is."""
    fast, simple = small_model(label), layers.plain(small_model(label))
    for value in fast.parameters():
        if not value.any():  # it would hide what comes before it
            nn.init.normal_(value, std=0.1)
    simple.load_state_dict(fast.state_dict())
    for model in (fast, simple):
        for module in model.modules():
            if isinstance(module, nn.Dropout) or hasattr(module, "attn_drop"):
                module.p = module.attn_drop = 0.0  # drawn in another order
    with torch.no_grad():
        logits = [model.eval()(small_clip()) for model in (fast, simple)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)
    for ours, theirs in zip(*map(training_step, (fast, simple)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    trained = [name for name, value in simple.named_parameters() if value.requires_grad]
    gradients = {name: simple.get_parameter(name).grad for name in trained}
    all_norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    for name, theirs in gradients.items():  # some are zero but for rounding: biases before batch norms
        error = (fast.get_parameter(name).grad - theirs).norm()
        assert error <= 1e-4 * theirs.norm() + 1e-6 * all_norm, name
