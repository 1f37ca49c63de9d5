"""Figures of a test as functions of how often each video counts, for all resamples of a bootstrap at once.

Only NumPy is imported: a report computes them without PyTorch. engine/intervals.py draws the resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from slowfast_uniformer.runs.predictions import Prediction

FAILED = -1  # the prediction of a video that could not be read
TOP = 5  # top-5 accuracy says something where there are more classes than that
# Values of TRAIN.BEST_METRIC and the columns of metrics.jsonl that hold them
COLUMNS = {"top1": "top1_acc", "mean_class_acc": "mean_class_acc", "macro_f1": "macro_f1", "map": "map", "loss": "loss"}


def best_column(metric: str, multi_label: bool) -> str:
    """The column of metrics.jsonl by which TRAIN.BEST_METRIC chooses the best checkpoint."""
    return COLUMNS[("map" if multi_label else "top1") if metric == "auto" else metric]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a test found for V labelled videos and K classes.

    Attributes:
        truth: (V,) labels; with several labels a video (V, K) bool.
        predicted: (V,) classes, -1 for videos that failed; with several labels a video (V, K) bool, the classes of
            probability 0.5 and above.
        num_classes: K.
        top5: (V,) bool, whether the label is among the five most probable classes; None if that is not known, or there
            are no more than five.
        probabilities: (V, K), zeros for videos that failed; None if they are not known.
        groups: (V,) the number of each video's group, from 0; None where each video stands for itself.
    """

    truth: np.ndarray
    predicted: np.ndarray
    num_classes: int
    top5: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    groups: np.ndarray | None = None

    @property
    def multi_label(self) -> bool:
        return self.truth.ndim == 2

    @property
    def multi_hot(self) -> np.ndarray:
        """`truth` as (V, K) bool."""
        return self.truth if self.multi_label else self.truth[:, None] == np.arange(self.num_classes)

    @cached_property
    def rankings(self) -> "list[Ranking | None]":
        """Of each class, None for one without videos: sorting takes longer than what follows."""
        return [_rank(*columns) for columns in zip(self.probabilities.T, self.multi_hot.T, strict=True)]


class Ranking(NamedTuple):
    """Videos by falling probability of a class, down to the last one that has it.

    Thresholds are the different probabilities of the videos that have the class. Those between two thresholds only
    count as a sum, so that all resamples are added up row by row.

    Attributes:
        videos: (N,) numbers of the videos.
        starts: (T,) where in `videos` those begin that are at or above each threshold, and below the one before it.
        own: (P,) those that have the class.
        own_starts: (T,) the same places in `own`.
    """

    videos: np.ndarray
    starts: np.ndarray
    own: np.ndarray
    own_starts: np.ndarray


def _rank(probabilities: np.ndarray, hits: np.ndarray) -> Ranking | None:
    if not hits.any():
        return None
    order = np.argsort(-probabilities, kind="stable").astype(np.int32)
    falling, hits = -probabilities[order], hits[order]
    ends = np.searchsorted(falling, np.unique(falling[hits]), side="right")
    starts = np.concatenate([[0], ends[:-1]])
    return Ranking(order[: ends[-1]], starts, order[hits], np.searchsorted(np.flatnonzero(hits), starts))


def group_numbers(names: Sequence[str]) -> np.ndarray | None:
    """`Outcome.groups` from the names of the groups of V videos; a video without a name is its own. None if all are."""
    if not any(names):
        return None
    keys = [(name, "" if name else position) for position, name in enumerate(names)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys])


