"""Mixup and cutmix of a batch of clips, and the soft targets that go with them.

timm's and torchvision's take pictures: on clips their cutmix cuts through time.
"""

import numpy as np
import torch
from fvcore.common.config import CfgNode


def smooth_one_hot(labels: torch.Tensor, num_classes: int, smoothing: float = 0.0) -> torch.Tensor:
    """Targets (B, num_classes) of labels (B,): smoothing / num_classes, 1 - smoothing more at the label."""
    off = smoothing / num_classes
    targets = torch.full((len(labels), num_classes), off, device=labels.device)
    return targets.scatter_(1, labels.long().unsqueeze(1), 1.0 - smoothing + off)


class Mixup:
    """Mix each clip with its opposite in the batch (the first with the last, and so on): mixup (arXiv
    1710.09412) or, with probability `switch_prob` where both alphas are above 0, cutmix (arXiv 1905.04899).
    One draw holds for the whole batch. With probability 1 - `prob` clips stay as they are; targets are
    smoothed all the same.

    Draws from `numpy.random`.
    """

    def __init__(
        self,
        mixup_alpha: float,
        cutmix_alpha: float,
        prob: float,
        switch_prob: float,
        label_smoothing: float,
        num_classes: int,
    ):
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.prob = prob
        self.switch_prob = switch_prob
        self.label_smoothing = label_smoothing
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Mixup":
        """Read MIXUP and MODEL.NUM_CLASSES."""
        m = cfg.MIXUP
        return cls(m.ALPHA, m.CUTMIX_ALPHA, m.PROB, m.SWITCH_PROB, m.LABEL_SMOOTH_VALUE, cfg.MODEL.NUM_CLASSES)

    def __call__(self, clips: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixed clips (B, 3, T, H, W) and targets (B, num_classes); `clips` itself is left as it is."""
        cut, keep = self._draw()
        if cut:
            clips, keep = _cutmix(clips, keep)
        elif keep < 1:
            clips = clips * keep + clips.flip(0) * (1.0 - keep)
        targets = smooth_one_hot(labels, self.num_classes, self.label_smoothing)
        return clips, targets * keep + targets.flip(0) * (1.0 - keep)

    def _draw(self) -> tuple[bool, float]:
        """Whether to cut, and the part of each clip that stays its own."""
        either = self.mixup_alpha > 0 or self.cutmix_alpha > 0
        if not either or np.random.rand() >= self.prob:
            return False, 1.0
        both = self.mixup_alpha > 0 and self.cutmix_alpha > 0
        cut = np.random.rand() < self.switch_prob if both else self.cutmix_alpha > 0
        alpha = self.cutmix_alpha if cut else self.mixup_alpha
        return cut, float(np.random.beta(alpha, alpha))


def _cutmix(clips: torch.Tensor, keep: float) -> tuple[torch.Tensor, float]:
    """Replace one box of about 1 - keep of every frame; returns also the part that really stayed, since the
    box ends at the frame's border."""
    height, width = clips.shape[-2:]
    side = np.sqrt(1.0 - keep)
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    y, x = np.random.randint(height), np.random.randint(width)
    top, bottom = max(y - half_height, 0), min(y + half_height, height)
    left, right = max(x - half_width, 0), min(x + half_width, width)
    mixed = clips.clone()
    mixed[..., top:bottom, left:right] = clips[..., top:bottom, left:right].flip(0)
    return mixed, 1.0 - (bottom - top) * (right - left) / (height * width)
