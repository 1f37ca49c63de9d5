"""Exported programs agree with PyTorch, describe their input and run without this package."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys

import onnx
import pytest
import torch
from conftest import ROOT
from torch import nn

from slowfast_uniformer import load_model
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference import export as export_module
from slowfast_uniformer.inference.export import (
    ENDINGS,
    TOLERANCE,
    _deviation,
    _onnx_runner,
    _traced,
    description,
    export,
)
from slowfast_uniformer.inference.predictor import Predictor
from slowfast_uniformer.models.registry import build_model

V2 = {
    "BACKBONE": "vit",
    "WIDTH": 16,
    "LAYERS": 2,
    "HEADS": 2,
    "PATCH_SIZE": 8,
    "INPUT_RESOLUTION": 16,
    "N_LAYERS": 2,
    "N_DIM": 16,
    "N_HEAD": 2,
    "MLP_DROPOUT": [0.5] * 2,
    "RETURN_LIST": [0, 1],
}
LIGHT = {
    "MLP_RATIO": [2] * 4,
    "PRUNE_RATIO": [[], [], [1, 0.5], [0.5]],
    "TRADE_OFF": [[], [], [1, 0.5], [0.5]],
    "DEPTH": [1, 1, 2, 1],
}
FAMILIES = {
    "V1 split": ("Uniformer", {"SPLIT": True}),
    "light": ("Uniformer_light_ls_fp32", LIGHT),
    "V2 sequential": ("Uniformerv2", V2),
    "V2 parallel": ("Uniformerv2", V2 | {"FUSION": "parallel"}),
    "V2 hierarchical_kv": ("Uniformerv2", V2 | {"FUSION": "hierarchical_kv", "FOLD_PROJECTIONS": False}),
    "V2 hierarchical_q": ("Uniformerv2", V2 | {"FUSION": "hierarchical_q", "TEMPORAL_DOWNSAMPLE": False}),
}
# In the quick tests every family once and, with `files`, every format; V2 sequential: see the test of large models
SLOW = {"V1 split", "V2 parallel", "V2 hierarchical_kv"}
CASES = [
    ("light", "torch_export"),
    pytest.param("V2 hierarchical_q", "torch_export", marks=pytest.mark.slow),
    pytest.param("light", "onnx", marks=pytest.mark.slow),
    *(pytest.param(family, "torch_export", marks=pytest.mark.slow) for family in sorted(SLOW)),
]


def small(tiny: list, family: str, size: int = 32) -> Predictor:
    """A small model of the family, every weight of which counts."""
    name, options = FAMILIES[family]
    section = "UNIFORMERV2" if name == "Uniformerv2" else "UNIFORMER"
    overrides = [item for key, value in options.items() for item in (f"{section}.{key}", value)]
    overrides += ["MODEL.MODEL_NAME", name, "DATA.TEST_CROP_SIZE", size]
    cfg = load_config(str(ROOT / "tests" / "empty.yaml"), [*tiny, *overrides])
    torch.manual_seed(7)
    model = build_model(cfg).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return Predictor(cfg, model, [f"class {label}" for label in range(8)])


class ChannelMeans(nn.Module):
    """A model that is traced in no time, for tests that any model serves."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean(dim=(2, 3, 4)))


def simple(tiny: list) -> Predictor:
    cfg = load_config(str(ROOT / "tests" / "empty.yaml"), tiny)
    return Predictor(cfg, ChannelMeans().eval().requires_grad_(False), [f"class {label}" for label in range(8)])


@pytest.mark.parametrize("family, file_format", CASES)
def test_every_family_agrees_for_any_number_of_clips(tiny, tmp_path, family, file_format):
    model, out = small(tiny, family), str(tmp_path / f"it's a model{ENDINGS[file_format]}")
    found = export(model, file_format, out)
    assert found.deviation < 1e-5 and found.clips == 4 and found.size == os.path.getsize(out)
    assert os.listdir(tmp_path) == [os.path.basename(out)]
    run = _onnx_runner(out) if file_format == "onnx" else torch.export.load(out).module()
    clips = torch.randn(5, 3, 4, 32, 32)
    torch.testing.assert_close(run(clips), model.model(clips), rtol=0, atol=1e-4)
    assert str(ROOT).encode() not in (tmp_path / out).read_bytes()


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """The tiny run's model (V1) in both formats."""
    folder, model = tmp_path_factory.mktemp("exported"), load_model(trained, overrides=["NUM_GPUS", 0])
    for file_format, ending in ENDINGS.items():
        found = export(model, file_format, str(folder / f"model{ending}"))
        assert found.deviation < 1e-5 and found.clips == 4
    return folder


def run_alone(number: int, blocked: list[str], *arguments: object) -> str:
    """What the docs' piece of Python prints where packages cannot be imported."""
    pieces = re.findall(r"```python\n(.*?)```", (ROOT / "docs/features_and_export.md").read_text(), re.DOTALL)
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n{pieces[number]}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_onnx_classifies_a_video_by_its_metadata_alone(files, trained, demo):
    one = load_model(trained, overrides=["TEST.NUM_ENSEMBLE_VIEWS", 1, "TEST.NUM_SPATIAL_CROPS", 1])
    video = next((demo / "videos" / "left").iterdir())
    prediction = one.predict(video)
    name, probability = run_alone(1, ["slowfast_uniformer", "torch", "fvcore"], files / "model.onnx", video).rsplit(
        " ", 1
    )
    assert name == prediction["class"] and float(probability) == pytest.approx(prediction["probability"], abs=2e-4)


