"""Checks of a merged config: values that cannot work are refused by key before anything starts."""

import torch
from fvcore.common.config import CfgNode

from slowfast_uniformer.config.keys import flatten
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.trackers import TRACKERS, is_missing


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(message)


def validate(c: CfgNode, runs_here: bool) -> None:
    """Refuse values that cannot work, by key, before anything is started."""
    gpus = torch.cuda.device_count()
    _check(
        c.NUM_GPUS >= 0 and (c.NUM_GPUS <= gpus or not runs_here),
        f"NUM_GPUS: {c.NUM_GPUS}, but this machine has {gpus} usable GPU(s). Set NUM_GPUS {gpus}"
        + (" (0 runs on the CPU)" if gpus == 0 else ""),
    )
    for key in ("TRAIN.BATCH_SIZE", "TEST.BATCH_SIZE"):
        size, devices = dict(flatten(c))[key], max(c.NUM_GPUS, 1)
        _check(size >= 1 and size % devices == 0, f"{key}: {size} cannot be divided among {devices} device(s)")
    choices = {
        "TRAIN.MIXED_PRECISION": ("none", "bf16", "fp16"),
        "MODEL.PARALLEL": ("ddp", "fsdp"),
        "DATA.ENSEMBLE_METHOD": ("sum", "max"),
        "DATA.DECODER": ("pyav", "torchcodec"),
        "SOLVER.LR_POLICY": ("cosine", "steps_with_relative_lrs"),
        "SOLVER.OPTIMIZING_METHOD": ("sgd", "adam", "adamw"),
        "AUG.RE_MODE": ("pixel", "rand", "const"),
        "MODEL.CHECKPOINT_POLICY": ("full", "selective"),
        "MODEL.DW_CONV": ("auto", "conv3d", "unrolled"),
        "MODEL.LAYOUT": ("auto", "contiguous", "channels_last"),
        "UNIFORMERV2.ACTIVATION": ("auto", "quick_gelu", "gelu"),
        "UNIFORMERV2.LAYER_SCALE": ("auto", True, False),
        "UNIFORMERV2.LN_PRE": ("auto", True, False),
        "TEST.NUM_SPATIAL_CROPS": (1, 3),
        "TRACKER": ("", *TRACKERS),
    }
    values = dict(flatten(c))
    for key, allowed in choices.items():
        _check(values[key] in allowed, f"{key}: {values[key]!r} is not one of {', '.join(map(repr, allowed))}")
    _check(
        not (runs_here and is_missing(c.TRACKER)),
        f"TRACKER: {c.TRACKER} is not installed: pip install 'slowfast_uniformer[{c.TRACKER}]'",
    )
    positive = (
        "TRAIN.ACCUM_STEPS TRAIN.EVAL_PERIOD TRAIN.CHECKPOINT_PERIOD TRAIN.MAX_BAD_STEPS "
        "TRAIN.MAX_BAD_VIDEOS TEST.NUM_ENSEMBLE_VIEWS "
        "DATA.NUM_FRAMES DATA.SAMPLING_RATE DATA.TRAIN_CROP_SIZE DATA.TEST_CROP_SIZE "
        "AUG.NUM_SAMPLE SOLVER.MAX_EPOCH MODEL.NUM_CLASSES MODEL.PROBE_EPOCHS NUM_SHARDS LOG_PERIOD"
    )
    for key in positive.split():
        _check(values[key] >= 1, f"{key}: {values[key]} must be 1 or more")
    _check(0 <= c.SHARD_ID < c.NUM_SHARDS, f"SHARD_ID: {c.SHARD_ID} must be from 0 to NUM_SHARDS - 1")
    for key in (
        "DATA.READ_TIMEOUT DATA_LOADER.NUM_WORKERS TRAIN.CHECKPOINT_STEPS TRAIN.CHECKPOINT_MINUTES "
        "TRAIN.KEEP_CHECKPOINTS"
    ).split():
        _check(values[key] >= 0, f"{key}: {values[key]} must be 0 or more")
    _check(c.DIST_TIMEOUT > 0, f"DIST_TIMEOUT: {c.DIST_TIMEOUT} must be above 0")
    _check(
        c.MODEL.INIT_HEAD in ("keep", "new", "probe") or c.MODEL.INIT_HEAD.startswith("map:"),
        f"MODEL.INIT_HEAD: {c.MODEL.INIT_HEAD!r} is not keep, new, probe or map:FILE",
    )
    _check(
        c.MODEL.INIT_HEAD != "probe" or c.MODEL.INIT_FROM,
        "MODEL.INIT_HEAD: probe fits a classifier to what weights say of the videos; set MODEL.INIT_FROM",
    )
    same = len(c.SOLVER.STEPS) == len(c.SOLVER.LRS) > 0 and c.SOLVER.STEPS[0] == 0
    _check(
        c.SOLVER.LR_POLICY == "cosine" or same,
        "SOLVER.STEPS and SOLVER.LRS must be equally long, and STEPS begin with 0, for this SOLVER.LR_POLICY",
    )
    _check(
        not (c.DATA.MULTI_LABEL and c.MIXUP.ENABLE),
        "MIXUP.ENABLE: mixup and label smoothing are for one label a video; not with DATA.MULTI_LABEL",
    )
    _check(
        not (c.DATA.MULTI_LABEL and c.DATA.PATH_LABEL_SEPARATOR == ","),
        "DATA.PATH_LABEL_SEPARATOR: with DATA.MULTI_LABEL ',' stands between labels; take another",
    )
    _check(
        c.DATA.RANDOM_FLIP or not c.DATA.FLIP_LABELS,
        "DATA.FLIP_LABELS says what flipping does to labels, but DATA.RANDOM_FLIP is False: set it True",
    )
    relative = (bool(c.DATA.TRAIN_JITTER_SCALES_RELATIVE), bool(c.DATA.TRAIN_JITTER_ASPECT_RELATIVE))
    _check(
        relative[0] == relative[1],
        "DATA.TRAIN_JITTER_SCALES_RELATIVE and DATA.TRAIN_JITTER_ASPECT_RELATIVE: set both or neither",
    )
