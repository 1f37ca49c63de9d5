"""What is special about PyTorchVideo's models; the contract that all models keep is in test_contract.py."""

import importlib
import sys

import pytest
import torch
from processes import run_script
from small_models import CLASSES, SMALL, small_cfg, small_model

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.pytorchvideo import pathways
from slowfast_uniformer.models.registry import build_model

# A function of the package's hub -> (our name, variant, frames, crop)
HUB = {
    "x3d_xs": ("PTVX3D", "XS", 4, 160),
    "x3d_s": ("PTVX3D", "S", 13, 160),
    "x3d_m": ("PTVX3D", "M", 16, 224),
    "x3d_l": ("PTVX3D", "L", 16, 312),
    "slowfast_r50": ("PTVSlowFast", "R50_8x8", 32, 224),
    "slowfast_r101": ("PTVSlowFast", "R101_8x8", 32, 224),
    "slow_r50": ("PTVSlow", "R50", 8, 224),
    "csn_r101": ("PTVCSN", "R101", 32, 224),
    "r2plus1d_r50": ("PTVR2plus1D", "R50", 16, 224),
    "mvit_base_16x4": ("PTVMViT", "B", 16, 224),
    "mvit_base_32x3": ("PTVMViT", "B", 32, 224),
}
LABELS = {label for label in SMALL if label.startswith("PTV")}
NARROW = {
    "x3d_s": {"stem_dim_in": 8, "head_dim_out": 16},
    "slowfast_r50": {"stem_dim_outs": [16, 2]},
    "slow_r50": {"stem_dim_out": 8},
    "csn_r101": {"stem_dim_out": 8},
    "r2plus1d_r50": {"stem_dim_out": 8},
    "mvit_base_16x4": {"patch_embed_dim": 8},
}


def hub_model(name: str, **options):
    return getattr(importlib.import_module("pytorchvideo.models.hub"), name)(**options)


def config(name: str, variant: str, frames: int, crop: int, **options):
    args = {"VARIANT": variant, **{key.upper(): value for key, value in options.items()}}
    keys = ["MODEL.MODEL_NAME", name, "MODEL.ARGS", args, "DATA.NUM_FRAMES", frames]
    crops = ["DATA.TRAIN_CROP_SIZE", crop, "DATA.TEST_CROP_SIZE", crop]
    return load_config(None, ["NUM_GPUS", 0, *keys, *crops])


@pytest.mark.parametrize("name", HUB)
def test_names_and_shapes_are_the_hub_s(name):
    where = "cpu" if name.startswith("mvit") else "meta"  # the package cannot build MViT on the meta device
    with torch.device(where):
        theirs = hub_model(name).state_dict()
    with torch.device("meta"):
        ours = build_model(config(*HUB[name])).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("name", NARROW)
def test_logits_are_the_hub_s_before_its_softmax(name):
    _, _, frames, crop = HUB[name]
    torch.manual_seed(1)
    theirs = hub_model(name, **NARROW[name]).eval()
    for value in theirs.parameters():
        value.data.add_(torch.rand_like(value), alpha=0.1)  # some are drawn as zero
    ours = build_model(config(*HUB[name], **NARROW[name])).eval()
    ours.load_state_dict(theirs.state_dict())
    clip = torch.randn(1, 3, frames, crop, crop)
    with torch.inference_mode():
        expected = theirs(pathways(clip, 4) if name == "slowfast_r50" else clip)
        found = ours(clip)
    if name in ("x3d_s", "r2plus1d_r50"):
        found = found.softmax(dim=1)
    assert found.std() > 10 * (1e-4 * found.abs().mean() + 1e-6)  # or any logits would do
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_slowfast_4x16_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = build_model(config("PTVSlowFast", "R50_4x16", 32, 224))
    assert round(sum(value.numel() for value in model.parameters()) / 1e6, 2) == 34.48


def test_the_slow_pathway_sees_every_fourth_frame_and_the_clip_stays_as_it_was():
    clip = torch.arange(32.0).expand(2, 3, 5, 5, 32).movedim(-1, 2).clone()
    before = clip.clone()
    slow, fast = pathways(clip, alpha=4)
    assert slow[0, 0, :, 0, 0].tolist() == [0, 4, 8, 13, 17, 22, 26, 31] and fast is clip
    small_model("PTVSlowFast").eval()(clip)
    assert torch.equal(clip, before)


def test_slowfast_needs_a_multiple_of_alpha():
    with pytest.raises(UserError, match="DATA.NUM_FRAMES: 30, but SlowFast needs a multiple of 4"):
        build_model(config("PTVSlowFast", "R50_8x8", 30, 224, stem_dim_outs=[16, 2]))


@pytest.mark.parametrize("label", sorted(LABELS - {"PTVMViT"}))
def test_crops_may_be_larger_than_in_training(label):
    assert small_model(label).eval()(torch.randn(1, 3, 8, 64, 48)).shape == (1, CLASSES)


def test_mvit_refuses_clips_of_another_size():
    with pytest.raises(UserError, match=r"clips of \(4, 32, 48\) .*, not \(4, 48, 48\)"):
        small_model("PTVMViT")(torch.randn(1, 3, 4, 48, 48))


def test_mvit_refuses_before_training_that_test_crops_differ():
    cfg = config("PTVMViT", "B", 4, 32, patch_embed_dim=8, spatial_size=32)
    assert build_model(cfg).size == (4, 32, 32)
    cfg.defrost()
    cfg.DATA.TEST_CROP_SIZE = 40
    with pytest.raises(UserError, match="DATA.TEST_CROP_SIZE must be DATA.TRAIN_CROP_SIZE"):
        build_model(cfg)


def test_mvit_stages_begin_where_the_resolution_falls():
    with torch.device("meta"):
        model = build_model(config("PTVMViT", "B", 16, 224))
    assert list(map(len, model.stages())) == [1, 2, 11, 2]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"DROPUOT_RATE": 0.1}, "MODEL.ARGS.DROPUOT_RATE: PTVX3D has no such argument; .*DROPOUT_RATE"),
        ({"MODEL_NUM_CLASS": 7}, "MODEL.ARGS.MODEL_NUM_CLASS: PTVX3D has no such argument"),
        ({"VARIANT": "XL"}, "MODEL.ARGS.VARIANT: PTVX3D has no 'XL'; it has M, XS, S, L"),
        ({"INPUT_CROP_SIZE": 8}, "MODEL.ARGS: PTVX3D cannot be built with these arguments: Crop size"),
    ],
)
def test_arguments_that_cannot_be(args, message):
    with pytest.raises(UserError, match=message):
        build_model(small_cfg("PTVX3D", ARGS=args))


def test_without_the_package_only_its_models_are_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorchvideo.models.x3d", None)
    with pytest.raises(UserError, match="PTVX3D is PyTorchVideo's, .*pip install pytorchvideo==0.1.5"):
        small_model("PTVX3D")
    assert small_model("Uniformer").num_features == 64


@pytest.mark.slow
def test_every_model_trains_on_two_processes_and_then_scores_clips(tmp_path):
    done = run_script("tests/ddp_ptv.py", tmp_path / "found.pt", processes=2)
    assert "warn" not in done.stderr.lower(), done.stderr
    found = torch.load(tmp_path / "found.pt")
    assert set(found) == LABELS
    for label, (updated, logits) in found.items():
        assert updated and logits.shape == (2, CLASSES) and logits.isfinite().all(), label
