"""A recipe in small: the same data, transforms, losses and schedule, with sizes for seconds on a CPU."""

from typing import Any

from fvcore.common.config import CfgNode

CROP, LAYERS = 64, 4


def smoke_overrides(cfg: CfgNode) -> list[Any]:
    """KEY, VALUE, ... pairs that shrink a config: widths, depths, frames, crops, batches, epochs and views,
    and no logic. Published weights do not fit such a model: it starts from random ones."""
    v1, v2 = cfg.UNIFORMER, cfg.UNIFORMERV2
    depth = [min(blocks, 2) for blocks in v1.DEPTH]
    blocks = min(v2.N_LAYERS, 2)
    recomputed = [min(number, 2) for number in cfg.MODEL.CHECKPOINT_NUM]
    views = 1 if cfg.TEST.NUM_SPATIAL_CROPS > 1 else 2
    sizes = {
        "TRAIN": {"BATCH_SIZE": 2, "ACCUM_STEPS": min(cfg.TRAIN.ACCUM_STEPS, 2), "EVAL_PERIOD": 1},
        "TEST": {"BATCH_SIZE": 2, "NUM_ENSEMBLE_VIEWS": views},
        "DATA": {
            "NUM_FRAMES": min(cfg.DATA.NUM_FRAMES, 4),
            "TRAIN_CROP_SIZE": CROP,
            "TEST_CROP_SIZE": CROP,
            "TRAIN_JITTER_SCALES": [CROP, CROP + 16],
        },
        "MODEL": {"INIT_FROM": "", "INIT_HEAD": "keep", "CHECKPOINT_NUM": recomputed},
        "UNIFORMER": {
            "EMBED_DIM": [16, 32, 32, 64],
            "HEAD_DIM": 16,
            "DEPTH": depth,
            "PRUNE_RATIO": [ratios[:n] for ratios, n in zip(v1.PRUNE_RATIO, depth, strict=True)],
            "TRADE_OFF": [ratios[:n] for ratios, n in zip(v1.TRADE_OFF, depth, strict=True)],
        },
        "UNIFORMERV2": {
            "BACKBONE": "vit",
            "WIDTH": 64,
            "LAYERS": LAYERS,
            "HEADS": 2,
            "PATCH_SIZE": 16,
            "INPUT_RESOLUTION": CROP,
            "N_DIM": 64,
            "N_HEAD": 2,
            "N_LAYERS": blocks,
            "RETURN_LIST": list(range(LAYERS - blocks, LAYERS)),
            "MLP_DROPOUT": v2.MLP_DROPOUT[:blocks],
        },
        "SOLVER": {"MAX_EPOCH": 1, "WARMUP_EPOCHS": min(cfg.SOLVER.WARMUP_EPOCHS, 0.5)},
        "DATA_LOADER": {"NUM_WORKERS": 0},
    }
    pairs = {f"{section}.{key}": value for section, values in sizes.items() for key, value in values.items()}
    pairs |= {"NUM_GPUS": 0, "NUM_SHARDS": 1, "RECIPE": "", "LOG_PERIOD": 1, "OUTPUT_DIR": f"{cfg.OUTPUT_DIR}_small"}
    return [item for pair in pairs.items() for item in pair]
