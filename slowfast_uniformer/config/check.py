"""Checks of a merged config: values that cannot work are refused, by key, before anything starts.

The values that single keys accept are in `limits.yaml` beside this file.
"""

import glob
import importlib.util
import math
import sys
from collections.abc import Iterator

from fvcore.common.config import CfgNode

from slowfast_uniformer.config.keys import DEFAULTS, flatten, read_table
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import numbered_name
from slowfast_uniformer.wording import counted

_LIMITS = read_table(DEFAULTS.with_name("limits.yaml"))
GPU_DEVICES = ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/kfd", "/dev/nvhost*", "/dev/nvmap")  # NVIDIA, WSL, AMD, Jetson


def check(cfg: CfgNode) -> None:
    """Refuse values that work on no machine.

    Raises:
        UserError: names the key and what it accepts.
    """
    if message := next(_faults(cfg), None):
        raise UserError(message)


def _faults(cfg: CfgNode) -> Iterator[str]:
    """Messages on all values that cannot work."""
    values = dict(flatten(cfg))
    for key, minimum in _LIMITS["minimum"].items():
        if not values[key] >= minimum:  # so that nan is refused, too
            yield f"{key}: {values[key]} must be {minimum} or more"
    for key, allowed in _LIMITS["choices"].items():
        if values[key] not in allowed:
            yield f"{key}: {values[key]!r} is not one of {', '.join(map(repr, allowed))}"
    for key, lengths in _LIMITS["lengths"].items():
        if len(values[key]) not in lengths:
            yield f"{key}: {values[key]} must be a list of {' or '.join(map(str, lengths))} numbers"
    yield from _class_weight_faults(cfg)
    devices = max(cfg.NUM_GPUS, 1)
    for key in ("TRAIN.BATCH_SIZE", "TEST.BATCH_SIZE"):
        if values[key] % devices:
            yield f"{key}: {values[key]} videos cannot be divided among {devices} GPUs (NUM_GPUS); set a multiple"
    if not 0 <= cfg.SHARD_ID < cfg.NUM_SHARDS:
        yield f"SHARD_ID: {cfg.SHARD_ID} must be from 0 to {cfg.NUM_SHARDS - 1} (NUM_SHARDS is {cfg.NUM_SHARDS})"
    if not cfg.DIST_TIMEOUT > 0:
        yield f"DIST_TIMEOUT: {cfg.DIST_TIMEOUT} must be above 0"
    head, steps = cfg.MODEL.INIT_HEAD, cfg.SOLVER.STEPS
    if head not in ("keep", "new", "probe") and not head.startswith("map:"):
        yield f"MODEL.INIT_HEAD: {head!r} is not keep, new, probe or map:FILE"
    if head == "probe" and not cfg.MODEL.INIT_FROM:
        yield "MODEL.INIT_HEAD: probe fits a classifier to the features of pretrained weights; set MODEL.INIT_FROM"
    if cfg.SOLVER.LR_POLICY != "cosine" and not (len(steps) == len(cfg.SOLVER.LRS) > 0 and steps[0] == 0):
        yield (
            f"SOLVER.LR_POLICY: {cfg.SOLVER.LR_POLICY} needs SOLVER.STEPS and SOLVER.LRS of the same length, and STEPS "
            f"that begin with 0; they are {steps} and {cfg.SOLVER.LRS}"
        )
    if cfg.DATA.COLOR_MATRIX != "bt601" and cfg.DATA.DECODER == "torchcodec":
        yield f"DATA.COLOR_MATRIX: {cfg.DATA.COLOR_MATRIX} needs DATA.DECODER pyav; torchcodec supports only bt601"
    if cfg.DATA.MULTI_LABEL and cfg.MIXUP.ENABLE:
        yield "MIXUP.ENABLE: mixup and label smoothing need one label per video; with DATA.MULTI_LABEL set it False"
    if cfg.DATA.MULTI_LABEL and cfg.DATA.PATH_LABEL_SEPARATOR == ",":
        yield "DATA.PATH_LABEL_SEPARATOR: with DATA.MULTI_LABEL ',' separates labels; set another, such as ' '"
    if cfg.DATA.MULTI_LABEL and cfg.TRAIN.BEST_METRIC in ("top1", "mean_class_acc"):
        yield f"TRAIN.BEST_METRIC: {cfg.TRAIN.BEST_METRIC} needs one label per video; with DATA.MULTI_LABEL set map"
    if cfg.TRAIN.PATIENCE and not cfg.TRAIN.EVAL_PERIOD:
        yield "TRAIN.PATIENCE: counts validations, but TRAIN.EVAL_PERIOD 0 runs none: set TRAIN.EVAL_PERIOD 1"
    if cfg.TEST.TEMPERATURE != "auto" and not 0 < cfg.TEST.TEMPERATURE < math.inf:
        yield f"TEST.TEMPERATURE: {cfg.TEST.TEMPERATURE} must be a number above 0, or auto"
    try:
        numbered_name(cfg.DATA.IMAGE_TEMPLATE, 1)
    except ValueError as error:
        yield f"DATA.IMAGE_TEMPLATE: {error}; it names an image by its number, such as img_{{:05d}}.jpg or img_%05d.jpg"
    if cfg.DATA.FLIP_LABELS and not cfg.DATA.RANDOM_FLIP:
        yield "DATA.FLIP_LABELS: changes labels of flipped videos, but no video is flipped: set DATA.RANDOM_FLIP True"
    if bool(cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE) != bool(cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE):
        yield "DATA.TRAIN_JITTER_SCALES_RELATIVE and DATA.TRAIN_JITTER_ASPECT_RELATIVE: set both or neither"


