"""Loading weights into models: inflation, classifiers, and names and shapes that do not match."""

import numpy as np
import pytest
import torch
from golden_recipe import GOLDEN, fill, golden_json
from torch import nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.uniformer import Uniformer, UniformerLight
from slowfast_uniformer.weights.load import inflate_weight, load_weights

SMALL = {"embed_dim": [8, 16, 32, 64], "depth": [1, 1, 1, 1], "head_dim": 8, "num_classes": 5}
PRUNING = {"prune_ratio": [[], [], [1], [0.5]], "trade_off": [[], [], [1], [0.5]]}


def image_tensors(model: nn.Module, classes: int) -> dict[str, torch.Tensor]:
    """What an image model's checkpoint holds: `model`'s names and no time axis (the golden file's recipe)."""
    tensors = {}
    for index, (name, value) in enumerate(model.state_dict().items()):
        shape = list(value.shape)
        if len(shape) == 5:
            del shape[2]
        if name.startswith("head"):
            shape[0] = classes
        drawn = np.asarray(np.random.RandomState(index).standard_normal(shape) if shape else 0)
        tensors[name] = torch.from_numpy(drawn).to(value.dtype)
    return tensors


@pytest.mark.parametrize("case", ["t1", "t2", "t3", "t4", "t5"])
@pytest.mark.parametrize("center", [False, True])
def test_inflated_kernels(case, center):
    golden = np.load(GOLDEN / "inflate" / "inflate_weight.npz")
    kernel = inflate_weight(torch.from_numpy(golden["weight_2d"]), int(case[1:]), center)
    np.testing.assert_array_equal(kernel, golden[f"{case}_center{center}"])


def test_an_image_checkpoint_with_other_classes():
    golden = golden_json("inflate", "v1_pretrained_load")
    model = Uniformer(**SMALL)
    head = model.head.weight.clone()
    report = load_weights(model, image_tensors(model, 7), init_head="new")
    assert list(report.dropped) == report.missing == golden["missing_in_ckpt"] == ["head.weight", "head.bias"]
    assert report.loaded == [name for name, *_ in golden["loaded_keys"]]
    assert report.unexpected == []
    values = model.state_dict()
    for name, shape, norm, total in golden["loaded_keys"]:
        value = values[name].double()
        assert list(value.shape) == shape
        assert [value.norm().item(), value.sum().item()] == pytest.approx([norm, total], rel=1e-5, abs=1e-5), name
    assert report.inflated == [name for name in report.loaded if values[name].ndim == 5]
    assert torch.equal(model.head.weight, head)
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    heads = sizes["head.weight"] + sizes["head.bias"]
    assert report.fraction == pytest.approx(1 - heads / sum(sizes.values()))
    assert f"{len(report.loaded)} tensors loaded" in str(report)


def test_a_still_clip_through_inflated_kernels_is_the_image():
    weight, image = torch.randn(4, 3, 2, 2), torch.randn(1, 3, 6, 6)
    expected = nn.functional.conv2d(image, weight)
    for center in (False, True):
        clip = image.unsqueeze(2).repeat(1, 1, 3, 1, 1)
        found = nn.functional.conv3d(clip, inflate_weight(weight, 3, center)).squeeze(2)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("video", "image", "absent"),
    [
        (lambda: Uniformer(**SMALL, split=True), lambda: Uniformer(**SMALL), "t_"),
        (lambda: Uniformer(**SMALL, std=True), lambda: Uniformer(**SMALL), None),
        (
            lambda: UniformerLight(**SMALL, **PRUNING, layer_scale=True),
            lambda: UniformerLight(**SMALL, **PRUNING),
            "gamma_",
        ),
    ],
    ids=["split", "std", "layer scale"],
)
def test_what_only_video_models_have_may_be_missing_in_image_checkpoints_alone(video, image, absent):
    model, plain = video(), image()
    report = load_weights(model, image_tensors(plain, 5))
    assert report.missing == [name for name in model.state_dict() if name not in plain.state_dict()]
    assert all(absent in name for name in report.missing) and bool(report.missing) == bool(absent)
    if absent:
        with pytest.raises(UserError, match=f"missing .*{absent}"):
            load_weights(model, plain.state_dict())


def test_a_video_checkpoint_loads_whole_into_any_precision():
    source, model = fill(Uniformer(**SMALL)), Uniformer(**SMALL)
    tensors = {n: v.half() if v.is_floating_point() else v for n, v in source.state_dict().items()}
    report = load_weights(model, tensors)
    assert report.fraction == 1 and not report.missing and not report.inflated and not report.dropped
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, tensors[name].to(value.dtype), rtol=0, atol=0)
        assert value.dtype in (torch.float32, torch.int64)


def test_another_number_of_classes_needs_a_decision():
    model = UniformerLight(**SMALL, **PRUNING)
    tensors = UniformerLight(**SMALL | {"num_classes": 7}, **PRUNING).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    message = "k.pth has 7 classes, but MODEL.NUM_CLASSES is 5.*MODEL.INIT_HEAD new"
    with pytest.raises(UserError, match=message):
        load_weights(model, tensors, source="k.pth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    report = load_weights(model, tensors, init_head="new", source="k.pth")
    assert list(report.dropped) == ["head.weight", "head.bias", "head_cls.weight", "head_cls.bias"]


def test_init_head_new_drops_a_classifier_of_the_right_size_too():
    model = Uniformer(**SMALL)
    head = model.head.weight.clone()
    load_weights(model, Uniformer(**SMALL).state_dict(), init_head="new")
    assert torch.equal(model.head.weight, head)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.weight"), r"x.pth does not match the model: 1 missing \(norm.weight\). Set MODEL.MODEL"),
        (lambda t: t.pop("head.bias"), r"1 missing \(head.bias\)\. .*MODEL.INIT_HEAD new"),
        (lambda t: t.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (
            lambda t: t.update({"norm.bias": torch.zeros(9)}),
            r"1 with a shape mismatch \(norm.bias: \(9,\) for \(64,\)\)",
        ),
        (lambda t: t.update({"head.weight": torch.zeros(5, 9)}), r"shape mismatch \(head.weight: \(5, 9\)"),
        (
            lambda t: [t.update({f"more{i}": torch.zeros(1)}) for i in range(5)],
            r"5 unexpected \(more0, more1, more2, ...\)",
        ),
    ],
)
def test_names_and_shapes_must_agree(change, message):
    model, tensors = Uniformer(**SMALL), Uniformer(**SMALL).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    change(tensors)
    with pytest.raises(UserError, match=message):
        load_weights(model, tensors, source="x.pth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
