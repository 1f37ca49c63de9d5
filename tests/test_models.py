"""The registry, and the contract every registered model keeps."""

import re
import sys

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import MODEL_REGISTRY, build_model
from slowfast_uniformer.ops.activation_checkpointing import checkpoint_counts

REGISTERED = sorted(name for name, _ in MODEL_REGISTRY)
CLASSES = 5
UNIFORMER = {
    "EMBED_DIM": [8, 16, 32, 64],
    "DEPTH": [2, 1, 2, 2],
    "HEAD_DIM": 16,
    "MLP_RATIO": 2,
    "QKV_BIAS": True,
    "QKV_SCALE": None,
    "REPRESENTATION_SIZE": None,
    "DROPOUT_RATE": 0.1,
    "ATTENTION_DROPOUT_RATE": 0.1,
    "DROP_DEPTH_RATE": 0.2,
    "SPLIT": False,
    "STD": False,
    "PRUNE_RATIO": [[], [], [1, 0.5], [0.5, 0.5]],
    "TRADE_OFF": [[], [], [1, 0.5], [0.5, 0.5]],
    "INIT_VALUE": 0.1,
}
SCALES = [[1, 2.0], [2, 2.0], [4, 2.0]]
PTV_MVIT = {
    "SPATIAL_SIZE": [32, 48],
    "DEPTH": 6,
    "PATCH_EMBED_DIM": 8,
    "EMBED_DIM_MUL": SCALES,
    "ATTEN_HEAD_MUL": SCALES,
    "POOL_Q_STRIDE_SIZE": [[1, 1, 2, 2], [2, 1, 2, 2], [4, 1, 2, 2]],
    "DROPPATH_RATE_BLOCK": 0.2,
    "DROPOUT_RATE_BLOCK": 0.1,
}
UNIFORMERV2 = {
    "BACKBONE": "vit",
    "WIDTH": 32,
    "LAYERS": 4,
    "HEADS": 4,
    "PATCH_SIZE": 8,
    "INPUT_RESOLUTION": 32,
    "ACTIVATION": "quick_gelu",
    "LAYER_SCALE": False,
    "LN_PRE": True,
    "NORM_EPS": 1e-5,
    "N_LAYERS": 3,
    "N_DIM": 32,
    "N_HEAD": 4,
    "MLP_FACTOR": 2.0,
    "MLP_DROPOUT": [0.1] * 3,
    "CLS_DROPOUT": 0.1,
    "BACKBONE_DROP_PATH_RATE": 0.2,
    "DROP_PATH_RATE": 0.2,
    "RETURN_LIST": [1, 2, 3],
    "DW_REDUCTION": 1.5,
    "TEMPORAL_DOWNSAMPLE": False,
    "NO_LMHRA": False,
    "DOUBLE_LMHRA": True,
    "FUSION": "sequential",
    "FOLD_PROJECTIONS": True,
    "FROZEN": False,
}
OTHER_VIT = {"ACTIVATION": "gelu", "LAYER_SCALE": True, "LN_PRE": False, "NO_LMHRA": True}
# A small build of every registered model: label -> (its name, what differs from the sections above).
SMALL = {
    "Uniformer": ("Uniformer", {}),
    "Uniformer_light": ("Uniformer_light", {}),
    "Uniformer_light_fp32": ("Uniformer_light_fp32", {}),
    "Uniformer_light_ls_fp32": ("Uniformer_light_ls_fp32", {}),
    "Uniformer split std": ("Uniformer", {"UNIFORMER": {"SPLIT": True, "STD": True}}),
    "Uniformer representation": ("Uniformer", {"UNIFORMER": {"REPRESENTATION_SIZE": 24}}),
    "Uniformer_light representation": ("Uniformer_light", {"UNIFORMER": {"REPRESENTATION_SIZE": 24}}),
    "Uniformerv2": ("Uniformerv2", {}),
    "Uniformerv2 temporal": ("Uniformerv2", {"UNIFORMERV2": {"TEMPORAL_DOWNSAMPLE": True}}),
    "Uniformerv2 parallel": ("Uniformerv2", {"UNIFORMERV2": {"FUSION": "parallel", "DOUBLE_LMHRA": False}}),
    "Uniformerv2 hierarchical_kv": ("Uniformerv2", {"UNIFORMERV2": {"FUSION": "hierarchical_kv"}}),
    "Uniformerv2 hierarchical_q": ("Uniformerv2", {"UNIFORMERV2": {"FUSION": "hierarchical_q"}}),
    "Uniformerv2 other ViT": ("Uniformerv2", {"UNIFORMERV2": OTHER_VIT}),
    "Uniformerv2 unfolded": ("Uniformerv2", {"UNIFORMERV2": {"FOLD_PROJECTIONS": False}}),
    "Uniformerv2 frozen": ("Uniformerv2", {"UNIFORMERV2": {"FROZEN": True}}),
    "PTVX3D": ("PTVX3D", {"MODEL": {"ARGS": {"STEM_DIM_IN": 8, "DEPTH_FACTOR": 0.4, "HEAD_DIM_OUT": 16}}}),
    "PTVSlowFast": ("PTVSlowFast", {"MODEL": {"ARGS": {"STEM_DIM_OUTS": [16, 2]}}}),
    "PTVSlow": ("PTVSlow", {"MODEL": {"ARGS": {"STEM_DIM_OUT": 8}}}),
    "PTVCSN": ("PTVCSN", {"MODEL": {"ARGS": {"STEM_DIM_OUT": 8, "MODEL_DEPTH": 50}}}),
    "PTVR2plus1D": ("PTVR2plus1D", {"MODEL": {"ARGS": {"STEM_DIM_OUT": 8}}}),
    "PTVMViT": ("PTVMViT", {"MODEL": {"ARGS": PTV_MVIT}}),
}