def _class_weight_faults(cfg: CfgNode) -> Iterator[str]:
    weights, names = cfg.SOLVER.CLASS_WEIGHTS, ("none", "inverse", "inv_sqrt", "effective")
    if not isinstance(weights, list):
        if weights not in names:
            yield f"SOLVER.CLASS_WEIGHTS: {weights!r} is not one of {', '.join(names)}, or a list of numbers"
    elif len(weights) != cfg.MODEL.NUM_CLASSES:
        yield (
            f"SOLVER.CLASS_WEIGHTS: {counted(len(weights), 'weight')}, but MODEL.NUM_CLASSES is "
            f"{cfg.MODEL.NUM_CLASSES}; give one for each class, in label order"
        )
    elif wrong := [w for w in weights if not isinstance(w, int | float) or not 0 <= w < math.inf]:
        yield f"SOLVER.CLASS_WEIGHTS: {wrong[0]} must be a number of 0 or more"
    if not cfg.SOLVER.CLASS_WEIGHT_BETA < 1:
        yield f"SOLVER.CLASS_WEIGHT_BETA: {cfg.SOLVER.CLASS_WEIGHT_BETA} must be below 1"


def num_gpus() -> int:
    """Return the number of usable GPUs; torch is only imported where a GPU's device file exists."""
    if sys.platform == "linux" and not any(map(glob.glob, GPU_DEVICES)):
        return 0
    import torch

    return torch.cuda.device_count()


def check_devices(cfg: CfgNode) -> None:
    """Refuse a NUM_GPUS that this machine does not have.

    Raises:
        UserError: names the number of GPUs to set.
    """
    if cfg.NUM_GPUS > 0 and cfg.NUM_GPUS > (gpus := num_gpus()):
        raise UserError(
            f"NUM_GPUS: {cfg.NUM_GPUS}, but this machine has {counted(gpus, 'usable GPU')}. Set NUM_GPUS {gpus}"
            + (" to run on the CPU" if gpus == 0 else "")
        )


def check_tracker(cfg: CfgNode) -> None:
    """Refuse a TRACKER whose package is not installed.

    Raises:
        UserError: says what to install.
    """
    if cfg.TRACKER and importlib.util.find_spec(cfg.TRACKER) is None:
        raise UserError(f"TRACKER: {cfg.TRACKER} is not installed: pip install 'slowfast_uniformer[{cfg.TRACKER}]'")
