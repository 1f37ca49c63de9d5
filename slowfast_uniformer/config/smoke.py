"""Smoke test of a config: the same data, transforms, losses and schedule with a tiny model, in seconds on a CPU."""

from typing import Any

from fvcore.common.config import CfgNode

CROP, LAYERS = 64, 4


def smoke_overrides(cfg: CfgNode) -> list[Any]:
    """Return KEY, VALUE, ... pairs that shrink a config (--small).

    They reduce widths, depths, frames, crops, batches, epochs and views, and change no algorithm. The model starts from
    random weights, because pretrained ones would not match its shapes.
    """
    v1, v2 = cfg.UNIFORMER, cfg.UNIFORMERV2
    depth = [min(blocks, 2) for blocks in v1.DEPTH]
    blocks = min(v2.N_LAYERS, 2)
    overrides = {
        "TRAIN.BATCH_SIZE": 2,
        "TRAIN.ACCUM_STEPS": min(cfg.TRAIN.ACCUM_STEPS, 2),
        "TRAIN.EVAL_PERIOD": 1,
        "TEST.BATCH_SIZE": 2,
        "TEST.NUM_ENSEMBLE_VIEWS": 1 if cfg.TEST.NUM_SPATIAL_CROPS > 1 else 2,
        "DATA.NUM_FRAMES": min(cfg.DATA.NUM_FRAMES, 4),
        "DATA.TRAIN_CROP_SIZE": CROP,
        "DATA.TEST_CROP_SIZE": CROP,
        "DATA.TRAIN_JITTER_SCALES": [CROP, CROP + 16],
        "MODEL.INIT_FROM": "",
        "MODEL.INIT_HEAD": "keep",
        "MODEL.CHECKPOINT_NUM": [min(number, 2) for number in cfg.MODEL.CHECKPOINT_NUM],
        "UNIFORMER.EMBED_DIM": [16, 32, 32, 64],
        "UNIFORMER.HEAD_DIM": 16,
        "UNIFORMER.DEPTH": depth,
        "UNIFORMER.PRUNE_RATIO": [ratios[:n] for ratios, n in zip(v1.PRUNE_RATIO, depth, strict=True)],
        "UNIFORMER.TRADE_OFF": [ratios[:n] for ratios, n in zip(v1.TRADE_OFF, depth, strict=True)],
        "UNIFORMERV2.BACKBONE": "vit",
        "UNIFORMERV2.WIDTH": 64,
        "UNIFORMERV2.LAYERS": LAYERS,
        "UNIFORMERV2.HEADS": 2,
        "UNIFORMERV2.PATCH_SIZE": 16,
        "UNIFORMERV2.INPUT_RESOLUTION": CROP,
        "UNIFORMERV2.N_DIM": 64,
        "UNIFORMERV2.N_HEAD": 2,
        "UNIFORMERV2.N_LAYERS": blocks,
        "UNIFORMERV2.RETURN_LIST": list(range(LAYERS - blocks, LAYERS)),
        "UNIFORMERV2.MLP_DROPOUT": v2.MLP_DROPOUT[:blocks],
        "SOLVER.MAX_EPOCH": 1,
        "SOLVER.WARMUP_EPOCHS": min(cfg.SOLVER.WARMUP_EPOCHS, 0.5),
        "DATA_LOADER.NUM_WORKERS": 0,
        "NUM_GPUS": 0,
        "NUM_SHARDS": 1,
        "RECIPE": "",
        "LOG_PERIOD": 1,
        "OUTPUT_DIR": f"{cfg.OUTPUT_DIR}_small",
    }
    return [item for pair in overrides.items() for item in pair]
