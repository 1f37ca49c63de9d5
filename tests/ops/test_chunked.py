"""Chunked computation gives the same results."""

import contextlib
import math

import pytest
import torch
from layer_checks import assert_close
from torch.utils.flop_counter import FlopCounterMode

from slowfast_uniformer.models import layers
from slowfast_uniformer.ops import chunked, implementations
from slowfast_uniformer.ops.chunked import map_chunked


@pytest.fixture(name="small_chunks")
def fixture_small_chunks(monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_SIZE", 4)


def test_pointwise_functions_are_called_with_chunks_when_no_gradients_are_needed():
    torch.manual_seed(0)
    mlp, counts = layers.Mlp(6, 24, conv=True), []
    x = torch.randn(2, 6, 3, 30, 29).contiguous(memory_format=torch.channels_last_3d)

    def function(x, y):
        counts.append(x[0, 0].numel())
        return x + mlp(y)

    expected = map_chunked(function, x, 2 * x)
    with torch.no_grad():
        found = map_chunked(function, x, 2 * x)
    assert_close(found, expected)
    assert found.stride() == expected.stride()
    assert counts == [2610, 2048, 2048, 2 * 2610 - 4096]


def run_mlp(mlp: layers.Mlp, x: torch.Tensor) -> tuple[list[torch.Tensor], list[tuple[int, ...]]]:
    """Outputs and gradients, and the shapes of what is saved for the backward pass, parameters aside."""
    saved, parameters = [], {p.data_ptr() for p in mlp.parameters()}

    def note(value: torch.Tensor) -> torch.Tensor:
        if value.data_ptr() not in parameters:
            saved.append(tuple(value.shape))
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        y = mlp(x)
    inputs = [value for value in (x, *mlp.parameters()) if value.requires_grad]
    return [y, *torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), inputs)], saved


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("frames", [3, 2])
def test_a_chunked_mlp_is_the_mlp(conv, frames, small_chunks):
    mlp = layers.Mlp(6, 10, conv=conv)
    x = torch.randn(2, 6, frames, 2, 3).contiguous(memory_format=torch.channels_last_3d)
    x = (x if conv else x.flatten(2).transpose(1, 2)).requires_grad_()
    found, saved = run_mlp(mlp, x)
    expected, all_saved = run_mlp(implementations.set_implementations(mlp, layout="contiguous"), x)
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-5, atol=1e-6)
    for value, gradient in zip((x, *mlp.parameters()), found[1:], strict=True):
        assert gradient.stride() == value.stride(), "DDP would copy it"
    assert saved.count((12 * frames, 10)) == 1, "the outputs of the first layer, not those of GELU"
    assert sum(math.prod(shape) for shape in saved) < sum(math.prod(shape) for shape in all_saved)


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
    ids=["bf16", "frozen", "dropout", "autocast", "dispatch mode", "no gradients"],
)
def test_an_mlp_is_not_chunked_where_that_would_change_something(change, context, small_chunks):
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