def small_cfg(label: str = "Uniformer", **model) -> CfgNode:
    name, sections = SMALL[label]
    defaults = {
        "MODEL_NAME": name,
        "NUM_CLASSES": CLASSES,
        "USE_CHECKPOINT": False,
        "CHECKPOINT_NUM": [0] * 4,
        "CHECKPOINT_POLICY": "full",
        "DW_CONV": "auto",
        "LAYOUT": "auto",
        "ARGS": {},
    }
    data = {"NUM_FRAMES": 4, "TRAIN_CROP_SIZE": 32, "TEST_CROP_SIZE": 32}
    cfg = CfgNode({"MODEL": {**defaults, **model}, "UNIFORMER": UNIFORMER, "UNIFORMERV2": UNIFORMERV2, "DATA": data})
    cfg.MODEL.ARGS.set_new_allowed(True)
    cfg.merge_from_other_cfg(CfgNode(sections))
    return cfg


def small_model(label: str, **model) -> nn.Module:
    torch.manual_seed(1)
    return build_model(small_cfg(label, **model))


def small_clip() -> torch.Tensor:
    return torch.randn(2, 3, 4, 32, 48, generator=torch.Generator().manual_seed(2))


def training_step(model: nn.Module, autocast: bool = False) -> list[torch.Tensor]:
    """Outputs of a forward and backward pass with always the same random draws."""
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = model.train()(small_clip())
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    sum(output.float().square().sum() for output in outputs).backward()
    return outputs


def blocks_of(model: nn.Module) -> list[list[tuple[nn.Module, ...]]]:
    """The blocks of each stage; of a block, the modules that stand side by side."""
    if hasattr(model, "stages"):
        return model.stages()
    stages = [stage for name, stage in model.named_modules() if re.fullmatch(r"blocks\d|.*\.resblocks", name)]
    return [[(block,) for block in stage] for stage in stages]


each_model = pytest.mark.parametrize("label", SMALL)


def test_every_registered_model_is_swept():
    assert {name for name, _ in SMALL.values()} == set(REGISTERED)


@each_model
@pytest.mark.parametrize("autocast", [False, True])
def test_training_gives_every_parameter_a_finite_gradient(label, autocast):
    model = small_model(label)
    outputs = training_step(model, autocast)
    assert all(output.shape == (2, CLASSES) and output.isfinite().all() for output in outputs)
    for name, value in model.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
        if not value.requires_grad:
            continue
        assert value.grad.isfinite().all(), name
        assert value.grad.stride() == value.stride(), f"{name}: DDP would copy it and warn"


@each_model
@pytest.mark.parametrize("autocast", [False, True])
def test_evaluation_treats_each_clip_by_itself(label, autocast):
    model, clip = small_model(label).eval(), small_clip()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits, alone = model(clip), model(clip[1:])
        features = model.forward_features(clip)
    assert logits.shape == (2, CLASSES) and features.shape == (2, model.num_features)
    torch.testing.assert_close(logits[1:], alone, rtol=0, atol=2e-2 if autocast else 1e-5)


@pytest.mark.parametrize("label", [label for label in SMALL if label.startswith("Uniformer")])
def test_frames_keep_their_order_and_v1_means_them(label):
    model = small_model(label).eval()
    clip = torch.rand(2, 3, 8, 32, 32)
    with torch.no_grad():
        frames, features = model.forward_frames(clip), model.forward_features(clip)
        clip[:, :, 7] = -clip[:, :, 7]  # the last frame, which all of the last step's frames see
        changed = (model.forward_frames(clip) - frames).abs().amax(dim=(0, 2))
    halved = not label.startswith("Uniformerv2") or label == "Uniformerv2 temporal"
    assert frames.shape == (2, 4 if halved else 8, model.num_features)
    assert changed.argmax() == len(changed) - 1
    if not label.startswith("Uniformerv2"):
        torch.testing.assert_close(frames.mean(dim=1), features)


