"""Calibration: whether a probability of 80 % is right in 80 of 100 videos, and the temperature that corrects it.

Temperature scaling (Guo et al., On Calibration of Modern Neural Networks, 2017) divides logits by one number T, above
1 for a model that is too sure of itself. Here it acts on a video's probabilities, whose logarithms are its logits: the
most probable class, and with it every accuracy, stays the same.
"""

import logging
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from slowfast_uniformer.errors import UserError

logger = logging.getLogger(__name__)
BINS = 15  # of the expected calibration error, as in the paper
COLDEST, HOTTEST = 0.05, 20.0  # temperatures
_SMALLEST = 1e-12  # probability, for logarithms


def with_temperature(probabilities: Tensor, temperature: float, multi_label: bool) -> Tensor:
    """Probabilities (V, K) at a temperature; with `multi_label` those of independent classes. 1 changes no bit."""
    if temperature == 1:
        return probabilities
    logits = _logits(probabilities, multi_label) / temperature
    return logits.sigmoid() if multi_label else logits.softmax(1)


def loss(probabilities: Tensor, targets: Tensor) -> float:
    """Cross-entropy (mean over videos and, with several labels a video, over classes).

    Args:
        probabilities: (V, K), V above 0.
        targets: labels (V,), or multi-hot (V, K) for independent classes.
    """
    if targets.ndim == 2:
        clamped = probabilities.clamp(_SMALLEST, 1 - _SMALLEST)
        return torch.nn.functional.binary_cross_entropy(clamped, targets.to(clamped)).item()
    return -_logits(probabilities, False).gather(1, targets[:, None]).mean().item()


def calibration_error(probabilities: Tensor, targets: Tensor) -> float:
    """Expected calibration error in per cent: the mean distance between probability and share of hits, over 15 bins of
    probability and weighted by their sizes. Of the most probable class of each video; with several labels a video of
    all classes.

    Args:
        probabilities: (V, K), V above 0.
        targets: labels (V,), or multi-hot (V, K).
    """
    from torchmetrics.functional import classification  # seconds to import

    if targets.ndim == 2:
        return (
            100 * classification.binary_calibration_error(probabilities.flatten(), targets.flatten().int(), BINS).item()
        )
    sure, best = probabilities.max(1)
    return 100 * classification.binary_calibration_error(sure, (best == targets).int(), BINS).item()


def fit_temperature(probabilities: Tensor, targets: Tensor) -> float:
    """The temperature with the smallest cross-entropy, from 0.05 to 20; 1 where there is no mistake to learn from.

    Args:
        probabilities: (V, K) at temperature 1.
        targets: labels (V,), or multi-hot (V, K) for independent classes.
    """
    multi_label = targets.ndim == 2
    logits = _logits(probabilities, multi_label)
    hot = targets > 0 if multi_label else torch.nn.functional.one_hot(targets, probabilities.shape[1]).bool()
    hits = (logits > 0) == hot if multi_label else logits.argmax(1) == targets
    if hits.all():  # the colder the better, without end
        return 1.0
    # Newton's method on the inverse temperature, in which the loss is convex; bisection where it would leave the range
    low, high, inverse = 1 / HOTTEST, 1 / COLDEST, 1.0
    for _ in range(60):
        slope, curvature = _derivatives(logits, hot, inverse, multi_label)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        following = inverse - slope / curvature if curvature > 0 else 0.0
        if not low < following < high:
            following = (low * high) ** 0.5
        done, inverse = abs(following - inverse) < 1e-9 * inverse, following
        if done:
            break
    return 1 / inverse


def _derivatives(logits: Tensor, hot: Tensor, inverse: float, multi_label: bool) -> tuple[float, float]:
    """First and second derivative of the summed cross-entropy by the inverse temperature."""
    scaled = logits * inverse
    likely = scaled.sigmoid() if multi_label else scaled.softmax(1)
    slope = ((likely - hot.to(likely)) * logits).sum()
    if multi_label:
        return slope.item(), (likely * (1 - likely) * logits**2).sum().item()
    return slope.item(), ((likely * logits**2).sum(1) - (likely * logits).sum(1) ** 2).sum().item()


def _logits(probabilities: Tensor, multi_label: bool) -> Tensor:
    if multi_label:
        return probabilities.double().clamp(_SMALLEST, 1 - _SMALLEST).logit()
    return probabilities.double().clamp(min=_SMALLEST).log()


def temperature_of(cfg: CfgNode, metadata: dict[str, Any], source: str) -> float:
    """The temperature that TEST.TEMPERATURE asks for: its number, or with auto that of the weights.

    Args:
        metadata: of the weights (`read_weights`); checkpoints of a validated epoch hold a temperature.
        source: where they are from.

    Raises:
        UserError: auto, and they have none.
    """
    if cfg.TEST.TEMPERATURE != "auto":
        return cfg.TEST.TEMPERATURE
    if "temperature" not in metadata:
        raise UserError(
            f"TEST.TEMPERATURE auto: {source} has no temperature. Runs fit one in each validation and keep it in the "
            "checkpoint of that epoch: choose another checkpoint (best.pyth has one), or a number (1 changes nothing)"
        )
    return metadata["temperature"]
