"""Unbalanced classes: how often an epoch draws each training video, and what each class weighs in the loss."""

from collections.abc import Sequence

import numpy as np
from fvcore.common.config import CfgNode

from slowfast_uniformer.data.sample_list import SampleList

# A video is drawn in proportion to (1 / frequency of its class) to this power, the values of DATA.SAMPLER
POWERS = {"uniform": 0.0, "sqrt": 0.5, "balanced": 1.0}


class Draws:
    """How often each video of a list is drawn in an epoch that is as long as the list.

    These are the repeat factors of LVIS (arXiv 1908.03195, section 5.3), without their threshold: r(c) = f(c) ** -power
    for a class whose label a share f(c) of the videos has, and of a video the largest r of its labels (1 for none).
    They are scaled to the length of the list.

    Args:
        samples: The training videos.
        power: 1 draws all classes equally often, if videos have one label each; 0 all videos equally often.

    Attributes:
        factors: (N,) float64, how often each video is drawn, in the mean over epochs.
    """

    def __init__(self, samples: SampleList, power: float):
        labels, videos = samples.label_pairs()
        with np.errstate(divide="ignore"):  # of labels that no video has
            of_class = (len(samples) / np.bincount(labels)) ** power
        rare_last = np.argsort(of_class[labels], kind="stable")
        rarest = np.full(len(samples), -1)
        rarest[videos[rare_last]] = labels[rare_last]  # of several labels the last one stays
        factors = np.where(rarest < 0, 1.0, np.append(of_class, 1.0)[rarest])
        self.factors = factors * (len(samples) / factors.sum())
        self._class = rarest

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """The videos of an epoch (N,), in random order.

        Systematic sampling along the list, sorted by class and random within: each video comes factor times, rounded
        up or down, and so does each class as a whole. Independent draws would vary much more from epoch to epoch.
        """
        videos = rng.permutation(len(self.factors))
        videos = videos[np.argsort(self._class[videos], kind="stable")]
        ends = np.cumsum(self.factors[videos])
        ends[-1] = len(videos)  # whatever rounding errors have made of it
        order = np.repeat(videos, np.diff(np.floor(ends + rng.random()), prepend=0).astype(np.int64))
        rng.shuffle(order)
        return order


def draws(cfg: CfgNode, samples: SampleList) -> Draws | None:
    """The draws of DATA.SAMPLER; None where it is uniform: every video once."""
    power = POWERS[cfg.DATA.SAMPLER]
    return Draws(samples, power) if power else None


def occurrences(order: np.ndarray) -> np.ndarray:
    """How often each value of `order` (N,) has come before its place, (N,)."""
    places = np.argsort(order, kind="stable")
    ordered = order[places]
    begins = np.append(True, ordered[1:] != ordered[:-1])
    numbers = np.arange(len(order))
    counts = np.empty_like(numbers)
    counts[places] = numbers - np.maximum.accumulate(np.where(begins, numbers, 0))
    return counts


def class_counts(samples: SampleList, classes: int, flipped: Sequence[int | None] | None = None) -> np.ndarray:
    """Videos that have each label (classes,), float64.

    Args:
        samples: The training videos.
        classes: Number of classes.
        flipped: With DATA.FLIP_LABELS the label of each class after a flip (`flipped_labels`): half of the clips count
            for that.
    """
    labels, _ = samples.label_pairs()
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    if flipped is None:
        return counts
    other = [label if after is None else after for label, after in enumerate(flipped)]
    return (counts + np.bincount(other, weights=counts, minlength=classes)) / 2


def class_weights(cfg: CfgNode, counts: np.ndarray) -> np.ndarray | None:
    """What each class weighs in the loss, by SOLVER.CLASS_WEIGHTS.

    The mean over the videos is 1, so the learning rate keeps its meaning; no weight is above SOLVER.CLASS_WEIGHT_CAP. A
    class without videos has 0. Only where a list with zeros meets the cap is the mean below 1.

    Args:
        cfg: The run's config.
        counts: Of `class_counts` (K,).

    Returns:
        (K,) float64; None for SOLVER.CLASS_WEIGHTS none.
    """
    kind, n = cfg.SOLVER.CLASS_WEIGHTS, np.maximum(counts, 1)
    if kind == "none":
        return None
    if isinstance(kind, list):
        weights = np.array(kind, np.float64)
    elif kind == "effective":  # number of samples: arXiv 1901.05555, equation 2
        weights = (1 - cfg.SOLVER.CLASS_WEIGHT_BETA) / (1 - cfg.SOLVER.CLASS_WEIGHT_BETA**n)
    else:
        weights = 1 / n if kind == "inverse" else 1 / np.sqrt(n)
    return _normalised(np.where(counts > 0, weights, 0), counts, cfg.SOLVER.CLASS_WEIGHT_CAP)


def _normalised(weights: np.ndarray, counts: np.ndarray, cap: float) -> np.ndarray:
    """Weights in the same proportions whose mean over the videos is 1, where above `cap` it instead."""
    capped = np.zeros(len(weights), bool)
    while (free := ~capped & (weights > 0)).any():
        left = counts.sum() - cap * counts[capped].sum()
        scaled = weights * (left / (counts * weights)[free].sum())
        if not (over := free & (scaled > cap)).any():
            return np.where(capped, cap, scaled)
        capped |= over  # the others get more
    return np.where(capped, cap, 0.0)