@each_model
def test_reset_classifier_changes_the_classes_and_nothing_else(label):
    model, clip = small_model(label).eval(), small_clip()
    features = model.forward_features(clip)
    model.reset_classifier(CLASSES + 2)
    assert model(clip).shape == (2, CLASSES + 2)
    assert torch.equal(model.forward_features(clip), features)
    assert all(output.shape == (2, CLASSES + 2) for output in training_step(model))


@each_model
def test_layer_groups_hold_every_parameter_once_from_input_to_head(label):
    model = small_model(label)
    groups, names = model.layer_groups(), [name for name, _ in model.named_parameters()]
    assert sorted(name for group in groups for name in group) == sorted(names)
    assert all(groups) and len(groups) >= 2 + sum(map(len, blocks_of(model)))
    shapes = {name: value.shape for name, value in model.named_parameters()}
    assert any(shapes[name][1:2] == (3,) and len(shapes[name]) == 5 for name in groups[0])  # reads the clip
    heads = {f"{head}.{kind}" for head in model.classifier for kind in ("weight", "bias")}
    assert heads <= set(groups[-1])
    assert model.no_weight_decay() <= set(names)


@each_model
@pytest.mark.parametrize("policy, autocast", [("full", False), ("full", True), ("selective", False)])
def test_recomputing_every_block_changes_nothing(label, policy, autocast):
    plain = small_model(label)
    saving = small_model(label, USE_CHECKPOINT=True, CHECKPOINT_NUM=[100] * 4, CHECKPOINT_POLICY=policy)
    for expected, found in zip(training_step(plain, autocast), training_step(saving, autocast), strict=True):
        assert torch.equal(expected, found)
    for (name, expected), found in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert expected.requires_grad == found.requires_grad
        assert not expected.requires_grad or torch.equal(expected.grad, found.grad), name
    for (name, expected), found in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(expected, found), name
    assert all(m.num_batches_tracked == 1 for m in saving.modules() if isinstance(m, nn.BatchNorm3d))


@each_model
def test_the_first_blocks_of_each_stage_are_recomputed(label):
    counts = [1, 0, 2, 1][: len(blocks_of(small_model(label)))]
    model = small_model(label, USE_CHECKPOINT=True, CHECKPOINT_NUM=counts)
    calls = [[0] * len(stage) for stage in blocks_of(model)]
    for stage, blocks in enumerate(blocks_of(model)):
        for index, block in enumerate(blocks):

            def count(*_, stage=stage, index=index):
                calls[stage][index] += 1

            for module in block:
                module.register_forward_pre_hook(count)
    training_step(model)
    assert calls == [
        [len(block) * (2 if i < n else 1) for i, block in enumerate(blocks)]
        for n, blocks in zip(counts, blocks_of(model), strict=True)
    ]


@each_model
def test_recomputing_keeps_less_between_the_passes(label):
    def kept(model: nn.Module) -> int:
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.train()(small_clip())
        own = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
        return sum(size for pointer, size in sizes.items() if pointer not in own)

    model = small_model(label)
    everything = kept(model)
    model.set_grad_checkpointing(100)
    assert kept(model) < everything / 2


def test_checkpoint_counts_must_suit_the_stages():
    assert checkpoint_counts(3, stages=2) == [3, 3]
    with pytest.raises(UserError, match="CHECKPOINT_NUM: .* must have an entry for each of 4 stages"):
        small_model("Uniformer", USE_CHECKPOINT=True, CHECKPOINT_NUM=[1, 2])


@pytest.mark.parametrize(
    ("label", "dtype"), [("Uniformer_light", torch.bfloat16), ("Uniformer_light_fp32", torch.float32)]
)
def test_forced_fp32_attention_is_fp32_under_autocast(label, dtype):
    seen = set()

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            if operator is torch.ops.aten.bmm.default:  # the only batched products of the model are attention's
                seen.add(args[0].dtype)
            return operator(*args, **(kwargs or {}))

    with torch.autocast("cpu", torch.bfloat16), Products():
        small_model(label).eval()(small_clip())
    assert seen == {dtype}


def test_an_unknown_model_names_the_nearest_and_all():
    with pytest.raises(UserError, match=r"no model uniformer_lihgt; the nearest is Uniformer_light, of .*Uniformer,"):
        build_model(small_cfg(MODEL_NAME="uniformer_lihgt"))


def test_users_register_models_of_their_own(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\n"
        "from slowfast_uniformer.models import MODEL_REGISTRY\n"
        "@MODEL_REGISTRY.register()\n"
        "def Mine(cfg):\n"
        "    return nn.Linear(2, cfg.MODEL.NUM_CLASSES)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    monkeypatch.setattr(MODEL_REGISTRY, "_obj_map", dict(MODEL_REGISTRY))
    model = build_model(small_cfg(MODEL_NAME="Mine", IMPORT="my_models"))
    assert isinstance(model, nn.Linear) and model.out_features == CLASSES
    with pytest.raises(UserError, match="MODEL.IMPORT: cannot import not_there"):
        build_model(small_cfg(IMPORT="not_there"))
