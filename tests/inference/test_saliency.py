"""Saliency maps against their definitions."""

import pytest
import torch
import torch.nn.functional as F
from small_models import SMALL, small_clip, small_model
from torch import nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference import saliency
from slowfast_uniformer.inference.saliency import saliency_maps
from slowfast_uniformer.models import uniformer, uniformerv2
from slowfast_uniformer.ops import implementations
from slowfast_uniformer.ops.attention import attention_weights

V1 = [label for label in SMALL if SMALL[label][0].startswith("Uniformer") and "v2" not in label]
V2 = [label for label in SMALL if "v2" in label]


def a_clip() -> torch.Tensor:
    return small_clip()[0]


def evaluated(label: str) -> nn.Module:
    return small_model(label).eval().requires_grad_(False)


@pytest.mark.parametrize("label", SMALL)
def test_every_model_has_maps_or_says_why(label):
    model = evaluated(label)
    expected = model(a_clip()[None])[0]
    if label == "PTVMViT":
        with pytest.raises(UserError, match="no map can be drawn"):
            saliency_maps(model, a_clip())
        return
    logits, found = saliency_maps(model, a_clip())
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert len(found) >= 4 and len({each.title for each in found}) == len(found)
    for each in found:
        assert each.values.ndim == 3 and each.values.isfinite().all() and each.values.min() >= 0
        if each.kind != "Grad-CAM":
            assert 0.5 < each.values.sum() <= 1 + 1e-5
    assert any(each.values.max() > 0 for each in found)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_method_that_a_model_lacks():
    for label, method in (("PTVX3D", "attention"), ("Uniformerv2", "gradcam")):
        with pytest.raises(UserError, match=f"--method {method}: the model has no"):
            saliency_maps(evaluated(label), a_clip(), method=method)
    _, found = saliency_maps(evaluated("Uniformer"), a_clip(), method="gradcam")
    assert [(each.stage, each.kind) for each in found] == [(s, "Grad-CAM") for s in "1234"]


class TwoColors(nn.Module):
    """Its classes are how much red and how much green there is."""

    def __init__(self):
        super().__init__()
        self.blocks1 = nn.ModuleList([nn.AvgPool3d((1, 2, 2))])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks1[0](x)[:, :2].mean(dim=(2, 3, 4))


def test_grad_cam_marks_the_place_that_the_class_depends_on():
    clip = torch.zeros(3, 4, 8, 12)
    clip[0, 1, 2:4, 6:8], clip[1, 3, 6:8, 0:2] = 5.0, 3.0  # red and green
    clip[1, 0, 0:2, 0:2] = -9.0  # speaks against green
    for label, place, value in ((0, (1, 1, 3), 5.0), (1, (3, 3, 0), 3.0)):
        _, (found,) = saliency_maps(TwoColors(), clip, label)
        expected = torch.zeros(4, 4, 6)
        expected[place] = value / expected.numel()
        torch.testing.assert_close(found.values, expected)


class Fixed(nn.Module):
    """Queries, keys and values with which every token attends to number `token` alone, or to all equally."""

    def __init__(self, dim: int, token: int | None):
        super().__init__()
        self.dim, self.token = dim, token

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = x.new_zeros(*x.shape[:2], 3 * self.dim)
        qkv[..., : self.dim] = 100.0
        if self.token is not None:
            qkv[:, self.token, self.dim : 2 * self.dim] = 100.0
        return qkv


def test_rollout_of_known_attention_is_the_closed_form():
    model = evaluated("Uniformer")
    for stage, token in ((model.blocks3, 7), (model.blocks4, None)):
        for block in stage:
            block.attn.qkv = Fixed(block.attn.proj.in_features, token)
    _, found = saliency_maps(model, a_clip(), method="attention")
    third, fourth = (each.values.flatten() for each in found)
    torch.testing.assert_close(fourth, torch.full((2,), 1 / 2))
    # Stage 4 has 2 tokens, each of 4 of the 12 in stage 3 (whose third column no window covers).
    entering = F.pad(torch.full((2, 2, 2), 1 / 8), (0, 1)).flatten()
    expected = entering / 2 ** len(model.blocks3)
    expected[7] += 1 - 1 / 2 ** len(model.blocks3)
    torch.testing.assert_close(third, expected)