@pytest.mark.slow
def test_exported_program_needs_torch_alone(files, trained):
    model = load_model(trained)
    (label,) = set(model.logits(torch.zeros(1, 3, 4, 32, 32)).argmax(dim=1).tolist())
    said = run_alone(2, ["slowfast_uniformer", "torchvision", "fvcore", "av", "onnx"], files / "model.pt2")
    assert said == str([model.names[label]] * 2)


def test_metadata(files, trained):
    model = load_model(trained)
    (entry,) = onnx.load(files / "model.onnx").metadata_props
    about = json.loads(entry.value)
    assert about["classes"] == model.names and about["weights"] == model.checksum
    assert about["input"]["shape"] == ["batch", 3, 4, 32, 32] and about["output"]["shape"] == ["batch", 8]
    graph = onnx.load(files / "model.onnx").graph
    axes = [[axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in graph.input]
    axes += [[axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in graph.output]
    assert axes == [about["input"]["shape"], about["output"]["shape"]]
    assert [value.name for value in (*graph.input, *graph.output)] == ["clips", "logits"]
    assert about["input"]["range"] == pytest.approx([-2, 22 / 9])
    assert about["preprocessing"]["sampling"]["rate"] == 3 and about["preprocessing"]["mean"] == [0.45] * 3
    extra = {"slowfast_uniformer.json": ""}
    torch.export.load(files / "model.pt2", extra_files=extra)
    assert json.loads(extra["slowfast_uniformer.json"]) == about


def test_metadata_of_sparse_sampling(tiny):
    model = simple([*tiny, "TEST.DATASET", "kinetics_sparse"])
    assert description(model)["preprocessing"]["sampling"] == {"kind": "sparse"}


def test_command_checks_on_videos(command, trained, demo, tmp_path):
    out, videos = tmp_path / "new" / "model.pt2", demo / "videos" / "left"
    arguments = ("--checkpoint", trained, "--format", "torch_export", "--output", out, "--check", videos)
    status, printed, error = command("export", *arguments)
    count = len(list(videos.iterdir()))
    assert status == 0 and f"on {6 * count} clips of {count} videos" in printed, error


def test_a_program_that_deviates_is_not_written(tiny, tmp_path, monkeypatch):
    model, traced = simple(tiny), _traced

    def tampered(network, *others):
        network = copy.deepcopy(network)
        network.head.weight += 1e-1
        return traced(network, *others)

    monkeypatch.setattr(export_module, "_traced", tampered)
    with pytest.raises(UserError, match="deviate by .* is not written"):
        export(model, "torch_export", str(tmp_path / "model.pt2"))
    assert not os.listdir(tmp_path)


def test_nan_is_a_deviation(tiny):
    model, clips = (simple(tiny).model, [torch.ones(1, 3, 4, 32, 32), torch.rand(2, 3, 4, 32, 32)])
    deviation, count = _deviation(model, lambda x: model(x) if len(x) == 2 else model(x) * torch.nan, clips)
    assert not deviation <= TOLERANCE and count == 3


@pytest.mark.slow
def test_large_models_keep_their_weights_beside(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "MAX_ONNX_BYTES", 0)
    out, moved, model = tmp_path / "model.onnx", tmp_path / "elsewhere", small(tiny, "V2 sequential")
    found = export(model, "onnx", str(out))
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "model.onnx.data"]
    assert found.size == sum(path.stat().st_size for path in tmp_path.iterdir()) and found.deviation < 1e-5
    moved.mkdir()
    for path in list(tmp_path.glob("model*")):
        shutil.move(path, moved)
    clips = torch.randn(5, 3, 4, 32, 32)
    given = _onnx_runner(str(moved / "model.onnx"))(clips)
    torch.testing.assert_close(given, model.model(clips), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "given, message",
    [
        ("--checkpoint {run} --format onnx --output {tmp}/model.pt2", "must end in .onnx"),
        ("--checkpoint {run} --format tflite --output {tmp}/model.tflite", "invalid choice: 'tflite'"),
        ("--checkpoint {run} --format onnx --output {video}/model.onnx", "cannot be written; name a file"),
        ("--checkpoint {video} --format onnx --output {tmp}/model.onnx", "not a checkpoint"),
        ("--checkpoint {tmp} --format onnx --output {tmp}/model.onnx", "this folder has no checkpoints"),
        ("--checkpoint {run} --format torch_export --output {tmp}/model.pt2 --check {run}/none.mp4", "none.mp4"),
    ],
)
def test_one_message_for_bad_input(command, trained, demo, tmp_path, given, message):
    video = next((demo / "videos" / "left").iterdir())
    words = given.format(run=trained, tmp=tmp_path, video=video).split()
    try:
        status, _, error = command("export", *words)
    finally:
        assert not os.listdir(tmp_path)
    assert status == 2 and message in error and "Traceback" not in error


def test_without_onnx_it_says_what_to_install(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"pip install 'slowfast_uniformer\[export\]'"):
        export(simple(tiny), "onnx", str(tmp_path / "model.onnx"))


def test_a_model_that_cannot_be_traced_is_refused(tiny, tmp_path, monkeypatch):
    model = simple(tiny)
    monkeypatch.setattr(type(model.model), "forward", lambda self, x: x if x.sum() > 0 else -x)
    with pytest.raises(UserError, match="Uniformer cannot be exported: "):
        export(model, "torch_export", str(tmp_path / "model.pt2"))
