"""A mixup with given settings, for tests that need no other key."""

from slowfast_uniformer.config.keys import get_cfg
from slowfast_uniformer.data.mixup import Mixup


def mixup_of(
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    prob: float = 1.0,
    switch_prob: float = 0.5,
    label_smoothing: float = 0.1,
    num_classes: int = 5,
) -> Mixup:
    cfg = get_cfg()
    cfg.MODEL.NUM_CLASSES = num_classes
    cfg.MIXUP.ALPHA, cfg.MIXUP.CUTMIX_ALPHA, cfg.MIXUP.PROB = mixup_alpha, cutmix_alpha, prob
    cfg.MIXUP.SWITCH_PROB, cfg.MIXUP.LABEL_SMOOTH_VALUE = switch_prob, label_smoothing
    return Mixup(cfg)