def outcome_of_predictions(predictions: "Sequence[Prediction]", num_multi: int, with_top5: bool) -> Outcome:
    """What a test found, from rows of its predictions.csv.

    Args:
        predictions: at least one; those with a label, with several labels a video all.
        num_multi: the number of classes where videos have several labels, else 0.
        with_top5: whether there are more than five classes.
    """
    groups = group_numbers([p.group for p in predictions])
    if num_multi:
        probabilities = np.array([p.probabilities for p in predictions])
        truth = np.zeros(probabilities.shape, bool)
        for row, p in zip(truth, predictions, strict=True):
            row[[label for label in p.labels if label < len(row)]] = True
        return Outcome(truth, probabilities >= 0.5, num_multi, probabilities=probabilities, groups=groups)
    truth = np.array([p.labels[0] for p in predictions])
    best = np.array([FAILED if p.prediction is None else p.prediction for p in predictions])
    top5 = np.array([p.label_name in [name for name, _ in p.top] for p in predictions]) if with_top5 else None
    return Outcome(truth, best, int(max(truth.max(), best.max())) + 1, top5=top5, groups=groups)


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """Videos of each class (K, R): that have it as a label, that are predicted so, and that are both."""

    support: np.ndarray
    predicted: np.ndarray
    correct: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """Per cent (K, R); nan for a class that is never predicted."""
        return _percent(self.correct, self.predicted)

    @property
    def recall(self) -> np.ndarray:
        """Per cent (K, R), the accuracy of each class; nan for a class without videos."""
        return _percent(self.correct, self.support)

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall in per cent (K, R): 0 for a class with videos that is never predicted,
        nan for one without videos."""
        f1 = _percent(2 * self.correct, self.support + self.predicted)
        return np.where(self.support > 0, f1, np.nan)


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return 100.0 * part / np.where(whole > 0, whole, np.nan)


def every_video_once(outcome: Outcome) -> np.ndarray:
    """The weights (V, 1) that give the figures of the test itself."""
    return np.ones((len(outcome.truth), 1), np.int16)


def class_counts(outcome: Outcome, weights: np.ndarray) -> ClassCounts:
    """Count the videos of each class.

    Args:
        outcome: of V videos.
        weights: (V, R) integers, how often each video counts in each of R resamples.
    """
    num_classes = outcome.num_classes
    if outcome.multi_label:
        parts = outcome.truth, outcome.predicted, outcome.truth & outcome.predicted
        pairs = [np.nonzero(part) for part in parts]
    else:
        every, truth, predicted = np.arange(len(weights)), outcome.truth, outcome.predicted
        masks = np.full(len(weights), True), predicted != FAILED, truth == predicted
        pairs = [(every[mask], labels[mask]) for mask, labels in zip(masks, (truth, predicted, truth), strict=True)]
    return ClassCounts(*(_sum_by_class(videos, classes, weights, num_classes) for videos, classes in pairs))


def _sum_by_class(videos: np.ndarray, classes: np.ndarray, weights: np.ndarray, num_classes: int) -> np.ndarray:
    """Sums (K, R) of weights (V, R) over pairs of a video and a class, by class."""
    sums = np.zeros((num_classes, weights.shape[1]), np.int64)
    if len(classes):
        order = np.argsort(classes, kind="stable")
        present, starts = np.unique(classes[order], return_index=True)
        sums[present] = np.add.reduceat(weights[videos[order]], starts, axis=0, dtype=np.int32)
    return sums


def figures(outcome: Outcome, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The headline figures of each resample in per cent, each (R,), by their columns in metrics.jsonl; without `map`.

    Means over classes leave out classes without videos. With several labels a video there is `macro_f1` alone.

    Args:
        outcome: of V videos, at least one.
        weights: (V, R), see `class_counts`.
    """
    counts, found = class_counts(outcome, weights), {}
    if not outcome.multi_label:
        total = weights.sum(0)
        found["top1_acc"] = 100.0 * counts.correct.sum(0) / total
        if outcome.top5 is not None:
            found["top5_acc"] = 100.0 * weights[outcome.top5].sum(0) / total
        found["mean_class_acc"] = mean_over_classes(counts.recall)
    found["macro_f1"] = mean_over_classes(counts.f1)
    return found


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Mean (R,) of (K, R) over the classes that are not nan; nan where all are."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)


def average_precisions(outcome: Outcome, weights: np.ndarray) -> np.ndarray:
    """Average precision of each class and resample in per cent (K, R); nan for a class without videos.

    It is the mean precision over the videos of a class, each at the threshold of its own probability; equal
    probabilities are one threshold. That is what scikit-learn and torchmetrics compute.
    """
    found = np.full((outcome.num_classes, weights.shape[1]), np.nan)
    for label, one in enumerate(outcome.rankings):
        if one is not None:
            above = np.cumsum(np.add.reduceat(weights[one.videos], one.starts, axis=0, dtype=np.int32), axis=0)
            own = np.add.reduceat(weights[one.own], one.own_starts, axis=0, dtype=np.int32)
            total = np.cumsum(own, axis=0)
            found[label] = _percent((own * (total / np.maximum(above, 1))).sum(0), total[-1])
    return found


def mean_average_precision(outcome: Outcome) -> float:
    """mAP in per cent; where a video has one label, of each class against the others."""
    return mean_over_classes(average_precisions(outcome, every_video_once(outcome))).item()


def class_scores(outcome: Outcome) -> dict[str, np.ndarray]:
    """The scores of each class, each (K,): `videos`, then in per cent `precision`, `recall`, `f1` and, where
    probabilities are known, `average_precision`; nan where a class has no videos, or is never predicted."""
    weights = every_video_once(outcome)
    counts = class_counts(outcome, weights)
    found = {"videos": counts.support, "precision": counts.precision, "recall": counts.recall, "f1": counts.f1}
    if outcome.probabilities is not None:
        found["average_precision"] = average_precisions(outcome, weights)
    return {name: values[:, 0] for name, values in found.items()}
