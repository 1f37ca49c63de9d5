"""Smoke test of a config: the same data, transforms, losses and schedule with a tiny model, in seconds on a CPU.

The values that do not depend on the config are in `smoke.yaml` beside this file.
"""

from typing import Any

from fvcore.common.config import CfgNode

from slowfast_uniformer.config.keys import DEFAULTS, flatten, read_table


def smoke_overrides(cfg: CfgNode) -> list[Any]:
    """Return KEY, VALUE, ... pairs that shrink a config (--small).

    They reduce widths, depths, frames, crops, batches, epochs and views, and change no algorithm. The model starts from
    random weights, because pretrained ones would not match its shapes.
    """
    v1, v2 = cfg.UNIFORMER, cfg.UNIFORMERV2
    depth = [min(blocks, 2) for blocks in v1.DEPTH]
    blocks = min(v2.N_LAYERS, 2)
    overrides = dict(flatten(read_table(DEFAULTS.with_name("smoke.yaml"))))
    layers = overrides["UNIFORMERV2.LAYERS"]
    overrides |= {
        "TRAIN.EVAL_PERIOD": min(cfg.TRAIN.EVAL_PERIOD, 1),
        "TRAIN.ACCUM_STEPS": min(cfg.TRAIN.ACCUM_STEPS, 2),
        "TEST.NUM_ENSEMBLE_VIEWS": 1 if cfg.TEST.NUM_SPATIAL_CROPS > 1 else 2,
        "DATA.NUM_FRAMES": min(cfg.DATA.NUM_FRAMES, 4),
        "MODEL.CHECKPOINT_NUM": [min(number, 2) for number in cfg.MODEL.CHECKPOINT_NUM],
        "UNIFORMER.DEPTH": depth,
        "UNIFORMER.PRUNE_RATIO": [ratios[:n] for ratios, n in zip(v1.PRUNE_RATIO, depth, strict=True)],
        "UNIFORMER.TRADE_OFF": [ratios[:n] for ratios, n in zip(v1.TRADE_OFF, depth, strict=True)],
        "UNIFORMERV2.N_LAYERS": blocks,
        "UNIFORMERV2.RETURN_LIST": list(range(layers - blocks, layers)),
        "UNIFORMERV2.MLP_DROPOUT": v2.MLP_DROPOUT[:blocks],
        "SOLVER.WARMUP_EPOCHS": min(cfg.SOLVER.WARMUP_EPOCHS, 0.5),
        "OUTPUT_DIR": f"{cfg.OUTPUT_DIR}_small",
    }
    return [item for pair in overrides.items() for item in pair]
