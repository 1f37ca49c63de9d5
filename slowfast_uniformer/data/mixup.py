"""Mixup and CutMix of a batch of clips, and their soft targets.

The implementations of timm and torchvision take images: on clips their CutMix would cut through time.
"""

import numpy as np
import torch
from fvcore.common.config import CfgNode


def smooth_one_hot(labels: torch.Tensor, num_classes: int, smoothing: float = 0.0) -> torch.Tensor:
    """Targets with label smoothing (arXiv 1512.00567, section 7).

    Args:
        labels: Class indices (B,).
        num_classes: Number of classes K.
        smoothing: Weight of the uniform distribution, 0 to 1.

    Returns:
        (B, K) float32 on the device of `labels`: smoothing / K, and 1 - smoothing more at the label.
    """
    off = smoothing / num_classes
    targets = torch.full((len(labels), num_classes), off, device=labels.device)
    return targets.scatter_(1, labels.long().unsqueeze(1), 1.0 - smoothing + off)


class Mixup:
    """Mixes each clip with its counterpart in the reversed batch (the first with the last, and so on).

    A batch gets mixup (arXiv 1710.09412) or, with probability `switch_prob` if both alphas are above 0, CutMix
    (arXiv 1905.04899); one draw holds for the whole batch. With probability 1 - `prob` clips are not mixed;
    targets are smoothed in any case. Draws come from `numpy.random` on any device.

    Args:
        cfg: The config. Weights are drawn from Beta(alpha, alpha), with alpha MIXUP.ALPHA or MIXUP.CUTMIX_ALPHA (0 for
            none); `prob` and `switch_prob` are MIXUP.PROB and MIXUP.SWITCH_PROB.
    """

    def __init__(self, cfg: CfgNode):
        self.settings, self.num_classes = cfg.MIXUP, cfg.MODEL.NUM_CLASSES

    def __call__(self, clips: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix a batch; the input is not modified.

        Args:
            clips: (B, 3, T, H, W), on any device.
            labels: Class indices (B,).

        Returns:
            Mixed clips (B, 3, T, H, W) and soft targets (B, K) float32, both on the device of `clips`.
        """
        cut, keep = self._draw()
        if cut:
            clips, keep = _cutmix(clips, keep)
        elif keep < 1:
            clips = clips * keep + clips.flip(0) * (1.0 - keep)
        targets = smooth_one_hot(labels.to(clips.device), self.num_classes, self.settings.LABEL_SMOOTH_VALUE)
        return clips, targets * keep + targets.flip(0) * (1.0 - keep)

    def _draw(self) -> tuple[bool, float]:
        """Whether to use CutMix, and the weight that each clip keeps."""
        alpha, cutmix_alpha = self.settings.ALPHA, self.settings.CUTMIX_ALPHA
        if max(alpha, cutmix_alpha) <= 0 or np.random.rand() >= self.settings.PROB:
            return False, 1.0
        both = alpha > 0 and cutmix_alpha > 0
        cut = np.random.rand() < self.settings.SWITCH_PROB if both else cutmix_alpha > 0
        alpha = cutmix_alpha if cut else alpha
        return cut, float(np.random.beta(alpha, alpha))


def _cutmix(clips: torch.Tensor, keep: float) -> tuple[torch.Tensor, float]:
    """Replace a box of about 1 - keep of every frame's area. Also returns the share of the area that was really
    kept, as the box is clipped at the frame's border."""
    height, width = clips.shape[-2:]
    side = np.sqrt(1.0 - keep)
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    y, x = np.random.randint(height), np.random.randint(width)
    top, bottom = max(y - half_height, 0), min(y + half_height, height)
    left, right = max(x - half_width, 0), min(x + half_width, width)
    mixed = clips.clone()
    mixed[..., top:bottom, left:right] = clips[..., top:bottom, left:right].flip(0)
    return mixed, 1.0 - (bottom - top) * (right - left) / (height * width)