def mixing(block: nn.Module, weights: list[torch.Tensor], inputs: tuple) -> torch.Tensor:
    """A block as a matrix: how much of each token that enters is in each that leaves it."""
    dense = [part.mean(dim=1) for part in weights]
    size, one = inputs[0].shape[2:], torch.eye
    count = size.numel()
    if block.split:
        time, space = torch.zeros(2, *size[:1], size[1:].numel(), *size[:1], size[1:].numel())
        for n in range(count // size[0]):
            time[:, n, :, n] = dense[0][n]
        for t in range(size[0]):
            space[t, :, t] = dense[1][t]
        time, space = time.reshape(count, count), space.reshape(count, count)
        return (one(count) + space @ (one(count) + time) / 2) / 2
    if getattr(block, "prune_ratio", 1) == 1:
        return (one(len(dense[0][0])) + dense[0][0]) / 2
    keep = int(count * block.prune_ratio)
    order = inputs[2][0].argsort(descending=True)
    gather = torch.zeros(keep + 2, count + 1)  # class token, those that take part, the one for the rest
    gather[0, 0] = 1
    gather[torch.arange(1, keep + 1), order[:keep] + 1] = 1
    rest = inputs[2][0][order[keep:]]
    gather[-1, order[keep:] + 1] = rest / rest.sum()
    back = (gather > 0).float().T
    return (one(count + 1) + back @ dense[0][0] @ gather) / 2


@pytest.mark.parametrize("label", V1)
def test_rollout_is_the_product_of_the_blocks_mixing(label, monkeypatch):
    model, seen, matrices = implementations.use_reference(evaluated(label)), [], []
    weights_of = attention_weights

    def record(*arguments) -> torch.Tensor:
        seen.append(weights_of(*arguments))
        return seen[-1]

    def multiply(block: nn.Module, inputs: tuple, _) -> None:
        matrices.append(mixing(block, seen[:], inputs))
        seen.clear()

    monkeypatch.setattr(uniformer, "attention_weights", record)
    blocks = [block for stage in (model.blocks3, model.blocks4) for block in stage]
    handles = [block.register_forward_hook(multiply) for block in blocks]
    model(a_clip()[None])
    for handle in handles:
        handle.remove()
    monkeypatch.setattr(saliency, "QUERY_CHUNK", 3)
    _, found = saliency_maps(model, a_clip(), method="attention")
    third, fourth = (each.values.flatten() for each in found)
    relevance = torch.full((2,), 1 / 2)
    relevance = F.pad(relevance, (matrices[-1].shape[0] - 2, 0))
    for matrix in matrices[: len(model.blocks3) - 1 : -1]:
        relevance = relevance @ matrix
    torch.testing.assert_close(relevance[-2:], fourth)
    cls, relevance = relevance[:-2], relevance[-2:].view(2, 1, 1)
    if label.endswith("std"):  # each token reads three frames, of which there are two
        relevance = relevance.sum(dim=0, keepdim=True).expand(2, 1, 1) / 2
    relevance = torch.cat((cls, F.pad((relevance / 4).expand(2, 2, 2), (0, 1)).flatten()))
    for matrix in reversed(matrices[: len(model.blocks3)]):
        relevance = relevance @ matrix
    torch.testing.assert_close(relevance[-12:], third)


@pytest.mark.parametrize("label", V2)
def test_attention_of_queries_is_that_of_pytorchs_own_layer(label):
    model, taken = evaluated(label), []
    for module in model.modules():
        if isinstance(module, uniformerv2.CrossAttention):
            module.register_forward_pre_hook(lambda module, inputs: taken.append((module, *inputs)))
    _, (*found, mean) = saliency_maps(model, a_clip())
    assert [each.title for each in found] == ["layer 1", "layer 2", "layer 3"]
    frames = 2 if label.endswith("temporal") else 4
    for each, (module, query, tokens) in zip(found, taken, strict=True):
        query, tokens = query.transpose(0, 1), tokens.transpose(0, 1)
        _, weights = F.multi_head_attention_forward(
            query,
            tokens,
            tokens,
            module.dim,
            module.heads,
            module.in_proj_weight,
            module.in_proj_bias,
            None,
            None,
            False,
            0.0,
            module.out_proj.weight,
            module.out_proj.bias,
            training=False,
        )
        weights = weights[0].mean(dim=0)
        assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
        in_frames = weights[-frames * 25 :].view(frames, 25)  # a class token and 4 x 6 patches each
        torch.testing.assert_close(each.values, in_frames[:, 1:].reshape(frames, 4, 6))
        others = in_frames[:, 0].sum() + weights[: -frames * 25].sum()
        assert float(each.values.sum() + others) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(mean.values, sum(each.values for each in found) / 3)
