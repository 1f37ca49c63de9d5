"""Where a model looks: heat maps against their definitions, tools/explain.py."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_models import SMALL, small_clip, small_model
from torch import nn

from slowfast_uniformer import load_model
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference import saliency
from slowfast_uniformer.inference.explain import heat, label_of
from slowfast_uniformer.inference.predictor import as_sample
from slowfast_uniformer.inference.saliency import look
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
            look(model, a_clip())
        return
    logits, found = look(model, a_clip())
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
            look(evaluated(label), a_clip(), method=method)
    _, found = look(evaluated("Uniformer"), a_clip(), method="gradcam")
    assert [(each.stage, each.kind) for each in found] == [(s, "Grad-CAM") for s in "1234"]


class TwoColors(nn.Module):
    """Its classes are how much red and how much green there is."""

    def __init__(self):
        super().__init__()
        self.blocks1 = nn.ModuleList([nn.AvgPool3d((1, 2, 2))])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks1[0](x)[:, :2].mean(dim=(2, 3, 4))


def test_grad_cam_lights_up_the_place_that_the_class_depends_on():
    clip = torch.zeros(3, 4, 8, 12)
    clip[0, 1, 2:4, 6:8], clip[1, 3, 6:8, 0:2] = 5.0, 3.0  # red and green
    clip[1, 0, 0:2, 0:2] = -9.0  # speaks against green
    for label, place, value in ((0, (1, 1, 3), 5.0), (1, (3, 3, 0), 3.0)):
        _, (found,) = look(TwoColors(), clip, label)
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
    _, found = look(model, a_clip(), method="attention")
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
    monkeypatch.setattr(saliency, "AT_ONCE", 3)
    _, found = look(model, a_clip(), method="attention")
    third, fourth = (each.values.flatten() for each in found)
    share = torch.full((2,), 1 / 2)
    share = F.pad(share, (matrices[-1].shape[0] - 2, 0))
    for matrix in matrices[: len(model.blocks3) - 1 : -1]:
        share = share @ matrix
    torch.testing.assert_close(share[-2:], fourth)
    cls, share = share[:-2], share[-2:].view(2, 1, 1)
    if label.endswith("std"):  # each token reads three frames, of which there are two
        share = share.sum(dim=0, keepdim=True).expand(2, 1, 1) / 2
    share = torch.cat((cls, F.pad((share / 4).expand(2, 2, 2), (0, 1)).flatten()))
    for matrix in reversed(matrices[: len(model.blocks3)]):
        share = share @ matrix
    torch.testing.assert_close(share[-12:], third)


@pytest.mark.parametrize("label", V2)
def test_attention_of_queries_is_that_of_pytorchs_own_layer(label):
    model, taken = evaluated(label), []
    for module in model.modules():
        if isinstance(module, uniformerv2.CrossAttention):
            module.register_forward_pre_hook(lambda module, inputs: taken.append((module, *inputs)))
    _, (*found, mean) = look(model, a_clip())
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


def test_heat_keeps_its_place_and_fills_the_scale():
    values = torch.full((2, 4, 4), 0.1)
    values[1, 3, 0] = 0.7
    hot = heat(values, 4, 64)
    assert hot.shape == (4, 64, 64) and hot.min() == 0 and hot.max() == 1
    time, row, column = np.unravel_index(hot.argmax(), hot.shape)
    assert time >= 2 and row >= 48 and column < 16
    assert not heat(torch.zeros(1, 2, 2), 3, 8).any()


def test_classes_by_name_and_by_label():
    names = ["left", "right", "0"]
    assert [label_of(word, names) for word in ("right", "1", "0")] == [1, 1, 2]
    with pytest.raises(UserError, match="--class rigth: .* from 0 to 2; the nearest is right"):
        label_of("rigth", names)
    with pytest.raises(UserError, match="--class 3: neither"):
        label_of("3", names)


def test_the_clip_is_testings_middle_one_or_around_a_second(trained, demo):
    overrides = ["TEST.NUM_ENSEMBLE_VIEWS", 1, "DATA.USE_OFFSET_SAMPLING", True]
    model = load_model(trained, overrides=overrides)
    sample = as_sample(next((demo / "videos" / "up").iterdir()), model.cfg)
    (views,) = model.clips([sample])
    with model.open(sample) as source:
        numbers, clip = model.clip(source)
        torch.testing.assert_close(clip, views[0])
        assert numbers.tolist() == [2, 5, 9, 13]
        assert model.clip(source, at=0.0)[0].tolist() == [0, 3, 7, 11]
        assert model.clip(source, at=99.0)[0].tolist() == [4, 7, 11, 15]


def test_command_writes_overlay_sheet_and_tensorboard(command, trained, demo, tmp_path):
    video = next((demo / "videos" / "left").iterdir())
    odd = tmp_path / "-a b'c\".mp4"
    shutil.copy(video, odd)
    (tmp_path / "empty.mp4").touch()
    out = tmp_path / "out"
    status, printed, error = command(
        "explain.py",
        "--checkpoint",
        trained,
        "--class",
        "up",
        "--output",
        out,
        "--tensorboard",
        tmp_path / "board",
        "--",
        odd,
        tmp_path / "empty.mp4",
    )
    assert status == 2 and error.count("\n") == 1 and "empty.mp4: the file is empty" in error
    assert sorted(path.name for path in out.iterdir()) == ["a b'c\".mp4", "a b'c\".png"]
    assert printed.startswith(f"{odd}: up (") and str(out / "a b'c\".png") in printed
    with Video(out / "a b'c\".mp4") as made:
        assert made.frames == 12 and made.info.width == made.info.height == 180
    with Image.open(out / "a b'c\".png") as sheet:
        assert sheet.width > 640 and sheet.height > 5 * 144  # the frames and four stages
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert events.Tags()["images"] == ["explain/a b'c\".png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class", "nothing"], "--class nothing: neither a class nor a label"),
        (["--stage", "9"], "--stage 9: the model has 1, 2, 3, 4"),
        (["--output", "{folder}"], "is one of the videos that were given"),
        (["--output", "/proc/none"], "cannot write /proc/none"),
    ],
)
def test_one_message_for_bad_arguments(command, trained, demo, tmp_path, arguments, message):
    video = next((demo / "videos" / "left").iterdir())
    before = video.read_bytes()
    arguments = [argument.format(folder=video.parent) for argument in arguments]
    status, _, error = command("explain.py", "--checkpoint", trained, video, "--output", tmp_path / "out", *arguments)
    assert status == 2 and message in error and error.count("error:") == 1 and "Traceback" not in error
    assert video.read_bytes() == before and not (tmp_path / "out").exists()
