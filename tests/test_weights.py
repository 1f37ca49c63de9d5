"""Reading weight files, inflating image kernels, and the account of what was loaded."""

import argparse
import pickle
import re

import numpy as np
import pytest
import torch
from golden_recipe import GOLDEN, fill, golden_json
from iopath.common.file_io import PathHandler, g_pathmgr
from safetensors.torch import save_file
from torch import nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.uniformer import Uniformer, UniformerLight
from slowfast_uniformer.weights.files import read_tensors
from slowfast_uniformer.weights.load import inflate_weight, load_weights
from slowfast_uniformer.weights.registry import find_weights

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
    message = "k.pth knows 7 classes, but MODEL.NUM_CLASSES is 5.*MODEL.INIT_HEAD new"
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
        (lambda t: t.pop("norm.weight"), r"x.pth does not fit the model: 1 missing \(norm.weight\); MODEL.MODEL"),
        (lambda t: t.pop("head.bias"), r"1 missing \(head.bias\); .*MODEL.INIT_HEAD new"),
        (lambda t: t.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (lambda t: t.update({"norm.bias": torch.zeros(9)}), r"1 of another shape \(norm.bias: \(9,\) for \(64,\)\)"),
        (lambda t: t.update({"head.weight": torch.zeros(5, 9)}), r"another shape \(head.weight: \(5, 9\)"),
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


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", ["model_state", "model", "state_dict", "model_ema", None])
def test_tensors_of_torch_files(tmp_path, key, zipped):
    tensors = {"a.weight": torch.arange(3.0), "b": torch.tensor(2)}
    content = {key: tensors, "epoch": 3, "args": argparse.Namespace(lr=0.1)} if key else tensors
    torch.save(content, tmp_path / "x.pyth", _use_new_zipfile_serialization=zipped)
    found, _ = read_tensors(str(tmp_path / "x.pyth"))
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_tensors_of_safetensors_files(tmp_path):
    tensors = {"a.weight": torch.arange(3.0), "b": torch.ones(2, 2).half()}
    save_file(tensors, tmp_path / "x.safetensors")
    found, about = read_tensors(str(tmp_path / "x.safetensors"))
    assert about == {}
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)


class NeedsCode:
    """What a checkpoint must not hold."""


def test_files_that_need_code_are_refused_with_a_way_out(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": {"a": torch.ones(1)}, "best": NeedsCode()}, path)
    with pytest.raises(UserError, match=r"x.pth: holds a \S*NeedsCode.*weights_only=False") as error:
        read_tensors(str(path))
    remedy = re.search(r"c = torch.load.*", str(error.value))[0].replace("weights.pth", str(tmp_path / "w.pth"))
    exec(remedy, {"torch": torch})
    assert read_tensors(str(tmp_path / "w.pth"))[0]["a"] == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.pth", b"not a checkpoint at all", "not a checkpoint, or damaged"),
        ("empty.pth", b"", "not a checkpoint, or damaged"),
        ("other.pth", pickle.dumps({"a": 1}, protocol=2), "not a checkpoint, or damaged"),
        ("text.safetensors", b"not a checkpoint at all", "not a readable safetensors file"),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: {message}"):
        read_tensors(str(tmp_path / name))


def test_half_a_file_is_refused(tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    with pytest.raises(UserError, match="half.pth: not a checkpoint, or damaged"):
        read_tensors(str(tmp_path / "half.pth"))


@pytest.mark.parametrize(
    ("content", "held"),
    [({"epoch": 3, "model": {"lr": 1}}, "lr"), ([torch.ones(1)], "a list"), ({"epoch": 3}, "epoch")],
)
def test_files_without_named_tensors_are_refused(tmp_path, content, held):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"x.pth: holds {held} and no tensors by name, nor under ema_state"):
        read_tensors(str(tmp_path / "x.pth"))


def test_a_run_gives_its_average_and_what_stands_beside_it(tmp_path):
    beside = {"class_names": ["a", "b"], "step": 7, "cfg": "MODEL: {}"}
    states = {"model_state": {"w": torch.zeros(1)}, "ema_state": {"w": torch.ones(1)}}
    torch.save(states | beside | {"epoch": 3}, tmp_path / "ema.pyth")
    torch.save(states | beside | {"ema_state": None}, tmp_path / "plain.pyth")
    found, about = read_tensors(str(tmp_path / "ema.pyth"))
    assert found["w"] == 1 and about == beside
    assert read_tensors(str(tmp_path / "plain.pyth"))[0]["w"] == 0


def test_names_are_looked_up_in_the_folder_of_weights(tmp_path, monkeypatch):
    save_file({"w": torch.ones(1)}, tmp_path / "known.safetensors")
    monkeypatch.setenv("SLOWFAST_UNIFORMER_WEIGHTS", str(tmp_path))
    assert find_weights("known") == find_weights("known.safetensors") == str(tmp_path / "known.safetensors")
    (tmp_path / "k400_k710_b16.pyth").touch()
    assert find_weights("k400/k400+k710_b16.pyth") == str(tmp_path / "k400_k710_b16.pyth")  # as a released YAML says
    assert read_tensors("known")[0]["w"] == 1
    with pytest.raises(UserError, match=f"no weights 'gone'.*SLOWFAST_UNIFORMER_WEIGHTS .{tmp_path}"):
        find_weights("gone")
    monkeypatch.delenv("SLOWFAST_UNIFORMER_WEIGHTS")
    with pytest.raises(UserError, match="no weights 'known'.*SLOWFAST_UNIFORMER_WEIGHTS is unset"):
        find_weights("known")


def test_addresses_go_through_the_path_manager(tmp_path):
    class Shelf(PathHandler):
        def _get_supported_prefixes(self) -> list[str]:
            return ["shelf://"]

        def _get_local_path(self, path: str, **_) -> str:
            return str(tmp_path / path.removeprefix("shelf://"))

    g_pathmgr.register_handler(Shelf(), allow_override=True)
    save_file({"w": torch.ones(1)}, tmp_path / "known.safetensors")
    assert read_tensors("shelf://known.safetensors")[0]["w"] == 1
    with pytest.raises(UserError, match="cannot fetch nowhere://x"):
        read_tensors("nowhere://x")
