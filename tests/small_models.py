"""A small build of every registered model, a clip for it, and a training step."""

import torch
from fvcore.common.config import CfgNode
from torch import nn

from slowfast_uniformer.models import build_model

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
# A small build of every registered model: label -> (registered name, changes of the sections above)
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
    "Uniformerv2 unfused projections": ("Uniformerv2", {"UNIFORMERV2": {"FOLD_PROJECTIONS": False}}),
    "Uniformerv2 frozen": ("Uniformerv2", {"UNIFORMERV2": {"FROZEN": True}}),
    "Uniformer attentive": ("Uniformer", {"MODEL": {"HEAD": "attentive"}}),
    "Uniformer_light attentive": (
        "Uniformer_light",
        {"MODEL": {"HEAD": "attentive"}, "UNIFORMER": {"REPRESENTATION_SIZE": 24}},
    ),
    "Uniformerv2 attentive": ("Uniformerv2", {"MODEL": {"HEAD": "attentive"}}),
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
        "HEAD": "linear",
        "HEAD_QUERIES": 2,
        "HEAD_GRID": 2,
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
    """The outputs of a forward and backward pass with the same random draws every time."""
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = model.train()(small_clip())
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    sum(output.float().square().sum() for output in outputs).backward()
    return outputs
