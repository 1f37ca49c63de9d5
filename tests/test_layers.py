"""The forms that layers take for speed are the layers they stand for."""

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F
from test_models import SMALL, small_clip, small_model, training_step
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slowfast_uniformer.models import layers
from slowfast_uniformer.ops import chunked, implementations
from slowfast_uniformer.ops.activations import QuickGELU
from slowfast_uniformer.ops.chunked import map_chunked
from slowfast_uniformer.ops.convolution import PatchConv3d, PointwiseConv3d, StemConv3d
from slowfast_uniformer.ops.depthwise import DepthwiseConv3d

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
    layer, x = DepthwiseConv3d(6, kernel), torch.randn(2, 6, *size, requires_grad=True)
    implementations.set_implementations(layer, dw_conv=dw_conv, layout=layout)
    check(layer, x, lambda x: F.conv3d(x, layer.weight, layer.bias, padding=layer.padding, groups=6))


@pytest.mark.parametrize("kernel, stride", [((3, 4, 4), 2), ((1, 2, 2), 1), ((3, 2, 3), 1), ((1, 2, 2), 2)])
@pytest.mark.parametrize("frames", [1, 4, 5])
def test_patch_embedding_is_conv3d(kernel, stride, frames):
    torch.manual_seed(0)
    layer = PatchConv3d(3, 7, kernel, stride)
    x = torch.randn(2, 3, frames, 9, 8, requires_grad=True)
    check(layer, x, lambda x: F.conv3d(x, layer.weight, layer.bias, layer.stride, layer.padding))


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 5, 8])
def test_stem_convolution_is_conv3d(clips, frames):
    torch.manual_seed(0)
    layer, x = StemConv3d(7), torch.randn(clips, 3, frames, 9, 8, requires_grad=True)
    check(layer, x, lambda x: F.conv3d(x, layer.weight, layer.bias, (1, 2, 2), 1))


@pytest.mark.parametrize("size", [(8, 8), (9, 8)])
def test_patch_embeddings_hand_down_gradients_in_the_layout_of_their_input(size):
    x = torch.randn(2, 3, 4, *size).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    PatchConv3d(3, 7, (1, 2, 2))(x).sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last_3d)


def test_what_treats_tokens_alike_may_get_them_by_parts():
    torch.manual_seed(0)
    mlp, counts = layers.Mlp(6, 24, conv=True), []
    x = torch.randn(2, 6, 3, 30, 29).contiguous(memory_format=torch.channels_last_3d)

    def function(x, y):
        counts.append(x[0, 0].numel())
        return x + mlp(y)

    expected = map_chunked(function, x, 2 * x)
    with torch.no_grad():
        found = map_chunked(function, x, 2 * x)
    same(found, expected)
    assert found.stride() == expected.stride()
    assert counts == [2610, 2048, 2048, 2 * 2610 - 4096]


def test_pointwise_convolution_is_conv3d():
    torch.manual_seed(0)
    layer, x = PointwiseConv3d(4, 6), torch.randn(2, 4, 3, 5, 2, requires_grad=True)
    check(layer, x, lambda x: F.conv3d(x, layer.weight, layer.bias))


def test_quick_gelu():
    x = torch.randn(50, requires_grad=True)
    check(QuickGELU(), x, lambda x: x * torch.sigmoid(1.702 * x))


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


@pytest.fixture(name="small_parts")
def fixture_small_parts(monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_SIZE", 4)


@pytest.mark.parametrize("label", OURS)
def test_plain_models_compute_the_same(label, small_parts):
    """Golden figures tell that these are right; here that each form is."""
    fast, simple = small_model(label), implementations.use_reference(small_model(label))
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


def run_mlp(mlp: layers.Mlp, x: torch.Tensor) -> tuple[list[torch.Tensor], list[tuple[int, ...]]]:
    """Outputs and gradients, and the shapes of what is kept for them, parameters aside."""
    kept, parameters = [], {p.data_ptr() for p in mlp.parameters()}

    def note(value: torch.Tensor) -> torch.Tensor:
        if value.data_ptr() not in parameters:
            kept.append(tuple(value.shape))
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        y = mlp(x)
    inputs = [value for value in (x, *mlp.parameters()) if value.requires_grad]
    return [y, *torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), inputs)], kept


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("frames", [3, 2])
def test_an_mlp_by_parts_is_the_mlp(conv, frames, small_parts):
    mlp = layers.Mlp(6, 10, conv=conv)
    x = torch.randn(2, 6, frames, 2, 3).contiguous(memory_format=torch.channels_last_3d)
    x = (x if conv else x.flatten(2).transpose(1, 2)).requires_grad_()
    found, kept = run_mlp(mlp, x)
    expected, all_kept = run_mlp(implementations.set_implementations(mlp, layout="contiguous"), x)
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    for value, gradient in zip((x, *mlp.parameters()), found[1:], strict=True):
        assert gradient.stride() == value.stride(), "DDP would copy it"
    assert kept.count((12 * frames, 10)) == 1, "the outputs of the first layer, not those of GELU"
    assert sum(math.prod(shape) for shape in kept) < sum(math.prod(shape) for shape in all_kept)


def frozen(mlp: layers.Mlp) -> None:
    mlp.fc1.weight.requires_grad_(False)


@pytest.mark.parametrize(
    ("change", "context"),
    [
        (lambda mlp: mlp.bfloat16(), contextlib.nullcontext),
        (frozen, contextlib.nullcontext),
        (lambda mlp: setattr(mlp.drop, "p", 0.5), contextlib.nullcontext),
        (lambda mlp: None, lambda: torch.autocast("cpu", torch.bfloat16)),
        (lambda mlp: None, lambda: FlopCounterMode(display=False)),
        (lambda mlp: None, torch.no_grad),
    ],
    ids=["bf16", "frozen", "dropout", "autocast", "watched", "no gradients"],
)
def test_an_mlp_goes_through_its_layers_where_parts_would_change_something(change, context, small_parts):
    mlp, called = layers.Mlp(6, 10), []
    change(mlp)
    mlp.act.register_forward_hook(lambda *_: called.append(True))
    x = torch.randn(2, 9, 6, dtype=mlp.fc1.bias.dtype)
    with context():
        mlp(x)
    assert called
    if context is not contextlib.nullcontext:
        called.clear()
        mlp(x)
        assert not called, "only there"
