"""Every shipped YAML loads, and its model can be built."""

from pathlib import Path

import pytest
import torch

from slowfast_uniformer.config import load_config
from slowfast_uniformer.models import build_model

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").glob("[!_]*/*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_recipe(path):
    cfg = load_config(str(ROOT / path), ["NUM_GPUS", 0])
    with torch.device("meta"):
        model = build_model(cfg)
    classifiers = [model.get_submodule(name) for name in model.classifier]
    assert [layer.out_features for layer in classifiers] == [cfg.MODEL.NUM_CLASSES] * len(classifiers)


def test_uniformer_s_is_the_released_recipe():
    """Facts of the release's uniformer_s16x4_k400, with the views of its published table."""
    cfg = load_config(str(ROOT / "configs/k400/uniformer_s.yaml"), ["NUM_GPUS", 0])
    facts = {
        "TRAIN.BATCH_SIZE": 32, "TEST.NUM_ENSEMBLE_VIEWS": 4, "TEST.NUM_SPATIAL_CROPS": 1, "RNG_SEED": 6666,
        "DATA.NUM_FRAMES": 16, "DATA.SAMPLING_RATE": 4, "DATA.USE_OFFSET_SAMPLING": True,
        "DATA.TRAIN_JITTER_SCALES_RELATIVE": [0.08, 1.0], "DATA.TRAIN_JITTER_ASPECT_RELATIVE": [0.75, 1.3333],
        "DATA.TEST_CROP_SIZE": 224, "AUG.NUM_SAMPLE": 2, "AUG.AA_TYPE": "rand-m7-n4-mstd0.5-inc1",
        "AUG.RE_PROB": 0.25, "MIXUP.ENABLE": True, "MIXUP.ALPHA": 0.8, "MIXUP.LABEL_SMOOTH_VALUE": 0.1,
        "SOLVER.OPTIMIZING_METHOD": "adamw", "SOLVER.BASE_LR": 1e-4, "SOLVER.COSINE_END_LR": 1e-6,
        "SOLVER.MAX_EPOCH": 110, "SOLVER.WARMUP_EPOCHS": 10, "SOLVER.WEIGHT_DECAY": 0.05,
        "SOLVER.CLIP_GRADIENT": 20, "UNIFORMER.DROP_DEPTH_RATE": 0.1, "UNIFORMER.DEPTH": [3, 4, 8, 3],
        "MODEL.INIT_FROM": "uniformer_small_in1k",
    }  # fmt: skip
    for key, value in facts.items():
        section, _, name = key.partition(".")
        assert (cfg[section][name] if name else cfg[section]) == value, key
